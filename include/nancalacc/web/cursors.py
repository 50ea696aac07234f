"""Cursors of pages whose rows have a key of several texts."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated

from fastapi import HTTPException, Query

NO_CURSOR = "The cursor is not one of a page before"
KeyCursor = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z0-9_=-]{1,2000}$", description="`next_cursor` of the page before"),
]


def cursor_of(*key: str) -> str:
    """The cursor behind the row with this key."""
    return urlsafe_b64encode(json.dumps(key).encode()).decode()


def key_of(cursor: str, *, length: int) -> tuple[str, ...]:
    """The key in a cursor; raises HTTPException 400 for one that we did not make."""
    try:
        key = json.loads(urlsafe_b64decode(cursor))
        "".join(key).encode()
    except (ValueError, TypeError, RecursionError):
        raise HTTPException(400, NO_CURSOR) from None
    if not isinstance(key, list) or len(key) != length or any("\x00" in each for each in key):
        raise HTTPException(400, NO_CURSOR)
    return tuple(key)
