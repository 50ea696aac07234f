"""How long a recovery of many abandoned sagas takes, and the longest that it keeps a lock [design 4.5].

Half of them go back, half forward; the other sides answer at once, so that it is the recovery's own work.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, text

from bench.targets import at_most
from nancalacc.orchestration.recovery import Environment, Recovery, Result
from nancalacc.saga.coordinator import Coordinator
from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.database import Database
from nancalacc.store.migrate import upgrade
from nancalacc.store.repository import SagaStore
from toy_saga import TOY, ToyServices, create_tables, toy

pytestmark = [pytest.mark.bench, pytest.mark.slow]

SAGAS = 200
MOST_SECONDS, LONGEST_LOCK_SECONDS = 60.0, 1.0


class TimedDatabase(Database):
    """Notes the longest transaction; no lock is held for longer."""

    longest = 0.0

    @contextmanager
    def transaction(self, *, name: str = "") -> Iterator[Connection]:
        started = time.perf_counter()
        with super().transaction(name=name) as connection:
            yield connection
        self.longest = max(self.longest, time.perf_counter() - started)


def abandon(url: str, number: int) -> None:
    """A saga of a run that is over, in the middle of its steps, or behind its pivot."""
    with toy(url, run_id=f"run-{number}") as saga:
        saga.run_until("right" if number % 2 else "publish")
        with saga.database.transaction() as connection:
            connection.execute(text("UPDATE company_locks SET holder = NULL"))


def test_two_hundred_abandoned_sagas() -> None:
    with Postgres() as server:
        url = server.create_database("recovery")
        upgrade(url)
        with TimedDatabase(url) as database:
            with database.transaction() as connection:
                create_tables(connection)
            for number in range(SAGAS):
                abandon(url, number)
            database.longest = 0.0
            environment = Environment(
                is_live=lambda _: False,
                definition_of=lambda _: TOY,
                services_of=lambda _: ToyServices(url),
            )
            coordinator = Coordinator(SagaStore(database))
            recovery = Recovery(coordinator, database, environment, stale_seconds=30)
            started = time.perf_counter()
            counts = recovery.recover()
            seconds = time.perf_counter() - started
    print(
        f"\n{SAGAS} abandoned sagas: {seconds:.1f} s ({at_most(seconds, MOST_SECONDS, ' s')}), longest"
        f" transaction {database.longest:.3f} s ({at_most(database.longest, LONGEST_LOCK_SECONDS, ' s')})"
    )
    assert counts[Result.FINISHED] == SAGAS
