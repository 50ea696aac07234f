"""Whatever a task of ours logs names the saga, the step and, where it is known, the epoch."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow import sdk
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from log_lines import Line
from nancalacc.errors import DatabaseError
from nancalacc.orchestration import hooks
from nancalacc.orchestration.callbacks import step_failed
from nancalacc.orchestration.saga_tasks import saga_tasks
from nancalacc.orchestration.verification import VerifyWps
from nancalacc.saga.checkpoint import Answer, Checkpoint
from nancalacc.saga.coordinator import Coordinator
from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.waiting import Wait
from toy_saga import DAG, TOY, Toy

log = logging.getLogger("nancalacc.test")


def ask(look: Any) -> None:
    log.info("checked")


def decide(look: Any, key: str, answer: Answer) -> None:
    log.info("decided")


CHECKED = SagaDefinition(
    "toy",
    TOY.steps,
    checkpoints=(
        Checkpoint("look", check=ask, decide=decide, after=("fetch",), before=("left", "middle", "right")),
    ),
)


class TaskInstance(SimpleNamespace):
    """What the tasks ask Airflow."""

    def get_task_states(self, **_: Any) -> dict[str, Any]:
        return {}


@pytest.fixture
def context(saga: Toy) -> dict[str, Any]:
    run = SimpleNamespace(dag_id=DAG, run_id=saga.run_id, conf={}, start_date=datetime.now(UTC))
    ti = TaskInstance(
        dag_id=DAG, run_id=saga.run_id, task_id="left", max_tries=0, task=SimpleNamespace(retries=0)
    )
    return {"dag_run": run, "ti": ti, "params": {}}


@pytest.fixture
def tasks(saga: Toy, monkeypatch: pytest.MonkeyPatch) -> sdk.DAG:
    """The tasks of the toy saga, over its database."""

    @contextmanager
    def opened() -> Iterator[Coordinator]:
        yield saga.coordinator

    monkeypatch.setattr(hooks, "open_coordinator", opened)
    monkeypatch.setattr("nancalacc.orchestration.incidents.tell_incidents", lambda: log.info("told"))
    with sdk.DAG(DAG, schedule=None) as dag:
        saga_tasks(
            CHECKED,
            services=lambda _: saga.services,
            outcome_services=lambda _: saga.services,
            retry_delay=timedelta(seconds=1),
        )
    return dag


def fields_of(lines: list[Line], text: str) -> dict[str, Any]:
    """The fields of the one line that has the text."""
    [line] = [line for line in lines if text in line.text]
    return line.fields


def call(dag: sdk.DAG, task_id: str, context: dict[str, Any]) -> Any:
    return dag.get_task(task_id).python_callable(**context)


def test_a_step_that_waits(saga: Toy, tasks: sdk.DAG, context: dict[str, Any], lines: list[Line]):
    saga.run("validate")
    saga.services.waits = [Wait(condition={"phone": "here"}, seconds=300)] * 2
    step = tasks.get_task("fetch")
    with pytest.raises(TaskDeferred) as deferred:
        step.execute(context)
    with pytest.raises(TaskDeferred):
        step.resume(context, event=None, **deferred.value.kwargs)
    attempt = {"transaction_id": saga.id, "step": "fetch", "epoch": 1, "attempt": 1}
    for text in ("step fetch, attempt 1", "goes on", "step fetch waits"):
        found = [line.fields for line in lines if text in line.text]
        assert found
        assert all(fields == attempt for fields in found), text


def test_a_checkpoint(saga: Toy, tasks: sdk.DAG, context: dict[str, Any], lines: list[Line]):
    asking = tasks.get_task("look")
    asking._ask(context)
    asking._decide(context, "key", Answer(True, "ann"))
    named = {"transaction_id": saga.id, "step": "look", "epoch": 1}
    assert fields_of(lines, "checked") == named
    assert fields_of(lines, "decided") == named


def test_the_settlement_a_compensation_and_the_outcome(
    saga: Toy, tasks: sdk.DAG, context: dict[str, Any], lines: list[Line]
):
    saga.run_until("fetch")
    call(tasks, "settle_saga", context)
    assert fields_of(lines, "is settled") == {"transaction_id": saga.id, "step": "settle_saga", "epoch": 1}
    call(tasks, "compensation.fetch", context)
    assert fields_of(lines, "compensating fetch") == {
        "transaction_id": saga.id,
        "step": "fetch",
        "epoch": 1,
        "attempt": 1,
    }
    with pytest.raises(AirflowFailException):
        call(tasks, "saga_outcome", context)
    outcome = {"transaction_id": saga.id, "step": "saga_outcome"}
    assert fields_of(lines, "Undone, in this order") == outcome | {"epoch": 1}
    assert fields_of(lines, "told") == outcome


def test_a_failure_that_cannot_be_recorded(
    saga: Toy, tasks: sdk.DAG, context: dict[str, Any], lines: list[Line], monkeypatch: pytest.MonkeyPatch
):
    def away(*_: Any, **__: Any) -> None:
        raise DatabaseError("The database is away")

    monkeypatch.setattr(saga.coordinator, "fail", away)
    step_failed(context | {"exception": ValueError("broken")})
    assert fields_of(lines, "cannot record") == {"transaction_id": saga.id, "step": "left"}


def test_the_task_that_reads_wps_back(
    saga: Toy, context: dict[str, Any], lines: list[Line], monkeypatch: pytest.MonkeyPatch
):
    @contextmanager
    def away() -> Iterator[Any]:
        raise DatabaseError("The database is away")
        yield

    monkeypatch.setattr(hooks, "open_database", away)
    verify = VerifyWps(task_id="verify_wps", services=lambda _: None, seconds=1)
    with pytest.raises(AirflowSkipException):
        verify.execute(context)
    assert fields_of(lines, "cannot be verified") == {"transaction_id": saga.id, "step": "verify_wps"}
