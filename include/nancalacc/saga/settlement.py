"""What becomes of a saga when the step tasks of its run have ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from nancalacc.saga import moves
from nancalacc.saga.definition import SagaDefinition, Step
from nancalacc.saga.execution import RUNNING
from nancalacc.saga.records import StepRecord
from nancalacc.saga.state import EventType, SagaStatus
from nancalacc.saga.storage import Locked

MARKED = "Its task was marked successful by hand"


class Verdict(StrEnum):
    """What there is to do when every step task of a run has ended."""

    COMPLETED = "completed"
    FORWARD = "forward"
    COMPENSATE = "compensate"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Settlement:
    """A verdict; `first` is the step whose compensation comes first."""

    verdict: Verdict
    first: str | None = None


@dataclass(frozen=True, slots=True)
class RunView:
    """What the scheduler knows about the run in which a step begins.

    `closed`: the tasks that settle and conclude the run have ended and will not run again.
    `green`: steps whose task counts as successful there, whoever made it so.
    `failed`: checkpoints whose task counts as failed there, whoever made it so.
    `started`: when the run last started (aware), None when that is not known.
    """

    closed: bool = False
    started: datetime | None = None
    green: frozenset[str] = field(default_factory=frozenset)
    failed: frozenset[str] = field(default_factory=frozenset)


IsAlive = Callable[[StepRecord], bool]
"""Whether a process is at work on the step and gives signs of life."""


def settle(
    locked: Locked, definition: SagaDefinition, *, run: RunView, is_alive: IsAlive
) -> tuple[Settlement, list[str]]:
    """Decide on a locked saga: completed, forward, or compensation, which starts here.

    Returns with the settlement the step ids whose sessions are to be ended.
    """
    stale: list[str] = []
    if locked.saga.status is SagaStatus.PENDING:
        moves.cancel_pending(locked, reason="No step of it ever ran")
    if locked.saga.status is SagaStatus.COMPLETED:
        return Settlement(Verdict.COMPLETED), stale
    if locked.saga.status.ended:
        return Settlement(Verdict.ENDED), stale
    if locked.saga.status in RUNNING:
        for step in definition:
            if step.name in run.green and _is_marked(locked, step, is_alive=is_alive):
                stale += moves.skip(locked, step.name, reason=MARKED)
        if all(step.status.done for step in locked.steps.values()):
            moves.complete(locked)
            return Settlement(Verdict.COMPLETED), stale
        if moves.past_pivot(definition, locked.steps):
            moves.fail_if_open(locked, green=run.green)
            return Settlement(Verdict.FORWARD), stale
        for checkpoint in definition.checkpoints:
            # A process that was killed, or whose task was marked, said nothing itself.
            if checkpoint.name in run.failed and locked.saga.status is SagaStatus.IN_PROGRESS:
                moves.fail(locked, step=checkpoint.name, error="Its task failed; its log says why")
        stale += moves.start_compensation(locked, green=run.green)
    first = moves.first_to_compensate(definition, locked)
    return Settlement(Verdict.COMPENSATE, first=first), stale


def _is_marked(locked: Locked, step: Step, *, is_alive: IsAlive) -> bool:
    record = locked.steps[step.name]
    return (
        step.skippable
        and not record.status.done
        and not is_alive(record)
        and not locked.has_event(EventType.STEP_COMPLETED, step.name)
    )
