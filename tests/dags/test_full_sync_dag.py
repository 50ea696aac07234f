"""House rules of the DAG files, and the exact graph of `full_sync`."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    "validate_task",
    "fetch_dingtalk_data",
    "save_company_config",
    "save_departments",
    "save_users",
    "save_relations",
    "notify_wps",
    "update_task_status",
]
SAVES = STEPS[2:6]
DAGS = ["full_sync", "reconcile", "saga_recovery", "saga_maintenance", "undo_sync"]
PLAN = "plan_changes"
COMPENSATIONS = [f"compensation.{step}" for step in STEPS]
DESCRIBE = """
import json, sys, time
from pathlib import Path
from airflow.dag_processing.dagbag import DagBag
folder = Path(sys.argv[1])
bag = DagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")
started = time.perf_counter()
DagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")
seconds = time.perf_counter() - started

def described(task):
    policy = task.retry_policy
    return {
        "downstream": sorted(task.downstream_task_ids),
        "trigger_rule": task.trigger_rule.value,
        "retries": task.retries,
        "owner": task.owner,
        "doc": task.doc_md,
        "backoff": task.retry_exponential_backoff,
        "timeout": task.execution_timeout.total_seconds() if task.execution_timeout else None,
        "callbacks": [each.__name__ for each in (task.on_failure_callback or [])],
        "rules": [] if policy is None else [rule.serialize() for rule in policy.rules],
        "xcom": task.do_xcom_push,
    }

print(json.dumps({
    "errors": {str(path): text for path, text in bag.import_errors.items()},
    "seconds": seconds,
    "dags": {
        dag_id: {
            "tags": sorted(dag.tags),
            "catchup": dag.catchup,
            "paused": dag.is_paused_upon_creation,
            "doc": dag.doc_md or "",
            "cron": getattr(dag.timetable, "expression", None),
            "zone": str(getattr(dag.timetable, "timezone", None)),
            "params": dag.params.dump(),
            "described": [bool(dag.params.get_param(name).description) for name in dag.params],
            "tasks": {task.task_id: described(task) for task in dag.tasks},
        }
        for dag_id, dag in bag.dags.items()
    },
}))
"""


def describe(home: Path, **environment: str) -> dict:
    """Load dags/ in a fresh process without PYTHONPATH, connections or an Airflow database."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DESCRIBE, str(ROOT / "dags")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=home,
        env=kept
        | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # Any attempt to reach a database or a server at parse time fails at once.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody@127.0.0.1:9/none",
        }
        | environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return describe(tmp_path_factory.mktemp("airflow"))


@pytest.fixture(scope="module")
def tasks(bag: dict) -> dict:
    return bag["dags"]["full_sync"]["tasks"]


def test_dag_files_load_without_pythonpath_connections_or_database(bag: dict):
    assert bag["errors"] == {}
    assert set(DAGS) <= set(bag["dags"])


def test_every_dag_has_tags_documentation_and_no_catchup(bag: dict):
    for dag in bag["dags"].values():
        assert {"saga", "nancalacc"} <= set(dag["tags"])
        assert dag["doc"].strip()
        assert dag["catchup"] is False


def test_every_task_has_owner_time_limit_and_retries_with_growing_pauses(bag: dict):
    for dag in bag["dags"].values():
        for task in dag["tasks"].values():
            assert task["owner"] == "nancalacc"
            assert task["timeout"] > 0
            assert task["retries"] >= 3
            assert task["backoff"] == 2


@pytest.mark.parametrize("dag_id", DAGS)
def test_permanent_errors_are_not_retried(bag: dict, dag_id: str):
    for task in bag["dags"][dag_id]["tasks"].values():
        assert [(rule["exception"], rule["action"]) for rule in task["rules"]] == [
            ("nancalacc.errors.FatalError", "fail"),
            ("nancalacc.errors.BusyError", "fail"),
        ]


def test_the_graph_is_exactly_that_of_the_design(tasks: dict):
    ends = {"settle_saga", "saga_outcome"}
    expected = {
        "validate_task": {"fetch_dingtalk_data"} | ends,
        "fetch_dingtalk_data": {PLAN, *SAVES} | ends,
        PLAN: set(SAVES) | ends,
        **{save: {"notify_wps"} | ends for save in SAVES},
        "notify_wps": {"update_task_status"} | ends,
        "update_task_status": {"verify_wps"} | ends,
        # Beside the saga, and not a leaf: how it ends says nothing about the run.
        "verify_wps": {"saga_outcome"},
        "settle_saga": {*COMPENSATIONS, "saga_outcome"},
        "saga_outcome": set(),
        COMPENSATIONS[0]: {"saga_outcome"},
        **{later: {earlier} for earlier, later in pairwise(COMPENSATIONS)},
    }
    assert {task_id: set(task["downstream"]) for task_id, task in tasks.items()} == expected


def test_trigger_rules(tasks: dict):
    rules = {task_id: task["trigger_rule"] for task_id, task in tasks.items()}
    assert {rules[step] for step in (*STEPS, PLAN)} == {"all_success"}
    assert {rules[step] for step in COMPENSATIONS} == {"none_failed_min_one_success"}
    assert rules["settle_saga"] == rules["saga_outcome"] == "all_done"
    assert rules["verify_wps"] == "all_success"


def test_only_steps_and_checkpoints_request_compensation_when_they_fail(tasks: dict):
    assert {task_id for task_id, task in tasks.items() if task["callbacks"]} == {*STEPS, PLAN}


def test_a_step_has_time_for_everything_it_may_have_to_replay(tasks: dict):
    assert tasks["notify_wps"]["timeout"] > sum(
        tasks[step]["timeout"] for step in ("validate_task", "save_users")
    )
    assert tasks["save_users"]["timeout"] > tasks["fetch_dingtalk_data"]["timeout"]
    assert tasks[PLAN]["timeout"] > tasks["fetch_dingtalk_data"]["timeout"]


@pytest.mark.parametrize("dag_id", DAGS)
def test_no_task_hands_data_on_by_xcom(bag: dict, dag_id: str):
    assert not any(task["xcom"] for task in bag["dags"][dag_id]["tasks"].values())


@pytest.mark.parametrize(
    "dag_id, task, cron, params",
    [
        ("saga_recovery", "recover_sagas", "*/5 * * * *", {"transaction_id": None}),
        ("saga_maintenance", "prune", "40 3 * * *", {}),
    ],
)
def test_recovery_and_maintenance_are_one_task_each_by_schedule(
    bag: dict, dag_id: str, task: str, cron: str, params: dict
):
    dag = bag["dags"][dag_id]
    assert set(dag["tasks"]) == {task}
    assert (dag["cron"], dag["zone"]) == (cron, "Asia/Shanghai")
    assert dag["params"] == params
    assert all(dag["described"])
    # Also where new DAGs are paused.
    assert dag["paused"] is False


@pytest.mark.parametrize(
    "variable, dag_id",
    [
        ("NANCALACC_RECOVERY_SCHEDULE", "saga_recovery"),
        ("NANCALACC_MAINTENANCE_SCHEDULE", "saga_maintenance"),
        ("NANCALACC_RECONCILE_SCHEDULE", "reconcile"),
    ],
)
@pytest.mark.slow
def test_what_runs_beside_the_syncs_can_be_left_to_people(tmp_path: Path, variable: str, dag_id: str):
    assert describe(tmp_path, **{variable: "none"})["dags"][dag_id]["cron"] is None


def test_reconcile_compares_each_company_by_schedule(tmp_path: Path):
    pairs = "dingtalk_default:wps_default,dingtalk_b:wps_b"
    dag = describe(tmp_path, NANCALACC_COMPANIES=pairs)["dags"]["reconcile"]
    assert set(dag["tasks"]) == {"compare__wps_default", "compare__wps_b"}
    assert (dag["cron"], dag["zone"]) == ("25 5 * * *", "Asia/Shanghai")
    assert dag["params"] == {"wps_conn_id": None, "repair": False}
    assert all(dag["described"])


def test_an_undo_has_the_graph_of_a_full_sync_and_is_started_by_people(bag: dict, tasks: dict):
    undo = bag["dags"]["undo_sync"]
    assert {task_id: task["downstream"] for task_id, task in undo["tasks"].items()} == {
        task_id: task["downstream"] for task_id, task in tasks.items()
    }
    assert undo["cron"] is None
    assert undo["params"] == {**bag["dags"]["full_sync"]["params"], "transaction_id": None}
    assert all(undo["described"])
    # Whoever needs it does not want to look for a switch first.
    assert undo["paused"] is False


def test_parameters_are_valid_by_default_and_described(bag: dict):
    dag = bag["dags"]["full_sync"]
    assert dag["params"] == {
        "task_name": None,
        "dingtalk_conn_id": "dingtalk_default",
        "wps_conn_id": "wps_default",
        "dry_run": False,
        "allow_mass_delete": False,
    }
    assert all(dag["described"])


def test_the_default_schedule_avoids_full_hours(bag: dict):
    dag = bag["dags"]["full_sync"]
    assert (dag["cron"], dag["zone"]) == ("10 2 * * *", "Asia/Shanghai")


def test_each_further_pair_of_connections_gets_a_dag_of_its_own(tmp_path: Path):
    pairs = "dingtalk_default:wps_default,dingtalk_b:wps_b"
    dags = describe(tmp_path, NANCALACC_COMPANIES=pairs, NANCALACC_FULL_SYNC_SCHEDULE="none")["dags"]
    assert {"full_sync", "full_sync__wps_b"} <= set(dags)
    assert dags["full_sync__wps_b"]["params"]["dingtalk_conn_id"] == "dingtalk_b"
    assert dags["full_sync__wps_b"]["params"]["wps_conn_id"] == "wps_b"
    assert dags["full_sync"]["cron"] is None


def test_a_warm_parse_is_quick(bag: dict):
    """A limit of the design for one machine's dag processor, far from what a busy one needs."""
    assert bag["seconds"] < 2


def test_there_is_one_python_file_below_plugins():
    assert [path.name for path in (ROOT / "plugins").rglob("*.py")] == ["nancalacc_plugin.py"]
