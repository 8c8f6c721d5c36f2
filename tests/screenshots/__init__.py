"""Pictures of the main pages for the README: `python -m tests.screenshots [FOLDER]`, which `make screenshots` calls."""
