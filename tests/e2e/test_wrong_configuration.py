"""What a person may have configured wrongly, and what they are told."""

import pytest

from e2e.company import DAG, OWN_TABLES, SNAPSHOT_TABLES, Company
from nancalacc.sandbox.robot import ROBOT_PATH

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

REFUSED = {
    "allow_mass_delte": {"allow_mass_delte": True},
    "20260230000000": {"task_name": "20260230000000"},
    "no_such_connection": {"wps_conn_id": "no_such_connection"},
}
"""By the word that the message must hold."""
WRONG_CONNECTIONS = {
    "dingtalk_wrong_secret": {"dingtalk_conn_id": "dingtalk_wrong_secret"},
    "dingtalk_away": {"dingtalk_conn_id": "dingtalk_away"},
    "wps_wrong_secret": {"wps_conn_id": "wps_wrong_secret"},
    "wps_away": {"wps_conn_id": "wps_away"},
}


def attempts(company: Company, run_id: str, task: str) -> int:
    return company.stack.api.task_instances(DAG, run_id)[task]["try_number"]


def test_wrong_parameters_are_refused_before_anything_is_called_or_written(company: Company):
    company.sandbox.calls.clear()
    runs = {word: company.trigger(**conf) for word, conf in REFUSED.items()}

    for word, run_id in runs.items():
        assert company.wait(run_id) == "failed", word
        assert company.saga(run_id)["status"] in {"cancelled", "compensated"}, word
        assert word in company.log(run_id, "saga_outcome")
        assert attempts(company, run_id, "validate_task") == 1, word
    assert company.rows("SELECT 1 FROM task") == []
    # People are told, but neither DingTalk nor WPS is asked anything.
    assert set(company.sandbox.calls.counts()) <= {ROBOT_PATH}


def test_a_wrong_secret_and_an_unreachable_host_are_named_and_nothing_is_published(company: Company):
    runs = {conn_id: company.trigger(**conf) for conn_id, conf in WRONG_CONNECTIONS.items()}

    for conn_id, run_id in runs.items():
        assert company.wait(run_id) == "failed", conn_id
        saga = company.saga(run_id)
        assert saga["status"] in {"cancelled", "compensated"}, conn_id
        assert repr(conn_id) in saga["error_message"]
        assert conn_id in company.log(run_id, "saga_outcome")
    # A wrong secret stays wrong; a host may come back.
    assert attempts(company, runs["dingtalk_wrong_secret"], "validate_task") == 1
    assert attempts(company, runs["dingtalk_away"], "validate_task") == 6
    assert attempts(company, runs["wps_wrong_secret"], "notify_wps") == 1
    assert attempts(company, runs["wps_away"], "notify_wps") == 6
    for table in (*SNAPSHOT_TABLES, "tb_company_cfg"):
        assert company.rows(f"SELECT 1 FROM {table}") == [], table
    assert company.lock_holder() is None
    assert {row["status"] for row in company.rows("SELECT status FROM task")} == {"cancelled"}
    assert company.sandbox.consumer.jobs == []


def test_a_schema_that_is_behind_stops_everything_and_names_the_command(company: Company):
    [row] = company.rows("SELECT version_num FROM nancalacc_alembic_version")
    company.sandbox.calls.clear()
    company.execute("UPDATE nancalacc_alembic_version SET version_num = '0001'")
    try:
        run_id = company.run()
    finally:
        company.execute("UPDATE nancalacc_alembic_version SET version_num = %s", row["version_num"])

    assert company.state(run_id) == "failed"
    for task in ("validate_task", "saga_outcome"):
        assert "python -m nancalacc db upgrade" in company.log(run_id, task)
        assert attempts(company, run_id, task) == 1
    # People are told, but neither DingTalk nor WPS is asked anything.
    assert set(company.sandbox.calls.counts()) <= {ROBOT_PATH}
    for table in OWN_TABLES.split(", "):
        assert company.rows(f"SELECT 1 FROM {table}") == [], table

    company.clear(run_id, "validate_task")
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.compare().equal
