"""A saga as data: its steps in order, each with its action and its compensation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from nancalacc.errors import ConfigurationError
from nancalacc.saga.checkpoint import Checkpoint

if TYPE_CHECKING:
    from nancalacc.saga.context import CompensationContext, StepContext

STEP_ID_LENGTH = 64
"""Width of saga_steps.step_id [wps 6]."""
TRANSACTION_ID_LENGTH = 36
"""Length of a UUID in text."""

Action = Callable[["StepContext"], Mapping[str, Any]]
"""Does the step's work and returns its `action_data` (JSON, no personal data)."""
Compensation = Callable[["CompensationContext"], None]
"""Undoes the step's work inside the transaction it is given."""


class StepKind(StrEnum):
    """What a step means for going back."""

    COMPENSABLE = "compensable"
    PIVOT = "pivot"
    RETRIABLE = "retriable"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `action` forward, `compensation` back, `depends_on` the steps before it.

    `skippable`: a person may mark it done without it having run.
    `max_retries`: how often the task that runs it is tried again after a transient error.
    `time_limit`: how long one attempt may take.
    """

    name: str
    action: Action
    compensation: Compensation | None = None
    depends_on: tuple[str, ...] = ()
    kind: StepKind = StepKind.COMPENSABLE
    skippable: bool = False
    max_retries: int = 5
    time_limit: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class SagaDefinition:
    """A named, ordered set of steps, with checkpoints between them.

    Raises ConfigurationError when it contradicts itself.
    """

    name: str
    steps: tuple[Step, ...]
    checkpoints: tuple[Checkpoint, ...] = ()
    _by_name: dict[str, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse duplicate or overlong names, unknown or later predecessors and misplaced kinds."""
        known: dict[str, Step] = {}
        pivot = ""
        for step in self.steps:
            if step.name in known:
                raise ConfigurationError(f"Saga {self.name!r} has two steps named {step.name!r}")
            longest = STEP_ID_LENGTH - TRANSACTION_ID_LENGTH - 1
            if not step.name or len(step.name) > longest:
                raise ConfigurationError(
                    f"Saga {self.name!r}: step name {step.name!r} must have 1 to {longest} characters"
                )
            for predecessor in step.depends_on:
                if predecessor not in known:
                    raise ConfigurationError(
                        f"Saga {self.name!r}: step {step.name!r} depends on {predecessor!r},"
                        " which is not an earlier step"
                    )
            if step.kind is StepKind.PIVOT:
                if pivot:
                    raise ConfigurationError(
                        f"Saga {self.name!r} has two pivots: {pivot!r} and {step.name!r}"
                    )
                if step.skippable:
                    raise ConfigurationError(
                        f"Saga {self.name!r}: the pivot {step.name!r} cannot be skippable"
                    )
                pivot = step.name
            elif (step.kind is StepKind.RETRIABLE) != bool(pivot):
                raise ConfigurationError(
                    f"Saga {self.name!r}: step {step.name!r} is {step.kind.value}; steps before the pivot are"
                    " compensable, steps after it are retriable"
                )
            known[step.name] = step
        if not known:
            raise ConfigurationError(f"Saga {self.name!r} has no steps")
        object.__setattr__(self, "_by_name", known)
        self._check_checkpoints()

    def _check_checkpoints(self) -> None:
        for number, checkpoint in enumerate(self.checkpoints):
            taken = {*self._by_name, *(each.name for each in self.checkpoints[:number])}
            if not checkpoint.name or len(checkpoint.name) > STEP_ID_LENGTH or checkpoint.name in taken:
                raise ConfigurationError(
                    f"Saga {self.name!r}: checkpoint name {checkpoint.name!r} must have 1 to"
                    f" {STEP_ID_LENGTH} characters and be no other's"
                )
            if not checkpoint.after or not checkpoint.before:
                raise ConfigurationError(
                    f"Saga {self.name!r}: checkpoint {checkpoint.name!r} must stand between two steps"
                )
            for step in checkpoint.before:
                behind = {each.name for each in self.predecessors(step)}
                if not behind.issuperset(checkpoint.after):
                    raise ConfigurationError(
                        f"Saga {self.name!r}: step {step!r} must depend on everything that checkpoint"
                        f" {checkpoint.name!r} stands behind: {', '.join(checkpoint.after)}"
                    )

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of this name; raises ConfigurationError when there is none."""
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise ConfigurationError(f"Saga {self.name!r} has no checkpoint {name!r}")

    def __iter__(self) -> Iterator[Step]:
        """The steps in their order."""
        return iter(self.steps)

    def __getitem__(self, name: str) -> Step:
        """The step of this name; raises ConfigurationError when there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            raise ConfigurationError(
                f"Saga {self.name!r} has no step {name!r}; it has {', '.join(self._by_name)}"
            ) from None

    def position(self, name: str) -> int:
        """1-based position of the step."""
        return self.steps.index(self[name]) + 1

    @property
    def pivot(self) -> Step | None:
        """The step that publishes, if there is one."""
        return next((step for step in self.steps if step.kind is StepKind.PIVOT), None)

    def predecessors(self, name: str) -> tuple[Step, ...]:
        """Every step that must be done before this one, in order."""
        wanted = set(self[name].depends_on)
        for step in reversed(self.steps):
            if step.name in wanted:
                wanted.update(step.depends_on)
        return tuple(step for step in self.steps if step.name in wanted)


def transaction_id_of(*, dag_id: str, run_id: str) -> str:
    """The transaction id of a DAG run: the same for the same run, for ever."""
    return str(uuid5(NAMESPACE_URL, f"nancalacc://{dag_id}/{run_id}"))


def step_id_of(transaction_id: str, step: str) -> str:
    """The id of a step of a saga."""
    return f"{transaction_id}:{step}"
