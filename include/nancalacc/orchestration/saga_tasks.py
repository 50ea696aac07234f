"""Turns a saga definition into the tasks of a DAG: steps, settlement, compensation, outcome.

Knows nothing of what a saga does: a second saga is a second definition.

    step → … → step, with a checkpoint between some of them
    every step and checkpoint → settle_saga (branch) → compensation.* in reverse → saga_outcome

A gate is a task before the first step that may skip the run: then there is no saga at all.
A check is a task after the last step that looks at what came of the saga. The saga is settled beside
it, and how it ends says nothing about the run: only saga_outcome, which follows both, does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule, TaskGroup, TriggerRule, task
from airflow.sdk.exceptions import AirflowFailException

from nancalacc.errors import BusyError, FatalError, NancalaccError, TransientError
from nancalacc.orchestration.asking import AskingOperator
from nancalacc.orchestration.callbacks import step_failed
from nancalacc.orchestration.runs import (
    OUTCOME,
    SETTLE,
    named_run,
    run_params,
    run_view,
    start_saga,
    task_states,
)
from nancalacc.orchestration.steps import ServicesOf, StepOperator
from nancalacc.saga.checkpoint import Answer, Checkpoint, Question
from nancalacc.saga.coordinator import Coordinator, Verdict
from nancalacc.saga.definition import SagaDefinition, Step, transaction_id_of
from nancalacc.saga.report import explain
from nancalacc.saga.state import SagaStatus
from nancalacc.saga.telemetry import named

log = logging.getLogger(__name__)

COMPENSATION = "compensation"
SETTLE_LIMIT = timedelta(minutes=10)
COMPENSATION_LIMIT = timedelta(hours=1)
MAX_RETRY_DELAY = timedelta(minutes=10)


def saga_tasks(
    definition: SagaDefinition,
    *,
    services: ServicesOf,
    outcome_services: ServicesOf,
    retry_delay: timedelta,
    gate: Any = None,
    check: Any = None,
) -> None:
    """Add the tasks of the saga to the DAG in whose `with` block this is called.

    `services` is called once in each task process, `outcome_services` in that of saga_outcome: whoever
    waits there keeps the run open for what saga_recovery does as well. `retry_delay` is the first pause
    before a retry; each further one is twice as long. `gate`: the task that decides whether there is
    anything to do; `check`: the one that looks at the result.
    """
    retrying = retry_arguments(retry_delay)
    steps = {
        step.name: _step_task(definition, step, services=services, retrying=retrying) for step in definition
    }
    for step in definition:
        for predecessor in step.depends_on:
            steps[predecessor] >> steps[step.name]
    checkpoints = []
    for checkpoint in definition.checkpoints:
        looking = _checkpoint_task(definition, checkpoint, services=services, retrying=retrying)
        [steps[name] for name in checkpoint.after] >> looking >> [steps[name] for name in checkpoint.before]
        checkpoints.append(looking)
    gate_id = None if gate is None else gate.task_id
    if gate is not None:
        gate >> [steps[step.name] for step in definition if not step.depends_on]
    settle = _settle_task(definition, retrying=retrying, gate_id=gate_id)
    outcome = _outcome_task(definition, services=outcome_services, retrying=retrying, gate_id=gate_id)
    [*steps.values(), *checkpoints] >> settle
    # Directly downstream of every step, too: "clear only failed tasks" must make it wait for them.
    [*steps.values(), *checkpoints, settle] >> outcome
    if check is not None:
        steps[definition.steps[-1].name] >> check >> outcome
    previous = settle
    with TaskGroup(COMPENSATION, tooltip="Undoes the completed steps in reverse"):
        for step in reversed(definition.steps):
            undo = _compensation_task(definition, step, services=services, retrying=retrying)
            settle >> undo
            if previous is not settle:
                previous >> undo
            previous = undo
    previous >> outcome


def retry_arguments(retry_delay: timedelta) -> dict[str, Any]:
    """What every task of ours has: growing pauses before retries, and none for errors that stay."""
    return {
        "retry_delay": retry_delay,
        "retry_exponential_backoff": 2,
        "max_retry_delay": MAX_RETRY_DELAY,
        "retry_policy": ExceptionRetryPolicy(
            rules=[
                _never_again(FatalError, reason="Trying again cannot help"),
                _never_again(BusyError, reason="The step has waited long enough"),
            ]
        ),
        "do_xcom_push": False,
    }


def _never_again(error: type[Exception], *, reason: str) -> RetryRule:
    return RetryRule(
        exception=f"{error.__module__}.{error.__qualname__}", action=RetryAction.FAIL, reason=reason
    )


def _step_task(
    definition: SagaDefinition, step: Step, *, services: ServicesOf, retrying: Mapping[str, Any]
) -> Any:
    limits = [predecessor.time_limit for predecessor in definition.predecessors(step.name)]

    return StepOperator(
        task_id=step.name,
        definition=definition,
        step=step,
        services=services,
        doc_md=step.action.__doc__,
        retries=step.max_retries,
        execution_timeout=sum(limits, step.time_limit),
        on_failure_callback=step_failed,
        **retrying,
    )


def _checkpoint_task(
    definition: SagaDefinition, checkpoint: Checkpoint, *, services: ServicesOf, retrying: Mapping[str, Any]
) -> Any:
    names = {name for after in checkpoint.after for name in (after, *_names(definition.predecessors(after)))}
    limits = [step.time_limit for step in definition if step.name in names]

    def ask(context: Any) -> Question | None:
        from nancalacc.orchestration.hooks import open_coordinator
        from nancalacc.orchestration.incidents import tell_incidents

        with named_run(context, step=checkpoint.name), open_coordinator() as coordinator:
            question = coordinator.check(
                definition,
                start_saga(coordinator, definition, context),
                checkpoint.name,
                services=services(context),
                params=run_params(context),
                run=run_view(definition, context),
            )
        if question is not None:
            tell_incidents()
        return question

    def decide(context: Any, key: str, answer: Answer) -> None:
        from nancalacc.orchestration.hooks import open_coordinator

        with named_run(context, step=checkpoint.name), open_coordinator() as coordinator:
            coordinator.decide(
                definition,
                start_saga(coordinator, definition, context),
                checkpoint.name,
                key=key,
                answer=answer,
                services=services(context),
            )

    return AskingOperator(
        task_id=checkpoint.name,
        ask=ask,
        decide=decide,
        subject=f"May {definition.name} go on?",
        doc_md=checkpoint.check.__doc__,
        retries=5,
        execution_timeout=sum(limits, checkpoint.time_limit),
        on_failure_callback=step_failed,
        **retrying,
    )


def _names(steps: Iterable[Step]) -> list[str]:
    return [step.name for step in steps]


def _settle_task(definition: SagaDefinition, *, retrying: Mapping[str, Any], gate_id: str | None) -> Any:
    @task.branch(
        task_id=SETTLE,
        doc_md="Waits for all steps; completes the saga, or starts to undo it from the last step on.",
        trigger_rule=TriggerRule.ALL_DONE,
        retries=5,
        execution_timeout=SETTLE_LIMIT,
        **retrying,
    )
    def settle_saga(**context: Any) -> list[str]:
        from nancalacc.orchestration.hooks import open_coordinator

        with named_run(context, step=SETTLE), open_coordinator() as coordinator:
            if gate_id is not None and not _exists(coordinator, context):
                return [] if _is_skipped(gate_id, context) else [OUTCOME]
            transaction_id = start_saga(coordinator, definition, context)
            settlement = coordinator.settle(definition, transaction_id, run=run_view(definition, context))
        if settlement.verdict is Verdict.COMPLETED:
            return []
        if settlement.first is not None:
            return [f"{COMPENSATION}.{settlement.first}", OUTCOME]
        return [OUTCOME]

    return settle_saga()


def _compensation_task(
    definition: SagaDefinition, step: Step, *, services: ServicesOf, retrying: Mapping[str, Any]
) -> Any:
    @task(
        task_id=step.name,
        doc_md=step.compensation.__doc__ if step.compensation else "Nothing needs to be undone.",
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        retries=5,
        execution_timeout=COMPENSATION_LIMIT,
        **retrying,
    )
    def compensate_step(**context: Any) -> None:
        from nancalacc.orchestration.hooks import open_coordinator

        with named_run(context, step=step.name), open_coordinator() as coordinator:
            transaction_id = start_saga(coordinator, definition, context)
            coordinator.compensate_step(definition, transaction_id, step.name, services=services(context))

    return compensate_step()


def _outcome_task(
    definition: SagaDefinition, *, services: ServicesOf, retrying: Mapping[str, Any], gate_id: str | None
) -> Any:
    limits = [step.time_limit for step in definition]

    @task(
        task_id=OUTCOME,
        doc_md=(
            "Runs only when something went wrong: finishes what is open, then fails with one message that"
            " says which step failed, why, what was undone, and which task to clear."
        ),
        trigger_rule=TriggerRule.ALL_DONE,
        retries=3,
        execution_timeout=sum(limits, COMPENSATION_LIMIT),
        **retrying,
    )
    def saga_outcome(**context: Any) -> None:
        from nancalacc.orchestration.incidents import tell_incidents

        with named_run(context, step=OUTCOME):
            try:
                _conclude(definition, services=services, context=context, gate_id=gate_id)
            finally:
                tell_incidents()

    return saga_outcome()


def _conclude(definition: SagaDefinition, *, services: ServicesOf, context: Any, gate_id: str | None) -> None:
    """Finish what is open; raises with one message about what went wrong, unless a person finished it."""
    from nancalacc.orchestration.hooks import open_coordinator

    with open_coordinator() as coordinator:
        if gate_id is not None and not _exists(coordinator, context):
            if _is_skipped(gate_id, context):
                return
            raise AirflowFailException(
                f"No saga was begun: the log of {gate_id}, or of {definition.steps[0].name}, says why."
                f" To try again, clear {gate_id} together with its downstream tasks."
            )
        transaction_id = start_saga(coordinator, definition, context)
        failure, steps = coordinator.get(transaction_id)
        # Nothing went wrong that anybody should hear of, or a person cleared this task to finish it.
        quiet = all(step.status.done for step in steps) or _was_cleared(context["ti"])
        with named(transaction_id, epoch=failure.epoch):
            try:
                coordinator.conclude(
                    definition, transaction_id, services=services(context), run=run_view(definition, context)
                )
            except NancalaccError as error:
                explanation = explain(definition, *coordinator.get(transaction_id), failure=failure)
                message = _logged(*explanation, f"({error})")
                if isinstance(error, FatalError | BusyError):
                    raise AirflowFailException(message) from None
                raise TransientError(message) from None
            saga, steps = coordinator.get(transaction_id)
            if saga.status is SagaStatus.COMPLETED and quiet:
                return
            raise AirflowFailException(_logged(*explain(definition, saga, steps, failure=failure)))


def _logged(*sentences: str) -> str:
    """One message of several sentences, each also a line of the log: Airflow does not wrap long ones."""
    for sentence in sentences:
        log.error("%s", sentence)
    return " ".join(sentences)


def _was_cleared(task_instance: Any) -> bool:
    """True when a person had this task run again: clearing grants the configured retries anew."""
    return bool(task_instance.max_tries > task_instance.task.retries)


def _exists(coordinator: Coordinator, context: Mapping[str, Any]) -> bool:
    run = context["dag_run"]
    return coordinator.exists(transaction_id_of(dag_id=run.dag_id, run_id=run.run_id))


def _is_skipped(task_id: str, context: Mapping[str, Any]) -> bool:
    return task_states(context).get(task_id) == "skipped"
