"""The graph of `incremental_sync`: the same factory behind a gate."""

from itertools import pairwise
from pathlib import Path

import pytest

from dags.test_full_sync_dag import describe
from nancalacc.sync.incremental import INCREMENTAL_SYNC

STEPS = [
    "claim_events",
    "fetch_changes",
    "save_departments",
    "save_users",
    "save_relations",
    "notify_wps",
    "confirm_increments",
    "update_event_status",
]
COMPENSATIONS = [f"compensation.{step}" for step in STEPS]


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return describe(tmp_path_factory.mktemp("airflow"))["dags"]["incremental_sync"]


def test_the_graph_is_that_of_the_design(dag: dict):
    ends = {"settle_saga", "saga_outcome"}
    expected = {
        "wait_for_events": {STEPS[0]},
        **{step: {following} | ends for step, following in pairwise(STEPS)},
        STEPS[-1]: ends,
        "settle_saga": {*COMPENSATIONS, "saga_outcome"},
        "saga_outcome": set(),
        COMPENSATIONS[0]: {"saga_outcome"},
        **{later: {earlier} for earlier, later in pairwise(COMPENSATIONS)},
    }
    assert {task_id: set(task["downstream"]) for task_id, task in dag["tasks"].items()} == expected


def test_only_steps_request_compensation_and_no_task_hands_data_on(dag: dict):
    assert {task_id for task_id, task in dag["tasks"].items() if task["callbacks"]} == set(STEPS)
    assert not any(task["xcom"] for task in dag["tasks"].values())


def test_every_step_says_what_it_does(dag: dict):
    docs = {step.name: step.action.__doc__ for step in INCREMENTAL_SYNC}
    assert {step: dag["tasks"][step]["doc"] for step in STEPS} == docs


def test_parameters_are_valid_by_default_and_described(dag: dict):
    assert dag["params"] == {"batch_size": None, "dingtalk_conn_id": None, "wps_conn_id": None}
    assert all(dag["described"])


def test_one_dag_serves_every_company(tmp_path: Path):
    pairs = "dingtalk_default:wps_default,dingtalk_b:wps_b"
    dags = describe(tmp_path, NANCALACC_COMPANIES=pairs)["dags"]
    assert [dag_id for dag_id in dags if dag_id.startswith("incremental_sync")] == ["incremental_sync"]
