"""Secrets kept as files in the data directory: generated on first need, never defaulted, mode 0600."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """The secret in ``path``, made by ``make`` when there is none.

    Two processes may start at once: the file appears complete or not at all (hard link of a finished
    temporary file), and the loser reads the winner's. Raises ImproperlyConfigured when it cannot be read or written.
    """
    try:
        if not path.exists():
            _create(path, make())
        return path.read_text().strip()
    except OSError as error:
        raise ImproperlyConfigured(
            f"The data directory {path.parent} cannot be used ({error.strerror}). "
            "Set INFINI_DATA_DIR to a directory this user can write to."
        ) from None


def _create(path: Path, secret: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as handle:
            handle.write(secret + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return  # another process was first; its secret counts
    finally:
        temporary.unlink(missing_ok=True)


def make_signing_key() -> str:
    return secrets.token_urlsafe(48)


def make_field_key() -> str:
    return Fernet.generate_key().decode()


def make_password() -> str:
    """128 bits in letters a person can type."""
    return secrets.token_urlsafe(16)


def make_token() -> str:
    """256 bits, for agents and keys."""
    return secrets.token_urlsafe(32)
