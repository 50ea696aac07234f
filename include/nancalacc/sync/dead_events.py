"""Dead events: a person has them tried again, or gives them up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, select, update

from nancalacc.errors import IllegalTransitionError
from nancalacc.store.tables import UTC_NOW, EventStatus, dingtalk_events

UNREADABLE = "Unreadable"
"""How the error of an event begins whose content was not understood: there is nothing to try again."""


def retry(connection: Connection, event_id: int, *, note: str) -> tuple[Row[Any], bool]:
    """Have a dead event dealt with again; returns it, and whether that is news.

    An event that waits already is left as it is. Raises IllegalTransitionError for any other that is not
    dead, and for one that cannot be read; LookupError when there is none.
    """
    row = _locked(connection, event_id)
    if row.status == EventStatus.PENDING.value:
        return row, False
    if row.status != EventStatus.DEAD.value:
        raise IllegalTransitionError(f"Event {event_id} is {row.status}, not dead")
    if (row.error or "").startswith(UNREADABLE):
        raise IllegalTransitionError(f"Event {event_id} cannot be read: it can only be dropped")
    return _changed(
        connection,
        event_id,
        {
            "status": EventStatus.PENDING.value,
            "attempts": 0,
            "next_attempt_at": UTC_NOW,
            "transaction_id": None,
            "handled_at": None,
            # If it is given up again, that is news.
            "incident_id": None,
            "error": _with_note(note, row.error),
        },
    ), True


def drop(connection: Connection, event_id: int, *, note: str) -> tuple[Row[Any], bool]:
    """Give a dead event up; returns it, and whether that is news.

    One that is done already is left as it is. Raises IllegalTransitionError for any other that is not
    dead; LookupError when there is none.
    """
    row = _locked(connection, event_id)
    if row.status == EventStatus.DONE.value:
        return row, False
    if row.status != EventStatus.DEAD.value:
        raise IllegalTransitionError(f"Event {event_id} is {row.status}, not dead")
    values = {
        "status": EventStatus.DONE.value,
        "handled_at": UTC_NOW,
        "error": _with_note(note, row.error),
    }
    return _changed(connection, event_id, values), True


def _locked(connection: Connection, event_id: int) -> Row[Any]:
    statement = select(dingtalk_events).where(dingtalk_events.c.id == event_id).with_for_update()
    row = connection.execute(statement).first()
    if row is None:
        raise LookupError(f"There is no event {event_id}")
    return row


def _changed(connection: Connection, event_id: int, values: Mapping[str, Any]) -> Row[Any]:
    statement = (
        update(dingtalk_events)
        .where(dingtalk_events.c.id == event_id)
        .values(**values)
        .returning(dingtalk_events)
    )
    return connection.execute(statement).one()


def _with_note(note: str, error: str | None) -> str:
    return f"{note} (before: {error})" if error else note
