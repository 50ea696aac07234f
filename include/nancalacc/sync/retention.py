"""Deletes what is over, by age and a bounded number of rows at a time.

Never what an open saga, a compensation, a run that is cleared, or the comparison with the last
published state may still need; each function says what that is. Each is the work of one short
transaction and returns how many rows it deleted: call it, each time in a transaction of its own,
until that is 0. Rows of others in the shared tables (sagas of no DAG) are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    case,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    text,
)

from nancalacc.config import Retention
from nancalacc.saga.state import EventType, SagaStatus
from nancalacc.store.tables import (
    EventStatus,
    company_locks,
    dingtalk_events,
    incidents,
    metadata,
    plan_changes,
    plan_decisions,
    plan_subtrees,
    saga_events,
    saga_transactions,
    sync_plans,
    tb_las_department,
    verifications,
)
from nancalacc.sync.mapping import ROOT_ROW_PID
from nancalacc.sync.publish import FINAL, is_dry_run

Prune = Callable[[Connection], int]

UTC_NOW = text("timezone('utc', clock_timestamp())")
ENDED = [status.value for status in SagaStatus if status.ended]
ROWS, SAGAS = 10_000, 200
"""How many rows, or sagas with all that is theirs, one transaction deletes at most."""


def prunings(retention: Retention) -> Mapping[str, Prune]:
    """What there is to prune, by the name under which it is reported."""
    return {
        "snapshot rows": partial(snapshots, keep=retention.snapshots),
        **{
            table.name: partial(staging, table=table, days=retention.staging_days)
            for table in staged_tables()
        },
        **{
            table.name: partial(staging, table=table, days=retention.plans_days)
            for table in (plan_changes, plan_subtrees, sync_plans)
        },
        # Who decided what stays; with what they decided about go the names of people in it.
        plan_decisions.name: partial(staging, table=plan_decisions, days=retention.sagas_days),
        "saga events": partial(events, days=retention.events_days),
        "verifications": partial(verifications_of, days=retention.events_days),
        "inbox events": partial(inbox, days=retention.inbox_days),
        "sagas": partial(sagas, days=retention.sagas_days),
        "incidents": partial(told, days=retention.events_days),
    }


def snapshots(connection: Connection, *, keep: int, limit: int = ROWS) -> int:
    """Rows for WPS that are older than the newest `keep` published snapshots of their company.

    Kept: those and everything newer, and what an open saga may write or publish. Of what goes the
    root row goes first: WPS does nothing with a snapshot that has none [wps 5.2].
    """
    table = tb_las_department
    published = (
        select(table.c.third_company_id, table.c.task_id)
        .where(table.c.pid == ROOT_ROW_PID)
        .distinct()
        .subquery("published")
    )
    place = func.row_number().over(
        partition_by=published.c.third_company_id, order_by=published.c.task_id.desc()
    )
    ranked = select(published, place.label("place")).subquery("ranked")
    oldest_kept = connection.execute(
        select(ranked.c.third_company_id, ranked.c.task_id).where(ranked.c.place == keep)
    ).all()
    in_use = (
        select(saga_transactions.c.task_id)
        .where(saga_transactions.c.status.not_in(ENDED), saga_transactions.c.task_id.is_not(None))
        .scalar_subquery()
    )
    for third_company_id, task_id in oldest_kept:
        for final in FINAL.values():
            old = and_(
                final.c.third_company_id == third_company_id,
                final.c.task_id < task_id,
                final.c.task_id.not_in(in_use),
            )
            first = [case((final.c.pid == ROOT_ROW_PID, 0), else_=1)] if final is table else []
            deleted = _delete(connection, final, old, limit=limit, first=first)
            if deleted:
                return deleted
    return 0


def staging(connection: Connection, *, table: Table, days: int, limit: int = ROWS) -> int:
    """Rows of a staging table, or of plans, of sagas that ended so long ago, or are gone.

    Kept: those of open sagas. One that is opened again reads everything anew.
    """
    needed = exists().where(
        saga_transactions.c.transaction_id == table.c.transaction_id,
        or_(saga_transactions.c.status.not_in(ENDED), ~_ended_before(days)),
    )
    return _delete(connection, table, ~needed, limit=limit)


def events(connection: Connection, *, days: int, limit: int = ROWS) -> int:
    """Events of that age of sagas that have ended.

    Kept as long as their saga: that a step was completed once, by which a cleared run tells a task
    that succeeded from one that was marked successful by hand.
    """
    ended = exists().where(
        saga_transactions.c.transaction_id == saga_events.c.transaction_id,
        saga_transactions.c.status.in_(ENDED),
        saga_transactions.c.dag_id.is_not(None),
    )
    old = and_(
        saga_events.c.created_at < _days_ago(days),
        saga_events.c.event_type != EventType.STEP_COMPLETED.value,
        ended,
    )
    return _delete(connection, saga_events, old, limit=limit)


def verifications_of(connection: Connection, *, days: int, limit: int = ROWS) -> int:
    """Verifications of that age with their differences.

    Kept: the newest of each company, whatever its age.
    """
    table = verifications
    newer = verifications.alias("newer")
    has_newer = exists().where(newer.c.third_company_id == table.c.third_company_id, newer.c.id > table.c.id)
    old = and_(table.c.started_at < _days_ago(days), has_newer)
    return _delete(connection, table, old, limit=limit)


def inbox(connection: Connection, *, days: int, limit: int = ROWS) -> int:
    """Events of DingTalk that were dealt with so long ago.

    Kept: what waits, what a batch has, what is to be handled once more, and what was given up, for
    somebody to look at.
    """
    table = dingtalk_events
    done = and_(
        table.c.status == EventStatus.DONE.value,
        table.c.repeat_at.is_(None),
        func.coalesce(table.c.handled_at, table.c.received_at) < _days_ago(days),
    )
    return _delete(connection, table, done, limit=limit)


def sagas(connection: Connection, *, days: int, limit: int = SAGAS) -> int:
    """Sagas that ended so long ago, with their steps and events.

    Kept: the newest completed one of each company, whose task id the next must exceed; one that has
    or awaits a lock; one that events of the inbox still belong to.
    """
    table = saga_transactions
    newer = saga_transactions.alias("newer")
    has_newer = exists().where(
        newer.c.third_company_id == table.c.third_company_id,
        newer.c.definition == table.c.definition,
        newer.c.status == SagaStatus.COMPLETED.value,
        newer.c.task_id > table.c.task_id,
        is_dry_run(newer) == is_dry_run(table),
    )
    locked = exists().where(
        or_(
            company_locks.c.holder == table.c.transaction_id,
            company_locks.c.waiting == table.c.transaction_id,
        )
    )
    has_events = exists().where(
        dingtalk_events.c.transaction_id == table.c.transaction_id,
        dingtalk_events.c.status.in_([EventStatus.PENDING.value, EventStatus.CLAIMED.value]),
    )
    old = and_(
        table.c.status.in_(ENDED),
        _ended_before(days),
        table.c.dag_id.is_not(None),
        or_(table.c.status != SagaStatus.COMPLETED.value, table.c.task_id.is_(None), has_newer),
        ~locked,
        ~has_events,
    )
    # Locked while it is chosen: one that is opened again at this moment stays.
    chosen = select(table.c.id).where(old).order_by(table.c.id).limit(limit).with_for_update(skip_locked=True)
    ids = list(connection.execute(chosen).scalars())
    if ids:
        connection.execute(delete(table).where(table.c.id.in_(ids)))
    return len(ids)


def told(connection: Connection, *, days: int, limit: int = ROWS) -> int:
    """Incidents that people were told of a week before events of that age.

    Kept: those of open sagas, of which nobody is to be told again.
    """
    is_open = exists().where(
        saga_transactions.c.transaction_id == incidents.c.transaction_id,
        saga_transactions.c.status.not_in(ENDED),
    )
    old = and_(incidents.c.sent_at < _days_ago(days + 7), ~is_open)
    return _delete(connection, incidents, old, limit=limit)


def staged_tables() -> list[Table]:
    """Every staging table; each has the column transaction_id."""
    return [table for name, table in sorted(metadata.tables.items()) if name.startswith("staged_")]


def _days_ago(days: int) -> ColumnElement[Any]:
    return UTC_NOW - func.make_interval(0, 0, 0, days)


def _ended_before(days: int) -> ColumnElement[bool]:
    table = saga_transactions
    return func.coalesce(table.c.end_time, table.c.updated_at) < _days_ago(days)


def _delete(
    connection: Connection, table: Table, which: ColumnElement[bool], *, limit: int, first: Any = ()
) -> int:
    """Delete at most `limit` of these rows; returns how many were."""
    row: ColumnElement[Any] = literal_column(f"{table.name}.ctid")
    found = select(row).select_from(table).where(which).order_by(*first).limit(limit)
    statement = delete(table).where(row == func.any(func.array(found.scalar_subquery())))
    return connection.execute(statement).rowcount
