"""What a task knows of its run, read from Airflow's context."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from nancalacc.saga.coordinator import Coordinator, RunView
from nancalacc.saga.definition import SagaDefinition, transaction_id_of
from nancalacc.saga.params import require_known
from nancalacc.saga.telemetry import named

SETTLE = "settle_saga"
OUTCOME = "saga_outcome"
FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def task_states(context: Mapping[str, Any]) -> dict[str, Any]:
    """The states of the tasks of this run."""
    task_instance = context["ti"]
    states: dict[str, Any] = task_instance.get_task_states(
        dag_id=task_instance.dag_id, run_ids=[task_instance.run_id]
    ).get(task_instance.run_id, {})
    return states


def start_saga(coordinator: Coordinator, definition: SagaDefinition, context: Mapping[str, Any]) -> str:
    """Make sure the run's saga exists; returns its transaction id."""
    run = context["dag_run"]
    return coordinator.start(definition, dag_id=run.dag_id, run_id=run.run_id, params=run_params(context))


def named_run(context: Mapping[str, Any], *, step: str) -> AbstractContextManager[None]:
    """Name the run's saga, and the step or other task, on every log line of the block."""
    run = context["dag_run"]
    return named(transaction_id_of(dag_id=run.dag_id, run_id=run.run_id), step=step)


def run_params(context: Mapping[str, Any]) -> dict[str, Any]:
    """The run's parameters, including keys that the DAG does not know (the saga refuses them)."""
    return dict(context["params"]) | dict(context["dag_run"].conf or {})


def known_params(context: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """The run's parameters; raises RefusedError for a key that is none of the known ones."""
    params = run_params(context)
    require_known(params, known)
    return params


def run_view(definition: SagaDefinition, context: Mapping[str, Any]) -> RunView:
    """What Airflow says about the other tasks of this run."""
    states = task_states(context)
    return RunView(
        closed=states.get(SETTLE) in FINISHED and states.get(OUTCOME) in FINISHED,
        started=context["dag_run"].start_date,
        green=frozenset(step.name for step in definition if states.get(step.name) == "success"),
        failed=frozenset(each.name for each in definition.checkpoints if states.get(each.name) == "failed"),
    )
