"""The objects that a batch touches, and what becomes of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, insert, select

from nancalacc.store.tables import staged_changes


class Change(StrEnum):
    """What a batch does about an object."""

    SAVE = "save"
    REMOVE = "remove"
    REMOVE_AGAIN = "remove_again"
    """It is not there, but the last full sync had it: a job that WPS ran late may have put it back."""
    NOTHING = "nothing"
    """It is not there, and WPS does not know it."""
    HELD = "held"
    """A conflict keeps it from WPS, which may have an earlier state of it, until the conflict is gone."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Touched:
    """An object of the batch: what to do about it, because of which events, and why if it failed."""

    kind: str
    key: str
    action: Change
    event_ids: list[int]
    reason: str | None = None


def record(connection: Connection, found: Sequence[Touched], *, transaction_id: str) -> None:
    """Write down what is to be done about each object."""
    if found:
        connection.execute(
            insert(staged_changes),
            [
                {
                    "transaction_id": transaction_id,
                    "kind": each.kind,
                    "key": each.key,
                    "action": each.action.value,
                    "event_ids": each.event_ids,
                    "reason": each.reason,
                }
                for each in found
            ],
        )


def fail(connection: Connection, *, transaction_id: str, kind: str, key: str, reason: str) -> None:
    """Record that an object of the batch cannot be brought to WPS, and why."""
    mark(connection, Change.FAILED, transaction_id=transaction_id, kind=kind, key=key, reason=reason)


def mark(
    connection: Connection, action: Change, *, transaction_id: str, kind: str, key: str, reason: str
) -> None:
    """Record what becomes of an object of the batch after all, and why."""
    connection.execute(
        staged_changes.update()
        .where(
            staged_changes.c.transaction_id == transaction_id,
            staged_changes.c.kind == kind,
            staged_changes.c.key == key,
        )
        .values(action=action.value, reason=reason)
    )


def failures(connection: Connection, *, transaction_id: str) -> dict[int, str]:
    """Why events have failed, by their ids: a reason of one of their objects."""
    rows = connection.execute(
        select(staged_changes.c.event_ids, staged_changes.c.reason)
        .where(
            staged_changes.c.transaction_id == transaction_id,
            staged_changes.c.action == Change.FAILED.value,
        )
        .order_by(staged_changes.c.kind, staged_changes.c.key)
    )
    return {event_id: row.reason or "" for row in rows for event_id in row.event_ids}
