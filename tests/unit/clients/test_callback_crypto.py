"""Encryption and signature of HTTP callbacks, against the published vectors."""

import base64
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC

from nancalacc.clients.callback_crypto import BadCallbackError, CallbackCrypto, Sealed, check_timestamp
from nancalacc.errors import ConfigurationError

TOKEN, OWNER = "testtoken", "dingtestappkey"
AES_SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
TIMESTAMP, NONCE, PREFIX = "1700000000000", "nonce123", b"0123456789abcdef"
VECTORS = [
    (
        b"success",
        "4j/AuRx71kQlxVlzbpsMWKaJxGU5vH319VGXg8mDEWs/zM8jRpmpnWrklYoKkUmjyXUqvcHxaZr6e8V459x9uw==",
        "5a560ba659fd6b27073b54dd643d5ea30f63877d",
    ),
    (
        b'{"EventType":"check_url"}',
        "4j/AuRx71kQlxVlzbpsMWN8XtjwRdOcH+n7e3hsaZgEMcwZUcfF7dIDeZ037cZxfNgho2paI8mGxIPDLTRTF6Q==",
        "e9b5f8826941b0e5c6660943d9144fbf03568c07",
    ),
]


def crypto(**changes) -> CallbackCrypto:
    return CallbackCrypto(**{"token": TOKEN, "aes_secret": AES_SECRET, "owner_key": OWNER} | changes)


def encrypted(padded: bytes) -> str:
    key = base64.b64decode(AES_SECRET + "=")
    encryptor = Cipher(AES256(key), CBC(key[:16])).encryptor()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def padded(plain: bytes, *, block: int = 32) -> bytes:
    missing = block - len(plain) % block
    return plain + bytes([missing]) * missing


@pytest.mark.parametrize("message, encrypt, signature", VECTORS)
class TestVectors:
    def test_seals(self, message, encrypt, signature):
        sealed = crypto().seal(message, timestamp=TIMESTAMP, nonce=NONCE, random=PREFIX)

        assert sealed == Sealed(signature=signature, timestamp=TIMESTAMP, nonce=NONCE, encrypt=encrypt)

    def test_verifies_and_opens(self, message, encrypt, signature):
        sealed = Sealed(signature=signature, timestamp=TIMESTAMP, nonce=NONCE, encrypt=encrypt)

        assert crypto().verifies(sealed)
        assert crypto().open(encrypt) == message

    def test_the_unused_bits_of_the_last_key_character_do_not_matter(self, message, encrypt, signature):
        assert crypto(aes_secret=AES_SECRET[:-1] + "9").open(encrypt) == message

    def test_line_breaks_in_the_base64_do_not_matter(self, message, encrypt, signature):
        assert crypto().open(encrypt[:40] + "\r\n" + encrypt[40:] + "\n") == message


@pytest.mark.parametrize(
    "change",
    [
        {"signature": ""},
        {"signature": VECTORS[0][2].upper()},
        {"signature": VECTORS[0][2][:-1] + "0"},
        {"signature": "é\ud800"},
        {"timestamp": "1700000000001"},
        {"nonce": "nonce124"},
        {"nonce": "\udfff"},
        {"encrypt": VECTORS[1][1]},
    ],
)
def test_any_change_breaks_the_signature(change):
    sealed = Sealed(signature=VECTORS[0][2], timestamp=TIMESTAMP, nonce=NONCE, encrypt=VECTORS[0][1])

    assert crypto().verifies(sealed)
    assert not crypto().verifies(replace(sealed, **change))


def test_another_token_does_not_verify():
    sealed = crypto(token="other").seal(b"success", timestamp=TIMESTAMP, nonce=NONCE)

    assert not crypto().verifies(sealed)


@pytest.mark.parametrize("message", [b"", "研发部 🚀".encode(), b"\xff\x00", b"x" * 100_000])
def test_lengths_are_counted_in_bytes(message):
    assert crypto().open(crypto().seal(message, timestamp="1", nonce="n").encrypt) == message


def test_two_seals_of_a_message_differ():
    first, second = (crypto().seal(b"success", timestamp="1", nonce="n") for _ in range(2))

    assert first.encrypt != second.encrypt


@pytest.mark.parametrize(
    "encrypt, reason",
    [
        ("", "padding"),
        ("!!!!", "base64"),
        ("研发", "base64"),
        ("AAA", "base64"),
        ("AAAA", "padding"),
        (VECTORS[0][1][:-24] + "A" * 23 + "=", "padding"),
        (encrypted(b"\x00" * 64), "padding"),
        (encrypted(b"\x21" * 64), "padding"),
        (encrypted(padded(b"short")), "too short"),
        (encrypted(padded(PREFIX + struct.pack(">I", 2**32 - 1) + b"success" + OWNER.encode())), "cut off"),
        (encrypted(padded(PREFIX + struct.pack(">I", 7) + b"success")), "another owner"),
        (encrypted(padded(PREFIX + struct.pack(">I", 6) + b"success" + OWNER.encode())), "another owner"),
    ],
)
def test_refuses_what_is_damaged(encrypt, reason):
    with pytest.raises(BadCallbackError, match=reason) as caught:
        crypto().open(encrypt)

    assert "success" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("owner", ["", "dingother", OWNER.upper(), OWNER + "x"])
def test_refuses_another_owner(owner):
    sealed = crypto(owner_key=owner).seal(b"success", timestamp="1", nonce="n")

    with pytest.raises(BadCallbackError, match="another owner") as caught:
        crypto().open(sealed.encrypt)
    assert OWNER not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"token": ""}, {"aes_secret": ""}, {"aes_secret": "short"}, {"aes_secret": "é" * 43}]
)
def test_refuses_secrets_that_are_none_without_showing_them(change):
    with pytest.raises(ConfigurationError) as caught:
        crypto(**change)

    assert "short" not in str(caught.value)


def test_secrets_are_not_in_its_repr():
    assert AES_SECRET not in repr(crypto())
    assert TOKEN not in repr(crypto())


NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def milliseconds(distance: timedelta) -> str:
    return str(int((NOW + distance).timestamp() * 1000))


@pytest.mark.parametrize("minutes", [-4.9, 0, 4.9])
def test_accepts_times_close_to_now(minutes):
    check_timestamp(milliseconds(timedelta(minutes=minutes)), now=NOW)


@pytest.mark.parametrize(
    "timestamp",
    ["", "now", "-1", "1e9", "٣", "9" * 400, *(milliseconds(timedelta(minutes=m)) for m in (-5.1, 5.1))],
)
def test_refuses_times_that_are_far_away_or_none(timestamp):
    with pytest.raises(BadCallbackError):
        check_timestamp(timestamp, now=NOW)
