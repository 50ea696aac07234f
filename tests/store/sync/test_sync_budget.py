"""The call plan in a run: made before anything is read, compared afterwards, and refusing in time."""

import pytest

from nancalacc.errors import RefusedError
from nancalacc.saga.state import SagaStatus
from nancalacc.sync.full import FULL_SYNC


def test_the_second_sync_plans_what_the_first_one_counted_and_both_are_shown(sync):
    first = sync.complete()
    assert first.records["validate_task"].action_data["call_plan"]["total"] == 0
    run = sync.complete()
    budget = run.records["fetch_dingtalk_data"].action_data["budget"]
    assert budget["planned"]["basis"] == first.transaction_id
    assert budget["planned"] == run.records["validate_task"].action_data["call_plan"]
    for path, number in budget["planned"]["calls"].items():
        assert budget["happened"]["calls"][path] == number
    assert budget["happened"]["seconds"] >= 0


def test_a_dry_run_is_as_good_a_basis(sync):
    dry = sync.start(dry_run=True)
    dry.steps()
    dry.settle()
    run = sync.start()
    run.step("validate_task")
    assert run.records["validate_task"].action_data["call_plan"]["basis"] == dry.transaction_id


def test_a_sync_that_cannot_end_in_time_is_refused_before_it_takes_the_lock(sync, sandbox):
    sync.complete()
    sync.company.change("dingtalk", calls_per_second=0.001)
    sandbox.calls.clear()
    run = sync.start()
    run.fails(RefusedError, match="calls_per_second", at="validate_task")
    assert run.status is SagaStatus.CANCELLED
    assert set(sandbox.calls.counts()) <= {"/v1.0/oauth2/accessToken", "/auth/scopes"}
    assert sync.value("SELECT count(*) FROM company_locks WHERE holder IS NOT NULL") == 0
    assert sync.value("SELECT count(*) FROM task") == 1


@pytest.mark.slow
def test_a_company_that_is_divided_as_the_refusal_says_is_not_refused_again(sync):
    first = sync.complete()
    sync.execute(
        "UPDATE saga_steps SET action_data = action_data || '{\"users\": 200000}'"
        " WHERE step_name = 'fetch_dingtalk_data'"
    )
    sync.company.change("dingtalk", calls_per_second=15)
    sync.start().fails(RefusedError, match="'root_dept_id'", at="validate_task")
    sync.company.change("dingtalk", root_dept_id=110)
    divided = sync.start()
    assert divided.step("validate_task")["call_plan"]["basis"] == ""
    divided.sync.coordinator.cancel(
        FULL_SYNC, divided.transaction_id, services=divided.services, reason="by a person"
    )
    sync.company.change("dingtalk", root_dept_id=1, calls_per_second=0)
    assert sync.start().step("validate_task")["call_plan"]["basis"] == first.transaction_id


def test_without_a_limit_of_calls_a_large_company_is_warned_of_the_address_limit(sync):
    first = sync.complete()
    sync.execute(
        "UPDATE saga_steps SET action_data = action_data || '{\"users\": 20000}'"
        " WHERE transaction_id = :id AND step_name = 'fetch_dingtalk_data'",
        id=first.transaction_id,
    )
    run = sync.start()
    run.step("validate_task")
    [warning] = [data["message"] for kind, data in run.events if kind == "warning"]
    assert "10000 in 20 s" in warning
