"""What it means that WPS's directory differs from what it was given.

WPS says "accepted" at once and runs a full job minutes later, or not at all [wps 3.1]. So a look can
only tell that it is done, or not (yet); what a difference means depends on how long ago WPS accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nancalacc.sync.breaches import WPS_THRESHOLDS
from nancalacc.sync.drift import Differences


class Verdict(StrEnum):
    """What a look at WPS's directory shows."""

    VERIFIED = "verified"
    DRIFTED = "drifted"
    STOPPED = "stopped"
    """WPS's own thresholds keep it from removing what this sync removes."""
    PENDING = "pending"
    """WPS has not begun, or another sync is on its way: a later look will tell."""
    SUPERSEDED = "superseded"
    """A newer sync was published."""
    UNVERIFIABLE = "unverifiable"

    @property
    def may_change(self) -> bool:
        """Whether a later look may show something else."""
        return self in {Verdict.DRIFTED, Verdict.STOPPED, Verdict.PENDING}


@dataclass(frozen=True, slots=True)
class Publication:
    """The newest full snapshot that WPS has accepted; `age` in seconds since then."""

    transaction_id: str
    task_id: str
    age: float
    difference: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    is_known: bool = True
    """Whether known state is what it published: its last step was not skipped by hand."""

    def changes(self, what: str, kind: str) -> int:
        """How many objects of a kind it added or removed."""
        return int(self.difference.get(kind, {}).get(what, 0))


def judge(
    found: Differences,
    publication: Publication | None,
    *,
    in_motion: bool,
    late_seconds: float,
    patience: float | None = None,
    thresholds: Mapping[str, int] = WPS_THRESHOLDS,
) -> tuple[Verdict, str]:
    """What the differences mean.

    `late_seconds`: how long WPS may take to run what it accepted; `patience`: after which a sync beyond
    its thresholds of which nothing is there counts as stopped, if that is sooner.
    """
    if not found.number:
        return Verdict.VERIFIED, "WPS has exactly what it was given"
    if in_motion:
        return Verdict.PENDING, f"Another sync of the company was on its way while WPS was read: {found}"
    if publication is None:
        return Verdict.DRIFTED, f"WPS differs from what it was given: {found}"
    beyond = {kind: publication.changes("removed", kind) for kind in thresholds}
    beyond = {kind: number for kind, number in beyond.items() if number > thresholds[kind]}
    age = f"{publication.age:.0f} s after it accepted task {publication.task_id}"
    is_untouched = _untouched(found, publication)
    is_over = publication.age >= min(late_seconds, late_seconds if patience is None else patience)
    if beyond and _kept_everything(found, publication) and (is_over or not is_untouched):
        return Verdict.STOPPED, (
            f"{age} WPS still has everything that this sync removes ({_listed(beyond)}), which is more than"
            f" its default thresholds ({_listed(thresholds)}): it has stopped the job. Raise them in the WPS"
            f" console and sync again, unless they are raised already and it is still at work ({found})"
        )
    if publication.age < late_seconds and is_untouched:
        return Verdict.PENDING, (
            f"{age} WPS shows nothing of it yet, and may take up to {late_seconds:.0f} s: {found}."
            " The DAG reconcile looks again; NANCALACC_VERIFY_SECONDS lets the run itself wait"
            + (f". It removes {_listed(beyond)}: above its thresholds WPS would stop it" if beyond else "")
        )
    return Verdict.DRIFTED, f"{age} WPS differs from what it was given: {found}"


def _kept_everything(found: Differences, publication: Publication) -> bool:
    """Whether what was to be removed is all still there."""
    return bool(found.extra) and all(
        found.extra.get(kind, 0) >= publication.changes("removed", kind) for kind in ("departments", "users")
    )


def _untouched(found: Differences, publication: Publication) -> bool:
    """Whether WPS shows neither an addition nor a removal of this publication."""
    kinds = ("departments", "users")
    return all(
        found.extra.get(kind, 0) >= publication.changes("removed", kind)
        and found.missing.get(kind, 0) >= publication.changes("added", kind)
        for kind in kinds
    )


def _listed(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in counts.items())
