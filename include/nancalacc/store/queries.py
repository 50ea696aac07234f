"""What people look at: pages of sagas, inbox events and `task` records, newest first.

Pages are cut by the row's id, so that what is written meanwhile neither repeats nor hides a row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, func, or_, select

from nancalacc.saga.records import EventRecord, SagaRecord
from nancalacc.saga.state import SagaStatus
from nancalacc.store.tables import (
    EventStatus,
    dingtalk_events,
    saga_events,
    saga_steps,
    saga_transactions,
    task,
)

SAGA_FIELDS = [saga_transactions.c[each.name] for each in fields(SagaRecord)]
STATUS = [each.name for each in fields(SagaRecord)].index("status")
SEARCHED = ("transaction_id", "name", "task_id", "third_company_id", "error_message")


@dataclass(frozen=True, slots=True)
class SagaFilter:
    """Which sagas are wanted; what is empty or None does not matter. Times are UTC without zone.

    `dag_ids`: the DAGs whose sagas may be seen.
    """

    dag_ids: Collection[str]
    statuses: Sequence[SagaStatus] = ()
    definitions: Sequence[str] = ()
    third_company_id: str | None = None
    run_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A saga in a list: its place for the next page, and how many of its steps have which status."""

    id: int
    saga: SagaRecord
    steps: dict[str, int]


def dag_ids(connection: Connection) -> tuple[str, ...]:
    """The DAGs that have sagas."""
    statement = select(saga_transactions.c.dag_id).where(saga_transactions.c.dag_id.is_not(None)).distinct()
    return tuple(sorted(connection.execute(statement).scalars()))


def sagas(
    connection: Connection, wanted: SagaFilter, *, before: int | None = None, limit: int
) -> tuple[Listed, ...]:
    """Sagas, newest first, from the one before row `before`."""
    statement = select(saga_transactions.c.id, *SAGA_FIELDS).where(*_conditions(wanted))
    if before is not None:
        statement = statement.where(saga_transactions.c.id < before)
    rows = connection.execute(statement.order_by(saga_transactions.c.id.desc()).limit(limit)).all()
    steps = _step_counts(connection, [row.transaction_id for row in rows])
    return tuple(Listed(row.id, saga_of(row[1:]), steps.get(row.transaction_id, {})) for row in rows)


def count_sagas(connection: Connection, wanted: SagaFilter) -> dict[str, int]:
    """How many sagas there are by status, whatever status the filter wants."""
    conditions = _conditions(wanted, with_status=False)
    statement = (
        select(saga_transactions.c.status, func.count())
        .where(*conditions)
        .group_by(saga_transactions.c.status)
    )
    return dict(connection.execute(statement).all())


def saga_of(row: Sequence[Any]) -> SagaRecord:
    """A saga of a row with the columns SAGA_FIELDS."""
    values = list(row)
    values[STATUS] = SagaStatus(values[STATUS])
    return SagaRecord(*values)


def latest_events(connection: Connection, transaction_id: str, *, limit: int) -> tuple[EventRecord, ...]:
    """The latest events of a saga, in the order in which they were written."""
    columns = [saga_events.c[each.name] for each in fields(EventRecord)]
    statement = select(*columns).where(saga_events.c.transaction_id == transaction_id)
    rows = connection.execute(statement.order_by(saga_events.c.id.desc()).limit(limit)).all()
    return tuple(EventRecord(*row) for row in reversed(rows))


def reports(connection: Connection, transaction_id: str) -> list[tuple[str, Any]]:
    """What the steps of a saga reported, by name, in their order."""
    statement = select(saga_steps.c.step_name, saga_steps.c.action_data).where(
        saga_steps.c.transaction_id == transaction_id, saga_steps.c.action_data.is_not(None)
    )
    return [(name, data) for name, data in connection.execute(statement.order_by(saga_steps.c.position))]


def company_is_seen(company: ColumnElement[str], *, dags: Collection[str]) -> ColumnElement[bool]:
    """Whether the company has a saga of one of these DAGs."""
    table = saga_transactions.c
    return exists().where(table.third_company_id == company, table.dag_id.in_(list(dags)))


def events_in_inbox(
    connection: Connection,
    *,
    dags: Collection[str],
    handler: str,
    statuses: Sequence[EventStatus] = (),
    before: int | None = None,
    limit: int,
) -> Sequence[Row[Any]]:
    """Events of the inbox that belong to sagas of these DAGs, newest first.

    `handler`: the DAG to which an event belongs that no saga has, or one that is gone.
    """
    statement = select(dingtalk_events).where(_event_is_seen(dags, handler))
    if statuses:
        statement = statement.where(dingtalk_events.c.status.in_([each.value for each in statuses]))
    if before is not None:
        statement = statement.where(dingtalk_events.c.id < before)
    return connection.execute(statement.order_by(dingtalk_events.c.id.desc()).limit(limit)).all()


def count_inbox(connection: Connection, *, dags: Collection[str], handler: str) -> dict[str, int]:
    """How many events the inbox holds that belong to sagas of these DAGs, by status."""
    statement = (
        select(dingtalk_events.c.status, func.count())
        .where(_event_is_seen(dags, handler))
        .group_by(dingtalk_events.c.status)
    )
    return dict(connection.execute(statement).all())


def _event_is_seen(dags: Collection[str], handler: str) -> ColumnElement[bool]:
    table = saga_transactions.c
    of_saga = table.transaction_id == dingtalk_events.c.transaction_id
    if handler in dags:
        return ~exists().where(of_saga, table.dag_id.not_in(list(dags)))
    return exists().where(of_saga, table.dag_id.in_(list(dags)))


def tasks(
    connection: Connection,
    *,
    dags: Collection[str],
    title: str | None = None,
    before: int | None = None,
    limit: int,
) -> Sequence[Row[Any]]:
    """Records of `task` but those of other DAGs' sagas, newest first.

    Their times are local to the company's zone [wps 5].
    """
    table = saga_transactions.c
    hidden = exists().where(table.task_id == task.c.title, table.dag_id.not_in(list(dags)))
    statement: Select[Any] = select(task).where(~hidden)
    if title is not None:
        statement = statement.where(task.c.title == title)
    if before is not None:
        statement = statement.where(task.c.id < before)
    return connection.execute(statement.order_by(task.c.id.desc()).limit(limit)).all()


def _conditions(wanted: SagaFilter, *, with_status: bool = True) -> list[ColumnElement[bool]]:
    table = saga_transactions.c
    found: list[ColumnElement[bool]] = [table.deleted_at.is_(None), table.dag_id.in_(list(wanted.dag_ids))]
    if with_status and wanted.statuses:
        found.append(table.status.in_([each.value for each in wanted.statuses]))
    if wanted.definitions:
        found.append(table.definition.in_(list(wanted.definitions)))
    if wanted.third_company_id:
        found.append(table.third_company_id == wanted.third_company_id)
    if wanted.run_id:
        found.append(table.run_id == wanted.run_id)
    if wanted.since is not None:
        found.append(table.created_at >= wanted.since)
    if wanted.until is not None:
        found.append(table.created_at < wanted.until)
    for word in wanted.text.split():
        found.append(or_(*[table[name].icontains(word, autoescape=True) for name in SEARCHED]))
    return found


def _step_counts(connection: Connection, transaction_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    if not transaction_ids:
        return found
    statement = (
        select(saga_steps.c.transaction_id, saga_steps.c.status, func.count())
        .where(saga_steps.c.transaction_id.in_(transaction_ids))
        .group_by(saga_steps.c.transaction_id, saga_steps.c.status)
    )
    for transaction_id, status, count in connection.execute(statement):
        found.setdefault(transaction_id, {})[status] = count
    return found
