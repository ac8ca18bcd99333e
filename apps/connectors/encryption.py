"""Encryption of the secrets and tokens of connected platforms, which have to be stored in a readable form."""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

_PURPOSE = b"apps.connectors.encryption"


def _fernet() -> Fernet:
    key = hashlib.blake2b(_PURPOSE, key=settings.SECRET_KEY.encode()[:64], digest_size=32).digest()
    return Fernet(base64.urlsafe_b64encode(key))


def encrypt(text: str) -> str:
    """Return the text encrypted with a key that is derived from `SECRET_KEY`; an empty text stays empty."""
    return _fernet().encrypt(text.encode()).decode() if text else ""


def decrypt(encrypted: str) -> str:
    """Return the text; an empty one if there is none, or if `SECRET_KEY` has changed since."""
    try:
        return _fernet().decrypt(encrypted.encode()).decode() if encrypted else ""
    except InvalidToken:
        return ""
