"""The running Airflow that the other tests of this directory rely on."""

import pytest

from nancalacc.errors import CallRefusedError, ConfigurationError
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.stack import AirflowStack, Component, StackSettings

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]


def test_a_dag_runs_with_log_and_xcom(stack: AirflowStack) -> None:
    stack.api.wait_for_dag("smoke")
    run_id = stack.api.trigger("smoke")

    assert stack.api.wait_run("smoke", run_id) == "success"
    assert stack.api.task_states("smoke", run_id) == {"give": "success", "take": "success"}
    assert "took 42" in stack.api.log("smoke", run_id, "take")
    assert stack.api.xcoms("smoke", run_id, "give")["return_value"] == 42


def test_a_failed_task_can_be_cleared_and_marked(stack: AirflowStack) -> None:
    stack.api.wait_for_dag("smoke")
    run_id = stack.api.trigger("smoke", conf={"fail": True}, run_id="fails")
    assert stack.api.wait_run("smoke", run_id) == "failed"

    assert stack.api.clear("smoke", run_id, only_failed=True) == ["take"]
    assert stack.api.wait_run("smoke", run_id) == "failed"
    assert stack.api.task_instances("smoke", run_id)["take"]["try_number"] == 2

    stack.api.set_task_state("smoke", run_id, "take", state="success")
    assert stack.api.task_states("smoke", run_id)["take"] == "success"
    stack.api.set_run_state("smoke", run_id, state="success")
    assert stack.api.run_state("smoke", run_id) == "success"


def test_the_scheduler_can_be_killed_and_started_again(stack: AirflowStack) -> None:
    stack.api.wait_for_dag("smoke")
    stack.kill(Component.SCHEDULER)
    run_id = stack.api.trigger("smoke")
    stack.start(Component.SCHEDULER)

    assert stack.api.wait_run("smoke", run_id) == "success"


def test_a_viewer_may_not_trigger(stack: AirflowStack) -> None:
    with stack.api_as("viewer") as api, pytest.raises(CallRefusedError, match="403"):
        api.trigger("smoke")


def test_a_component_that_cannot_start_says_why(postgres: Postgres, tmp_path) -> None:
    settings = StackSettings(home=tmp_path, database_url=postgres.url("no_such_database"))

    with pytest.raises(ConfigurationError, match="no_such_database"), AirflowStack(settings):
        pass
