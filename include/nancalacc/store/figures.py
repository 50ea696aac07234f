"""Figures over many sagas: for the statistics page, the health strip and Prometheus.

Every query looks at open sagas, at the last ones, or at what happened since a moment: its cost does not
grow with the age of the installation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Text, and_, cast, func, or_, select, text

from nancalacc.saga.records import SagaRecord
from nancalacc.saga.state import EventType, SagaStatus
from nancalacc.store.migrate import VERSION_TABLE
from nancalacc.store.queries import SAGA_FIELDS, saga_of
from nancalacc.store.tables import UTC_NOW, saga_events, saga_transactions

OPEN = tuple(status.value for status in SagaStatus if not status.ended)
GOING_BACK = (SagaStatus.FAILED.value, SagaStatus.COMPENSATING.value)
ASKING = (EventType.APPROVAL_REQUESTED, EventType.APPROVED, EventType.REJECTED)
MOST_REASONS = 10
REASON_LENGTH = 300

OPEN_COUNTS = text("""
SELECT definition, status, count(*) AS count FROM saga_transactions
WHERE status = ANY(:open) AND deleted_at IS NULL AND dag_id = ANY(:dags)
GROUP BY definition, status
""")
COUNTS = text("""
SELECT definition, status, count(*) AS count FROM saga_transactions
WHERE deleted_at IS NULL AND dag_id = ANY(:dags)
  AND created_at >= :since
GROUP BY definition, status ORDER BY definition, status
""")
STEPS = text("""
SELECT t.definition, s.step_name, min(s.position) AS position, count(*) AS count,
       count(*) FILTER (WHERE s.status = 'failed') AS failed,
       sum(s.retry_count) AS retries,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM s.end_time - s.start_time))
           FILTER (WHERE s.status = 'completed') AS p50,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM s.end_time - s.start_time))
           FILTER (WHERE s.status = 'completed') AS p95
FROM saga_steps s JOIN saga_transactions t USING (transaction_id)
WHERE s.start_time >= :since AND t.dag_id = ANY(:dags) AND t.deleted_at IS NULL
GROUP BY t.definition, s.step_name ORDER BY t.definition, position
""")
REASONS = text("""
SELECT definition, failed_step, left(error_message, :length) AS reason, count(*) AS count,
       max(updated_at) AS last_at
FROM saga_transactions
WHERE error_message IS NOT NULL AND created_at >= :since AND dag_id = ANY(:dags) AND deleted_at IS NULL
GROUP BY definition, failed_step, reason ORDER BY count DESC, last_at DESC LIMIT :most
""")
EVENTS = text("""
SELECT t.definition, e.event_type, count(*) AS count
FROM saga_events e JOIN saga_transactions t USING (transaction_id)
WHERE e.event_type = ANY(:types) AND e.created_at >= :since AND t.dag_id = ANY(:dags)
GROUP BY t.definition, e.event_type ORDER BY t.definition, e.event_type
""")
CALLS = text("""
SELECT t.definition, s.action_data->'evidence'->'calls' AS paths,
       s.action_data->'evidence'->'throttled' AS throttled, s.action_data->'calls' AS wps_calls
FROM saga_steps s JOIN saga_transactions t USING (transaction_id)
WHERE s.start_time >= :since AND t.dag_id = ANY(:dags) AND s.action_data ?| ARRAY['evidence', 'calls']
""")
# The companies by steps through the index, however many sagas each has.
LAST_COMPLETED = text(f"""
WITH RECURSIVE companies AS (
    SELECT min(third_company_id) AS company FROM saga_transactions WHERE status = 'completed'
    UNION ALL
    SELECT (SELECT min(third_company_id) FROM saga_transactions
            WHERE status = 'completed' AND third_company_id > companies.company)
    FROM companies WHERE company IS NOT NULL)
SELECT last.* FROM companies CROSS JOIN LATERAL (
    SELECT {", ".join(column.name for column in SAGA_FIELDS)} FROM saga_transactions
    WHERE status = 'completed' AND third_company_id = companies.company AND definition = :definition
      AND deleted_at IS NULL AND dag_id = ANY(:dags) AND coalesce(params->>'dry_run', '') != 'true'
      AND end_time IS NOT NULL
    ORDER BY end_time DESC LIMIT 1) last
ORDER BY last.end_time DESC
""")  # noqa: S608 - names of columns
INBOX = text("""
SELECT count(*) FILTER (WHERE status = 'pending') AS pending,
       count(*) FILTER (WHERE status = 'claimed') AS claimed,
       count(*) FILTER (WHERE status = 'dead') AS dead,
       min(received_at) FILTER (WHERE status = 'pending') AS oldest_pending_at,
       extract(epoch FROM timezone('utc', clock_timestamp())
               - min(received_at) FILTER (WHERE status IN ('pending', 'claimed'))) AS lag_seconds
FROM dingtalk_events WHERE status IN ('pending', 'claimed', 'dead')
""")
LAST_RECEIVED = text("SELECT received_at FROM dingtalk_events ORDER BY id DESC LIMIT 1")
REVISION = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
NOW = text("SELECT timezone('utc', clock_timestamp())")


@dataclass(frozen=True, slots=True)
class Inbox:
    """How full the inbox is; `lag_seconds` is the age of the oldest event that is not dealt with."""

    pending: int
    claimed: int
    dead: int
    oldest_pending_at: datetime | None
    lag_seconds: float | None
    last_received_at: datetime | None


@dataclass(slots=True)
class Calls:
    """Calls of DingTalk by path, those it refused as too many, and calls that asked WPS to sync."""

    dingtalk: Counter[str] = field(default_factory=Counter)
    throttled: int = 0
    wps: int = 0


def now(connection: Connection) -> datetime:
    """The database's time, UTC without zone."""
    moment: datetime = connection.execute(NOW).scalar_one()
    return moment


def schema_revision(connection: Connection) -> str | None:
    """The revision of the schema."""
    revision: str | None = connection.execute(REVISION).scalar()
    return revision


def counts(connection: Connection, *, dags: Collection[str], since: datetime) -> list[Any]:
    """Rows (definition, status, count) of the sagas made since then."""
    return list(connection.execute(COUNTS, {"dags": list(dags), "since": since}))


def open_counts(connection: Connection, *, dags: Collection[str]) -> list[Any]:
    """Rows (definition, status, count) of the sagas that have not ended, however old."""
    return list(connection.execute(OPEN_COUNTS, {"dags": list(dags), "open": list(OPEN)}))


def calls(connection: Connection, *, dags: Collection[str], since: datetime) -> dict[str, Calls]:
    """By definition what the steps that began since then have called."""
    found: dict[str, Calls] = {}
    for row in connection.execute(CALLS, {"dags": list(dags), "since": since}):
        called = found.setdefault(row.definition, Calls())
        for path, number in row.paths.items() if isinstance(row.paths, dict) else ():
            called.dingtalk[path] += _count(number)
        called.throttled += _count(row.throttled)
        called.wps += _count(row.wps_calls)
    return found


def _count(value: object) -> int:
    """A number that a step reported; whatever else it reported counts for nothing."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def steps(connection: Connection, *, dags: Collection[str], since: datetime) -> list[Any]:
    """Rows (definition, step_name, position, count, failed, retries, p50, p95), durations in seconds."""
    return list(connection.execute(STEPS, {"dags": list(dags), "since": since}))


def reasons(connection: Connection, *, dags: Collection[str], since: datetime) -> list[Any]:
    """The most frequent messages of sagas that failed: (definition, failed_step, reason, count, last_at)."""
    values = {"dags": list(dags), "since": since, "most": MOST_REASONS, "length": REASON_LENGTH}
    return list(connection.execute(REASONS, values))


def events(
    connection: Connection, *, types: Collection[str], dags: Collection[str], since: datetime
) -> list[Any]:
    """Rows (definition, event_type, count)."""
    return list(connection.execute(EVENTS, {"types": list(types), "dags": list(dags), "since": since}))


def inbox(connection: Connection) -> Inbox:
    """How full the inbox is."""
    row = connection.execute(INBOX).one()
    return Inbox(
        pending=row.pending,
        claimed=row.claimed,
        dead=row.dead,
        oldest_pending_at=row.oldest_pending_at,
        lag_seconds=None if row.lag_seconds is None else float(row.lag_seconds),
        last_received_at=connection.execute(LAST_RECEIVED).scalar(),
    )


def oldest(
    connection: Connection, *, dags: Collection[str], statuses: Collection[str] = OPEN
) -> SagaRecord | None:
    """The oldest saga with one of these statuses; by default the oldest that has not ended."""
    statement = (
        select(*SAGA_FIELDS)
        .where(
            saga_transactions.c.deleted_at.is_(None),
            saga_transactions.c.dag_id.in_(list(dags)),
            saga_transactions.c.status.in_(list(statuses)),
        )
        .order_by(saga_transactions.c.start_time)
        .limit(1)
    )
    row = connection.execute(statement).first()
    return None if row is None else saga_of(row)


def stuck(
    connection: Connection, *, dags: Collection[str], seconds: float, limit: int = 5
) -> list[SagaRecord]:
    """Sagas that do not get on, the oldest first.

    They go back and have not changed for so long, or their recovery failed.
    """
    table = saga_transactions.c
    silent = table.updated_at < UTC_NOW - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    statement = (
        select(*SAGA_FIELDS)
        .where(
            table.deleted_at.is_(None),
            table.dag_id.in_(list(dags)),
            table.status.in_(list(OPEN)),
            or_(and_(table.status.in_(list(GOING_BACK)), silent), table.recovery_error.is_not(None)),
        )
        .order_by(table.start_time)
        .limit(limit)
    )
    return [saga_of(row) for row in connection.execute(statement)]


def asking(connection: Connection, *, dags: Collection[str], limit: int = 5) -> list[SagaRecord]:
    """Sagas that wait for a person's decision, the oldest first."""
    table, events = saga_transactions.c, saga_events.c
    latest = (
        select(events.event_type)
        .where(
            events.transaction_id == table.transaction_id,
            events.event_data["epoch"].astext == cast(table.epoch, Text),
            events.event_type.in_([each.value for each in ASKING]),
        )
        .order_by(events.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    statement = (
        select(*SAGA_FIELDS)
        .where(
            table.deleted_at.is_(None),
            table.dag_id.in_(list(dags)),
            table.status == SagaStatus.IN_PROGRESS.value,
            latest == EventType.APPROVAL_REQUESTED.value,
        )
        .order_by(table.start_time)
        .limit(limit)
    )
    return [saga_of(row) for row in connection.execute(statement)]


def last_completed(connection: Connection, *, dags: Collection[str], definition: str) -> list[SagaRecord]:
    """Of each company the saga of this definition that completed last, the newest first.

    A dry run counts for nothing.
    """
    values = {"dags": list(dags), "definition": definition}
    return [saga_of(row) for row in connection.execute(LAST_COMPLETED, values)]
