"""What people are told about, each incident once, whoever finds it and however often.

An incident is a row, made from what the tables say: by its key no second one comes of the same
thing. While a sync is undone again and again at the same step, each time as another saga, that is
one incident; the row of each says of which one it is a part, and nobody is told.

A message is sent by whoever takes the row, for a while that outlives a sender that dies. Whether a
message arrived whose sender died, or whose answer was lost, nobody can know: it is sent once more,
and says so; a lost message would be worse than a repeated one. After that it counts as sent, so
that there are never more than two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, text

from nancalacc.saga.state import SagaStatus
from nancalacc.store.tables import UTC_NOW, IncidentKind, incidents

OPEN = [status.value for status in SagaStatus if not status.ended]
MOST_AT_ONCE = 100
LOOK_BACK = "2 days"
"""How old a rollback may be that is still told of: longer than nobody looks for incidents."""
LEAST_TRIES = 2
"""What one recovery cannot finish, the next one often can."""
MOST_FAILURES = 3
"""A compensation that failed so often is not only disturbed."""
SILENT = "30 minutes"
"""A saga that goes back and has not changed for so long does not get on."""
GOES_ON = "6 hours"
"""How long the same rollbacks of other sagas are part of one incident; then it is told again."""
COLLECTED = "30 minutes"
"""After dead events were told, further ones wait so long for each other."""
FIND_LOCK = 0x6E616E64
"""Key of the advisory lock under which incidents are found: of two rollbacks one is the first."""
LEASE_SECONDS = 120.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 3600.0

ROLLBACKS = text(f"""
SELECT done.transaction_id, (done.event_data->>'epoch')::int AS epoch, t.definition, t.dag_id, t.run_id,
       t.third_company_id, t.task_id, failed.event_data->>'failed_step' AS failed_step,
       failed.event_data->>'error' AS error,
       ARRAY(SELECT split_part(e.step_id, ':', 2) FROM saga_events e
             WHERE e.transaction_id = done.transaction_id AND e.event_type = 'compensation_completed'
               AND e.step_id IS NOT NULL AND e.event_data->>'epoch' = done.event_data->>'epoch'
             ORDER BY e.id) AS undone
FROM saga_events done
JOIN saga_transactions t ON t.transaction_id = done.transaction_id
LEFT JOIN LATERAL (
    SELECT e.event_data FROM saga_events e
    WHERE e.transaction_id = done.transaction_id AND e.event_type = 'saga_failed'
      AND e.event_data->>'epoch' = done.event_data->>'epoch'
    ORDER BY e.id DESC LIMIT 1) failed ON true
WHERE done.event_type = 'compensation_completed' AND done.step_id IS NULL
  AND done.created_at >= timezone('utc', now()) - interval '{LOOK_BACK}'
  AND t.dag_id IS NOT NULL AND t.deleted_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM saga_events e
      WHERE e.transaction_id = done.transaction_id AND e.event_type = 'saga_cancelled'
        AND e.event_data->>'epoch' = done.event_data->>'epoch')
  AND NOT EXISTS (SELECT 1 FROM incidents i
      WHERE i.key = 'rollback:' || done.transaction_id || ':' || (done.event_data->>'epoch'))
ORDER BY done.id LIMIT {MOST_AT_ONCE}
""")  # noqa: S608 - constants
STUCK = text(f"""
SELECT t.transaction_id, t.epoch, t.definition, t.dag_id, t.run_id, t.third_company_id, t.task_id,
       t.failed_step, t.error_message AS error, t.status, t.recovery_error, t.recovery_tries,
       extract(epoch FROM timezone('utc', now()) - t.start_time)::int AS age,
       EXISTS (SELECT 1 FROM saga_steps s WHERE s.transaction_id = t.transaction_id
               AND (s.pivot_state = 'intended')) AS published,
       ARRAY(SELECT s.step_name FROM saga_steps s
             WHERE s.transaction_id = t.transaction_id AND s.status = 'compensated'
             ORDER BY s.position DESC) AS undone
FROM saga_transactions t
WHERE t.status = ANY(:open) AND t.dag_id IS NOT NULL AND t.deleted_at IS NULL
  AND ((t.recovery_error IS NOT NULL AND t.recovery_tries >= {LEAST_TRIES})
    OR (t.status = 'compensating'
        AND (SELECT count(*) FROM saga_events e WHERE e.transaction_id = t.transaction_id
             AND e.event_type = 'compensation_failed'
             AND e.event_data->>'epoch' = t.epoch::text) >= {MOST_FAILURES})
    OR (t.status IN ('failed', 'compensating')
        AND t.updated_at < timezone('utc', now()) - interval '{SILENT}'))
  AND NOT EXISTS (SELECT 1 FROM incidents i WHERE i.key = 'stuck:' || t.transaction_id || ':' || t.epoch)
ORDER BY t.id LIMIT {MOST_AT_ONCE}
""")  # noqa: S608 - constants
# The told incident that goes on: the same sync, company and step, another saga, and none completed since.
GOING_ON = text(f"""
SELECT i.id FROM incidents i
WHERE i.kind = 'rollback' AND i.part_of IS NULL AND i.transaction_id != :transaction_id
  AND i.created_at > timezone('utc', now()) - interval '{GOES_ON}'
  AND i.facts->>'definition' = :definition
  AND i.facts->>'failed_step' IS NOT DISTINCT FROM CAST(:failed_step AS text)
  AND i.facts->>'third_company_id' IS NOT DISTINCT FROM CAST(:third_company_id AS text)
  AND NOT EXISTS (SELECT 1 FROM saga_transactions t
      WHERE t.status = 'completed' AND t.definition = :definition AND t.end_time > i.created_at
        AND t.third_company_id IS NOT DISTINCT FROM CAST(:third_company_id AS text))
ORDER BY i.id DESC LIMIT 1
""")  # noqa: S608 - constants
WAITING = text(f"""
SELECT t.transaction_id, t.epoch, t.definition, t.dag_id, t.run_id, t.third_company_id, t.task_id,
       asked.event_data->>'checkpoint' AS checkpoint, asked.event_data->'beyond' AS beyond
FROM saga_transactions t
JOIN LATERAL (
    SELECT e.event_type, e.event_data FROM saga_events e
    WHERE e.transaction_id = t.transaction_id AND e.event_data->>'epoch' = t.epoch::text
      AND e.event_type IN ('approval_requested', 'approved', 'rejected')
    ORDER BY e.id DESC LIMIT 1) asked ON asked.event_type = 'approval_requested'
WHERE t.status = 'in_progress' AND t.dag_id IS NOT NULL AND t.deleted_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM incidents i WHERE i.key = 'approval:' || t.transaction_id || ':' || t.epoch)
ORDER BY t.id LIMIT {MOST_AT_ONCE}
""")  # noqa: S608 - constants
UNTOLD_EVENTS = text(f"""
SELECT id, event_type, error FROM dingtalk_events
WHERE status = 'dead' AND incident_id IS NULL
  AND NOT EXISTS (SELECT 1 FROM incidents i WHERE i.kind = 'dead_events'
      AND i.created_at > timezone('utc', now()) - interval '{COLLECTED}')
ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED
""")  # noqa: S608 - constants
# The first of several that say the same: while it lasts, people have been told.
DRIFTS = text(f"""
SELECT v.id, v.transaction_id, v.third_company_id, v.task_id, v.verdict, v.message, v.dag_id, v.run_id
FROM verifications v
WHERE v.verdict IN ('drifted', 'stopped') AND v.ended_at >= timezone('utc', now()) - interval '{LOOK_BACK}'
  AND (SELECT earlier.verdict FROM verifications earlier
       WHERE earlier.third_company_id = v.third_company_id AND earlier.id < v.id
         AND earlier.verdict IN ('verified', 'drifted', 'stopped')
       ORDER BY earlier.id DESC LIMIT 1) IS DISTINCT FROM v.verdict
  AND NOT EXISTS (SELECT 1 FROM incidents i WHERE i.key = 'drift:' || v.id)
ORDER BY v.id LIMIT {MOST_AT_ONCE}
""")  # noqa: S608 - constants
TOLD = text("UPDATE dingtalk_events SET incident_id = :incident WHERE id = ANY(:events)")
TAKE = text("""
WITH due AS (
    SELECT id, is_sending FROM incidents WHERE sent_at IS NULL AND next_try_at <= timezone('utc', now())
    ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
UPDATE incidents SET tries = tries + 1, is_sending = true,
    next_try_at = timezone('utc', clock_timestamp()) + make_interval(secs => :lease)
FROM due WHERE incidents.id = due.id
RETURNING incidents.id, kind, incidents.transaction_id, facts, tries, due.is_sending AS perhaps_sent
""")
SENT = text("""
UPDATE incidents SET sent_at = timezone('utc', clock_timestamp()), is_sending = false, error = :error
WHERE id = :id AND sent_at IS NULL
""")
NOT_SENT = text("""
UPDATE incidents SET is_sending = :perhaps_sent, error = :error,
    next_try_at = timezone('utc', clock_timestamp()) + make_interval(secs => :pause)
WHERE id = :id AND tries = :tries AND sent_at IS NULL
""")
UNSENT = text("""
SELECT count(*) AS number, max(error) AS error FROM incidents WHERE sent_at IS NULL AND error IS NOT NULL
""")


@dataclass(frozen=True, slots=True)
class Incident:
    """Something to tell. `facts` hold ids, steps and reasons, no data of people.

    `perhaps_sent`: an earlier sender died, or got no answer. `tries` is the number of this one.
    """

    id: int
    kind: IncidentKind
    transaction_id: str | None
    facts: Mapping[str, Any]
    tries: int
    perhaps_sent: bool


def find(connection: Connection) -> int:
    """Record what has happened and was not recorded yet; returns the number of new incidents."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": FIND_LOCK})
    found = _record(connection, IncidentKind.ROLLBACK, connection.execute(ROLLBACKS))
    found += _record(connection, IncidentKind.STUCK, connection.execute(STUCK, {"open": OPEN}))
    found += _record(connection, IncidentKind.APPROVAL, connection.execute(WAITING))
    for row in connection.execute(DRIFTS).all():
        facts = dict(row._mapping)
        _insert(
            connection,
            IncidentKind.DRIFT,
            key=f"drift:{row.id}",
            transaction_id=row.transaction_id,
            facts=facts,
        )
        found += 1
    events = connection.execute(UNTOLD_EVENTS).all()
    if events:
        incident = _dead_events(connection, events)
        connection.execute(TOLD, {"incident": incident, "events": [event.id for event in events]})
        found += 1
    return found


def take(connection: Connection, *, lease_seconds: float = LEASE_SECONDS) -> Incident | None:
    """The oldest incident that is due, for so long; None when there is none.

    Commit before the message is sent: who finds the row after a sender's death knows of it.
    """
    row = connection.execute(TAKE, {"lease": lease_seconds}).one_or_none()
    if row is None:
        return None
    return Incident(
        id=row.id,
        kind=IncidentKind(row.kind),
        transaction_id=row.transaction_id,
        facts=row.facts,
        tries=row.tries,
        perhaps_sent=row.perhaps_sent,
    )


def sent(connection: Connection, incident: Incident) -> None:
    """The message has arrived."""
    connection.execute(SENT, {"id": incident.id, "error": None})


def not_sent(connection: Connection, incident: Incident, *, error: str, perhaps: bool) -> None:
    """The message has not arrived, or `perhaps`; it is tried again after a growing pause.

    One that may have arrived twice already is not sent a third time.
    """
    if perhaps and incident.perhaps_sent:
        connection.execute(SENT, {"id": incident.id, "error": error})
        return
    pause = min(FIRST_PAUSE_SECONDS * 2 ** min(incident.tries - 1, 10), LONGEST_PAUSE_SECONDS)
    values = {
        "id": incident.id,
        "tries": incident.tries,
        "perhaps_sent": perhaps or incident.perhaps_sent,
        "error": error,
        "pause": pause,
    }
    connection.execute(NOT_SENT, values)


def unsent(connection: Connection) -> tuple[int, str | None]:
    """How many messages could not be sent so far, and why one of them could not."""
    row = connection.execute(UNSENT).one()
    return row.number, row.error


def _record(connection: Connection, kind: IncidentKind, rows: Iterable[Row[Any]]) -> int:
    """Insert incidents of sagas; returns how many people are to be told of."""
    number = 0
    for row in rows:
        facts = dict(row._mapping)
        part_of = None
        if kind is IncidentKind.ROLLBACK:
            part_of = connection.execute(GOING_ON, facts).scalar()
        key = f"{kind.value}:{row.transaction_id}:{row.epoch}"
        _insert(connection, kind, key=key, transaction_id=row.transaction_id, facts=facts, part_of=part_of)
        number += part_of is None
    return number


def _dead_events(connection: Connection, events: Iterable[Row[Any]]) -> int:
    types: dict[str, int] = {}
    reasons: dict[str, int] = {}
    ids = []
    for event in events:
        ids.append(event.id)
        types[event.event_type or "unreadable"] = types.get(event.event_type or "unreadable", 0) + 1
        reasons[event.error or "unknown"] = reasons.get(event.error or "unknown", 0) + 1
    most = sorted(reasons.items(), key=lambda reason: -reason[1])[:3]
    # The rows are locked: the first of them makes the key, and nobody else can have it in hand.
    key = f"dead:{ids[0]}:{connection.execute(text('SELECT pg_current_xact_id()::text')).scalar_one()}"
    facts = {"count": len(ids), "types": types, "reasons": most}
    return _insert(connection, IncidentKind.DEAD_EVENTS, key=key, transaction_id=None, facts=facts)


def _insert(
    connection: Connection,
    kind: IncidentKind,
    *,
    key: str,
    transaction_id: str | None,
    facts: Mapping[str, Any],
    part_of: int | None = None,
) -> int:
    """The id of the new incident; one that is part of another counts as sent."""
    values = {
        "key": key,
        "kind": kind.value,
        "transaction_id": transaction_id,
        "facts": dict(facts),
        "part_of": part_of,
        "sent_at": None if part_of is None else UTC_NOW,
    }
    statement = insert(incidents).values(values).returning(incidents.c.id)
    found: int = connection.execute(statement).scalar_one()
    return found
