"""An action that cannot go on yet says so, and for what it waits; nobody's process need sit beside it.

The attempt is laid down: it stays the step's attempt, with its epoch and number, and whoever
watches it keeps its heart-beat. It can be taken up once; who comes later, or after another
attempt, is fenced off. Where nobody watches (a replay, a recovery) the engine waits in place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from nancalacc.errors import ConfigurationError
from nancalacc.saga.definition import Step, step_id_of
from nancalacc.saga.records import StepRecord
from nancalacc.saga.state import StepStatus

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from nancalacc.saga.storage import Storage


@dataclass(frozen=True, slots=True)
class Wait:
    """What an action returns in place of its action_data: not yet, call me again.

    `condition` is given to the step's `is_met` (JSON, no personal data). The action is called again
    when that is true, at the latest after `seconds`; then it finds `data` as `so_far`.
    """

    condition: Mapping[str, Any]
    seconds: float
    data: Mapping[str, Any] = field(default_factory=dict)
    poll_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """An attempt that was laid down, and what it waits for."""

    transaction_id: str
    step: str
    epoch: int
    attempt: int
    worker: str
    condition: Mapping[str, Any]
    seconds: float
    poll_seconds: float

    def as_data(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The attempt that `as_data` described."""
        return cls(**data)

    @property
    def record(self) -> StepRecord:
        """The attempt as the store knows it."""
        return StepRecord(
            step_id=step_id_of(self.transaction_id, self.step),
            name=self.step,
            position=0,
            status=StepStatus.IN_PROGRESS,
            epoch=self.epoch,
            attempt=self.attempt,
            worker=self.worker,
        )

    def is_attempt(self, record: StepRecord) -> bool:
        """True when the step is still in this attempt, and nobody has taken it up."""
        return record.status is StepStatus.IN_PROGRESS and (record.epoch, record.attempt, record.worker) == (
            self.epoch,
            self.attempt,
            self.worker,
        )


class Outlook(StrEnum):
    """What a look at a waiting attempt shows."""

    NOT_YET = "not_yet"
    MET = "met"
    OVERTAKEN = "overtaken"


class Watch:
    """Keeps a laid down attempt alive and tells when it may go on; raises DatabaseError."""

    def __init__(
        self,
        storage: Storage,
        step: Step,
        waiting: Waiting,
        *,
        heartbeat_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._step = step
        self._waiting = waiting
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._next_beat = clock()

    def look(self) -> Outlook:
        """Give a sign of life when it is time for one, and ask whether the condition is met."""
        if self._clock() >= self._next_beat:
            if not self._storage.beat(self._waiting.record, report=None):
                return Outlook.OVERTAKEN
            self._next_beat = self._clock() + self._heartbeat_seconds
        with self._storage.database.transaction() as connection:
            met = is_met(self._step, connection, self._waiting.condition)
        return Outlook.MET if met else Outlook.NOT_YET

    def let_go(self) -> None:
        """Nobody waits any more: who comes next need not wait until the heart-beat is old."""
        self._storage.let_go(self._waiting.record)


def is_met(step: Step, connection: Connection, condition: Mapping[str, Any]) -> bool:
    """Whether the step may go on; raises ConfigurationError when the definition does not say how to tell."""
    if step.is_met is None:
        raise ConfigurationError(f"Step {step.name} waits, but its definition has no `is_met`")
    return step.is_met(connection, condition)
