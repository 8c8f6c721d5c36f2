"""Encrypted text columns: MultiFernet, keys from the data directory, rotation by adding a first key."""

import functools
from typing import Any

from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings
from django.core.exceptions import FieldError
from django.db import models

PREFIX = "enc1:"


@functools.lru_cache(maxsize=4)
def _cipher(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def cipher() -> MultiFernet:
    return _cipher(tuple(settings.FIELD_KEYS))


class EncryptedTextField(models.TextField):
    """Text encrypted at rest; plain in Python. The empty string stays empty, so "is it set" is a query.

    Reading with none of the right keys raises ``cryptography.fernet.InvalidToken``: never the ciphertext as value.
    """

    def get_prep_value(self, value: Any) -> Any:
        if value in (None, ""):
            return value
        return PREFIX + cipher().encrypt(str(value).encode()).decode()

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        if value in (None, ""):
            return value
        return cipher().decrypt(value.removeprefix(PREFIX).encode()).decode()

    def get_lookup(self, lookup_name: str) -> Any:
        """Only emptiness can be asked of a secret: equal texts have different ciphertexts."""
        if lookup_name not in ("isnull", "exact"):
            raise FieldError(f"An encrypted field cannot be searched with '{lookup_name}'.")
        return super().get_lookup(lookup_name)
