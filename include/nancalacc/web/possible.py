"""Which actions a saga's state allows, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence

from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.moves import CANCELLED, past_pivot
from nancalacc.saga.records import SagaRecord, StepRecord
from nancalacc.saga.state import SagaStatus, StepStatus
from nancalacc.sync.publish import SNAPSHOT_SAGAS
from nancalacc.web.schemas import Action, Possible

SKIPPABLE_IN = frozenset({SagaStatus.PENDING, SagaStatus.IN_PROGRESS, SagaStatus.FAILED})


def possible(
    definition: SagaDefinition,
    saga: SagaRecord,
    steps: Sequence[StepRecord],
    *,
    stale_seconds: float,
) -> list[Possible]:
    """Every action; what only Airflow knows (does the run live?) is looked at when it is asked for.

    `stale_seconds`: a step whose heart-beat is older is nobody's any more.
    """
    at_work = next((step.name for step in steps if _is_alive(step, stale_seconds)), None)
    return [
        _retry(saga, steps, at_work=at_work),
        _skip(definition, saga, steps),
        _cancel(definition, saga, steps),
        _recover(saga, at_work=at_work),
        _undo(saga),
    ]


def retried_step(saga: SagaRecord, steps: Sequence[StepRecord]) -> str:
    """The step from which a retry runs the saga again: the one that failed, or the first not done."""
    if saga.failed_step:
        return saga.failed_step
    return next((step.name for step in steps if not step.status.done), steps[0].name)


def _is_alive(step: StepRecord, stale_seconds: float) -> bool:
    return (
        step.status is StepStatus.IN_PROGRESS
        and step.heartbeat_age is not None
        and step.heartbeat_age < stale_seconds
    )


def _retry(saga: SagaRecord, steps: Sequence[StepRecord], *, at_work: str | None) -> Possible:
    if saga.status is SagaStatus.COMPLETED:
        return _no(Action.RETRY, "The saga is completed: start a new sync instead")
    if saga.goal == CANCELLED and saga.status is SagaStatus.COMPENSATING:
        return _no(Action.RETRY, "The saga is being cancelled: wait until it is")
    if at_work is not None:
        return _no(Action.RETRY, f"Step {at_work} is at work: wait for it, or cancel the saga")
    first = retried_step(saga, steps)
    return Possible(
        action=Action.RETRY, allowed=True, steps=[first, *[s.name for s in steps if s.name != first]]
    )


def _skip(definition: SagaDefinition, saga: SagaRecord, steps: Sequence[StepRecord]) -> Possible:
    if saga.status not in SKIPPABLE_IN:
        return _no(Action.SKIP, f"The saga is {saga.status.value}: nothing can be skipped")
    open_ = [step.name for step in steps if not step.status.done and definition[step.name].skippable]
    if not open_:
        allowed = ", ".join(step.name for step in definition if step.skippable)
        return _no(Action.SKIP, f"Only {allowed} may be skipped, and nothing of that is open")
    return Possible(action=Action.SKIP, allowed=True, steps=open_)


def _cancel(definition: SagaDefinition, saga: SagaRecord, steps: Sequence[StepRecord]) -> Possible:
    if saga.status.ended:
        return _no(Action.CANCEL, f"The saga is {saga.status.value}: there is nothing to cancel")
    if past_pivot(definition, {step.name: step for step in steps}):
        return _no(
            Action.CANCEL,
            "It is published, or may be: the saga can only go forward. Going back is a new sync",
        )
    return Possible(action=Action.CANCEL, allowed=True)


def _recover(saga: SagaRecord, *, at_work: str | None) -> Possible:
    if saga.status.ended:
        return _no(Action.RECOVER, f"The saga is {saga.status.value}: there is nothing to recover")
    if at_work is not None:
        return _no(Action.RECOVER, f"Step {at_work} is at work: the run finishes the saga itself")
    return Possible(action=Action.RECOVER, allowed=True)


def _undo(saga: SagaRecord) -> Possible:
    if saga.definition not in SNAPSHOT_SAGAS:
        return _no(Action.UNDO, f"Only {' and '.join(SNAPSHOT_SAGAS)} can be undone: change DingTalk instead")
    if saga.status is not SagaStatus.COMPLETED:
        return _no(Action.UNDO, f"The saga is {saga.status.value}: only a completed sync can be undone")
    if saga.params.get("dry_run") is True:
        return _no(Action.UNDO, "It was a dry run: nothing was published")
    return Possible(action=Action.UNDO, allowed=True)


def _no(action: Action, reason: str) -> Possible:
    return Possible(action=action, allowed=False, reason=reason)
