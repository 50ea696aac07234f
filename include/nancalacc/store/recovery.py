"""Open sagas as `saga_recovery` sees them: which may be tried now, who takes one, how it went.

A recovery takes a saga by raising `recovery_tries` from the number it has seen, so that of two
recoveries one has it, for a time that outlives a recovery that is killed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Double, Row, Select, cast, func, or_, select, text, true, update

from nancalacc.saga.records import SagaRecord
from nancalacc.saga.state import SagaStatus, StepStatus
from nancalacc.store.tables import saga_steps, saga_transactions

UTC_NOW = text("timezone('utc', clock_timestamp())")
OPEN = [status.value for status in SagaStatus if not status.ended]
SAGA_FIELDS = [saga_transactions.c[each.name] for each in fields(SagaRecord)]


@dataclass(frozen=True, slots=True)
class OpenSaga:
    """A saga that has not ended; ages are in seconds by the database's clock.

    `age`: since the saga began. `due`: its recovery need not wait (any longer). `running`: the step
    in progress that gave a sign of life last, and `silence`: how long ago.
    """

    saga: SagaRecord
    age: float
    due: bool
    running: str | None = None
    silence: float | None = None


def open_sagas(connection: Connection, *, limit: int) -> tuple[OpenSaga, ...]:
    """Open sagas that belong to runs of DAGs, those due longest first."""
    since = func.coalesce(saga_transactions.c.recovery_at, saga_transactions.c.created_at)
    statement = _statement().order_by(since, saga_transactions.c.id).limit(limit)
    return tuple(map(_open_saga, connection.execute(statement)))


def open_saga(connection: Connection, transaction_id: str) -> OpenSaga | None:
    """One saga, None when it has ended, is of no run of a DAG, or does not exist."""
    statement = _statement().where(saga_transactions.c.transaction_id == transaction_id)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _open_saga(row)


def claim(connection: Connection, saga: SagaRecord, *, seconds: float) -> bool:
    """Take the saga for so long; False when another recovery has it, or it is not as it was."""
    table = saga_transactions
    taken = connection.execute(
        update(table)
        .where(
            table.c.transaction_id == saga.transaction_id,
            table.c.status == saga.status.value,
            table.c.epoch == saga.epoch,
            table.c.recovery_tries == saga.recovery_tries,
        )
        .values(recovery_tries=saga.recovery_tries + 1, recovery_at=_in(seconds))
    )
    return taken.rowcount == 1


def postpone(connection: Connection, saga: SagaRecord, *, seconds: float, error: str) -> None:
    """Write down why the recovery that has this saga could not finish it, and when to try again.

    Does nothing when the saga has ended or was opened anew.
    """
    table = saga_transactions
    connection.execute(
        update(table)
        .where(
            table.c.transaction_id == saga.transaction_id,
            table.c.status.in_(OPEN),
            table.c.epoch == saga.epoch,
            table.c.recovery_tries == saga.recovery_tries + 1,
        )
        .values(recovery_at=_in(seconds), recovery_error=error)
    )


def _in(seconds: float) -> Any:
    return UTC_NOW + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _statement() -> Select[Any]:
    sagas, steps = saga_transactions, saga_steps
    silence = cast(func.extract("epoch", UTC_NOW - steps.c.heartbeat_at), Double)
    running = (
        select(steps.c.step_name, silence.label("silence"))
        .where(
            steps.c.transaction_id == sagas.c.transaction_id,
            steps.c.status == StepStatus.IN_PROGRESS.value,
        )
        .order_by(steps.c.heartbeat_at.desc().nulls_last())
        .limit(1)
        .lateral("running")
    )
    return (
        select(
            *SAGA_FIELDS,
            cast(func.extract("epoch", UTC_NOW - sagas.c.start_time), Double),
            or_(sagas.c.recovery_at.is_(None), sagas.c.recovery_at <= UTC_NOW),
            running.c.step_name,
            running.c.silence,
        )
        .select_from(sagas.outerjoin(running, true()))
        .where(
            sagas.c.status.in_(OPEN),
            sagas.c.deleted_at.is_(None),
            sagas.c.dag_id.is_not(None),
            sagas.c.run_id.is_not(None),
        )
    )


def _open_saga(row: Row[Any]) -> OpenSaga:
    values = dict(zip((each.name for each in fields(SagaRecord)), row, strict=False))
    values["status"] = SagaStatus(values["status"])
    age, due, running, silence = row[len(values) :]
    return OpenSaga(SagaRecord(**values), age=age, due=due, running=running, silence=silence)
