"""Airflow's two limits of time: of one attempt of a task, and of a whole run."""

from dataclasses import replace

import pytest

from e2e.company import Company
from e2e.test_recovery import recover_to_the_end
from nancalacc.sync.company import FETCH, SAVE_USERS

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

LIMITED = "full_sync__limited"
HANGING_SECONDS, SAVING_SECONDS = 40, 20.0


@pytest.fixture
def limited(company: Company) -> Company:
    """The company, synced by a DAG with an `execution_timeout` and a `dagrun_timeout`."""
    company.stack.api.wait_for_dag(LIMITED)
    return replace(company, dag_id=LIMITED)


def test_a_task_that_runs_out_of_time_is_tried_again_and_the_run_completes(limited: Company):
    limited.sandbox.faults.add("hang", path="listsub", seconds=HANGING_SECONDS, times=1)
    run_id = limited.run()

    assert limited.state(run_id) == "success"
    fetch = limited.steps(run_id)[FETCH]
    assert (fetch["status"], fetch["retry_count"] >= 1) == ("completed", True)
    failures = "SELECT event_data ->> 'error' AS error FROM saga_events WHERE event_type = 'step_failed'"
    assert limited.rows(failures)[0]["error"] == "AirflowTaskTimeout (the task's log has the details)"
    assert limited.compare().equal


def test_a_run_that_takes_too_long_is_ended_and_undone_and_completes_when_it_is_cleared(limited: Company):
    with limited.slow("tb_las_user", seconds=SAVING_SECONDS):
        run_id = limited.trigger()
        limited.wait_until_saving()
        process = limited.worker(run_id, SAVE_USERS)
        limited.age(run_id)
        assert limited.wait(run_id) == "failed"
        process.wait(timeout=60)
        assert recover_to_the_end(limited, run_id) == "compensated"
    assert limited.snapshot_rows(limited.saga(run_id)["task_id"]) == 0
    assert limited.lock_holder() is None

    limited.clear(run_id)
    assert limited.wait(run_id) == "success"
    assert limited.saga(run_id)["epoch"] == 2
    assert limited.compare().equal
