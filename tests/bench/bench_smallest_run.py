"""What the smallest full sync costs on a running Airflow, against the same graph doing nothing [design 9]."""

import statistics
import uuid
from datetime import datetime

import psycopg
import pytest

from bench.targets import at_most
from e2e.company import DAG, OWN_TABLES
from nancalacc.sandbox.organisation import organisation_of_size
from nancalacc.sandbox.server import Sandbox
from nancalacc.sandbox.stack import AirflowStack

pytestmark = [pytest.mark.bench, pytest.mark.slow, pytest.mark.airflow]

EMPTY_DAG = "empty_full_sync"
ROUNDS = 7
TARGET = 1.5


def seconds(stack: AirflowStack, dag_id: str) -> float:
    run_id = stack.api.trigger(dag_id, run_id=f"bench-{uuid.uuid4().hex[:8]}")
    assert stack.api.wait_run(dag_id, run_id) == "success"
    run = stack.api.run(dag_id, run_id)
    begin, end = (datetime.fromisoformat(run[name]) for name in ("start_date", "end_date"))
    return (end - begin).total_seconds()


def test_the_smallest_run_against_an_empty_one(
    stack: AirflowStack, stack_sandbox: Sandbox, stack_database_url: str
) -> None:
    stack_sandbox.reset(organisation=organisation_of_size(1, departments=1))
    with psycopg.connect(stack_database_url) as connection:
        connection.execute(f"TRUNCATE {OWN_TABLES} RESTART IDENTITY CASCADE")
    taken: dict[str, list[float]] = {EMPTY_DAG: [], DAG: []}
    for dag_id in taken:
        stack.api.wait_for_dag(dag_id)
        seconds(stack, dag_id)
    for _ in range(ROUNDS):
        for dag_id, values in taken.items():
            values.append(seconds(stack, dag_id))
    empty, ours = (statistics.median(values) for values in taken.values())
    times = ours / empty
    print(
        f"\nfull_sync of one department and one person: {ours:.1f} s, the same graph doing nothing"
        f" {empty:.1f} s: {times:.2f} times that ({at_most(times, TARGET)}; medians of {ROUNDS})"
    )
