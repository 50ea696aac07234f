"""Values of environment variables, read strictly: each error names the variable and what it may be.

An empty variable is the same as a missing one: it leaves the default.
"""

from __future__ import annotations

import math
import os
import re
from zoneinfo import ZoneInfo

from nancalacc.errors import ConfigurationError

OFF = frozenset({"none", "off"})
CONNECTION_ID = re.compile(r"[\w.-]+")


def number(name: str, default: float, *, least: float = 0) -> float:
    """A finite number of at least `least`; raises ConfigurationError for anything else."""
    value = os.environ.get(name, "")
    if not value:
        return default
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    # Not a number compares false, too.
    if not least <= found < math.inf:
        raise ConfigurationError(
            f"Environment variable {name} must be a number of at least {least:g}, not {value!r}"
        )
    return found


def number_or_none(name: str, default: float) -> float | None:
    """A number of at least 0, or None for `none` and `off`; raises ConfigurationError for anything else."""
    value = os.environ.get(name, "")
    if value.lower() in OFF:
        return None
    try:
        return number(name, default)
    except ConfigurationError:
        raise ConfigurationError(
            f"Environment variable {name} must be a number of at least 0, or none, not {value!r}"
        ) from None


def flag(name: str) -> bool:
    """True or false (the default); raises ConfigurationError for any other word."""
    value = os.environ.get(name, "").lower()
    if value not in {"", "true", "false"}:
        raise ConfigurationError(f"Environment variable {name} must be true or false, not {value!r}")
    return value == "true"


def count(name: str, default: int) -> int:
    """A whole number of at least 1; raises ConfigurationError for anything else."""
    value = os.environ.get(name, "")
    if value and (not value.isdecimal() or int(value) < 1):
        raise ConfigurationError(
            f"Environment variable {name} must be a whole number of at least 1, not {value!r}"
        )
    return int(value) if value else default


def schedule(name: str, default: str) -> str | None:
    """A cron expression, unchecked, or None for `none` and `off`."""
    value = os.environ.get(name, "").strip() or default
    return None if value.lower() in OFF else value


def zone(name: str, default: str) -> str:
    """The name of a time zone; raises ConfigurationError when it is unknown."""
    value = os.environ.get(name, "") or default
    if not is_zone(value):
        raise ConfigurationError(f"Environment variable {name} is not a known time zone: {value!r}")
    return value


def is_zone(name: str) -> bool:
    """True when the time zone is known."""
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        return False
    return True


def log_level() -> str:
    """How much the commands say (LOG_LEVEL); raises ConfigurationError for an unknown word."""
    value = os.environ.get("LOG_LEVEL", "").upper() or "INFO"
    known = ("DEBUG", "INFO", "WARNING", "ERROR")
    if value not in known:
        raise ConfigurationError(
            f"Environment variable LOG_LEVEL must be one of {', '.join(known)}, not {value!r}"
        )
    return value


def pairs(name: str, default: str) -> tuple[tuple[str, str], ...]:
    """Pairs of connection ids, "a:b,c:d"; raises ConfigurationError when they are none, or b is d."""
    text = os.environ.get(name, "") or default
    found = []
    for pair in text.split(","):
        parts = tuple(part.strip() for part in pair.split(":"))
        if len(parts) != 2 or not all(map(CONNECTION_ID.fullmatch, parts)):
            raise ConfigurationError(
                f"Environment variable {name} must list pairs of connection ids,"
                f" for example {default}; got {pair!r}"
            )
        found.append((parts[0], parts[1]))
    targets = [second for _, second in found]
    twice = next((each for each in targets if targets.count(each) > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"Environment variable {name} names the WPS connection {twice!r} twice: a company has one pair"
        )
    return tuple(found)
