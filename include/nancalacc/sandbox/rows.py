"""What WPS demands of a row before it looks at anything else [wps 5.2-5.4]."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nancalacc.errors import ObjectError

Row = Mapping[str, Any]

ENUMS: Mapping[str, frozenset[str]] = {
    "employment_status": frozenset({"active", "notactive", "disabled", "dimission"}),
    "employment_type": frozenset({"", "permanent", "intern"}),
    "gender": frozenset({"", "undefined", "male", "female", "secrecy"}),
    "source": frozenset({"", "sync", "buildin"}),
}
PLAIN_FIELDS = (
    "avatar",
    "email",
    "gender",
    "title",
    "work_place",
    "leader",
    "employer",
    "employment_status",
    "employment_type",
)
ENCRYPTED_FIELDS = ("phone", "telephone", "password")
IV_BYTES = 12


def decrypt(value: str, *, uid: str, salt: str) -> str:
    """Undo the encryption of a phone, telephone or password [wps 5.4]; raises ObjectError."""
    if not value:
        return ""
    key = hashlib.sha256(f"{uid}{salt}".encode()).hexdigest()[:32].encode()
    try:
        sealed = base64.b64decode(value, validate=True)
        return AESGCM(key).decrypt(sealed[:IV_BYTES], sealed[IV_BYTES:], None).decode()
    except (ValueError, InvalidTag):
        raise ObjectError("解密失败: the value is not encrypted with the key of this uid") from None


def text(row: Row, name: str) -> str:
    """A text of a row; NULL is ''."""
    value = row.get(name)
    return "" if value is None else str(value)


def required(row: Row, *names: str) -> None:
    """Raise ObjectError when one of the columns is empty."""
    for name in names:
        if not text(row, name):
            raise ObjectError(f"{name}不能为空")


def profile(row: Row, *, salt: str) -> dict[str, str | None]:
    """The checked fields of a user row, decrypted; None where the column is NULL.

    Raises ObjectError for an empty uid, account or nick_name, for a value outside its enum, for
    custom_fields that are no JSON array and for what cannot be decrypted with the row's own uid.
    """
    required(row, "uid", "account", "nick_name", "employment_status")
    for name, allowed in ENUMS.items():
        if text(row, name) not in allowed:
            raise ObjectError(f"{name}非法: {text(row, name)[:60]}")
    if text(row, "custom_fields"):
        check_custom_fields(text(row, "custom_fields"))
    fields: dict[str, str | None] = {name: row.get(name) for name in PLAIN_FIELDS}
    fields["account"] = text(row, "account")
    fields["nick_name"] = text(row, "nick_name")
    for name in ENCRYPTED_FIELDS:
        value = row.get(name)
        plain = None if value is None else decrypt(value, uid=text(row, "uid"), salt=salt)
        if name != "password":
            fields[name] = plain
    return fields


def check_custom_fields(value: str) -> None:
    """Raise ObjectError unless the text is a JSON array."""
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = None
    if not isinstance(parsed, list):
        raise ObjectError("custom_fields不是JSON数组")


def check_department(row: Row) -> None:
    """Raise ObjectError for an empty did, a wrong source or a wrong type."""
    required(row, "did")
    if text(row, "source") not in ENUMS["source"]:
        raise ObjectError(f"source非法: {text(row, 'source')}")
    if not re.fullmatch(r"[a-z_]*", text(row, "type")):
        raise ObjectError(f"type非法: {text(row, 'type')[:60]}")
