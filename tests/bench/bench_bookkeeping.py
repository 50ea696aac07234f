"""What the bookkeeping of one empty step costs, against DBOS and against bare SQL [design 9].

All three write to the same durable PostgreSQL, in turn, so that a busy moment of the machine
hits all of them.
"""

import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from dbos import DBOS, DBOSConfig

from bench.targets import at_most
from nancalacc.saga.context import StepContext
from nancalacc.saga.coordinator import Coordinator
from nancalacc.saga.definition import SagaDefinition, Step
from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.database import Database
from nancalacc.store.migrate import upgrade
from nancalacc.store.repository import SagaStore

pytestmark = [pytest.mark.bench, pytest.mark.slow]

STEPS = 8
ROUNDS = 50
TARGET = 0.75
"""Of what DBOS takes [design 9]."""


def nothing(context: StepContext) -> Mapping[str, Any]:
    return {}


EMPTY = SagaDefinition(
    "empty",
    tuple(
        Step(f"step_{number}", nothing, depends_on=(f"step_{number - 1}",) if number > 1 else ())
        for number in range(1, STEPS + 1)
    ),
)


@contextmanager
def our_steps(url: str) -> Iterator[Callable[[], list[float]]]:
    """One saga; seconds of each step, whatever is done around it in a task included."""
    with Database(url) as database:
        coordinator = Coordinator(SagaStore(database))

        def run() -> list[float]:
            transaction_id = coordinator.start(EMPTY, dag_id="bench", run_id=uuid.uuid4().hex, params={})
            coordinator.run_step(EMPTY, transaction_id, "step_1", services=None, params={})
            taken = []
            for step in EMPTY.steps[1:]:
                before = time.perf_counter()
                coordinator.run_step(EMPTY, transaction_id, step.name, services=None, params={})
                taken.append(time.perf_counter() - before)
            return taken

        yield run


@contextmanager
def dbos_steps(url: str) -> Iterator[Callable[[], list[float]]]:
    """One workflow of DBOS; seconds of each step."""
    DBOS(config=DBOSConfig(name="bench", system_database_url=url, run_admin_server=False, log_level="ERROR"))

    @DBOS.step()
    def step() -> None:
        return None

    @DBOS.workflow()
    def workflow() -> list[float]:
        step()
        taken = []
        for _ in range(STEPS - 1):
            before = time.perf_counter()
            step()
            taken.append(time.perf_counter() - before)
        return taken

    DBOS.launch()
    try:
        yield workflow
    finally:
        DBOS.destroy()


@contextmanager
def bare_steps(url: str) -> Iterator[Callable[[], list[float]]]:
    """The least that can be done: a row said to be begun, then done, each committed."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE bare (id text PRIMARY KEY, status text NOT NULL)")

        def run() -> list[float]:
            taken = []
            for _ in range(STEPS - 1):
                key = uuid.uuid4().hex
                before = time.perf_counter()
                connection.execute("INSERT INTO bare VALUES (%s, 'in_progress')", (key,))
                connection.execute(
                    "UPDATE bare SET status = 'completed' WHERE id = %s AND status = 'in_progress'", (key,)
                )
                taken.append(time.perf_counter() - before)
            return taken

        yield run


@pytest.mark.filterwarnings("ignore")  # those of DBOS
def test_bookkeeping_of_a_step_against_dbos_and_bare_sql() -> None:
    with Postgres(durable=True) as server:
        ours_url = server.create_database("ours")
        upgrade(ours_url)
        with (
            our_steps(ours_url) as ours,
            dbos_steps(server.create_database("dbos")) as theirs,
            bare_steps(server.create_database("bare")) as bare,
        ):
            contestants = {"nancalacc": ours, "DBOS": theirs, "bare SQL": bare}
            seconds: dict[str, list[float]] = {name: [] for name in contestants}
            for run in contestants.values():
                run()
            for _ in range(ROUNDS):
                for name, run in contestants.items():
                    seconds[name] += run()
    p50 = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    ratio = p50["nancalacc"] / p50["DBOS"]
    for name, milliseconds in p50.items():
        print(f"bookkeeping of a step, {name}: p50 {milliseconds:.2f} ms")
    print(f"bookkeeping of a step, nancalacc / DBOS: {ratio:.2f} ({at_most(ratio, TARGET)})")
    print(f"bookkeeping of a step, nancalacc / bare SQL: {p50['nancalacc'] / p50['bare SQL']:.2f}")
