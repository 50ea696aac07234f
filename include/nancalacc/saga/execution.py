"""One attempt of one step: its heart-beat, its fenced transactions, its end."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nancalacc.errors import FencedError, IllegalTransitionError, NancalaccError
from nancalacc.saga.definition import Step, StepKind
from nancalacc.saga.heartbeat import HeartBeats
from nancalacc.saga.records import NOW, SagaRecord, StepRecord
from nancalacc.saga.state import EventType, PivotState, SagaStatus, StepStatus
from nancalacc.saga.storage import Locked, Storage
from nancalacc.saga.waiting import Wait, Waiting

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger(__name__)

RUNNING = frozenset({SagaStatus.IN_PROGRESS, SagaStatus.FAILED})
"""A saga in which steps may run: one step has failed for good, its siblings still finish."""


def session_name(step_id: str) -> str:
    """What the names of all sessions of a step begin with (63 bytes is PostgreSQL's limit)."""
    return f"nancalacc {hashlib.sha256(step_id.encode()).hexdigest()[:24]} "


def progress_of(steps: Mapping[str, StepRecord]) -> int:
    """Percent of the steps of this epoch that are done."""
    return 100 * sum(step.status.done for step in steps.values()) // len(steps)


def current_step_of(steps: Mapping[str, StepRecord]) -> str | None:
    """The step in progress with the lowest position."""
    running = [step for step in steps.values() if step.status is StepStatus.IN_PROGRESS]
    return min(running, key=lambda step: step.position).name if running else None


def message_of(error: BaseException) -> str:
    """What is written down about an error.

    Only our own errors are quoted: the text of any other may hold data of people.
    """
    if isinstance(error, NancalaccError):
        return str(error)
    return f"{type(error).__name__} (the task's log has the details)"


def kinds_of(error: BaseException) -> list[str]:
    """The names of an error's classes, from its own up to ours that says what to do about it."""
    return [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, NancalaccError)]


class Attempt:
    """An attempt, and the StepContext its action gets. Use as a context manager: it heart-beats."""

    def __init__(
        self,
        storage: Storage,
        *,
        saga: SagaRecord,
        step: Step,
        record: StepRecord,
        others: Mapping[str, StepRecord],
        services: Any,
        heart_beats: HeartBeats,
        so_far: Mapping[str, Any] | None = None,
    ) -> None:
        self._storage = storage
        self._saga = saga
        self._step = step
        self._record = record
        self._others = others
        self._services = services
        self._heart_beats = heart_beats
        self._so_far = so_far
        self._open_outcome = record.pivot_state is PivotState.INTENDED
        self._remembered = record.compensate_data
        self._registered = False
        self._report: Mapping[str, Any] | None = None
        self._completing: tuple[ExitStack, Connection] | None = None
        self._lost = threading.Event()

    def __enter__(self) -> Self:
        self._heart_beats.add(self._beat)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._heart_beats.remove(self._beat)
        self._roll_back(error)

    @property
    def saga(self) -> SagaRecord:
        """The saga as this attempt knows it."""
        return self._saga

    @property
    def step(self) -> Step:
        """The step of the definition."""
        return self._step

    @property
    def record(self) -> StepRecord:
        """The step's row as it was when this attempt began."""
        return self._record

    @property
    def services(self) -> Any:
        """What the composition root built for the actions."""
        return self._services

    @property
    def so_far(self) -> Mapping[str, Any] | None:
        """The data of the wait after which this attempt goes on."""
        return self._so_far

    @property
    def connection(self) -> Connection:
        """The completing transaction, opened at first use."""
        if self._completing is None:
            self.check()
            with ExitStack() as stack:
                connection = stack.enter_context(self._named_transaction())
                self._completing = (stack.pop_all(), connection)
        return self._completing[1]

    @contextmanager
    def transaction(self, *, intend: bool = False) -> Iterator[Connection]:
        """A fenced transaction of its own; see StepContext."""
        self.check()
        if intend and self._step.kind is not StepKind.PIVOT:
            raise IllegalTransitionError(f"Step {self._step.name} is no pivot and cannot intend to publish")
        with self._named_transaction() as connection:
            yield connection
            register = self._to_register(connection)
            with self._fenced(connection) as locked:
                if intend:
                    locked.set_step(self._step.name, pivot_state=PivotState.INTENDED)
                if register:
                    locked.set_step(self._step.name, compensate_data={})
        if register:
            self._remembered = {}
            self._registered = True

    def refused(self) -> None:
        """Record a definite refusal, unless an earlier attempt left the outcome open."""
        if self._open_outcome:
            return
        with self._fenced() as locked:
            locked.set_step(self._step.name, pivot_state=PivotState.REFUSED)

    def remember(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep the before-image of this epoch; returns the first one kept."""
        if self._registered:
            raise IllegalTransitionError(
                f"Step {self._step.name} has written before it remembered what was there"
            )
        if self._remembered is None:
            with self._fenced() as locked:
                locked.set_step(self._step.name, compensate_data=dict(data))
            self._remembered = data
        return self._remembered

    def action_data(self, step: str) -> Mapping[str, Any]:
        """What a completed step returned."""
        record = self._others.get(step)
        if record is None or record.status is not StepStatus.COMPLETED:
            raise IllegalTransitionError(f"Step {step} has not completed in this epoch")
        return record.action_data or {}

    def identify(self, connection: Connection, *, third_company_id: str, task_id: str | None) -> None:
        """Write company and task id into the saga's row."""
        with self._fenced(connection) as locked:
            locked.set_saga(third_company_id=third_company_id, task_id=task_id)
        self._saga = replace(self._saga, third_company_id=third_company_id, task_id=task_id)

    def event(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Append an event of this step, if this attempt still counts."""
        with self._fenced() as locked:
            locked.append(EventType(event_type), self._step.name, **data)

    def report(self, data: Mapping[str, Any]) -> None:
        """Show counts with the next heart-beat."""
        self._report = dict(data)

    def check(self) -> None:
        """Raise FencedError when this attempt is known to be overtaken."""
        if self._lost.is_set():
            raise self.fenced_error()

    def complete(self, action_data: Mapping[str, Any]) -> None:
        """Commit the action's rows, `completed` and the event together."""
        name = self._step.name
        with self._fenced(self._completing[1] if self._completing else None) as locked:
            values: dict[str, Any] = {}
            if self._step.compensation and locked.steps[name].compensate_data is None:
                values["compensate_data"] = {}
            locked.set_step(
                name,
                StepStatus.COMPLETED,
                action_data=dict(action_data),
                error_message=None,
                end_time=NOW,
                heartbeat_at=NOW,
                **values,
            )
            locked.set_saga(progress=progress_of(locked.steps), current_step=current_step_of(locked.steps))
            locked.append(EventType.STEP_COMPLETED, name, attempt=self._record.attempt)
        if self._completing is not None:
            stack, _ = self._taken()
            stack.close()

    def wait(self, wait: Wait) -> None:
        """Show and keep what the action has done so far; it goes on with that."""
        if self._completing is not None:
            raise IllegalTransitionError(
                f"Step {self._step.name} waits, but has opened its completing transaction before"
            )
        self._report = self._so_far = dict(wait.data)

    def lay_down(self, wait: Wait) -> Waiting:
        """Leave the attempt to whoever watches it; its own heart-beat must have ended."""
        with self._fenced() as locked:
            locked.set_step(self._step.name, action_data=dict(wait.data), heartbeat_at=NOW)
        return Waiting(
            transaction_id=self._saga.transaction_id,
            step=self._step.name,
            epoch=self._record.epoch,
            attempt=self._record.attempt,
            worker=self._record.worker or "",
            condition=dict(wait.condition),
            seconds=wait.seconds,
            poll_seconds=wait.poll_seconds,
        )

    def fenced_error(self) -> FencedError:
        """What to raise when this attempt was overtaken."""
        return FencedError(
            f"Attempt {self._record.attempt} (epoch {self._record.epoch}) of step {self._step.name} of saga"
            f" {self._saga.transaction_id} was overtaken; what it wrote is rolled back"
        )

    def _taken(self) -> tuple[ExitStack, Connection]:
        if self._completing is None:
            raise IllegalTransitionError(f"Step {self._step.name} has no open transaction")
        taken, self._completing = self._completing, None
        return taken

    def _roll_back(self, error: BaseException | None) -> None:
        """Roll the completing transaction back; a database error of the action becomes ours here."""
        if self._completing is None:
            return
        stack, _ = self._taken()
        cause = error or FencedError("The completing transaction was left open")
        try:
            stack.__exit__(type(cause), cause, cause.__traceback__)
        except NancalaccError as failure:
            if isinstance(cause, Exception) and not isinstance(cause, NancalaccError):
                raise failure from None
            if failure is not cause:
                log.warning("Saga %s: rolling back: %s", self._saga.transaction_id, failure)

    def _named_transaction(self) -> AbstractContextManager[Connection]:
        name = f"{session_name(self._record.step_id)}{self._record.epoch}.{self._record.attempt}"
        return self._storage.database.transaction(name=name)

    def _to_register(self, connection: Connection) -> bool:
        """True when the step's compensation is to be registered together with this write."""
        return (
            self._step.compensation is not None
            and self._remembered is None
            and self._storage.database.has_written(connection)
        )

    @contextmanager
    def _fenced(self, connection: Connection | None = None) -> Iterator[Locked]:
        """The saga under its lock, in `connection` or a transaction of its own, if this attempt counts."""
        transaction_id = self._saga.transaction_id
        opened = (
            self._storage.open(transaction_id)
            if connection is None
            else self._storage.join(connection, transaction_id)
        )
        with opened as locked:
            step = locked.steps[self._step.name]
            if (
                locked.saga.status not in RUNNING
                or locked.saga.epoch != self._record.epoch
                or step.attempt != self._record.attempt
                or step.worker != self._record.worker
                or step.status is not StepStatus.IN_PROGRESS
            ):
                self._lost.set()
                raise self.fenced_error()
            yield locked

    def _beat(self) -> None:
        if self._lost.is_set():
            return
        try:
            alive = self._storage.beat(self._record, report=self._report)
        except NancalaccError as error:
            log.warning("Saga %s: heart-beat of %s: %s", self._saga.transaction_id, self._step.name, error)
            return
        if not alive:
            self._lost.set()
