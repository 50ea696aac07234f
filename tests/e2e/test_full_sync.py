"""`full_sync` on a real scheduler: what goes well, and every way in which it does not."""

import json

import pytest

from e2e.company import COMPENSATIONS, STEPS, Company
from otlp import Receiver

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

SAVES = STEPS[2:6]


def test_a_full_sync_makes_wps_equal_to_dingtalk_and_is_one_trace(company: Company, stack_spans: Receiver):
    run_id = company.run()

    assert company.state(run_id) == "success"
    comparison = company.compare()
    assert comparison.equal, comparison.differences
    tasks = company.tasks(run_id)
    assert {tasks[step] for step in [*STEPS, "settle_saga"]} == {"success"}
    assert {tasks[task] for task in [*COMPENSATIONS, "saga_outcome"]} == {"skipped"}
    saga = company.saga(run_id)
    assert (saga["status"], saga["progress"], saga["epoch"]) == ("completed", 100, 1)
    assert {step["status"] for step in company.steps(run_id).values()} == {"completed"}
    [task] = company.rows("SELECT * FROM task")
    assert (task["title"], task["status"], task["progress"]) == (saga["task_id"], "completed", 100)
    assert company.lock_holder() is None

    events = company.events(run_id)
    assert events[0] == ("saga_started", "")
    assert ("saga_completed", "") in events
    for step in STEPS:
        assert events.index(("step_started", step)) < events.index(("step_completed", step))
    for earlier, later in (STEPS[0:2], STEPS[1:3], (STEPS[5], STEPS[6]), STEPS[6:8]):
        assert events.index(("step_completed", earlier)) < events.index(("step_started", later))

    # Every task sends its spans before its process ends.
    spans = {span.name: span for span in stack_spans.spans(saga["transaction_id"])}
    whole = spans["saga full_sync"]
    assert whole.parent_span_id == b""
    for step in STEPS:
        assert spans[f"step {step}"].parent_span_id == whole.span_id
    assert spans["POST /topapi/v2/user/list"].parent_span_id == spans["step fetch_dingtalk_data"].span_id
    [log] = company.stack.home.rglob(f"run_id={run_id}/task_id=fetch_dingtalk_data/*.log")
    line = next(json.loads(line) for line in log.read_text().splitlines() if "attempt 1" in line)
    assert line["transaction_id"] == saga["transaction_id"]
    assert (line["step"], line["epoch"], line["attempt"]) == ("fetch_dingtalk_data", 1, 1)


def test_a_second_sync_after_changes_follows_them(company: Company):
    assert company.state(company.run()) == "success"
    company.compare()
    organisation = company.sandbox.organisation
    organisation.modify_user("u1", name="改名")
    organisation.remove_user("u6")
    organisation.add_department("新部门", parent_id=200, dept_id=210)
    company.relax_thresholds()

    assert company.state(company.run()) == "success"
    comparison = company.compare()
    assert comparison.equal, comparison.differences


@pytest.mark.parametrize(
    "step, table",
    [
        ("save_company_config", "tb_company_cfg"),
        ("save_departments", "tb_las_department"),
        ("save_users", "tb_las_user"),
        ("save_relations", "tb_las_department_user"),
    ],
)
def test_a_save_that_fails_for_good_is_undone_and_its_clear_repairs_it(
    company: Company, step: str, table: str
):
    with company.broken(table):
        run_id = company.run()

    assert company.state(run_id) == "failed"
    saga = company.saga(run_id)
    assert saga["status"] == "compensated"
    assert saga["progress"] == 0
    assert company.snapshot_rows(saga["task_id"]) == 0
    assert company.rows("SELECT * FROM tb_company_cfg") == []
    assert company.lock_holder() is None
    assert company.rows("SELECT status FROM task") == [{"status": "cancelled"}]
    undone = [name for event, name in company.events(run_id) if event == "compensation_completed" and name]
    assert undone == sorted(undone, key=STEPS.index, reverse=True)
    # The siblings were waited for, and undone like the steps before.
    assert set(undone) >= {"validate_task", "fetch_dingtalk_data", *set(SAVES)} - {step}
    message = company.log(run_id, "saga_outcome")
    assert f"step {step} failed" in message
    assert "P0001" in message
    assert f"clear {step}" in message

    company.clear(run_id, step)
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.saga(run_id)["epoch"] == 2
    assert company.saga(run_id)["task_id"] == saga["task_id"]
    assert company.compare().equal


@pytest.mark.parametrize("code", ["400", "403"])
def test_a_definite_refusal_by_wps_is_undone(company: Company, code: str):
    company.sandbox.faults.add("errcode", path="full/sync", code=code, times=None)
    run_id = company.run()

    assert company.state(run_id) == "failed"
    saga = company.saga(run_id)
    assert saga["status"] == "compensated"
    assert company.snapshot_rows(saga["task_id"]) == 0
    assert f"{code}" in company.log(run_id, "saga_outcome")
    company.sandbox.faults.clear()
    company.clear(run_id, "notify_wps")
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.compare().equal


def test_a_lost_answer_of_wps_goes_forward(company: Company):
    company.sandbox.faults.add("drop", path="full/sync", after_effect=True, times=1)
    run_id = company.run()

    assert company.state(run_id) == "success"
    assert company.saga(run_id)["status"] == "completed"
    assert company.compare().equal


def test_a_busy_wps_is_asked_again_later(company: Company):
    company.sandbox.faults.add("errcode", path="full/sync", code="505", times=2)
    run_id = company.run()

    assert company.state(run_id) == "success"
    assert company.compare().equal


def test_the_last_step_failing_for_good_undoes_nothing_and_completes_later(company: Company):
    with company.broken("known_users"):
        run_id = company.run()

    assert company.state(run_id) == "failed"
    saga = company.saga(run_id)
    assert saga["status"] in {"failed", "in_progress"}
    assert company.compare().equal
    assert company.tasks(run_id)["compensation.validate_task"] == "skipped"
    assert "Nothing was undone" in company.log(run_id, "saga_outcome")

    company.clear(run_id, "saga_outcome", downstream=False)
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.saga(run_id)["status"] == "completed"
    assert company.rows("SELECT status FROM task") == [{"status": "completed"}]


@pytest.mark.parametrize(
    "kind, details",
    [
        ("errcode", {"path": "user/list", "code": "-1"}),
        ("sub_code", {"path": "user/list", "code": "90018"}),
        ("http", {"path": "department/listsub", "status": 500}),
        ("truncate", {"path": "user/list"}),
        ("qps", {"path": "accessToken"}),
    ],
    ids=["busy", "limit", "http 500", "truncated", "403 limit"],
)
def test_a_passing_trouble_at_dingtalk_does_not_show_in_the_result(
    company: Company, kind: str, details: dict
):
    company.sandbox.faults.add(kind, times=2, **details)
    run_id = company.run()

    assert company.state(run_id) == "success"
    comparison = company.compare()
    assert comparison.equal, comparison.differences


def test_a_mass_deletion_needs_the_switch(company: Company):
    organisation = company.sandbox.organisation
    template = organisation.user("u2")
    for number in range(30):
        organisation.add_user(type(template)(userid=f"x{number}", name="人", placements=template.placements))
    assert company.state(company.run()) == "success"
    assert company.compare().equal
    for number in range(30):
        organisation.remove_user(f"x{number}")
    company.relax_thresholds()

    run_id = company.run()
    assert company.state(run_id) == "failed"
    message = company.log(run_id, "saga_outcome")
    assert "allow_mass_delete" in message
    assert "30" in message
    assert "x1" in company.sandbox.directory.users

    assert company.state(company.run(allow_mass_delete=True)) == "success"
    comparison = company.compare()
    assert comparison.equal, comparison.differences


def test_a_dry_run_publishes_nothing(company: Company):
    run_id = company.run(dry_run=True)

    assert company.state(run_id) == "success"
    assert company.saga(run_id)["status"] == "completed"
    assert company.rows("SELECT 1 FROM task") == []
    assert company.rows("SELECT 1 FROM tb_las_user") == []
    assert company.sandbox.calls.times("/openapi/v7/ecisaccountsync/full/sync") == []
    assert company.sandbox.consumer.jobs == []


def test_another_company_runs_beside_a_running_one_and_a_second_run_of_the_same_is_refused(
    company: Company,
):
    # Only the first company reads the root department.
    company.sandbox.faults.add("errcode", path="user/list", body={"dept_id": 1}, code="-1", times=None)
    first = company.trigger()
    company.worker(first, "fetch_dingtalk_data")
    second = company.trigger()
    other = company.trigger(dingtalk_conn_id="dingtalk_second", wps_conn_id="wps_second")

    assert company.wait(second) == "failed"
    assert company.saga(second)["status"] == "cancelled"
    assert first in company.log(second, "saga_outcome")
    assert company.wait(other) == "success"
    comparison = company.compare(root_dept_id=100, third_company_id="second")
    assert comparison.equal, comparison.differences
    assert company.state(first) == "running"
    company.sandbox.faults.clear()
    assert company.wait(first) == "success"
    assert company.compare().equal
