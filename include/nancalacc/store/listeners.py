"""Signs of life of the processes that listen for DingTalk's events, one row a process and connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

SIGN_SECONDS = 10.0
FRESH_SECONDS = 60.0
"""A listener that was seen longer ago is not there any more: its process gave no word of an end."""

SEEN = text("""
INSERT INTO listeners (listener, dingtalk_conn_id, is_connected) VALUES (:listener, :conn_id, :is_connected)
ON CONFLICT (listener, dingtalk_conn_id)
DO UPDATE SET seen_at = timezone('utc', clock_timestamp()), is_connected = excluded.is_connected
""")
FORGET = text("""
DELETE FROM listeners WHERE dingtalk_conn_id = ANY(:conn_ids) AND listener != :listener
  AND seen_at < timezone('utc', now()) - interval '1 day'
""")
PRESENT = text("""
SELECT DISTINCT ON (dingtalk_conn_id) dingtalk_conn_id, listener, started_at, seen_at,
    extract(epoch FROM timezone('utc', clock_timestamp()) - seen_at)::float AS silence,
    is_connected
FROM listeners
ORDER BY dingtalk_conn_id, (is_connected AND seen_at > timezone('utc', now()) - :fresh * interval '1 s') DESC,
    seen_at DESC
""")


@dataclass(frozen=True, slots=True)
class ListenerSign:
    """The best there is for a connection: a listener that is connected, or the one seen last.

    `is_connected`: it said so, and not too long ago. `silence` is in seconds.
    """

    dingtalk_conn_id: str
    listener: str
    started_at: datetime
    seen_at: datetime
    silence: float
    is_connected: bool


def seen(connection: Connection, *, listener: str, connected: Mapping[str, bool]) -> None:
    """A listener is alive; `connected` says of each of its connections whether DingTalk is at the other end.

    What other listeners of these connections left behind long ago is removed.
    """
    rows = [
        {"listener": listener, "conn_id": conn_id, "is_connected": is_connected}
        for conn_id, is_connected in sorted(connected.items())
    ]
    connection.execute(SEEN, rows)
    connection.execute(FORGET, {"conn_ids": list(connected), "listener": listener})


def present(connection: Connection) -> tuple[ListenerSign, ...]:
    """One sign for each connection that a listener was ever seen on."""
    return tuple(
        ListenerSign(
            dingtalk_conn_id=row.dingtalk_conn_id,
            listener=row.listener,
            started_at=row.started_at,
            seen_at=row.seen_at,
            silence=max(0.0, row.silence),
            is_connected=row.is_connected and row.silence < FRESH_SECONDS,
        )
        for row in connection.execute(PRESENT, {"fresh": FRESH_SECONDS})
    )
