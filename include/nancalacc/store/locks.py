"""One saga per company: the lock that a full sync and a batch of events take [design 4.2].

The lock is a row, not a session lock, so that it outlives processes. It belongs to a
saga (`holder`), is given back in the transaction that starts compensation or ends the
saga, and may be taken from a saga that has ended or is gone. `waiting` names the full
sync that goes before the next batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from nancalacc.saga.state import SagaStatus
from nancalacc.store.tables import company_locks, saga_transactions

UTC_NOW = text("timezone('utc', clock_timestamp())")
ENDED = [status.value for status in SagaStatus if status.ended]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has the lock."""

    transaction_id: str
    definition: str
    dag_id: str | None
    run_id: str | None


def acquire(
    connection: Connection, *, third_company_id: str, transaction_id: str, after_waiting: bool = False
) -> Holder | None:
    """Take the company's lock for this saga; returns None, or who has it.

    Taking it again is allowed. Holds the row until the transaction ends. `after_waiting`: a saga
    that waits for the lock goes first, and counts as having it.
    """
    connection.execute(
        insert(company_locks).values(third_company_id=third_company_id).on_conflict_do_nothing()
    )
    row = connection.execute(
        select(company_locks.c.holder, company_locks.c.waiting)
        .where(company_locks.c.third_company_id == third_company_id)
        .with_for_update()
    ).one()
    if row.holder not in {None, transaction_id}:
        holder = _live_holder(connection, row.holder)
        if holder:
            return holder
    if after_waiting and row.waiting not in {None, transaction_id}:
        waiter = _live_holder(connection, row.waiting)
        if waiter:
            return waiter
    connection.execute(
        update(company_locks)
        .where(company_locks.c.third_company_id == third_company_id)
        .values(
            holder=transaction_id,
            since=UTC_NOW,
            waiting=text("nullif(waiting, :waiter)").bindparams(waiter=transaction_id),
        )
    )
    return None


def hold(connection: Connection, *, third_company_id: str) -> Holder | None:
    """Keep every saga from taking the company's lock until this transaction ends; returns who has it."""
    connection.execute(
        insert(company_locks).values(third_company_id=third_company_id).on_conflict_do_nothing()
    )
    holder: str | None = connection.execute(
        select(company_locks.c.holder)
        .where(company_locks.c.third_company_id == third_company_id)
        .with_for_update()
    ).scalar_one()
    return None if holder is None else _live_holder(connection, holder)


def is_free(connection: Connection, *, third_company_id: str) -> bool:
    """True when no saga has the company's lock or waits for it; may be over in a moment."""
    row = connection.execute(
        select(company_locks.c.holder, company_locks.c.waiting).where(
            company_locks.c.third_company_id == third_company_id
        )
    ).one_or_none()
    return row is None or not any(saga and _live_holder(connection, saga) for saga in row)


def wait(connection: Connection, *, third_company_id: str, transaction_id: str) -> None:
    """Announce that this saga is next: batches do not start before it."""
    connection.execute(
        update(company_locks)
        .where(company_locks.c.third_company_id == third_company_id)
        .values(waiting=transaction_id)
    )


def release(connection: Connection, *, transaction_id: str) -> None:
    """Give back every lock and every place in line of this saga."""
    connection.execute(
        update(company_locks)
        .where(or_(company_locks.c.holder == transaction_id, company_locks.c.waiting == transaction_id))
        .values(
            holder=text("nullif(holder, :saga)").bindparams(saga=transaction_id),
            waiting=text("nullif(waiting, :saga)").bindparams(saga=transaction_id),
        )
    )


def _live_holder(connection: Connection, transaction_id: str) -> Holder | None:
    """The saga that has the lock, unless it has ended, is being undone or is gone."""
    row = connection.execute(
        select(
            saga_transactions.c.transaction_id,
            saga_transactions.c.definition,
            saga_transactions.c.dag_id,
            saga_transactions.c.run_id,
        ).where(
            saga_transactions.c.transaction_id == transaction_id,
            saga_transactions.c.status.not_in([*ENDED, SagaStatus.COMPENSATING.value]),
        )
    ).one_or_none()
    return Holder(*row) if row else None
