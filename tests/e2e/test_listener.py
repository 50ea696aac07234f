"""The listener when `nancalacc_db` is stored in Airflow's own database, and when that database is away."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from e2e.company import DAG, OWN_TABLES, small_organisation
from nancalacc.saga.definition import transaction_id_of
from nancalacc.sandbox.postgres import Postgres, free_port
from nancalacc.sandbox.server import Sandbox
from nancalacc.sandbox.stack import AirflowStack, Component, StackSettings, connection_json

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stored(
    postgres: Postgres,
    stack_database_url: str,
    stack_sandbox: Sandbox,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AirflowStack]:
    """A second Airflow, with every connection in its database and none in the environment."""
    settings = StackSettings(
        home=tmp_path_factory.mktemp("stored"),
        database_url=postgres.create_database("airflow_stored"),
        connections={
            "nancalacc_db": stack_database_url,
            "dingtalk_default": connection_json(stack_sandbox.dingtalk_connection),
            "wps_default": connection_json(stack_sandbox.wps_connection),
        },
        stored_connections=frozenset({"nancalacc_db", "dingtalk_default", "wps_default"}),
        environment={"NANCALACC_FULL_SYNC_SCHEDULE": "none", "NANCALACC_RETRY_DELAY_SECONDS": "1"},
        components=(Component.API_SERVER, Component.DAG_PROCESSOR, Component.SCHEDULER),
    )
    with AirflowStack(settings) as running:
        yield running


def test_runs_are_recorded_and_the_scheduler_lives_on(
    stored: AirflowStack, stack_sandbox: Sandbox, stack_database_url: str
):
    stack_sandbox.reset(organisation=small_organisation())
    with psycopg.connect(stack_database_url) as connection:
        connection.execute(f"TRUNCATE {OWN_TABLES} RESTART IDENTITY CASCADE")
    stored.api.wait_for_dag(DAG)
    stored.api.pause(DAG)
    run_id = stored.api.trigger(DAG, run_id=f"stored-{uuid.uuid4().hex[:8]}")
    stored.api.pause(DAG, paused=False)

    assert stored.api.wait_run(DAG, run_id) == "success"
    transaction_id = transaction_id_of(dag_id=DAG, run_id=run_id)
    with psycopg.connect(stack_database_url) as connection:
        for _ in range(100):
            events = [
                row[0]
                for row in connection.execute(
                    "SELECT event_type FROM saga_events WHERE transaction_id = %s ORDER BY id",
                    [transaction_id],
                )
            ]
            connection.commit()
            if "run_ended" in events:
                break
            connection.execute("SELECT pg_sleep(0.1)")
    assert events.count("saga_started") == 1
    assert "run_ended" in events
    # No secret comes back from the connections API.
    shown = str(stored.api.call("GET", "/connections"))
    for secret in ("sandbox-app-secret", "sandbox-client-secret", "sandbox-salt"):
        assert secret not in shown


def test_with_the_database_away_the_scheduler_lives_on_and_other_dags_run(stored: AirflowStack):
    stored.api.call(
        "PATCH",
        "/connections/nancalacc_db",
        body={
            "connection_id": "nancalacc_db",
            "conn_type": "postgres",
            "host": "127.0.0.1",
            "port": free_port(),
            "login": "nobody",
            "schema": "none",
        },
    )
    stored.api.wait_for_dag(DAG)
    scheduler = stored.processes(Component.SCHEDULER)[0]
    run_id = stored.api.trigger(DAG, run_id="database-away")

    stored.api.wait_task(DAG, run_id, "validate_task", states={"up_for_retry", "failed"})
    assert stored.api.run_state(DAG, run_id) == "running"
    assert "127.0.0.1" in stored.api.log(DAG, run_id, "validate_task", attempt=1)
    assert scheduler.is_running()
    assert stored.api.health()["scheduler"] == "healthy"
    second = stored.api.trigger(DAG, run_id="database-away-too")
    stored.api.wait_task(DAG, second, "validate_task", states={"up_for_retry", "failed"})
