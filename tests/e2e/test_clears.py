"""What a person does to a run by hand: clears and marks."""

import pytest

from e2e.company import DAG, STEPS, Company

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

SAVES = STEPS[2:6]


def test_four_failed_saves_cleared_as_only_failed_replay_one_fetch(company: Company):
    with company.broken("tb_company_cfg", "tb_las_department", "tb_las_user", "tb_las_department_user"):
        run_id = company.run()
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


def test_a_failed_run_of_yesterday_cleared_at_a_completed_step_becomes_the_newest(company: Company):
    with company.broken("tb_las_user"):
        yesterday = company.run()
    today = company.run()
    assert (company.state(yesterday), company.state(today)) == ("failed", "success")
    assert company.compare().equal
    company.sandbox.organisation.modify_user("u1", name="改名")

    assert company.tasks(yesterday)["fetch_dingtalk_data"] == "success"
    company.clear(yesterday, "fetch_dingtalk_data")
    company.wait(yesterday)

    assert company.state(yesterday) == "success"
    saga = company.saga(yesterday)
    assert (saga["status"], saga["epoch"]) == ("completed", 2)
    assert saga["task_id"] > company.saga(today)["task_id"]
    comparison = company.compare()
    assert comparison.equal, comparison.differences


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


def test_a_completed_step_cleared_while_the_run_goes_on_is_not_done_again(company: Company):
    with company.slow("tb_las_department_user", seconds=8):
        run_id = company.trigger()
        company.stack.api.wait_task(DAG, run_id, "save_users", states={"success"})
        company.clear(run_id, "save_users")
        company.stack.api.wait_task(DAG, run_id, "save_users", states={"success"})
    company.wait(run_id)

    assert company.state(run_id) == "success"
    assert company.saga(run_id)["epoch"] == 1
    assert company.events(run_id).count(("step_started", "save_users")) == 1
    assert company.compare().equal


def test_a_step_cleared_without_downstream_refuses_and_names_the_clear(company: Company):
    run_id = company.run()
    before = company.saga(run_id)
    company.clear(run_id, "save_users", downstream=False)
    company.wait(run_id)

    assert company.saga(run_id) == before
    assert "Clear save_users again together with its downstream tasks" in company.log(run_id, "save_users")


def test_a_run_marked_failed_and_cleared_as_only_failed_refuses_and_names_the_clear(company: Company):
    company.sandbox.faults.add("errcode", path="user/list", code="-1", times=None)
    run_id = company.trigger()
    company.stack.api.wait_task(DAG, run_id, "fetch_dingtalk_data", states={"running"})
    company.worker(run_id, "fetch_dingtalk_data")
    company.stack.api.set_run_state(DAG, run_id, state="failed")
    company.clear(run_id, only_failed=True)
    company.wait(run_id)

    log = company.log(run_id, "fetch_dingtalk_data")
    assert "Clear fetch_dingtalk_data again together with its downstream tasks" in log
    saga = company.saga(run_id)
    assert (saga["status"], saga["epoch"]) == ("in_progress", 1)
    assert company.rows("SELECT 1 FROM tb_las_user") == []

    company.sandbox.faults.clear()
    company.clear(run_id, "fetch_dingtalk_data")
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.compare().equal


def test_a_step_marked_successful_by_hand_is_run_by_its_successor(company: Company):
    with company.broken("tb_las_user"):
        run_id = company.run()
    company.stack.api.set_task_state(DAG, run_id, "save_users", state="success")
    company.clear(run_id, "notify_wps")
    company.wait(run_id)

    assert company.state(run_id) == "success"
    assert company.compare().equal
    assert company.steps(run_id)["save_users"]["status"] == "completed"


def test_the_company_row_kept_by_hand_can_be_skipped_with_a_mark(company: Company):
    company.execute(
        "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id, status)"
        " VALUES ('sandbox', 'dingtalk', 'sandbox-wps', 1)"
    )
    before = company.rows("SELECT * FROM tb_company_cfg")
    with company.broken("tb_company_cfg"):
        run_id = company.run()
        assert company.saga(run_id)["status"] == "compensated"
        company.stack.api.set_task_state(DAG, run_id, "save_company_config", state="success")
        company.clear(run_id, "notify_wps")
        company.wait(run_id)

    assert company.state(run_id) == "success"
    saga = company.saga(run_id)
    assert (saga["status"], saga["progress"]) == ("completed", 100)
    assert company.steps(run_id)["save_company_config"]["status"] == "skipped"
    assert company.rows("SELECT * FROM tb_company_cfg") == before
    assert company.compare().equal


def test_a_completed_save_cleared_beside_a_failed_sibling_is_undone_and_the_clear_that_works_is_named(
    company: Company,
):
    with company.broken("tb_las_user"):
        run_id = company.run()
    # The sibling stays failed in Airflow, so that notify_wps cannot start, whatever the saga does.
    company.clear(run_id, "save_departments")
    company.wait(run_id)

    assert company.state(run_id) == "failed"
    saga = company.saga(run_id)
    assert (saga["status"], saga["epoch"], saga["failed_step"]) == ("compensated", 2, "save_users")
    assert company.snapshot_rows(saga["task_id"]) == 0
    assert company.lock_holder() is None
    assert "clear save_users together with its downstream tasks" in company.log(run_id, "saga_outcome")

    company.clear(run_id, "save_users")
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.compare().equal
