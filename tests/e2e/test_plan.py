"""The plan of a sync on a real scheduler: a dry run, and a person who approves, rejects or is away."""

import time
from typing import Any

import pytest

from e2e.company import DAG, SNAPSHOT_TABLES, STEPS, Company

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

PLAN = "plan_changes"
KNOWN = ("known_departments", "known_users", "known_memberships")
UNTOUCHED = (*SNAPSHOT_TABLES, *KNOWN, "tb_company_cfg", "task")
STAGED = "SELECT 1 FROM staged_users JOIN saga_transactions USING (transaction_id) WHERE run_id = %s"


def request(company: Company, run_id: str, **answer: Any) -> Any:
    """What Airflow asks a person; with an answer, that is given."""
    path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/{PLAN}/-1/hitlDetails"
    return company.stack.api.call("PATCH" if answer else "GET", path, body=answer or None)


def wait_until_asked(company: Company, run_id: str) -> Any:
    company.stack.api.wait_task(DAG, run_id, PLAN, states={"awaiting_input"}, timeout=90)
    return request(company, run_id)


def answer(company: Company, run_id: str, option: str, *, reason: str | None = None) -> None:
    """Answer until the answer is taken.

    Airflow loses one that comes before its scheduler has heard that the task is parked: it takes the
    resumed task for a dead one, and the task's retry asks again.
    """
    kind = {"Approve": "approved", "Reject": "rejected"}[option]
    before = len(data(company, run_id, kind))
    deadline = time.monotonic() + 120
    while len(data(company, run_id, kind)) == before:
        assert time.monotonic() < deadline, "the answer was never taken"
        state = company.tasks(run_id)[PLAN]
        if state == "awaiting_input" and request(company, run_id)["responded_at"] is None:
            params = {} if reason is None else {"reason": reason}
            request(company, run_id, chosen_options=[option], params_input=params)
        time.sleep(0.2)


def lose_people(company: Company, *uids: str) -> None:
    """A first sync, then these people leave."""
    assert company.state(company.run()) == "success"
    assert company.compare().equal
    for uid in uids:
        company.sandbox.organisation.remove_user(uid)
    company.relax_thresholds()


def data(company: Company, run_id: str, event_type: str) -> list[dict[str, Any]]:
    """The data of a run's events of a type."""
    rows = company.rows(
        "SELECT event_data FROM saga_events JOIN saga_transactions USING (transaction_id)"
        " WHERE run_id = %s AND event_type = %s ORDER BY saga_events.id",
        run_id,
        event_type,
    )
    return [row["event_data"] for row in rows]


def test_a_dry_run_shows_the_plan_and_changes_nothing_anywhere(company: Company):
    lose_people(company, "u6")
    directory = company.sandbox.directory
    before = {table: company.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in UNTOUCHED}
    people, jobs = dict(directory.users), len(company.sandbox.consumer.jobs)
    company.sandbox.calls.clear()

    run_id = company.run(dry_run=True)

    assert company.state(run_id) == "success"
    assert company.saga(run_id)["status"] == "completed"
    log = company.log(run_id, PLAN)
    assert "users: 1 removed (known: 6)" in log
    assert "users removed: u6" in log
    assert {table: company.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in UNTOUCHED} == before
    assert dict(directory.users) == people
    assert len(company.sandbox.consumer.jobs) == jobs
    assert not [path for path in company.sandbox.calls.counts() if "ecisaccountsync" in path]
    assert company.rows("SELECT uid FROM plan_changes WHERE kind = 'users' AND action = 'removed'") == [
        {"uid": "u6"}
    ]
    assert len(company.rows(STAGED, run_id)) == 5


def test_a_plan_that_is_approved_is_published(company: Company):
    lose_people(company, "u5", "u6")
    run_id = company.trigger(wps_conn_id="wps_asking")
    asked = wait_until_asked(company, run_id)
    assert asked["options"] == ["Approve", "Reject"]
    assert "2 of 6 users would be removed" in asked["body"].replace("\\", "")
    assert "员工5" in asked["body"]
    assert company.tasks(run_id)["save_users"] is None
    assert company.lock_holder() is not None

    answer(company, run_id, "Approve", reason="They left")

    assert company.wait(run_id) == "success"
    comparison = company.compare()
    assert comparison.equal, comparison.differences
    [approved] = data(company, run_id, "approved")
    assert (approved["user"], approved["reason"]) == ("admin", "They left")
    assert approved["hash"] == company.rows("SELECT hash FROM sync_plans ORDER BY created_at DESC")[0]["hash"]
    assert company.stack.api.xcoms(DAG, run_id, PLAN) == {}


def test_a_plan_that_is_rejected_is_undone_and_asked_about_again_when_cleared(company: Company):
    lose_people(company, "u5", "u6")
    published = len(company.rows("SELECT 1 FROM tb_las_department WHERE pid = '-1'"))
    run_id = company.trigger(wps_conn_id="wps_asking")
    wait_until_asked(company, run_id)
    answer(company, run_id, "Reject", reason="A mistake")

    assert company.wait(run_id) == "failed"
    saga = company.saga(run_id)
    assert (saga["status"], saga["failed_step"]) == ("compensated", PLAN)
    message = company.log(run_id, "saga_outcome")
    assert "checkpoint plan_changes failed: admin rejected plan" in message
    assert "A mistake" in message
    assert {company.tasks(run_id)[save] for save in STEPS[2:6]} == {"upstream_failed"}
    assert company.lock_holder() is None
    assert "u5" in company.sandbox.directory.users

    company.clear(run_id, only_failed=True)
    wait_until_asked(company, run_id)
    assert company.saga(run_id)["epoch"] == 2
    # Somebody else has left meanwhile: Airflow would go on showing the old request.
    company.sandbox.organisation.remove_user("u4")
    answer(company, run_id, "Reject")
    assert company.wait(run_id) == "failed"
    company.clear(run_id, PLAN)
    assert company.wait(run_id) == "failed"
    assert "Start a new run" in company.log(run_id, "saga_outcome")
    assert company.saga(run_id)["status"] == "compensated"
    assert len(company.rows("SELECT 1 FROM tb_las_department WHERE pid = '-1'")) == published


def test_a_plan_about_which_nobody_decides_is_undone(company: Company):
    lose_people(company, "u5", "u6")
    run_id = company.run(wps_conn_id="wps_hasty")
    assert company.state(run_id) == "failed"
    assert company.saga(run_id)["status"] == "compensated"
    assert "Nobody decided about plan" in company.log(run_id, "saga_outcome")
    [rejected] = data(company, run_id, "rejected")
    assert rejected["user"] is None
    assert "u5" in company.sandbox.directory.users
