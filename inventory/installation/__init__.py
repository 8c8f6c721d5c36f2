"""Bringing the agent onto servers, up to date and off again, over SSH: docs/agent-installation.md tells how."""
