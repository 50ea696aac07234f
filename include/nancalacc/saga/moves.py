"""Changes of a saga that touch several rows, each as one function of a locked saga."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from nancalacc.saga.definition import SagaDefinition, Step, StepKind
from nancalacc.saga.execution import current_step_of, progress_of
from nancalacc.saga.records import NOW, StepRecord
from nancalacc.saga.state import EventType, PivotState, SagaStatus, StepStatus
from nancalacc.saga.storage import Locked

CANCELLED = SagaStatus.CANCELLED.value
"""Value of `goal` while a cancelled saga is compensated."""
NO_RECOVERY: Mapping[str, None] = MappingProxyType({"recovery_at": None, "recovery_error": None})
"""A saga that has ended does not wait for its recovery; how often that was tried stays visible."""


def open_epoch(locked: Locked, *, params: Mapping[str, Any]) -> None:
    """Start the saga, or open one that has ended: every step is pending again in a new epoch.

    What has been published keeps its task id; the new epoch gets its own. What was skipped
    before the saga ever ran stays skipped.
    """
    fresh = locked.saga.status is SagaStatus.PENDING
    values: dict[str, Any] = {}
    if locked.saga.status is SagaStatus.COMPLETED:
        values["task_id"] = None
    locked.set_saga(
        SagaStatus.IN_PROGRESS,
        epoch=locked.saga.epoch + 1,
        params=dict(params),
        progress=0,
        current_step=None,
        failed_step=None,
        error_message=None,
        goal=None,
        start_time=NOW,
        end_time=None,
        recovery_tries=0,
        **NO_RECOVERY,
        **values,
    )
    skipped = [name for name, step in locked.steps.items() if step.status is StepStatus.SKIPPED]
    locked.reset_steps()
    if fresh:
        for name in skipped:
            locked.set_step(name, StepStatus.SKIPPED, end_time=NOW)
        locked.set_saga(progress=progress_of(locked.steps))
    locked.append(EventType.SAGA_STARTED)


def skip(locked: Locked, name: str, *, reason: str) -> list[str]:
    """Count a step as done without its having run; an attempt still under way is fenced off.

    Returns the step ids whose sessions are to be ended.
    """
    record = locked.steps[name]
    locked.set_step(name, StepStatus.SKIPPED, attempt=record.attempt + 1, end_time=NOW, error_message=None)
    locked.append(EventType.STEP_SKIPPED, name, reason=reason)
    locked.set_saga(progress=progress_of(locked.steps), current_step=current_step_of(locked.steps))
    return [record.step_id] if record.status is StepStatus.IN_PROGRESS else []


def take(locked: Locked, name: str, *, worker: str) -> None:
    """Give the step a new attempt, owned by `worker`."""
    attempt = locked.steps[name].attempt + 1
    locked.set_step(
        name,
        StepStatus.IN_PROGRESS,
        attempt=attempt,
        retry_count=attempt - 1,
        start_time=NOW,
        end_time=None,
        heartbeat_at=NOW,
        worker=worker,
        error_message=None,
    )
    if attempt > 1:
        locked.append(EventType.STEP_RETRIED, name, attempt=attempt)
    locked.append(EventType.STEP_STARTED, name, attempt=attempt)
    locked.set_saga(current_step=current_step_of(locked.steps))


def refuse(locked: Locked, name: str, message: str) -> None:
    """End a saga that must not run; nothing was done, so nothing is compensated.

    The step that refuses vouches for itself; where another one may have done something the saga
    stays as it is, and settling it compensates.
    """
    others = [step for step in locked.steps.values() if step.name != name]
    if locked.saga.status is not SagaStatus.IN_PROGRESS or any(
        step.status in {StepStatus.COMPLETED, StepStatus.IN_PROGRESS} or step.compensate_data is not None
        for step in others
    ):
        return
    locked.set_saga(
        SagaStatus.CANCELLED,
        error_message=f"{name}: {message}",
        failed_step=name,
        progress=0,
        end_time=NOW,
        current_step=None,
    )
    locked.release_locks()
    locked.append(EventType.SAGA_CANCELLED, reason=message)


def fail(locked: Locked, *, step: str, error: str) -> None:
    """Record that the saga failed, at which step and why."""
    locked.set_saga(SagaStatus.FAILED, failed_step=step, error_message=f"{step}: {error}")
    locked.append(EventType.SAGA_FAILED, failed_step=step, error=error)


def fail_if_open(locked: Locked, *, green: Collection[str] = ()) -> None:
    """Name the step that failed, when nobody could before (its process was killed).

    Of steps that did not run, one whose task is `green` is not the reason: the others would have
    had it run.
    """
    if locked.saga.status is not SagaStatus.IN_PROGRESS:
        return
    unfinished = [step for step in locked.steps.values() if not step.status.done]
    unfinished.sort(
        key=lambda step: (step.status is not StepStatus.FAILED, step.name in green, step.position)
    )
    culprit = unfinished[0]
    reason = "It did not run" if culprit.status is StepStatus.PENDING else "It did not finish"
    fail(locked, step=culprit.name, error=culprit.error_message or reason)


def start_compensation(locked: Locked, *, green: Collection[str] = ()) -> list[str]:
    """Go into reverse; returns the step ids whose sessions are to be ended.

    `green`: see `fail_if_open`.

    Every step that is not completed gets a new attempt: a process thought dead cannot
    write afterwards.
    """
    if locked.saga.goal != CANCELLED:
        fail_if_open(locked, green=green)
    stale = []
    for name, step in list(locked.steps.items()):
        if step.status is StepStatus.IN_PROGRESS:
            stale.append(step.step_id)
            message = "It was still in progress when compensation started"
            locked.set_step(
                name, StepStatus.FAILED, attempt=step.attempt + 1, error_message=message, end_time=NOW
            )
            locked.append(EventType.STEP_FAILED, name, attempt=step.attempt, error=message)
        elif step.status in {StepStatus.PENDING, StepStatus.FAILED}:
            locked.set_step(name, attempt=step.attempt + 1)
    locked.set_saga(SagaStatus.COMPENSATING, current_step=None)
    locked.release_locks()
    locked.append(EventType.COMPENSATION_STARTED, failed_step=locked.saga.failed_step)
    return stale


def first_to_compensate(definition: SagaDefinition, locked: Locked) -> str:
    """The step whose compensation comes first; the first step when there is nothing to undo."""
    for step in reversed(definition.steps):
        if to_undo(step, locked.steps[step.name]):
            return step.name
    return definition.steps[0].name


def complete(locked: Locked) -> None:
    """End the saga as completed and give its locks back."""
    if locked.saga.status is SagaStatus.FAILED:
        locked.set_saga(SagaStatus.IN_PROGRESS)
    locked.set_saga(
        SagaStatus.COMPLETED,
        progress=100,
        end_time=NOW,
        current_step=None,
        error_message=None,
        failed_step=None,
        **NO_RECOVERY,
    )
    locked.release_locks()
    locked.append(EventType.SAGA_COMPLETED)


def cancel_pending(locked: Locked, *, reason: str) -> None:
    """End a saga of which nothing has run."""
    locked.set_saga(SagaStatus.CANCELLED, error_message=reason, progress=0, end_time=NOW, **NO_RECOVERY)
    locked.append(EventType.SAGA_CANCELLED, reason=reason)


def past_pivot(definition: SagaDefinition, steps: Mapping[str, StepRecord]) -> bool:
    """True when the saga has published, or may have."""
    pivot = definition.pivot
    if pivot is None:
        return False
    record = steps[pivot.name]
    return record.status is StepStatus.COMPLETED or record.pivot_state is PivotState.INTENDED


def to_undo(step: Step, record: StepRecord) -> bool:
    """True when the step has written something that is still there."""
    return (
        step.compensation is not None
        and step.kind is not StepKind.RETRIABLE
        and record.compensate_data is not None
        and record.status
        in {StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.COMPENSATING}
    )
