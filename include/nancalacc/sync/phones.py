"""Phone numbers as WPS reads them [wps 5.4], and the hashes that tell equal values apart from others."""

from __future__ import annotations

import hmac
import os
import unicodedata
from base64 import b64decode, b64encode
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LONGEST_PHONE = 122
"""Bytes of a phone number of which the encrypted text still fits its 200 characters."""
NONCE_LENGTH = 12
KEY_LENGTH = 32
HOME_STATE_CODE = "86"


def encrypt_phone(plain: str, *, uid: str, salt: str, iv: bytes | None = None) -> str:
    """A phone number as WPS reads it: AES-256-GCM under a key of the row's own uid [wps 5.4].

    Empty stays empty. The iv is random, so two ciphertexts of one number differ.
    """
    if not plain:
        return ""
    nonce = os.urandom(NONCE_LENGTH) if iv is None else iv
    cipher = AESGCM(_key_of_row(uid, salt=salt))
    return b64encode(nonce + cipher.encrypt(nonce, plain.encode(), None)).decode("ascii")


def decrypt_phone(value: str, *, uid: str, salt: str) -> str | None:
    """The number that `encrypt_phone` made this of; None for what was not made with this uid and salt."""
    cipher = AESGCM(_key_of_row(uid, salt=salt))
    try:
        raw = b64decode(value, validate=True)
        return cipher.decrypt(raw[:NONCE_LENGTH], raw[NONCE_LENGTH:], None).decode()
    except (ValueError, InvalidTag):
        return None


def bare_phone(number: str) -> str:
    """A phone number without what may be written in different ways: its digits, + before a foreign one."""
    digits = "".join(char for char in unicodedata.normalize("NFKC", number) if char.isdecimal())
    if not number.strip().startswith("+"):
        return digits
    return digits.removeprefix(HOME_STATE_CODE) if digits.startswith(HOME_STATE_CODE) else f"+{digits}"


def number_key(number: str, *, salt: str, company: str) -> str:
    """What tells a phone number, however it is written, from others of one company; '' for none."""
    return value_key("mobile", bare_phone(number), salt=salt, company=company)


def value_key(kind: str, value: str, *, salt: str, company: str) -> str:
    """What tells equal values of one company apart from others; '' for none.

    Keyed with the secret that encrypts the numbers: who does not have it learns only who shares a
    value, who has it could read the numbers themselves.
    """
    if not value:
        return ""
    key = sha256(f"nancalacc value key\0{salt}".encode()).digest()
    return hmac.new(key, f"{company}\0{kind}\0{value}".encode(), sha256).hexdigest()[:KEY_LENGTH]


def _key_of_row(uid: str, *, salt: str) -> bytes:
    return sha256((uid + salt).encode()).hexdigest()[:32].encode("ascii")
