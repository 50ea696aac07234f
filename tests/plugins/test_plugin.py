"""The plugin: what it registers, what it costs, and a listener that never harms its host."""

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from nancalacc.orchestration import listener as module
from nancalacc.orchestration.links import SagaLink, console_views
from nancalacc.orchestration.listener import Observation, SagaListener
from nancalacc.saga.definition import transaction_id_of
from nancalacc.web.mount import MountedApp

ROOT = Path(__file__).resolve().parents[2]
LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
import airflow.plugins_manager
before = set(sys.modules)
import nancalacc_plugin
loaded = set(sys.modules) - before
heavy = {"fastapi", "httpx", "sqlalchemy", "psycopg", "aiohttp", "alembic", "prometheus_client"} & loaded
print(nancalacc_plugin.NancalaccPlugin.name, len(nancalacc_plugin.NancalaccPlugin.listeners), sorted(heavy))
"""


def run_of(dag_id: str = "full_sync", run_id: str = "r1", conf: dict | None = None) -> SimpleNamespace:
    return SimpleNamespace(dag_id=dag_id, run_id=run_id, conf=conf)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Observation]:
    """What the listener would have written, in order."""
    found: list[Observation] = []
    monkeypatch.setattr(module, "_write", found.append)
    return found


def drained(listener: SagaListener) -> None:
    """Wait until the writer has taken everything."""
    for _ in range(200):
        if listener._queue.unfinished_tasks == 0:
            return
        threading.Event().wait(0.02)
    raise AssertionError("the queue is not drained")


def test_the_plugin_loads_without_pythonpath_and_without_heavy_modules():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, str(ROOT / "plugins")],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": "/nonexistent"},
    )
    assert done.stdout.split("\n")[-2] == "nancalacc 1 []"


def test_runs_of_registered_sagas_are_recorded(written: list[Observation]):
    listener = SagaListener(["full_sync"])
    listener.on_dag_run_running(dag_run=run_of(conf={"dry_run": True}), msg="")
    listener.on_dag_run_running(dag_run=run_of("full_sync__wps_b"), msg="")
    listener.on_dag_run_failed(dag_run=run_of(), msg="task_failure")
    drained(listener)
    assert [(each.what, each.dag_id) for each in written] == [
        ("started", "full_sync"),
        ("started", "full_sync__wps_b"),
        ("ended", "full_sync"),
    ]
    assert written[0].data == {"params": {"dry_run": True}}
    assert written[2].data["state"] == "failed"


def test_other_dags_do_not_even_start_a_thread():
    listener = SagaListener(["full_sync"])
    listener.on_dag_run_running(dag_run=run_of("full_sync_of_somebody_else"), msg="")
    assert listener._writer is None


def test_hand_marks_are_recorded_and_ends_inside_task_processes_are_not(written: list[Observation]):
    class RuntimeTaskInstance(SimpleNamespace):
        pass

    listener = SagaListener(["full_sync"])
    values = {"dag_id": "full_sync", "run_id": "r1", "task_id": "save_users", "task": None}
    listener.on_task_instance_success(previous_state=None, task_instance=RuntimeTaskInstance(**values))
    listener.on_task_instance_success(previous_state=None, task_instance=SimpleNamespace(**values))
    listener.on_task_instance_failed(
        previous_state=None, task_instance=SimpleNamespace(**values), error="manually set"
    )
    drained(listener)
    assert [(each.what, each.task_id, each.data["state"]) for each in written] == [
        ("marked", "save_users", "success"),
        ("marked", "save_users", "failed"),
    ]


def test_nothing_is_written_in_the_calling_thread_and_no_failure_reaches_it(monkeypatch: pytest.MonkeyPatch):
    threads: list[str] = []

    def failing(_: Observation) -> None:
        threads.append(threading.current_thread().name)
        raise RuntimeError("the database is away")

    monkeypatch.setattr(module, "_write", failing)
    listener = SagaListener(["full_sync"])
    for number in range(3):
        listener.on_dag_run_running(dag_run=run_of(run_id=f"r{number}"), msg="")
    drained(listener)
    assert threads == ["saga-listener"] * 3


def test_a_full_queue_drops_records_and_blocks_nobody(monkeypatch: pytest.MonkeyPatch):
    release = threading.Event()
    monkeypatch.setattr(module, "QUEUE_LENGTH", 2)
    monkeypatch.setattr(module, "_write", lambda _: release.wait(10))
    listener = SagaListener(["full_sync"])
    for number in range(10):
        listener.on_dag_run_running(dag_run=run_of(run_id=f"r{number}"), msg="")
    assert listener._queue.qsize() <= 2
    release.set()
    drained(listener)


async def test_the_app_is_built_at_the_first_request_and_told_of_the_app_it_is_mounted_in():
    built: list[str] = []
    seen: list[object] = []

    async def app(scope: dict, receive: object, send: object) -> None:
        seen.append(scope["nancalacc.airflow"])

    def build() -> object:
        built.append("app")
        return app

    mounted = MountedApp(build)
    assert built == []
    outer = object()
    for _ in range(2):
        await mounted({"type": "http", "app": outer}, None, None)
    assert built == ["app"]
    assert seen == [outer, outer]


@pytest.mark.parametrize(
    "base_url, page",
    [
        ("http://localhost:8080", "http://localhost:8080/plugin/nancalacc/nancalacc/console/?saga="),
        (
            "https://a.example/air/flow/",
            "https://a.example/air/flow/plugin/nancalacc/air/flow/nancalacc/console/?saga=",
        ),
    ],
)
def test_a_task_links_to_its_saga_wherever_airflow_is_served(
    monkeypatch: pytest.MonkeyPatch, base_url: str, page: str
):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    link = SagaLink(["full_sync"])
    saga = transaction_id_of(dag_id="full_sync__b", run_id="r1")
    key = SimpleNamespace(dag_id="full_sync__b", run_id="r1", task_id="save_users")
    assert link.get_link(None, ti_key=key) == page + saga
    assert link.get_link(None, ti_key=SimpleNamespace(dag_id="full_syncs", run_id="r1")) == ""


def test_the_views_are_addressed_relative_to_airflow_so_that_a_path_before_it_does_not_matter():
    for view in console_views():
        assert not view["href"].startswith(("/", "http"))
    assert [view["destination"] for view in console_views()] == ["nav", "dag_run"]
