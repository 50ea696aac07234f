"""Dead events: a person has them tried again, or gives them up; who did what, and why, stays with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, literal, select, update
from sqlalchemy.types import String

from nancalacc.errors import IllegalTransitionError
from nancalacc.store.tables import UTC_NOW, EventStatus, dingtalk_events

UNREADABLE = "Unreadable"
"""How the error of an event begins whose content was not understood: there is nothing to try again."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Who decides about a dead event, and why. The same `request_id` has its effect once."""

    user: str
    reason: str
    request_id: str | None = None


def retry(connection: Connection, event_id: int, *, decision: Decision) -> tuple[Row[Any], bool]:
    """Have a dead event dealt with again; returns it, and whether that is news.

    An event that waits already is left as it is. Raises IllegalTransitionError for any other that is not
    dead, and for one that cannot be read; LookupError when there is none.
    """
    row = _locked(connection, event_id)
    if row.status == EventStatus.PENDING.value or _is_known(row, decision):
        return row, False
    if row.status != EventStatus.DEAD.value:
        raise IllegalTransitionError(f"Event {event_id} is {row.status}, not dead")
    if (row.error or "").startswith(UNREADABLE):
        raise IllegalTransitionError(f"Event {event_id} cannot be read: it can only be dropped")
    values = {
        "status": EventStatus.PENDING.value,
        "attempts": 0,
        "next_attempt_at": UTC_NOW,
        "transaction_id": None,
        "handled_at": None,
        # If it is given up again, that is news.
        "incident_id": None,
    }
    return _decided(connection, row, "retry", decision, values), True


def drop(connection: Connection, event_id: int, *, decision: Decision) -> tuple[Row[Any], bool]:
    """Give a dead event up; returns it, and whether that is news.

    One that is done already is left as it is. Raises IllegalTransitionError for any other that is not
    dead; LookupError when there is none.
    """
    row = _locked(connection, event_id)
    if row.status == EventStatus.DONE.value or _is_known(row, decision):
        return row, False
    if row.status != EventStatus.DEAD.value:
        raise IllegalTransitionError(f"Event {event_id} is {row.status}, not dead")
    values = {"status": EventStatus.DONE.value, "handled_at": UTC_NOW}
    return _decided(connection, row, "drop", decision, values), True


def _locked(connection: Connection, event_id: int) -> Row[Any]:
    statement = select(dingtalk_events).where(dingtalk_events.c.id == event_id).with_for_update()
    row = connection.execute(statement).first()
    if row is None:
        raise LookupError(f"There is no event {event_id}")
    return row


def _is_known(row: Row[Any], decision: Decision) -> bool:
    """True when this very request was carried out before, whatever became of the event since."""
    return decision.request_id is not None and any(
        action["request_id"] == decision.request_id for action in row.actions
    )


def _decided(
    connection: Connection, row: Row[Any], action: str, decision: Decision, values: Mapping[str, Any]
) -> Row[Any]:
    """Change the event, and append who did it: what happens to it later takes nothing of that away."""
    told = {
        "action": action,
        "user": decision.user,
        "reason": decision.reason,
        "request_id": decision.request_id,
        "error": row.error,
    }
    parts = [part for name, value in told.items() for part in (name, literal(value, String))]
    entry = func.jsonb_build_object(*parts, "at", func.to_jsonb(UTC_NOW))
    statement = (
        update(dingtalk_events)
        .where(dingtalk_events.c.id == row.id)
        .values(**values, actions=dingtalk_events.c.actions.concat(func.jsonb_build_array(entry)))
        .returning(dingtalk_events)
    )
    return connection.execute(statement).one()
