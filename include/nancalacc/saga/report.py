"""One message for the person who looks at a run that did not go well."""

from __future__ import annotations

from collections.abc import Sequence

from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.moves import past_pivot, to_undo
from nancalacc.saga.records import SagaRecord, StepRecord
from nancalacc.saga.state import SagaStatus, StepStatus


def explain(
    definition: SagaDefinition,
    saga: SagaRecord,
    steps: Sequence[StepRecord],
    *,
    failure: SagaRecord | None = None,
) -> tuple[str, ...]:
    """Which step failed and why, what was undone, what is published, and what to clear: in sentences.

    `failure` is the saga as it was when it failed: a saga that went on to complete has
    forgotten the reason.
    """
    by_name = {step.name: step for step in steps}
    reason = saga if saga.error_message or failure is None else failure
    failed = reason.failed_step or _first_unfinished(steps)
    parts = [_cause(reason, failed, by_name.get(failed))]
    undone = [step.name for step in reversed(steps) if step.status is StepStatus.COMPENSATED]
    if saga.status is SagaStatus.COMPLETED:
        parts.append(
            f"The saga went forward and is completed{_published(saga)}. Nothing needs to be cleared."
        )
    elif past_pivot(definition, by_name):
        parts.append(
            f"Nothing was undone: it is published, or may be{_published(saga)}; the saga only goes forward."
            " Once this run has ended, saga_recovery goes on with it by itself; to finish it at once, clear"
            f" {failed} together with its downstream tasks, or saga_outcome alone."
        )
    elif saga.status in {SagaStatus.COMPENSATED, SagaStatus.CANCELLED}:
        parts.append(
            f"Undone, in this order: {', '.join(undone)}." if undone else "There was nothing to undo."
        )
        parts.append("Nothing was published.")
        parts.append(f"To try again, clear {failed} together with its downstream tasks.")
    else:
        left = [step.name for step in reversed(definition.steps) if to_undo(step, by_name[step.name])]
        parts.append(
            f"The saga is {saga.status.value}; still to be undone: {', '.join(left) or 'nothing'}."
            f" Undone so far: {', '.join(undone) or 'nothing'}. Nothing was published."
            " Once this run has ended, saga_recovery goes on with it by itself; to go on at once, clear"
            " saga_outcome."
        )
    return tuple(parts)


def _cause(saga: SagaRecord, failed: str, step: StepRecord | None) -> str:
    """`step` is None for a checkpoint."""
    message = saga.error_message or (step and step.error_message) or "it did not finish"
    message = message.removeprefix(f"{failed}: ").rstrip(".")
    return f"Saga {saga.transaction_id}: {'step' if step else 'checkpoint'} {failed} failed: {message}."


def _published(saga: SagaRecord) -> str:
    return f" (task_id {saga.task_id})" if saga.task_id else ""


def _first_unfinished(steps: Sequence[StepRecord]) -> str:
    for step in steps:
        if not step.status.done:
            return step.name
    return steps[0].name
