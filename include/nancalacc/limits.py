"""How much one sync may take away from people before somebody has to look.

A limit has three numbers, written "500 5% 20": at most 500, and at most 5 % of what there is; but
up to 20 are always allowed, so that percentages of a small number do not stop every sync.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nancalacc.errors import ConfigurationError

FORM = re.compile(r"(?P<most>\d+)\s+(?P<percent>\d+(\.\d+)?)\s*%\s+(?P<least>\d+)")
SUBTREE = "subtree_"
"""Before the name of a limit: the one for each department directly below the root."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`most` at once, `percent` of what there is, but `least` in any case."""

    most: int
    percent: float
    least: int

    def allowed(self, of: int) -> int:
        """How many of so many."""
        if self.percent >= 100:
            return self.most
        return min(self.most, max(self.least, int(of * self.percent / 100)))

    def __str__(self) -> str:
        return f"{self.most} {self.percent:g}% {self.least}"


UNLIMITED = Limit(most=10**9, percent=100, least=0)

DEFAULTS: Mapping[str, Limit] = MappingProxyType(
    {
        "users_removed": Limit(500, 5, 20),
        "users_disabled": Limit(500, 5, 20),
        "users_moved": Limit(2000, 30, 50),
        "departments_removed": Limit(100, 5, 20),
        "departments_moved": Limit(200, 30, 20),
        "memberships_removed": Limit(2000, 10, 50),
        "subtree_users_removed": Limit(300, 30, 50),
        "subtree_users_disabled": Limit(300, 30, 50),
        "subtree_users_moved": Limit(1000, 60, 100),
        "subtree_departments_removed": Limit(50, 30, 20),
        "subtree_departments_moved": Limit(100, 60, 20),
        "subtree_memberships_removed": Limit(1000, 50, 100),
    }
)
"""Safe for a company of 50 (20 people may go at once) and of 50 000 (500).

A small department may be dissolved, and people move in larger numbers than they go.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a company, by name: what is counted, for the whole or for each subtree."""

    by_name: Mapping[str, Limit] = field(default_factory=lambda: DEFAULTS)

    def changed(self, texts: Mapping[str, object], *, where: str) -> Limits:
        """These limits with others in place of some; `where` says in errors who wrote them.

        Raises ConfigurationError for a name that is none, or a text that is no limit.
        """
        changed = dict(self.by_name)
        for name, text in texts.items():
            if name not in DEFAULTS:
                raise ConfigurationError(f"{where}: there is no limit {name!r}; known: {', '.join(DEFAULTS)}")
            changed[name] = _parsed(str(text), where=f"{where}: limit {name!r}")
        return Limits(changed)


def _parsed(text: str, *, where: str) -> Limit:
    if text.strip().lower() == "none":
        return UNLIMITED
    found = FORM.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(
            f"{where} must be 'none' or like '500 5% 20' (at most 500, at most 5 %, always 20), not {text!r}"
        )
    return Limit(int(found["most"]), percent=float(found["percent"]), least=int(found["least"]))
