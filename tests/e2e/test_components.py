"""Airflow's own processes and the database server go away in the middle of a run, or the DAG is paused."""

import time
from contextlib import suppress

import httpx
import pytest

from e2e.company import DAG, Company
from nancalacc.errors import CallRefusedError
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.stack import Component

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

SAVING_SECONDS = 5.0
AWAY_SECONDS, RUN_SECONDS = 3.0, 150.0
STALE_SECONDS = 6.0
"""NANCALACC_STALE_SECONDS of the running Airflow."""


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


def test_a_database_server_that_is_restarted_in_the_middle_of_a_save_stops_no_run(
    company: Company, postgres: Postgres
):
    """It holds the tables of both, nancalacc's and Airflow's own."""
    with company.slow("tb_las_user", seconds=SAVING_SECONDS):
        run_id = company.trigger()
        company.wait_until_saving()
        with postgres.down():
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
