"""The saga tables: read, and changed only under the saga's row lock.

Every change of a saga goes through `open`: it locks the saga's row, shows the saga and
its steps as they are, collects changes and writes them at the end of the block, in one
transaction. A status changes only along the legal transitions, in Python (a clear error)
and in the UPDATE's own condition. Lock order is saga row, then step rows.

Reading under the lock and writing are what every step waits for. They go to psycopg directly:
all changes are one statement there [design 9].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import chain
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import (
    Connection,
    Double,
    Table,
    bindparam,
    cast,
    create_mock_engine,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_or_ignore

from nancalacc.errors import IllegalTransitionError
from nancalacc.saga.definition import SagaDefinition, step_id_of
from nancalacc.saga.records import NOW, EventRecord, SagaRecord, StepRecord
from nancalacc.saga.state import (
    SAGA_TRANSITIONS,
    STEP_TRANSITIONS,
    EventType,
    PivotState,
    SagaStatus,
    StepStatus,
)
from nancalacc.store import locks
from nancalacc.store.database import Database
from nancalacc.store.tables import saga_events, saga_steps, saga_transactions

UTC_NOW = text("timezone('utc', clock_timestamp())")
SAGA_FIELDS = [saga_transactions.c[each.name] for each in fields(SagaRecord)]
STEP_COLUMNS = {"name": "step_name"}
HEARTBEAT_AGE = cast(func.extract("epoch", UTC_NOW - saga_steps.c.heartbeat_at), Double).label(
    "heartbeat_age"
)
STEP_FIELDS = [
    HEARTBEAT_AGE if each.name == "heartbeat_age" else saga_steps.c[STEP_COLUMNS.get(each.name, each.name)]
    for each in fields(StepRecord)
]
SELECT_SAGA = select(*SAGA_FIELDS).where(saga_transactions.c.transaction_id == bindparam("transaction_id"))
SELECT_STEPS = (
    select(*STEP_FIELDS)
    .where(saga_steps.c.transaction_id == bindparam("transaction_id"))
    .order_by(saga_steps.c.position)
)
PSYCOPG = create_mock_engine("postgresql+psycopg://", lambda *_: None).dialect
LOCK_SAGA_SQL = str(SELECT_SAGA.with_for_update(key_share=True).compile(dialect=PSYCOPG)).encode()
SELECT_STEPS_SQL = str(SELECT_STEPS.compile(dialect=PSYCOPG)).encode()
SAGA_STATUS = [each.name for each in fields(SagaRecord)].index("status")
STEP_STATUS = [each.name for each in fields(StepRecord)].index("status")
PIVOT_STATE = [each.name for each in fields(StepRecord)].index("pivot_state")
ONE_EVENT = "(%s, %s, %s, %s)"
INSERT_EVENTS = "INSERT INTO saga_events (transaction_id, step_id, event_type, event_data) VALUES"
FRESH_STEP: dict[str, Any] = {
    "status": StepStatus.PENDING,
    "attempt": 0,
    "retry_count": 0,
    "action_data": None,
    "compensate_data": None,
    "error_message": None,
    "pivot_state": None,
    "worker": None,
    "start_time": None,
    "end_time": None,
}


def _saga(row: Sequence[Any]) -> SagaRecord:
    values = list(row)
    values[SAGA_STATUS] = SagaStatus(values[SAGA_STATUS])
    return SagaRecord(*values)


def _step(row: Sequence[Any]) -> StepRecord:
    values = list(row)
    values[STEP_STATUS] = StepStatus(values[STEP_STATUS])
    if values[PIVOT_STATE] is not None:
        values[PIVOT_STATE] = PivotState(values[PIVOT_STATE])
    return StepRecord(*values)


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    return driver


class _Changes:
    """Updates of single rows and new events, written by one statement."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._arguments: list[Any] = []
        self._updates = 0

    def update(self, table: Table, key: str, row: str, *, status: str, values: Mapping[str, Any]) -> None:
        """Update the row if it still has this status.

        `IS TRUE` keeps the planner from the index on status, which it prefers to the row's key
        as long as it knows nothing of the table.
        """
        assignments = [f"updated_at = {UTC_NOW.text}"]
        for column, value in values.items():
            if value is NOW:
                assignments.append(f"{column} = {UTC_NOW.text}")
            else:
                assignments.append(f"{column} = %s")
                self._arguments.append(Jsonb(value) if isinstance(value, dict) else value)
        self._arguments += (row, status)
        self._parts.append(
            f"update_{self._updates} AS (UPDATE {table.name} SET {', '.join(assignments)}"  # noqa: S608
            f" WHERE {key} = %s AND (status = %s) IS TRUE RETURNING 1)"
        )
        self._updates += 1

    def insert(self, events: Sequence[tuple[Any, ...]]) -> None:
        """Append the events in their order."""
        self._arguments += chain.from_iterable(events)
        self._parts.append(f"events AS ({INSERT_EVENTS} {', '.join([ONE_EVENT] * len(events))})")

    def write(self, connection: psycopg.Connection[Any], *, lazily: bool) -> bool:
        """Execute them; returns whether every row still had its status."""
        if not self._parts:
            return True
        counts = [f"(SELECT count(*) FROM update_{number})" for number in range(self._updates)]  # noqa: S608
        statement = f"WITH {', '.join(self._parts)} SELECT {' + '.join(counts) or '0'}"
        if lazily:
            statement += ", set_config('synchronous_commit', 'off', true)"
        with connection.cursor() as cursor:
            found = cursor.execute(statement.encode(), self._arguments).fetchone()
        return found is not None and found[0] == self._updates


class LockedSaga:
    """A saga whose row this transaction has locked; changes are written by `flush`."""

    def __init__(self, connection: Connection, saga: SagaRecord, steps: dict[str, StepRecord]) -> None:
        self.connection = connection
        self.saga = saga
        self.steps = steps
        self._saga_was = saga.status
        self._steps_were = {name: step.status for name, step in steps.items()}
        self._saga_values: dict[str, Any] = {}
        self._step_values: dict[str, dict[str, Any]] = {}
        self._events: list[tuple[Any, ...]] = []
        self._release = False
        self._lazily = False

    def set_saga(self, status: SagaStatus | None = None, **values: Any) -> None:
        """Change the saga's row; raises IllegalTransitionError for a status it cannot take now."""
        if status is not None and status is not self.saga.status:
            if status not in SAGA_TRANSITIONS[self.saga.status]:
                raise IllegalTransitionError(
                    f"Saga {self.saga.transaction_id} is {self.saga.status.value}"
                    f" and cannot become {status.value}"
                )
            values["status"] = status
        self.saga = replace(self.saga, **{k: v for k, v in values.items() if v is not NOW})
        self._saga_values.update(values)

    def set_step(self, name: str, status: StepStatus | None = None, **values: Any) -> None:
        """Change a step's row; raises IllegalTransitionError for a status it cannot take now."""
        step = self.steps[name]
        if status is not None:
            if status not in STEP_TRANSITIONS[step.status]:
                raise IllegalTransitionError(
                    f"Step {name} of saga {self.saga.transaction_id} is {step.status.value}"
                    f" and cannot become {status.value}"
                )
            values["status"] = status
        known = {k: v for k, v in values.items() if v is not NOW and k != "heartbeat_at"}
        self.steps[name] = replace(step, **known)
        self._step_values.setdefault(name, {}).update(values)

    def reset_steps(self) -> None:
        """Put every step back to pending for the saga's present epoch."""
        for name, step in self.steps.items():
            values = FRESH_STEP | {"epoch": self.saga.epoch}
            self.steps[name] = replace(step, **values)
            self._step_values[name] = values | {"heartbeat_at": None}

    def append(self, event: EventType, step: str | None = None, **data: Any) -> None:
        """Append an event; without `step` it belongs to the saga as a whole."""
        step_id = self.steps[step].step_id if step else None
        event_data = Jsonb({"epoch": self.saga.epoch} | data)
        self._events.append((self.saga.transaction_id, step_id, event.value, event_data))

    def release_locks(self) -> None:
        """Give back every company lock this saga has, in this transaction."""
        self._release = True

    def commit_lazily(self) -> None:
        """Let this commit return before it is on disk, unless it changes the saga's status."""
        self._lazily = True

    def has_event(self, event: EventType, step: str) -> bool:
        """True when the step has such an event, of whatever epoch."""
        found = self.connection.execute(
            select(literal(1))
            .where(saga_events.c.step_id == self.steps[step].step_id, saga_events.c.event_type == event.value)
            .limit(1)
        )
        return found.first() is not None

    def flush(self) -> None:
        """Write what was changed."""
        changes = _Changes()
        for name, values in self._step_values.items():
            step_id, status = self.steps[name].step_id, self._steps_were[name]
            changes.update(saga_steps, "step_id", step_id, status=status, values=values)
        if self._saga_values or self._step_values:
            transaction_id, values = self.saga.transaction_id, self._saga_values
            changes.update(
                saga_transactions, "transaction_id", transaction_id, status=self._saga_was, values=values
            )
        if self._events:
            changes.insert(self._events)
        lazily = self._lazily and "status" not in self._saga_values
        if not changes.write(_driver(self.connection), lazily=lazily):
            raise IllegalTransitionError(
                f"Saga {self.saga.transaction_id} was changed by somebody else meanwhile"
            )
        if self._release:
            locks.release(self.connection, transaction_id=self.saga.transaction_id)


class SagaStore:
    """Sagas in the nancalacc database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(
        self,
        definition: SagaDefinition,
        *,
        transaction_id: str,
        dag_id: str,
        run_id: str,
        params: Mapping[str, Any],
    ) -> bool:
        """Insert a pending saga with its steps; returns False when it is there already."""
        with self.database.transaction() as connection:
            inserted = connection.execute(
                insert_or_ignore(saga_transactions)
                .values(
                    transaction_id=transaction_id,
                    name=f"{dag_id} {run_id}"[:255],
                    definition=definition.name,
                    dag_id=dag_id,
                    run_id=run_id,
                    params=dict(params),
                )
                .on_conflict_do_nothing(index_elements=["transaction_id"])
                .returning(saga_transactions.c.id)
            ).first()
            if inserted is None:
                return False
            connection.execute(
                insert(saga_steps),
                [
                    {
                        "step_id": step_id_of(transaction_id, step.name),
                        "transaction_id": transaction_id,
                        "step_name": step.name,
                        "position": position,
                        "max_retries": step.max_retries,
                    }
                    for position, step in enumerate(definition, start=1)
                ],
            )
        return True

    @contextmanager
    def open(self, transaction_id: str) -> Iterator[LockedSaga]:
        """Lock a saga in a transaction of its own; what is changed commits at the end of the block."""
        with self.database.transaction() as connection, self.join(connection, transaction_id) as locked:
            yield locked

    @contextmanager
    def join(self, connection: Connection, transaction_id: str) -> Iterator[LockedSaga]:
        """Lock a saga inside the caller's transaction; writes at the end of the block, commits nothing.

        Raises IllegalTransitionError when there is no such saga.
        """
        key = {"transaction_id": transaction_id}
        with _driver(connection).cursor() as cursor:
            row = cursor.execute(LOCK_SAGA_SQL, key).fetchone()
            if row is None:
                raise IllegalTransitionError(f"There is no saga {transaction_id}")
            # A second statement: it must see what was committed while the first one waited.
            steps = {step.name: step for step in map(_step, cursor.execute(SELECT_STEPS_SQL, key))}
        locked = LockedSaga(connection, _saga(row), steps)
        yield locked
        locked.flush()

    def beat(self, step: StepRecord, *, report: Mapping[str, Any] | None) -> bool:
        """Say that this attempt is alive (and what it has done so far); False when it was overtaken."""
        values: dict[str, Any] = {"heartbeat_at": UTC_NOW, "updated_at": UTC_NOW}
        if report is not None:
            values["action_data"] = dict(report)
        return self._touch(step, values)

    def let_go(self, step: StepRecord) -> None:
        """Take back the last sign of life of this attempt, if it is still the step's."""
        self._touch(step, {"heartbeat_at": None, "updated_at": UTC_NOW})

    def _touch(self, step: StepRecord, values: Mapping[str, Any]) -> bool:
        with self.database.transaction() as connection:
            done = connection.execute(
                update(saga_steps)
                .where(
                    saga_steps.c.step_id == step.step_id,
                    saga_steps.c.epoch == step.epoch,
                    saga_steps.c.attempt == step.attempt,
                    saga_steps.c.worker == step.worker,
                    saga_steps.c.status == StepStatus.IN_PROGRESS.value,
                )
                .values(**values)
            )
            return done.rowcount == 1

    def get(self, transaction_id: str) -> tuple[SagaRecord, tuple[StepRecord, ...]] | None:
        """A saga and its steps in order, None when there is no such saga."""
        key = {"transaction_id": transaction_id}
        with self.database.transaction() as connection:
            row = connection.execute(SELECT_SAGA, key).first()
            if row is None:
                return None
            return _saga(row), tuple(_step(step) for step in connection.execute(SELECT_STEPS, key))

    def list(
        self,
        *,
        statuses: Sequence[SagaStatus] = (),
        definition: str | None = None,
        third_company_id: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[SagaRecord, ...]:
        """Sagas, newest first."""
        statement = select(*SAGA_FIELDS).where(saga_transactions.c.deleted_at.is_(None))
        if statuses:
            statement = statement.where(saga_transactions.c.status.in_([each.value for each in statuses]))
        if definition is not None:
            statement = statement.where(saga_transactions.c.definition == definition)
        if third_company_id is not None:
            statement = statement.where(saga_transactions.c.third_company_id == third_company_id)
        statement = statement.order_by(saga_transactions.c.id.desc()).limit(limit).offset(offset)
        with self.database.transaction() as connection:
            return tuple(map(_saga, connection.execute(statement)))

    def events(self, transaction_id: str, *, after: int = 0, limit: int = 1000) -> tuple[EventRecord, ...]:
        """Events of a saga in the order in which they were written, from the one after id `after`."""
        columns = [saga_events.c[each.name] for each in fields(EventRecord)]
        statement = (
            select(*columns)
            .where(saga_events.c.transaction_id == transaction_id, saga_events.c.id > after)
            .order_by(saga_events.c.id)
            .limit(limit)
        )
        with self.database.transaction() as connection:
            return tuple(EventRecord(*row) for row in connection.execute(statement))

    def append(
        self,
        transaction_id: str,
        events: Sequence[tuple[EventType, str | None, Mapping[str, Any]]],
    ) -> None:
        """Append events (type, step name or None, data) without touching any status."""
        rows = [
            {
                "transaction_id": transaction_id,
                "step_id": step_id_of(transaction_id, step) if step else None,
                "event_type": event.value,
                "event_data": dict(data),
            }
            for event, step, data in events
        ]
        with self.database.transaction() as connection:
            connection.execute(insert(saga_events), rows)

    def count_by_status(self) -> dict[tuple[str, SagaStatus], int]:
        """How many sagas of each definition have each status."""
        statement = (
            select(saga_transactions.c.definition, saga_transactions.c.status, func.count())
            .where(saga_transactions.c.deleted_at.is_(None))
            .group_by(saga_transactions.c.definition, saga_transactions.c.status)
        )
        with self.database.transaction() as connection:
            return {
                (name, SagaStatus(status)): count for name, status, count in connection.execute(statement)
            }
