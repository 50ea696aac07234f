"""States of a saga and of its steps, and every legal transition between them.

The names are those of the shared tables [wps 6]. A status changes only along the two
mappings below, by an UPDATE that is guarded by the status it starts from.
"""

from __future__ import annotations

from enum import StrEnum


class SagaStatus(StrEnum):
    """Status of a saga [wps 6]."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True when nothing more happens unless somebody opens the saga again."""
        return self in {SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.CANCELLED}


class StepStatus(StrEnum):
    """Status of a step [wps 6]."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    SKIPPED = "skipped"

    @property
    def done(self) -> bool:
        """True when a successor may start."""
        return self in {StepStatus.COMPLETED, StepStatus.SKIPPED}


class PivotState(StrEnum):
    """What is known about the effect of a pivot step beyond its status."""

    INTENDED = "intended"
    """The effect may have happened: only forward from here."""
    REFUSED = "refused"
    """Every call so far was definitely refused: nothing was published."""


class EventType(StrEnum):
    """Types of saga events: those of [wps 6], then ours."""

    SAGA_STARTED = "saga_started"
    STEP_STARTED = "step_started"
    STEP_COMPLETED = "step_completed"
    STEP_FAILED = "step_failed"
    STEP_RETRIED = "step_retried"
    STEP_SKIPPED = "step_skipped"
    COMPENSATION_STARTED = "compensation_started"
    COMPENSATION_COMPLETED = "compensation_completed"
    SAGA_COMPLETED = "saga_completed"
    SAGA_FAILED = "saga_failed"
    SAGA_CANCELLED = "saga_cancelled"

    COMPENSATION_FAILED = "compensation_failed"
    RECORD_REJECTED = "record_rejected"
    WARNING = "warning"
    TASK_MARKED = "task_marked"
    RUN_ENDED = "run_ended"
    VERIFICATION = "verification"
    """The other side was read back and compared with what was published."""
    ACTION_REQUESTED = "action_requested"
    """A person has asked for something on a page: who, what, why."""
    CHECKPOINT_PASSED = "checkpoint_passed"
    """A checkpoint found nothing that stops the saga; what it found."""
    APPROVAL_REQUESTED = "approval_requested"
    """A checkpoint asks a person whether the saga may go on."""
    APPROVED = "approved"
    """A person said yes: who, to what, why."""
    REJECTED = "rejected"
    """A person said no, or nobody answered in time."""


SAGA_TRANSITIONS: dict[SagaStatus, frozenset[SagaStatus]] = {
    SagaStatus.PENDING: frozenset({SagaStatus.IN_PROGRESS, SagaStatus.CANCELLED}),
    SagaStatus.IN_PROGRESS: frozenset(
        {SagaStatus.COMPLETED, SagaStatus.FAILED, SagaStatus.COMPENSATING, SagaStatus.CANCELLED}
    ),
    SagaStatus.FAILED: frozenset({SagaStatus.IN_PROGRESS, SagaStatus.COMPENSATING}),
    SagaStatus.COMPENSATING: frozenset({SagaStatus.COMPENSATED, SagaStatus.CANCELLED}),
    SagaStatus.COMPENSATED: frozenset({SagaStatus.IN_PROGRESS}),
    SagaStatus.CANCELLED: frozenset({SagaStatus.IN_PROGRESS}),
    SagaStatus.COMPLETED: frozenset({SagaStatus.IN_PROGRESS}),
}

STEP_TRANSITIONS: dict[StepStatus, frozenset[StepStatus]] = {
    StepStatus.PENDING: frozenset({StepStatus.IN_PROGRESS, StepStatus.SKIPPED}),
    StepStatus.IN_PROGRESS: frozenset(
        {StepStatus.IN_PROGRESS, StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED}
    ),
    StepStatus.FAILED: frozenset(
        {StepStatus.IN_PROGRESS, StepStatus.COMPENSATING, StepStatus.SKIPPED, StepStatus.PENDING}
    ),
    StepStatus.COMPLETED: frozenset({StepStatus.COMPENSATING, StepStatus.PENDING}),
    StepStatus.COMPENSATING: frozenset({StepStatus.COMPENSATING, StepStatus.COMPENSATED}),
    StepStatus.COMPENSATED: frozenset({StepStatus.PENDING}),
    # Skipped after an attempt that had begun to write.
    StepStatus.SKIPPED: frozenset({StepStatus.COMPENSATING, StepStatus.PENDING}),
}
