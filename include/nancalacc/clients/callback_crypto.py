"""Signature and encryption of DingTalk's HTTP callbacks [dt 6]."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import struct
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from nancalacc.errors import ConfigurationError, FatalError

AES_SECRET = re.compile(r"[A-Za-z0-9+/]{43}")
WHITE_SPACE = re.compile(r"\s+")
MILLISECONDS = re.compile(r"[0-9]{1,15}")
BLOCK_BITS = 32 * 8
RANDOM_BYTES = 16
LENGTH_BYTES = 4
OLDEST = timedelta(minutes=5)
"""How far the time of a callback may be from ours, in both directions: clocks differ."""


class BadCallbackError(FatalError):
    """The callback is damaged, too old or not from DingTalk; it must be refused."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted message with what signs it, as it travels in a request or an answer."""

    signature: str
    timestamp: str
    nonce: str
    encrypt: str = field(repr=False)


class CallbackCrypto:
    """Opens and seals the messages of one app.

    `aes_secret` are the 43 characters of the console, `owner_key` is the app key of an internal
    app. Raises ConfigurationError for a secret that is none.
    """

    def __init__(self, *, token: str, aes_secret: str, owner_key: str) -> None:
        if not token:
            raise ConfigurationError("The callback token is empty")
        if not AES_SECRET.fullmatch(aes_secret):
            raise ConfigurationError(
                "The callback's AES key must be the 43 characters (letters, digits, + and /)"
                f" that the DingTalk console shows, not {len(aes_secret)} characters"
            )
        self._token = token
        self._owner_key = owner_key.encode()
        # The bits beyond 32 bytes in the last character are no part of the key; DingTalk sets them at will.
        key = base64.b64decode(aes_secret + "=")
        self._cipher = Cipher(AES256(key), CBC(key[:16]))

    def signature(self, *, timestamp: str, nonce: str, encrypt: str) -> str:
        """The lower-case hex SHA-1 over the sorted texts."""
        text = "".join(sorted((self._token, timestamp, nonce, encrypt)))
        return hashlib.sha1(text.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()

    def verifies(self, message: Sealed) -> bool:
        """Whether this app's token signed the message; takes the same time wherever a difference is."""
        expected = self.signature(timestamp=message.timestamp, nonce=message.nonce, encrypt=message.encrypt)
        return hmac.compare_digest(expected.encode(), message.signature.encode(errors="surrogatepass"))

    def open(self, encrypt: str) -> bytes:
        """The message itself; raises BadCallbackError when it is damaged or meant for another owner."""
        try:
            content = base64.b64decode(WHITE_SPACE.sub("", encrypt), validate=True)
        except (binascii.Error, ValueError):
            raise BadCallbackError("The encrypted text is not base64") from None
        decryptor = self._cipher.decryptor()
        unpadder = PKCS7(BLOCK_BITS).unpadder()
        try:
            padded = decryptor.update(content) + decryptor.finalize()
            plain = unpadder.update(padded) + unpadder.finalize()
        except ValueError:
            raise BadCallbackError(
                "The encrypted text cannot be opened: its length or padding is wrong; is the AES key right?"
            ) from None
        start = RANDOM_BYTES + LENGTH_BYTES
        if len(plain) < start:
            raise BadCallbackError("The encrypted text is too short to hold a message")
        (length,) = struct.unpack(">I", plain[RANDOM_BYTES:start])
        if length > len(plain) - start:
            raise BadCallbackError("The encrypted text is cut off: it is shorter than the length it names")
        if not hmac.compare_digest(plain[start + length :], self._owner_key):
            raise BadCallbackError(
                "The message is for another owner key: login of the connection must be the app key of the app"
                " that sends the callback, or extra 'callback_owner_key' the corpId"
            )
        return plain[start : start + length]

    def seal(self, message: bytes, *, timestamp: str, nonce: str, random: bytes = b"") -> Sealed:
        """Encrypt and sign a message; `random` are its first 16 bytes, drawn when empty."""
        prefix = random or secrets.token_bytes(RANDOM_BYTES)
        plain = prefix + struct.pack(">I", len(message)) + message + self._owner_key
        padder = PKCS7(BLOCK_BITS).padder()
        encryptor = self._cipher.encryptor()
        padded = padder.update(plain) + padder.finalize()
        encrypt = base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()
        return Sealed(
            signature=self.signature(timestamp=timestamp, nonce=nonce, encrypt=encrypt),
            timestamp=timestamp,
            nonce=nonce,
            encrypt=encrypt,
        )


def check_timestamp(timestamp: str, *, now: datetime) -> None:
    """Raise BadCallbackError unless `timestamp` (milliseconds) is close to `now` (aware)."""
    if not MILLISECONDS.fullmatch(timestamp):
        raise BadCallbackError("The timestamp is not a number of milliseconds")
    distance = abs(now.timestamp() - int(timestamp) / 1000)
    if distance > OLDEST.total_seconds():
        raise BadCallbackError(f"The timestamp is {distance:.0f} s away from this server's clock")
