"""One saga per company."""

from typing import Any

from sqlalchemy import text

from nancalacc.saga.state import SagaStatus
from nancalacc.store import locks
from nancalacc.store.database import Database
from toy_saga import COMPANY, Toy, together


def acquire(saga: Toy, *, company: str = COMPANY) -> locks.Holder | None:
    with saga.database.transaction() as connection:
        return locks.acquire(connection, third_company_id=company, transaction_id=saga.id)


def waiting(database: Database) -> str | None:
    with database.transaction() as connection:
        found: str | None = connection.execute(text("SELECT waiting FROM company_locks")).scalar_one()
        return found


def wait(saga: Toy) -> None:
    with saga.database.transaction() as connection:
        locks.wait(connection, third_company_id=COMPANY, transaction_id=saga.id)


def release(saga: Toy) -> None:
    with saga.database.transaction() as connection:
        locks.release(connection, transaction_id=saga.id)


def started(saga: Toy) -> Toy:
    """A saga in progress that has not taken the lock by itself."""
    saga.query("UPDATE saga_transactions SET status = 'in_progress' WHERE transaction_id = :id RETURNING 1",
               id=saga.id)  # fmt: skip
    return saga


def test_a_held_lock_names_its_holder(saga: Toy, another: Any) -> None:
    started(saga)
    second = started(another(run_id="run-2"))
    assert acquire(saga) is None
    assert acquire(second) == locks.Holder(saga.id, "toy", "toy", "run-1")
    assert saga.lock_holder == saga.id


def test_another_company_is_not_affected(saga: Toy, another: Any) -> None:
    assert acquire(started(saga)) is None
    assert acquire(started(another(run_id="run-2")), company="company-2") is None


def test_the_holder_may_take_it_again(saga: Toy) -> None:
    started(saga)
    assert acquire(saga) is None
    assert acquire(saga) is None


def test_a_released_lock_is_free(saga: Toy, another: Any) -> None:
    started(saga)
    acquire(saga)
    release(saga)
    assert saga.lock_holder is None
    assert acquire(started(another(run_id="run-2"))) is None


def test_only_its_holder_gives_it_back(saga: Toy, another: Any) -> None:
    acquire(started(saga))
    release(another(run_id="run-2"))
    assert saga.lock_holder == saga.id


def test_the_lock_of_a_saga_that_has_ended_or_goes_back_is_free(saga: Toy, another: Any) -> None:
    second = started(another(run_id="run-2"))
    for status in SagaStatus:
        saga.query("UPDATE company_locks SET holder = :id RETURNING 1", id=saga.id)
        acquire(saga)
        saga.query(
            "UPDATE saga_transactions SET status = :status WHERE transaction_id = :id RETURNING 1",
            id=saga.id,
            status=status.value,
        )
        free = status.ended or status is SagaStatus.COMPENSATING
        assert (acquire(second) is None) is free, status
        release(second)


def test_the_lock_of_a_saga_that_is_gone_is_free(saga: Toy, another: Any) -> None:
    second = started(another(run_id="run-2"))
    acquire(started(saga))
    saga.query("DELETE FROM saga_transactions WHERE transaction_id = :id RETURNING 1", id=saga.id)
    assert acquire(second) is None


def test_who_waits_is_written_down_until_it_gets_the_lock(saga: Toy, another: Any) -> None:
    acquire(started(saga))
    second = started(another(run_id="run-2"))
    acquire(second)
    wait(second)
    assert waiting(saga.database) == second.id
    release(saga)
    assert waiting(saga.database) == second.id
    assert acquire(second) is None
    assert waiting(saga.database) is None


def test_a_waiting_saga_that_ends_gives_up_its_place(saga: Toy, another: Any) -> None:
    acquire(started(saga))
    second = another(run_id="run-2")
    wait(second)
    started(second)
    second.cancel()
    assert waiting(saga.database) is None
    assert saga.lock_holder == saga.id


def test_of_many_that_want_it_at_once_one_gets_it(saga: Toy, another: Any) -> None:
    sagas = [started(another(run_id=f"run-{number}")) for number in range(6)]
    holders = together(*(lambda each=each: acquire(each) for each in sagas))
    assert [each.id for each, holder in zip(sagas, holders, strict=True) if holder is None] == [
        saga.lock_holder
    ]
