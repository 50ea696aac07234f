"""What a running Airflow tells people: once for each incident, whoever finished the saga."""

from collections.abc import Callable

import pytest

from e2e.company import DAG, Company
from e2e.test_recovery import recover, recover_to_the_end
from nancalacc.saga.definition import transaction_id_of

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]


@pytest.fixture
def told(company: Company) -> Callable[[str], list[str]]:
    """The messages that hold a text; of what other tests left nothing is told."""
    company.execute("TRUNCATE incidents; DELETE FROM dingtalk_events")
    company.sandbox.robot.reset(company.sandbox.options.robot)
    return lambda text: [each["text"] for each in company.sandbox.robot.messages if text in each["text"]]


def test_a_sync_that_its_run_undid_is_told_once_and_again_when_a_retry_fails(
    company: Company, told: Callable[[str], list[str]]
):
    with company.broken("tb_las_user"):
        run_id = company.run()
        saga = transaction_id_of(dag_id=DAG, run_id=run_id)
        [text] = told(saga)
        for part in (
            "save_users failed",
            "SQLSTATE P0001",
            "**Undone:**",
            "save_departments",
            "Nothing was published",
            f"({company.stack.base_url}/plugin/nancalacc/nancalacc/console/?saga={saga})",
        ):
            assert part in text, text
        recover(company)
        assert told(saga) == [text]
        company.clear(run_id, only_failed=True)
        company.wait(run_id)
    assert len(told(saga)) == 2
    assert company.saga(run_id)["epoch"] == 2


def test_a_sync_whose_run_is_gone_and_dead_events_are_told_by_recovery(
    company: Company, told: Callable[[str], list[str]]
):
    with company.slow("tb_las_user", seconds=10):
        run_id = company.trigger()
        process = company.worker(run_id, "save_users")
        company.stack.api.set_run_state(DAG, run_id, state="failed")
        company.stack.api.delete_run(DAG, run_id)
        process.wait(timeout=60)
    saga = transaction_id_of(dag_id=DAG, run_id=run_id)
    assert told(saga) == []
    company.execute(
        "INSERT INTO dingtalk_events (dingtalk_conn_id, wps_conn_id, event_id, event_type, status, error)"
        " VALUES ('dingtalk_default', 'wps_default', 'e1', 'user_add_org', 'dead', '60011: no access')"
    )
    assert recover_to_the_end(company, run_id) == "compensated"
    assert len(told(saga)) == 1
    assert len(told("60011: no access")) == 1
    recover(company)
    assert len(told(saga)) == 1
    assert len(told("60011: no access")) == 1
    company.execute("DELETE FROM dingtalk_events")
