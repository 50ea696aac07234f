"""Runs sagas: steps forward, compensations in reverse, and every decision in between.

State is in the store only, so any process may run any step. Each public method is one or
more short transactions under the saga's row lock; between any two of them the process may
die, and the next caller finds a state it can go on from.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

from nancalacc.errors import (
    DatabaseError,
    FencedError,
    IllegalTransitionError,
    NancalaccError,
    RefusedError,
    TransientError,
)
from nancalacc.saga import moves
from nancalacc.saga.checkpoint import Answer, Question
from nancalacc.saga.context import CompensationContext
from nancalacc.saga.definition import SagaDefinition, Step, transaction_id_of
from nancalacc.saga.execution import (
    RUNNING,
    Attempt,
    current_step_of,
    kinds_of,
    message_of,
    session_name,
)
from nancalacc.saga.heartbeat import HeartBeats
from nancalacc.saga.look import Look
from nancalacc.saga.records import NOW, EventRecord, SagaRecord, StepRecord
from nancalacc.saga.state import EventType, SagaStatus, StepStatus
from nancalacc.saga.storage import Locked, Storage
from nancalacc.saga.telemetry import observed

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
DONE_COUNTS = RUNNING | {SagaStatus.COMPLETED}
"""A saga whose done steps are done: it has not gone back."""
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


class AttemptEnd(StrEnum):
    """How an attempt ended whose action or commit raised."""

    FAILED = "failed"
    COMPLETED = "completed"
    OVERTAKEN = "overtaken"
    LOST = "lost"
    """The database has forgotten it: it crashed before its latest commits were on disk."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A step taken under the saga's lock, to be run when that is released.

    `steps` is what the lock showed; `left_by` is the worker of the attempt that was taken over.
    """

    saga: SagaRecord
    step: Step
    steps: Mapping[str, StepRecord]
    left_by: str | None


class Coordinator:
    """The saga engine over a store."""

    def __init__(
        self,
        storage: Storage,
        *,
        heartbeat_seconds: float = 5,
        stale_seconds: float = 30,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._storage = storage
        self._heart_beats = HeartBeats(seconds=heartbeat_seconds)
        self._stale_seconds = stale_seconds
        self._sleep = sleep
        self._worker = f"{socket.gethostname()[:200]}:{os.getpid()}"

    # Forward

    def start(
        self, definition: SagaDefinition, *, dag_id: str, run_id: str, params: Mapping[str, Any]
    ) -> str:
        """Make sure the run's saga exists (pending if it is new); returns its transaction id."""
        transaction_id = transaction_id_of(dag_id=dag_id, run_id=run_id)
        if self._storage.get(transaction_id) is None:
            self._storage.create(
                definition, transaction_id=transaction_id, dag_id=dag_id, run_id=run_id, params=params
            )
        return transaction_id

    def run_step(
        self,
        definition: SagaDefinition,
        transaction_id: str,
        name: str,
        *,
        services: Any,
        params: Mapping[str, Any],
        run: RunView = RunView(),
    ) -> Mapping[str, Any]:
        """Run a step, and before it every predecessor that is not done in this epoch.

        Opens a saga that has ended again (a person cleared the task) with `params`. Returns the
        step's action_data, also when it was completed already. Raises what the action raises,
        IllegalTransitionError when the saga may not go on, FencedError when overtaken.
        """
        begun, epoch, missing = self._admit(
            definition, transaction_id, name, services=services, params=params, run=run
        )
        for predecessor in missing:
            self._honour_mark(predecessor, transaction_id, epoch, run=run)
            self._execute(transaction_id, predecessor, epoch, services=services)
        if begun is None:
            return self._execute(transaction_id, definition[name], epoch, services=services)
        return self._perform(begun, services=services)

    def execute_step(
        self, definition: SagaDefinition, transaction_id: str, name: str, *, services: Any
    ) -> Mapping[str, Any]:
        """Run one step of an open saga whose predecessors are done; see `run_step`."""
        saga, steps = self._get(transaction_id)
        for predecessor in definition[name].depends_on:
            if not steps[predecessor].status.done:
                raise IllegalTransitionError(
                    f"Step {name} of saga {transaction_id} needs {predecessor}, which is"
                    f" {steps[predecessor].status.value}"
                )
        return self._execute(transaction_id, definition[name], saga.epoch, services=services)

    def retry_step(
        self,
        definition: SagaDefinition,
        transaction_id: str,
        name: str,
        *,
        services: Any,
    ) -> Mapping[str, Any]:
        """Run a step again with the parameters the saga has, opening the saga if it has ended."""
        saga, _ = self._get(transaction_id)
        return self.run_step(definition, transaction_id, name, services=services, params=saga.params)

    def skip_step(self, definition: SagaDefinition, transaction_id: str, name: str, *, reason: str) -> None:
        """Mark a step as done without running it; raises IllegalTransitionError if it may not be."""
        if not definition[name].skippable:
            allowed = ", ".join(step.name for step in definition if step.skippable) or "none"
            raise IllegalTransitionError(
                f"Step {name} may not be skipped: what follows needs its result. Steps that may be: {allowed}"
            )
        with self._storage.open(transaction_id) as locked:
            if locked.saga.status not in RUNNING | {SagaStatus.PENDING}:
                raise IllegalTransitionError(
                    f"Saga {transaction_id} is {locked.saga.status.value}: nothing can be skipped"
                )
            stale = moves.skip(locked, name, reason=reason)
        self._terminate(stale)

    # Checkpoints

    def check(
        self,
        definition: SagaDefinition,
        transaction_id: str,
        name: str,
        *,
        services: Any,
        params: Mapping[str, Any],
        run: RunView = RunView(),
    ) -> Question | None:
        """Pass a checkpoint, and before it run every step it stands behind that is not done.

        Returns what a person must decide before the saga may go on, None when it may. Raises what
        stops the saga, and what `run_step` raises.
        """
        checkpoint = definition.checkpoint(name)
        for step in checkpoint.after:
            self.run_step(definition, transaction_id, step, services=services, params=params, run=run)
        return checkpoint.check(self._look(definition, transaction_id, name, services=services))

    def decide(
        self,
        definition: SagaDefinition,
        transaction_id: str,
        name: str,
        *,
        key: str,
        answer: Answer,
        services: Any,
    ) -> None:
        """Record the answer to a checkpoint's question; raises what a no means.

        Raises FencedError when the saga has ended meanwhile.
        """
        look = self._look(definition, transaction_id, name, services=services)
        look.checkpoint.decide(look, key, answer)

    def _look(self, definition: SagaDefinition, transaction_id: str, name: str, *, services: Any) -> Look:
        saga, steps = self._get(transaction_id)
        return Look(
            self._storage, checkpoint=definition.checkpoint(name), saga=saga, steps=steps, services=services
        )

    # Failure, settlement, compensation

    def fail(self, transaction_id: str, *, step: str, error: str) -> None:
        """A step, or a checkpoint, has failed for good: request compensation. Siblings still finish.

        Does nothing when the saga is not in progress (any more), or the step is done or in
        progress elsewhere: then it was an overtaken attempt that failed.
        """
        with self._storage.open(transaction_id) as locked:
            record = locked.steps.get(step)
            if locked.saga.status is SagaStatus.IN_PROGRESS and (
                record is None or not (record.status.done or self._is_alive(record))
            ):
                moves.fail(locked, step=step, error=error)

    def settle(
        self,
        definition: SagaDefinition,
        transaction_id: str,
        *,
        run: RunView = RunView(),
    ) -> Settlement:
        """Decide, when all step tasks have ended: completed, forward, or compensation (started here)."""
        stale: list[str] = []
        with self._storage.open(transaction_id) as locked:
            if locked.saga.status is SagaStatus.PENDING:
                moves.cancel_pending(locked, reason="No step of it ever ran")
            if locked.saga.status is SagaStatus.COMPLETED:
                return Settlement(Verdict.COMPLETED)
            if locked.saga.status.ended:
                return Settlement(Verdict.ENDED)
            if locked.saga.status in RUNNING:
                for step in definition:
                    if step.name in run.green and self._is_marked(locked, step):
                        stale += moves.skip(locked, step.name, reason=MARKED)
                if all(step.status.done for step in locked.steps.values()):
                    moves.complete(locked)
                    return Settlement(Verdict.COMPLETED)
                if moves.past_pivot(definition, locked.steps):
                    moves.fail_if_open(locked)
                    return Settlement(Verdict.FORWARD)
                for checkpoint in definition.checkpoints:
                    # A process that was killed, or whose task was marked, said nothing itself.
                    if checkpoint.name in run.failed and locked.saga.status is SagaStatus.IN_PROGRESS:
                        moves.fail(locked, step=checkpoint.name, error="Its task failed; its log says why")
                stale += moves.start_compensation(locked)
            first = moves.first_to_compensate(definition, locked)
        self._terminate(stale)
        return Settlement(Verdict.COMPENSATE, first=first)

    def compensate_step(
        self, definition: SagaDefinition, transaction_id: str, name: str, *, services: Any
    ) -> bool:
        """Undo one step; every later step must be undone. Returns whether there was anything to undo.

        The last one ends the saga. Raises what the compensation raises; it may be called again.
        """
        step = definition[name]
        with self._storage.open(transaction_id) as locked:
            if locked.saga.status in {SagaStatus.COMPENSATED, SagaStatus.CANCELLED}:
                return False
            if locked.saga.status is not SagaStatus.COMPENSATING:
                raise IllegalTransitionError(
                    f"Saga {transaction_id} is {locked.saga.status.value}, not compensating"
                )
            for later in definition.steps[definition.position(name) :]:
                if moves.to_undo(later, locked.steps[later.name]):
                    raise IllegalTransitionError(
                        f"Saga {transaction_id}: {later.name} must be compensated before {name}"
                    )
            needed = moves.to_undo(step, locked.steps[name])
            if needed and locked.steps[name].status is not StepStatus.COMPENSATING:
                locked.set_step(name, StepStatus.COMPENSATING)
                locked.append(EventType.COMPENSATION_STARTED, name)
        if needed:
            self._undo(step, transaction_id, services=services)
        self._end_compensation(definition, transaction_id)
        return needed

    def compensate_all(self, definition: SagaDefinition, transaction_id: str, *, services: Any) -> None:
        """Undo everything that is still to be undone, in reverse, and end the saga."""
        for step in reversed(definition.steps):
            self.compensate_step(definition, transaction_id, step.name, services=services)

    def conclude(
        self,
        definition: SagaDefinition,
        transaction_id: str,
        *,
        services: Any,
        run: RunView = RunView(),
    ) -> SagaRecord:
        """Finish what is open — compensation, or forward past the pivot — and return the saga.

        Raises what a step or a compensation raises; the saga stays open then, and this may be
        called again, by anybody.
        """
        settlement = self.settle(definition, transaction_id, run=run)
        if settlement.verdict is Verdict.COMPENSATE:
            self.compensate_all(definition, transaction_id, services=services)
        elif settlement.verdict is Verdict.FORWARD:
            with self._storage.open(transaction_id) as locked:
                if locked.saga.status is SagaStatus.FAILED:
                    locked.set_saga(SagaStatus.IN_PROGRESS)
                epoch = locked.saga.epoch
                # Somebody else may have finished it, and a person have opened it again.
                still = locked.saga.status in RUNNING and moves.past_pivot(definition, locked.steps)
            for step in definition if still else ():
                self._execute(transaction_id, step, epoch, services=services)
            with self._storage.open(transaction_id) as locked:
                if still and locked.saga.status in RUNNING and locked.saga.epoch == epoch:
                    moves.complete(locked)
        return self._get(transaction_id)[0]

    def cancel(
        self, definition: SagaDefinition, transaction_id: str, *, services: Any, reason: str
    ) -> SagaRecord:
        """Undo a saga on request; it ends cancelled. Raises IllegalTransitionError past the pivot."""
        with self._storage.open(transaction_id) as locked:
            stale: list[str] = []
            if locked.saga.status is SagaStatus.PENDING:
                locked.set_saga(goal=moves.CANCELLED)
                moves.cancel_pending(locked, reason=reason)
            elif locked.saga.status in RUNNING:
                if moves.past_pivot(definition, locked.steps):
                    raise IllegalTransitionError(
                        f"Saga {transaction_id} has published (or may have): it can only go forward."
                        " Going back is a new sync"
                    )
                locked.set_saga(error_message=reason, goal=moves.CANCELLED)
                stale = moves.start_compensation(locked)
            elif locked.saga.status is SagaStatus.COMPENSATING:
                locked.set_saga(error_message=reason, goal=moves.CANCELLED)
            else:
                raise IllegalTransitionError(
                    f"Saga {transaction_id} is {locked.saga.status.value}: there is nothing to cancel"
                )
            open_ = locked.saga.status is SagaStatus.COMPENSATING
        self._terminate(stale)
        if open_:
            self.compensate_all(definition, transaction_id, services=services)
        return self._get(transaction_id)[0]

    # Reading

    def exists(self, transaction_id: str) -> bool:
        """True when there is such a saga."""
        return self._storage.get(transaction_id) is not None

    def get(self, transaction_id: str) -> tuple[SagaRecord, tuple[StepRecord, ...]]:
        """A saga and its steps in order; raises IllegalTransitionError when there is no such saga."""
        found = self._storage.get(transaction_id)
        if found is None:
            raise IllegalTransitionError(f"There is no saga {transaction_id}")
        return found

    def list(
        self,
        *,
        statuses: Sequence[SagaStatus] = (),
        definition: str | None = None,
        third_company_id: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[SagaRecord, ...]:
        """Sagas, newest first."""
        return self._storage.list(
            statuses=statuses,
            definition=definition,
            third_company_id=third_company_id,
            limit=limit,
            offset=offset,
        )

    def events(self, transaction_id: str, *, after: int = 0, limit: int = 1000) -> tuple[EventRecord, ...]:
        """Events of a saga in the order in which they were written."""
        return self._storage.events(transaction_id, after=after, limit=limit)

    def statistics(self) -> dict[str, dict[str, int]]:
        """How many sagas of each definition have each status."""
        counts: dict[str, dict[str, int]] = {}
        for (definition, status), count in self._storage.count_by_status().items():
            counts.setdefault(definition, {})[status.value] = count
        return counts

    def health(self) -> dict[str, Any]:
        """Whether the store answers, and how many sagas are open; raises DatabaseError otherwise."""
        open_ = [status for status in SagaStatus if not status.ended]
        counts = self._storage.count_by_status()
        return {
            "database": "ok",
            "open": sum(count for (_, status), count in counts.items() if status in open_),
        }

    # Parts

    def _get(self, transaction_id: str) -> tuple[SagaRecord, dict[str, StepRecord]]:
        saga, steps = self.get(transaction_id)
        return saga, {step.name: step for step in steps}

    def _admit(
        self,
        definition: SagaDefinition,
        transaction_id: str,
        name: str,
        *,
        services: Any,
        params: Mapping[str, Any],
        run: RunView,
    ) -> tuple[_Taken | StepRecord | None, int, tuple[Step, ...]]:
        """Make sure steps may run; returns the epoch and the predecessors that must run first.

        Where there are none the step is begun at once, if nobody else is at it.
        """
        while True:
            with self._storage.open(transaction_id) as locked:
                status = locked.saga.status
                if run.closed:
                    raise IllegalTransitionError(
                        f"Step {name} was started although the run's settle_saga and saga_outcome have ended"
                        f" and will not run again: saga {transaction_id} ({status.value}) is left as it is."
                        f" Clear {name} again together with its downstream tasks"
                    )
                if _was_cancelled_during(run, locked.saga):
                    raise IllegalTransitionError(
                        f"Saga {transaction_id} was cancelled while this run was under way: {name} does not"
                        " run. When the run has ended, clear the task to start anew"
                    )
                if status is SagaStatus.PENDING or status.ended:
                    moves.open_epoch(locked, params=params)
                elif status is SagaStatus.FAILED and locked.saga.failed_step in {name, None}:
                    locked.set_saga(SagaStatus.IN_PROGRESS, error_message=None, failed_step=None)
                if locked.saga.status in RUNNING:
                    missing = tuple(
                        step
                        for step in definition.predecessors(name)
                        if not locked.steps[step.name].status.done
                    )
                    begun = None if missing else self._take(locked, definition[name])
                    break
                if locked.saga.goal == moves.CANCELLED:
                    raise IllegalTransitionError(
                        f"Saga {transaction_id} is being cancelled: wait until it is, then clear the task"
                    )
            self._finish_compensation(definition, transaction_id, services=services)
        return begun, locked.saga.epoch, missing

    def _finish_compensation(self, definition: SagaDefinition, transaction_id: str, *, services: Any) -> None:
        """Undo everything; of two that do so at once one may find the saga open again already."""
        try:
            self.compensate_all(definition, transaction_id, services=services)
        except IllegalTransitionError:
            if self._get(transaction_id)[0].status is SagaStatus.COMPENSATING:
                raise

    def _honour_mark(self, step: Step, transaction_id: str, epoch: int, *, run: RunView) -> None:
        """Skip a predecessor that a person marked successful, if it may be; otherwise record the mark."""
        if step.name not in run.green:
            return
        stale: list[str] = []
        while True:
            with self._storage.open(transaction_id) as locked:
                record = locked.steps[step.name]
                if locked.saga.epoch != epoch or record.status.done:
                    return
                if not self._is_alive(record):
                    if locked.has_event(EventType.STEP_COMPLETED, step.name):
                        return
                    if step.skippable:
                        stale = moves.skip(locked, step.name, reason=MARKED)
                    else:
                        locked.append(
                            EventType.TASK_MARKED,
                            step.name,
                            state="success",
                            result="not honoured: what follows needs its result, so the next step runs it",
                        )
                    break
            # A process lives on for seconds after its task was marked.
            self._sleep(POLL_SECONDS)
        self._terminate(stale)

    def _is_marked(self, locked: Locked, step: Step) -> bool:
        record = locked.steps[step.name]
        return (
            step.skippable
            and not record.status.done
            and not self._is_alive(record)
            and not locked.has_event(EventType.STEP_COMPLETED, step.name)
        )

    def _is_alive(self, record: StepRecord) -> bool:
        return (
            record.status is StepStatus.IN_PROGRESS
            and record.heartbeat_age is not None
            and record.heartbeat_age < self._stale_seconds
        )

    def _execute(self, transaction_id: str, step: Step, epoch: int, *, services: Any) -> Mapping[str, Any]:
        return self._perform(self._begin(transaction_id, step, epoch), services=services)

    def _begin(self, transaction_id: str, step: Step, epoch: int) -> _Taken | StepRecord:
        """Take an attempt; returns the step's record instead when it is done already.

        Waits while another process is at it, and takes over when its heart-beat has stopped.
        """
        waited = False
        while True:
            with self._storage.open(transaction_id) as locked:
                record = locked.steps[step.name]
                if locked.saga.epoch == epoch and record.status.done and locked.saga.status in DONE_COUNTS:
                    return record
                if locked.saga.status not in RUNNING or locked.saga.epoch != epoch:
                    raise FencedError(
                        f"Saga {transaction_id} went on without this task: it is {locked.saga.status.value}"
                        f" in epoch {locked.saga.epoch}, this task was of epoch {epoch}"
                    )
                begun = self._take(locked, step)
            if begun is not None:
                return begun
            if not waited:
                log.info(
                    "Saga %s: step %s is in progress at %s; waiting for it",
                    transaction_id,
                    step.name,
                    record.worker,
                )
                waited = True
            self._sleep(POLL_SECONDS)

    def _take(self, locked: Locked, step: Step) -> _Taken | StepRecord | None:
        """Take an attempt; the step's record when it is done, None while another process is at it."""
        record = locked.steps[step.name]
        if record.status.done:
            return record
        if self._is_alive(record):
            return None
        # Unique, because a database that loses its last commits gives attempt numbers out again.
        moves.take(locked, step.name, worker=f"{self._worker}:{uuid4().hex[:8]}")
        locked.commit_lazily()
        return _Taken(
            saga=locked.saga,
            step=step,
            steps=dict(locked.steps),
            left_by=record.worker if record.status is StepStatus.IN_PROGRESS else None,
        )

    def _perform(self, begun: _Taken | StepRecord, *, services: Any) -> Mapping[str, Any]:
        """Run the action of a step that was taken; returns the action_data, also of one that was done."""
        if isinstance(begun, StepRecord):
            return begun.action_data or {}
        saga, step, record = begun.saga, begun.step, begun.steps[begun.step.name]
        if begun.left_by is not None:
            log.warning(
                "Saga %s: step %s was left by %s; taking it over",
                saga.transaction_id,
                step.name,
                begun.left_by,
            )
            self._terminate([record.step_id])
        log.info("Saga %s: step %s, attempt %s", saga.transaction_id, step.name, record.attempt)
        attempt = Attempt(
            self._storage,
            saga=saga,
            step=step,
            record=record,
            others={name: other for name, other in begun.steps.items() if name != step.name},
            services=services,
            heart_beats=self._heart_beats,
        )
        try:
            with observed("step", saga=saga, step=record), attempt:
                data = step.action(attempt)
                attempt.complete(data)
        except BaseException as error:
            end = self._failed(attempt, error)
            if end is AttemptEnd.COMPLETED:
                # The commit's answer was lost, but not the commit.
                return self._get(saga.transaction_id)[1][step.name].action_data or {}
            if end is AttemptEnd.OVERTAKEN and isinstance(error, TransientError):
                # Its session was ended, and trying again is not this attempt's to do any more.
                raise attempt.fenced_error() from None
            if end is AttemptEnd.LOST and isinstance(error, FencedError):
                raise DatabaseError(
                    f"The database has lost the beginning of attempt {record.attempt} of step {step.name}:"
                    " was its server restarted?"
                ) from None
            raise
        return data

    def _failed(self, attempt: Attempt, error: BaseException) -> AttemptEnd:
        """Record the failure of an attempt, unless it had in truth completed or been overtaken."""
        name = attempt.step.name
        try:
            with self._storage.open(attempt.saga.transaction_id) as locked:
                record = locked.steps[name]
                theirs, ours = (record.epoch, record.attempt), (attempt.record.epoch, attempt.record.attempt)
                if theirs < ours:
                    return AttemptEnd.LOST
                if theirs > ours or record.worker != attempt.record.worker:
                    return AttemptEnd.OVERTAKEN
                if record.status is StepStatus.COMPLETED:
                    return AttemptEnd.COMPLETED
                if record.status is not StepStatus.IN_PROGRESS:
                    return AttemptEnd.FAILED
                message = message_of(error)
                locked.set_step(name, StepStatus.FAILED, error_message=message, end_time=NOW)
                locked.set_saga(current_step=current_step_of(locked.steps))
                locked.append(
                    EventType.STEP_FAILED,
                    name,
                    attempt=record.attempt,
                    error=message,
                    code=getattr(error, "code", ""),
                    kinds=kinds_of(error),
                )
                if isinstance(error, RefusedError):
                    moves.refuse(locked, name, message)
        except NancalaccError as failure:
            log.warning(
                "Saga %s: cannot record the failure of %s: %s", attempt.saga.transaction_id, name, failure
            )
        return AttemptEnd.FAILED

    def _undo(self, step: Step, transaction_id: str, *, services: Any) -> None:
        compensation = step.compensation
        if compensation is None:
            return
        try:
            with (
                self._storage.database.transaction() as connection,
                self._storage.join(connection, transaction_id) as locked,
            ):
                record = locked.steps[step.name]
                if (
                    locked.saga.status is not SagaStatus.COMPENSATING
                    or record.status is not StepStatus.COMPENSATING
                ):
                    return
                context = CompensationContext(
                    saga=locked.saga, step=step, record=record, services=services, connection=connection
                )
                with observed("compensation", saga=locked.saga, step=record):
                    log.info("Saga %s: compensating %s", transaction_id, step.name)
                    compensation(context)
                locked.set_step(step.name, StepStatus.COMPENSATED, end_time=NOW)
                locked.append(EventType.COMPENSATION_COMPLETED, step.name)
        except BaseException as error:
            self._compensation_failed(step.name, transaction_id, error)
            raise

    def _compensation_failed(self, name: str, transaction_id: str, error: BaseException) -> None:
        message = message_of(error)
        try:
            with self._storage.open(transaction_id) as locked:
                if locked.steps[name].status is StepStatus.COMPENSATING:
                    locked.set_step(name, error_message=message)
                    locked.set_saga(error_message=f"Compensation of {name}: {message}")
                    locked.append(EventType.COMPENSATION_FAILED, name, error=message)
        except NancalaccError as failure:
            log.warning("Saga %s: cannot record a failed compensation: %s", transaction_id, failure)

    def _end_compensation(self, definition: SagaDefinition, transaction_id: str) -> None:
        with self._storage.open(transaction_id) as locked:
            if locked.saga.status is not SagaStatus.COMPENSATING:
                return
            if any(moves.to_undo(step, locked.steps[step.name]) for step in definition):
                return
            cancelled = locked.saga.goal == moves.CANCELLED
            locked.set_saga(
                SagaStatus.CANCELLED if cancelled else SagaStatus.COMPENSATED,
                progress=0,
                end_time=NOW,
                current_step=None,
                **moves.NO_RECOVERY,
            )
            locked.append(EventType.COMPENSATION_COMPLETED)
            if cancelled:
                locked.append(EventType.SAGA_CANCELLED, reason=locked.saga.error_message)

    def _terminate(self, step_ids: Iterable[str]) -> None:
        """End the sessions of overtaken attempts, so that their locks do not hold anybody up."""
        for step_id in step_ids:
            try:
                ended = self._storage.database.terminate(session_name(step_id))
            except NancalaccError as failure:
                # They end by themselves when idle for too long, and the fence holds without it.
                log.warning("Cannot end the sessions of overtaken attempts of %s: %s", step_id, failure)
                continue
            if ended:
                log.warning("Ended %s database session(s) of an overtaken attempt of %s", ended, step_id)


def _was_cancelled_during(run: RunView, saga: SagaRecord) -> bool:
    """True when somebody cancelled the saga after the run started: no queued task may open it."""
    return (
        saga.status is SagaStatus.CANCELLED
        and saga.goal == moves.CANCELLED
        and run.started is not None
        and saga.end_time is not None
        and run.started < saga.end_time.replace(tzinfo=UTC)
    )
