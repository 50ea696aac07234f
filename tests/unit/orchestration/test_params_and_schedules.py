"""What a run was asked for and when DAGs run: what cannot be meant is refused by name."""

from types import SimpleNamespace

import pytest

from nancalacc.config import Settings
from nancalacc.errors import ConfigurationError, RefusedError
from nancalacc.orchestration.recovery import recover_sagas
from nancalacc.orchestration.runs import known_params
from nancalacc.orchestration.schedules import timetable
from nancalacc.orchestration.verification import reconcile


def context(params: dict[str, object], conf: dict[str, object]) -> dict[str, object]:
    return {"params": params, "dag_run": SimpleNamespace(conf=conf, dag_id="dag", run_id="run"), "ti": None}


def test_a_run_has_the_dags_parameters_and_those_it_was_given():
    assert known_params(context({"a": 1, "b": 2}, {"b": 3}), "a", "b") == {"a": 1, "b": 3}


def test_another_parameter_is_refused_with_those_there_are():
    with pytest.raises(RefusedError, match="Unknown parameter 'c': this DAG has a, b"):
        known_params(context({"a": 1}, {"c": 3}), "a", "b")


def test_a_misspelt_parameter_does_not_recover_every_saga():
    with pytest.raises(RefusedError, match="'transactionid': this DAG has transaction_id"):
        recover_sagas(context({"transaction_id": None}, {"transactionid": "x"}))


def test_a_company_that_is_none_is_not_compared_by_silence():
    services = SimpleNamespace(settings=Settings(companies=(("a", "b"), ("c", "d"))))
    with pytest.raises(RefusedError, match=r"'wps_conn_id' 'x' is no WPS connection .*: b, d"):
        reconcile(
            context({"wps_conn_id": "x"}, {}),
            services=lambda _: services,
            dingtalk_conn_id="a",
            wps_conn_id="b",
        )


@pytest.mark.parametrize("cron", ["daily", "61 1 * * *", "* * *"])
def test_what_is_no_cron_expression_is_refused_by_its_variable(cron):
    with pytest.raises(ConfigurationError, match="NANCALACC_FULL_SYNC_SCHEDULE must be a cron expression"):
        timetable(cron, variable="NANCALACC_FULL_SYNC_SCHEDULE", settings=Settings())


@pytest.mark.parametrize("cron", ["10 2 * * *", "@daily"])
def test_a_cron_expression_counts_in_the_configured_zone(cron):
    found = timetable(cron, variable="NANCALACC_FULL_SYNC_SCHEDULE", settings=Settings())
    assert found.timezone == "Asia/Shanghai"


def test_without_a_schedule_people_start_the_dag():
    assert timetable(None, variable="NANCALACC_FULL_SYNC_SCHEDULE", settings=Settings()) is None
