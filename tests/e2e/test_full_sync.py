"""`full_sync` on a real scheduler: what goes well, and every way in which it does not."""

from datetime import timedelta

import pytest

from e2e.company import COMPENSATIONS, STEPS, Company

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

SAVES = STEPS[2:6]


def break_table(company: Company, table: str) -> None:
    """Make every insert into a table fail for good."""
    company.execute(
        f"""
        CREATE OR REPLACE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'broken on purpose'; END $$;
        CREATE TRIGGER broken BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION broken()
        """
    )


def mend_table(company: Company, table: str) -> None:
    company.execute(f"DROP TRIGGER IF EXISTS broken ON {table}")


def test_a_full_sync_makes_wps_equal_to_dingtalk(company: Company):
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
    break_table(company, table)
    try:
        run_id = company.run()
    finally:
        mend_table(company, table)

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
    assert "broken on purpose" in message
    assert f"clear {step}" in message

    company.clear(run_id, step)
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.saga(run_id)["epoch"] == 2
    assert company.saga(run_id)["task_id"] == saga["task_id"]
    assert company.compare().equal


def test_four_failed_saves_cleared_as_only_failed_replay_one_fetch(company: Company):
    tables = ("tb_company_cfg", "tb_las_department", "tb_las_user", "tb_las_department_user")
    for table in tables:
        break_table(company, table)
    try:
        run_id = company.run()
    finally:
        for table in tables:
            mend_table(company, table)
    assert {company.tasks(run_id)[save] for save in SAVES} == {"failed"}
    assert company.saga(run_id)["status"] == "compensated"

    company.clear(run_id, only_failed=True)
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.compare().equal
    events = company.events(run_id)
    second = events[max(i for i, event in enumerate(events) if event == ("saga_started", "")) :]
    assert second.count(("step_started", "fetch_dingtalk_data")) == 1
    assert second.count(("step_started", "validate_task")) == 1


@pytest.mark.parametrize(
    "conf",
    [
        {"allow_mass_delte": True},
        {"task_name": "20260230000000"},
        {"wps_conn_id": "no_such_connection"},
    ],
    ids=["unknown key", "impossible date", "missing connection"],
)
def test_a_wrong_configuration_is_refused_before_anything_is_called_or_written(company: Company, conf: dict):
    company.sandbox.calls.clear()
    run_id = company.run(**conf)

    assert company.state(run_id) == "failed"
    assert company.saga(run_id)["status"] in {"cancelled", "compensated"}
    [word] = [str(value) if key != "allow_mass_delte" else key for key, value in conf.items()]
    assert word in company.log(run_id, "saga_outcome")
    assert company.rows("SELECT 1 FROM task") == []
    assert company.sandbox.calls.counts() == {}
    attempts = company.stack.api.task_instances("full_sync", run_id)["validate_task"]["try_number"]
    assert attempts == 1


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
    break_table(company, "known_users")
    try:
        run_id = company.run()
    finally:
        mend_table(company, "known_users")

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


@pytest.mark.parametrize(
    "kind, details, word",
    [
        ("sub_code", {"path": "user/list", "code": "60011"}, "60011"),
        ("repeat_cursor", {"path": "user/list"}, "cursor"),
        ("empty", {"path": "department/listsub"}, ""),
    ],
    ids=["no permission", "cursor does not move", "empty root"],
)
def test_an_incomplete_source_deletes_nobody(company: Company, kind: str, details: dict, word: str):
    assert company.state(company.run()) == "success"
    before = company.compare()
    assert before.equal
    company.relax_thresholds()
    organisation = company.sandbox.organisation
    for number in range(120):
        user = organisation.user("u2")
        organisation.add_user(type(user)(userid=f"x{number}", name="新人", placements=user.placements))
    company.sandbox.faults.add(kind, times=None, **details)
    run_id = company.run()

    assert company.state(run_id) == "failed"
    assert company.saga(run_id)["status"] == "compensated"
    assert word in company.log(run_id, "saga_outcome")
    assert {"u1", "u2", "u3", "u4", "u5", "u6"} <= set(company.sandbox.directory.users)


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


def test_a_second_run_of_the_company_is_refused_and_names_the_first(company: Company):
    company.sandbox.faults.add("delay", path="user/list", seconds=6, times=1)
    first = company.trigger()
    company.stack.api.wait_task("full_sync", first, "fetch_dingtalk_data", states={"running"})
    second = company.run()

    assert company.state(second) == "failed"
    assert company.saga(second)["status"] == "cancelled"
    assert first in company.log(second, "saga_outcome")
    company.wait(first)
    assert company.state(first) == "success"


def test_a_step_cleared_without_downstream_refuses_and_names_the_clear(company: Company):
    run_id = company.run()
    before = company.saga(run_id)
    company.clear(run_id, "save_users", downstream=False)
    company.wait(run_id)

    assert company.saga(run_id) == before
    assert "Clear save_users again together with its downstream tasks" in company.log(run_id, "save_users")


def test_a_completed_run_cleared_from_a_step_syncs_anew(company: Company):
    run_id = company.run()
    first = company.saga(run_id)["task_id"]
    company.sandbox.organisation.modify_user("u1", name="改名")
    company.clear(run_id, "save_departments")
    company.wait(run_id)

    assert company.state(run_id) == "success"
    saga = company.saga(run_id)
    assert (saga["status"], saga["epoch"]) == ("completed", 2)
    assert saga["task_id"] != first
    assert company.compare().equal


def test_a_step_marked_successful_by_hand_is_run_by_its_successor(company: Company):
    break_table(company, "tb_las_user")
    try:
        run_id = company.run()
    finally:
        mend_table(company, "tb_las_user")
    company.stack.api.set_task_state("full_sync", run_id, "save_users", state="success")
    company.clear(run_id, "notify_wps")
    company.wait(run_id)

    assert company.state(run_id) == "success"
    assert company.compare().equal
    assert company.steps(run_id)["save_users"]["status"] == "completed"


def test_a_killed_save_is_retried_and_completes(company: Company):
    company.execute(
        """
        CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(6); RETURN NULL; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON tb_las_user FOR EACH STATEMENT EXECUTE FUNCTION slow()
        """
    )
    try:
        run_id = company.trigger()
        company.stack.api.wait_task("full_sync", run_id, "save_users", states={"running"})
        worker = _worker_of(company, run_id, "save_users")
        worker.kill()
        company.execute("DROP TRIGGER slow ON tb_las_user")
        company.wait(run_id)
    finally:
        company.execute("DROP TRIGGER IF EXISTS slow ON tb_las_user")

    assert company.state(run_id) == "success"
    assert company.steps(run_id)["save_users"]["retry_count"] >= 1
    assert ("step_retried", "save_users") in company.events(run_id)
    assert company.compare().equal


def _worker_of(company: Company, run_id: str, step: str):
    """The process that runs a step now, as the saga's own record names it."""
    import time

    import psutil

    deadline = time.monotonic() + timedelta(seconds=30).total_seconds()
    while time.monotonic() < deadline:
        row = company.steps(run_id)[step]
        if row["status"] == "in_progress":
            return psutil.Process(int(row["worker"].split(":")[1]))
        time.sleep(0.1)
    raise AssertionError(f"{step} did not start")
