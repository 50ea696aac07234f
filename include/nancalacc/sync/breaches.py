"""A plan held against the limits: where it would take away more than somebody should look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nancalacc.limits import DEFAULTS, SUBTREE, Limits
from nancalacc.sync.plan import Counts, Plan, Subtree

NAMED = 5
WPS_THRESHOLDS = {"users": 200, "departments": 20, "memberships": 1}
"""Deletions above which WPS stops a job without telling us, by default [wps 3.1]."""


@dataclass(frozen=True, slots=True)
class Breach:
    """So many objects, of so many, although fewer are allowed; `within` names the subtree."""

    kind: str
    sort: str
    number: int
    known: int
    allowed: int
    within: str = ""

    def __str__(self) -> str:
        within = f" in {self.within}" if self.within else ""
        return (
            f"{self.number} of {self.known} {self.kind}{within} would be {self.sort}, the limit is"
            f" {self.allowed}"
        )


def breaches(plan: Plan, subtrees: Iterable[Subtree], *, limits: Limits) -> tuple[Breach, ...]:
    """Every limit that the plan exceeds: those of the whole first, then those of each subtree."""
    found = list(_exceeded(plan.counts, limits=limits))
    for subtree in subtrees:
        # What hangs nowhere, or lies in the root itself, is no subtree.
        within = f"{subtree.name or 'department'} ({subtree.did})"
        found += _exceeded(subtree.counts, limits=limits, within=within)
    return tuple(found)


def _exceeded(counts: Counts, *, limits: Limits, within: str = "") -> Iterator[Breach]:
    for name in DEFAULTS:
        if name.startswith(SUBTREE) != bool(within):
            continue
        kind, _, sort = name.removeprefix(SUBTREE).rpartition("_")
        numbers = counts.get(kind, {})
        number, known = numbers.get(sort, 0), numbers.get("known", 0)
        allowed = limits.by_name[name].allowed(known)
        if number > allowed:
            yield Breach(kind, sort=sort, number=number, known=known, allowed=allowed, within=within)


def listed(found: Iterable[Breach]) -> str:
    """The breaches as a part of a sentence; of many only the first are named."""
    texts = [str(breach) for breach in found]
    more = len(texts) - NAMED
    return "; ".join(texts[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def beyond_wps(counts: Counts) -> dict[str, int]:
    """The removals, by kind, for which WPS itself would stop the job without a word."""
    return {
        kind: counts[kind]["removed"]
        for kind, most in WPS_THRESHOLDS.items()
        if counts[kind]["removed"] > most
    }


def wps_warning(beyond: Mapping[str, int]) -> str:
    """What to tell about removals that WPS would stop."""
    return (
        f"This sync removes {', '.join(f'{number} {kind}' for kind, number in beyond.items())}; above its"
        " own thresholds (by default 200 users, 20 departments, 1 membership) WPS stops a job without a"
        " word: look in the WPS console whether it was applied"
    )
