"""Airflow's own processes and its databases go away in the middle of a run, or the DAG is paused."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import psycopg
import pytest
from psycopg import sql

from e2e.company import DAG, Company
from nancalacc.errors import CallRefusedError
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.stack import Component

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

SAVING_SECONDS = 5.0
AWAY_SECONDS, RUN_SECONDS = 3.0, 150.0
STALE_SECONDS = 6.0
"""NANCALACC_STALE_SECONDS of the running Airflow."""


@contextmanager
def away(postgres: Postgres, *databases: str) -> Iterator[None]:
    """Nobody can use these databases, as while their server is started anew."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:

        def allow(allowed: bool) -> None:
            for database in databases:
                statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
                connection.execute(statement.format(sql.Identifier(database), sql.Literal(allowed)))

        allow(False)
        try:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = ANY(%s)",
                [list(databases)],
            )
            yield
        finally:
            allow(True)


def wait_and_revive(company: Company, run_id: str) -> None:
    """Wait for the end of a run, starting what has ended of Airflow, as its supervisor would."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        company.stack.revive()
        with suppress(CallRefusedError, httpx.TransportError):
            if company.state(run_id) in {"success", "failed"}:
                return
        time.sleep(1)
    raise AssertionError(f"{run_id} does not end")


def test_a_scheduler_killed_with_its_workers_goes_on_with_the_run(company: Company):
    with company.slow("tb_las_user", seconds=SAVING_SECONDS):
        run_id = company.trigger()
        company.wait_until_saving()
        # Workers of the LocalExecutor are children of the scheduler.
        company.stack.kill(Component.SCHEDULER)
    company.silence_scheduler()
    company.stack.start(Component.SCHEDULER)
    company.wait(run_id)

    assert company.state(run_id) == "success"
    assert company.steps(run_id)["save_users"]["attempt"] >= 2
    assert company.compare().equal


def test_an_api_server_that_is_killed_and_started_again_stops_no_run(company: Company):
    with company.slow("tb_las_user", seconds=SAVING_SECONDS):
        run_id = company.trigger()
        company.wait_until_saving()
        company.stack.kill(Component.API_SERVER)
    company.stack.start(Component.API_SERVER)
    company.wait(run_id)

    assert company.state(run_id) == "success"
    assert company.compare().equal


def test_databases_that_go_away_in_the_middle_of_a_save_stop_no_run(company: Company, postgres: Postgres):
    with company.slow("tb_las_user", seconds=SAVING_SECONDS):
        run_id = company.trigger()
        company.wait_until_saving()
        with away(postgres, "nancalacc_stack", "airflow"):
            time.sleep(AWAY_SECONDS)
    wait_and_revive(company, run_id)

    assert company.state(run_id) == "success"
    assert company.compare().equal


def test_a_paused_dag_goes_on_after_longer_than_a_sign_of_life_counts(company: Company):
    with company.slow("tb_las_department_user", seconds=SAVING_SECONDS):
        run_id = company.trigger()
        company.wait_until_saving()
        company.stack.api.pause(DAG)
    try:
        company.stack.api.wait_task(DAG, run_id, "save_relations", states={"success"})
        time.sleep(STALE_SECONDS)
        assert company.saga(run_id)["status"] == "in_progress"
        assert company.lock_holder() is not None
    finally:
        company.stack.api.pause(DAG, paused=False)
    company.wait(run_id)

    assert company.state(run_id) == "success"
    assert company.saga(run_id)["epoch"] == 1
    assert company.compare().equal
