"""`python -m nancalacc events`: what is in the inbox, and what a person may do about it.

Shows types, ids, times and reasons: there is no personal data in the inbox.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from nancalacc.errors import ConfigurationError, IllegalTransitionError
from nancalacc.store.tables import EventStatus, dingtalk_events
from nancalacc.sync import dead_events
from nancalacc.sync.dead_events import Decision

LIST_COLUMNS = ("id", "event_type", "status", "attempts", "received_at", "next_attempt_at", "error")
COMMAND = "python -m nancalacc events"
Decide = Callable[..., tuple[Row[Any], bool]]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to show; empty means any."""

    status: str = ""
    event_type: str = ""
    wps_conn_id: str = ""
    object_id: str = ""
    limit: int = 50

    def __post_init__(self) -> None:
        """Refuse a status that does not exist."""
        allowed = [status.value for status in EventStatus]
        if self.status and self.status not in allowed:
            raise ConfigurationError(f"There is no status {self.status!r}; there are {', '.join(allowed)}")


def list_events(connection: Connection, wanted: EventFilter) -> tuple[list[Row[Any]], int]:
    """The newest events that fit, and how many fit altogether."""
    table = dingtalk_events
    conditions = [
        column == value
        for column, value in (
            (table.c.status, wanted.status),
            (table.c.event_type, wanted.event_type),
            (table.c.wps_conn_id, wanted.wps_conn_id),
        )
        if value
    ]
    if wanted.object_id:
        conditions.append(table.c.object_ids.contains([wanted.object_id]))
    rows = connection.execute(
        select(*(table.c[name] for name in LIST_COLUMNS))
        .where(*conditions)
        .order_by(table.c.id.desc())
        .limit(wanted.limit)
    ).all()
    total = connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
    return list(rows), total


def show_event(connection: Connection, event_id: int) -> Mapping[str, Any]:
    """Everything about one event; raises IllegalTransitionError when there is none."""
    row = connection.execute(select(dingtalk_events).where(dingtalk_events.c.id == event_id)).first()
    if row is None:
        raise _unknown(event_id)
    return dict(row._mapping)


def chosen(
    connection: Connection, event_ids: Sequence[int], *, all_dead: bool, unreadable: bool
) -> list[int]:
    """The events a command is about: those that are named, or all dead ones (`unreadable` ones, too)."""
    if bool(event_ids) == all_dead:
        raise ConfigurationError("Name the ids of events, or use --all for every dead one")
    if not all_dead:
        return list(event_ids)
    dead = select(dingtalk_events.c.id).where(dingtalk_events.c.status == EventStatus.DEAD.value)
    if not unreadable:
        dead = dead.where(~func.coalesce(dingtalk_events.c.error, "").startswith(dead_events.UNREADABLE))
    return list(connection.execute(dead.order_by(dingtalk_events.c.id)).scalars())


def retry_event(connection: Connection, event_id: int, *, reason: str) -> bool:
    """Have a dead event tried again; returns whether that changed anything."""
    return _decide(connection, event_id, dead_events.retry, reason=reason or f"{COMMAND} retry")


def drop_event(connection: Connection, event_id: int, *, reason: str) -> bool:
    """Give a dead event up; returns whether that changed anything."""
    return _decide(connection, event_id, dead_events.drop, reason=reason or f"{COMMAND} drop")


def _decide(connection: Connection, event_id: int, decide: Decide, *, reason: str) -> bool:
    try:
        return decide(connection, event_id, decision=Decision(user=_user(), reason=reason))[1]
    except LookupError:
        raise _unknown(event_id) from None


def _user() -> str:
    """Who the operating system says gives the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user has no name.
        return "command"


def _unknown(event_id: int) -> IllegalTransitionError:
    return IllegalTransitionError(f"There is no event {event_id}: `python -m nancalacc events list`")
