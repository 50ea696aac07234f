"""A database that is full, in which somebody has a lock, or that breaks a deadlock: nothing is lost."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import text

from nancalacc.errors import DatabaseError, NancalaccError
from nancalacc.saga.state import SagaStatus
from nancalacc.store.database import SESSION_SETTINGS
from toy_saga import COMPANY, NAMES, Toy, check_ended

FULL = "53100"
"""SQLSTATE disk_full."""
TRIES = 20


def run_to_the_end(saga: Toy) -> None:
    """All steps, each again as long as it ends with an error that will pass."""
    for name in NAMES:
        for _ in range(TRIES):
            try:
                saga.run(name)
                break
            except DatabaseError:
                time.sleep(0.1)
    assert saga.conclude().status is SagaStatus.COMPLETED


@contextmanager
def refusing(saga: Toy, *tables: str, state: str) -> Iterator[None]:
    """Every change of these tables ends with this SQLSTATE."""
    with saga.database.transaction() as connection:
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$"
            )
        )
        for table in tables:
            connection.execute(
                text(
                    f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {table}"
                    " FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
                )
            )
    try:
        yield
    finally:
        with saga.database.transaction() as connection:
            connection.execute(text("DROP FUNCTION refuse() CASCADE"))


@pytest.mark.parametrize("table", ["saga_events", "saga_steps", "saga_transactions", "toy_effects"])
@pytest.mark.parametrize("done", ["fetch", "publish"])
def test_a_full_disk_stops_a_saga_only_as_long_as_it_is_full(saga: Toy, table: str, done: str) -> None:
    saga.run_until(done)
    following = NAMES[NAMES.index(done) + 1]
    with refusing(saga, table, state=FULL), pytest.raises(DatabaseError, match=FULL):
        saga.run(following)
    run_to_the_end(saga)
    check_ended(saga)


@pytest.mark.parametrize("table", ["saga_events", "saga_steps", "company_locks", "toy_effects"])
def test_a_compensation_stops_only_as_long_as_the_disk_is_full(saga: Toy, table: str) -> None:
    saga.run_until("right")
    with refusing(saga, table, state=FULL), pytest.raises(NancalaccError, match=FULL):
        saga.conclude()
    assert saga.conclude().status is SagaStatus.COMPENSATED
    check_ended(saga)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of ours wait for a lock no longer than this."""
    monkeypatch.setitem(SESSION_SETTINGS, "lock_timeout", "200ms")


@pytest.mark.parametrize("done", ["fetch", "right", "publish"])
def test_a_lock_that_somebody_keeps_is_waited_for_by_retries(
    impatient: None, toy_url: str, saga: Toy, done: str
) -> None:
    saga.run_until(done)
    with psycopg.connect(toy_url) as somebody:
        somebody.execute("SELECT FROM saga_transactions FOR UPDATE")
        with pytest.raises(DatabaseError, match="55P03"):
            saga.run(NAMES[NAMES.index(done) + 1])
    run_to_the_end(saga)
    check_ended(saga)


def test_a_deadlock_is_broken_and_the_step_runs_again(toy_url: str, saga: Toy) -> None:
    """The company's lock and the saga's row, taken by somebody in the wrong order."""
    with saga.database.transaction() as connection:
        connection.execute(text("INSERT INTO company_locks (third_company_id) VALUES (:id)"), {"id": COMPANY})
    has_saga = threading.Event()

    def meet() -> None:
        with psycopg.connect(toy_url) as somebody:
            somebody.execute("SELECT FROM company_locks FOR UPDATE")
            has_saga.set()
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            with psycopg.connect(toy_url, autocommit=True) as watcher:
                while not watcher.execute(waiting).fetchall():
                    time.sleep(0.01)
            try:
                somebody.execute("SELECT FROM saga_transactions FOR UPDATE")
            except psycopg.errors.DeadlockDetected:
                somebody.rollback()

    other = threading.Thread(target=meet)
    other.start()
    has_saga.wait()
    run_to_the_end(saga)
    other.join()
    check_ended(saga)
