"""A file whose age says whether a listener is alive, for the health check of its container."""

from __future__ import annotations

import time
from pathlib import Path

from nancalacc.errors import FatalError

LONGEST_SILENCE = 30.0
"""Seconds; longer than a reconnection usually takes."""


def require_alive(path: Path) -> None:
    """Raise FatalError unless the file was touched a short while ago."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        raise FatalError(f"There is no {path}: the listener is not running, or was never connected") from None
    if age > LONGEST_SILENCE:
        raise FatalError(
            f"The listener was last connected to DingTalk and the database {age:.0f} s ago;"
            f" {LONGEST_SILENCE:.0f} s are allowed"
        )
