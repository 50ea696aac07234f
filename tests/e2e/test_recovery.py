"""Runs that end by force: what is left of their sagas is finished by `saga_recovery`."""

import pytest

from e2e.company import COMPENSATIONS, DAG, Company
from nancalacc.saga.definition import transaction_id_of

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

RECOVERY = "saga_recovery"
HANGING_SECONDS = 40


def recover(company: Company, run_id: str = "") -> tuple[str, str]:
    """Run the recovery, of one run's saga or of all; returns the state of its run and the log."""
    transaction_id = transaction_id_of(dag_id=company.dag_id, run_id=run_id) if run_id else None
    api = company.stack.api
    api.wait_for_dag(RECOVERY)
    recovery = api.trigger(RECOVERY, conf={"transaction_id": transaction_id})
    state = api.wait_run(RECOVERY, recovery, timeout=120)
    return state, api.log(RECOVERY, recovery, "recover_sagas")


def recover_to_the_end(company: Company, run_id: str) -> str:
    """Recover until the last sign of life of an ended process is old enough; returns the saga's status."""
    for _ in range(10):
        state, log = recover(company, run_id)
        if state == "success":
            break
        assert "is being worked on (at_work)" in log
    return str(company.saga(run_id)["status"])


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_run_marked_by_hand_while_wps_does_not_answer_is_finished_forward(company: Company, state: str):
    company.sandbox.faults.add("hang", path="full/sync", seconds=HANGING_SECONDS, times=1)
    run_id = company.trigger()
    company.stack.api.wait_task(DAG, run_id, "notify_wps", states={"running"})
    company.wait_until_called("full/sync")
    process = company.worker(run_id, "notify_wps")

    assert "is left alone: its run is not over" in recover(company, run_id)[1]
    company.stack.api.set_run_state(DAG, run_id, state=state)
    process.wait(timeout=60)
    assert company.saga(run_id)["status"] in {"in_progress", "failed"}

    assert recover_to_the_end(company, run_id) == "completed"
    assert company.compare().equal
    assert company.lock_holder() is None
    assert company.rows("SELECT status FROM task") == [{"status": "completed"}]
    assert company.state(run_id) == state


def test_a_run_deleted_in_the_middle_of_a_save_is_undone(company: Company):
    with company.slow("tb_las_user", seconds=20):
        run_id = company.trigger()
        company.stack.api.wait_task(DAG, run_id, "save_users", states={"running"})
        process = company.worker(run_id, "save_users")
        # Airflow deletes no run that goes on.
        company.stack.api.set_run_state(DAG, run_id, state="failed")
        company.stack.api.delete_run(DAG, run_id)
        process.wait(timeout=60)
        assert recover_to_the_end(company, run_id) == "compensated"
    saga = company.saga(run_id)
    assert company.snapshot_rows(saga["task_id"]) == 0
    assert company.lock_holder() is None
    assert company.rows("SELECT status FROM task") == [{"status": "cancelled"}]
    assert company.state(company.run()) == "success"
    assert company.compare().equal


def test_a_wps_that_stays_busy_is_left_to_recovery_before_long(company: Company):
    company.sandbox.faults.add("busy", path="full/sync", times=None)
    run_id = company.run()
    assert company.state(run_id) == "failed"
    assert "saga_recovery goes on with it by itself" in company.log(run_id, "saga_outcome")
    # One attempt that waits, and one of saga_outcome, which does not.
    assert company.steps(run_id)["notify_wps"]["attempt"] == 2
    assert company.sandbox.calls.counts()["/openapi/v7/ecisaccountsync/full/sync"] <= 4

    company.sandbox.faults.clear()
    assert recover_to_the_end(company, run_id) == "completed"
    assert company.compare().equal


def test_what_recovery_cannot_finish_yet_is_tried_again_and_completes_later(company: Company):
    with company.broken("known_users"):
        run_id = company.run()
        assert company.saga(run_id)["status"] in {"failed", "in_progress"}
        assert "saga_recovery goes on with it by itself" in company.log(run_id, "saga_outcome")
        state, log = recover(company)
        assert state == "success"
        assert "cannot be finished, try 1" in log
        saga = company.saga(run_id)
        assert saga["recovery_tries"] == 1
        assert "SQLSTATE P0001" in saga["recovery_error"]
        assert saga["recovery_at"] is not None

    state, log = recover(company)
    assert (state, company.saga(run_id)["recovery_tries"]) == ("success", 1)
    assert recover_to_the_end(company, run_id) == "completed"
    assert company.saga(run_id)["recovery_error"] is None
    assert company.tasks(run_id)[COMPENSATIONS[0]] == "skipped"
    # The run can still be cleared, and finds nothing left to do.
    company.clear(run_id, "saga_outcome", downstream=False)
    company.wait(run_id)
    assert company.state(run_id) == "success"


def test_maintenance_runs_and_removes_nothing_of_a_fresh_sync(company: Company):
    run_id = company.run()
    api = company.stack.api
    api.wait_for_dag("saga_maintenance")
    maintenance = api.trigger("saga_maintenance")
    assert api.wait_run("saga_maintenance", maintenance) == "success"
    assert "snapshot rows: 0 removed" in api.log("saga_maintenance", maintenance, "prune")
    assert company.saga(run_id)["status"] == "completed"
    assert company.compare().equal
