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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, cast
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
from nancalacc.saga import settlement as settlements
from nancalacc.saga.checkpoint import Answer, Question
from nancalacc.saga.compensation import Compensation
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
from nancalacc.saga.reading import SagaReader
from nancalacc.saga.records import NOW, SagaRecord, StepRecord
from nancalacc.saga.settlement import MARKED, RunView, Settlement, Verdict
from nancalacc.saga.state import EventType, SagaStatus, StepStatus
from nancalacc.saga.storage import Locked, Storage
from nancalacc.saga.telemetry import ending, named, named_attempt, observed
from nancalacc.saga.waiting import Wait, Waiting, Watch, is_met

__all__ = ["AttemptEnd", "Coordinator", "RunView", "Settlement", "Verdict"]

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
DONE_COUNTS = RUNNING | {SagaStatus.COMPLETED}
"""A saga whose done steps are done: it has not gone back."""


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

    `steps` is what the lock showed; `left_by` is the worker of the attempt that was taken over;
    `so_far` what an attempt had done that was laid down and goes on.
    """

    saga: SagaRecord
    step: Step
    steps: Mapping[str, StepRecord]
    left_by: str | None
    so_far: Mapping[str, Any] | None = None


class Coordinator(SagaReader):
    """The saga engine over a store."""

    def __init__(
        self,
        storage: Storage,
        *,
        heartbeat_seconds: float = 5,
        stale_seconds: float = 30,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(storage)
        self._compensation = Compensation(storage)
        self._heartbeat_seconds = heartbeat_seconds
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
        begun = self._prepare(definition, transaction_id, name, services=services, params=params, run=run)
        return self._perform(begun, services=services)

    def run_step_or_wait(
        self,
        definition: SagaDefinition,
        transaction_id: str,
        name: str,
        *,
        services: Any,
        params: Mapping[str, Any],
        run: RunView = RunView(),
    ) -> Mapping[str, Any] | Waiting:
        """As `run_step`, but lay the attempt down when its action has to wait: see `watch`, `resume_step`."""
        begun = self._prepare(definition, transaction_id, name, services=services, params=params, run=run)
        return self._attempt(begun, services=services, in_place=False)

    def resume_step(
        self, definition: SagaDefinition, waiting: Waiting, *, services: Any
    ) -> Mapping[str, Any] | Waiting:
        """Go on with an attempt that was laid down; nobody else can after that.

        Raises what the action raises, and FencedError when the attempt was overtaken or taken up before.
        """
        with self._storage.open(waiting.transaction_id) as locked:
            record = locked.steps[waiting.step]
            if locked.saga.status not in RUNNING or not waiting.is_attempt(record):
                raise FencedError(
                    f"Attempt {waiting.attempt} (epoch {waiting.epoch}) of step {waiting.step} of saga"
                    f" {waiting.transaction_id} was overtaken, or taken up by another, while it waited"
                )
            locked.set_step(waiting.step, worker=self._new_worker(), heartbeat_at=NOW)
            resumed = _Taken(
                saga=locked.saga,
                step=definition[waiting.step],
                steps=dict(locked.steps),
                left_by=None,
                so_far=record.action_data or {},
            )
        return self._attempt(resumed, services=services, in_place=False)

    def watch(self, definition: SagaDefinition, waiting: Waiting) -> Watch:
        """What keeps a laid down attempt alive, and tells when to go on with it."""
        return Watch(
            self._storage,
            definition[waiting.step],
            waiting,
            heartbeat_seconds=self._heartbeat_seconds,
        )

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
        look = self._look(definition, transaction_id, name, services=services)
        with named(transaction_id, step=name, epoch=look.saga.epoch):
            return checkpoint.check(look)

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
        with named(transaction_id, step=name, epoch=look.saga.epoch):
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
        with ending(self._storage, transaction_id) as locked:
            settlement, stale = settlements.settle(locked, definition, run=run, is_alive=self._is_alive)
        with named(transaction_id, epoch=locked.saga.epoch):
            log.info("Saga %s is settled: %s", transaction_id, settlement.verdict.value)
        self._terminate(stale)
        return settlement

    def compensate_step(
        self, definition: SagaDefinition, transaction_id: str, name: str, *, services: Any
    ) -> bool:
        """Undo one step; every later step must be undone. Returns whether there was anything to undo.

        The last one ends the saga. Raises what the compensation raises; it may be called again.
        """
        return self._compensation.undo_step(definition, transaction_id, name, services=services)

    def compensate_all(self, definition: SagaDefinition, transaction_id: str, *, services: Any) -> None:
        """Undo everything that is still to be undone, in reverse, and end the saga."""
        self._compensation.undo_all(definition, transaction_id, services=services)

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
            with ending(self._storage, transaction_id) as locked:
                if still and locked.saga.status in RUNNING and locked.saga.epoch == epoch:
                    moves.complete(locked)
        return self._get(transaction_id)[0]

    def cancel(
        self, definition: SagaDefinition, transaction_id: str, *, services: Any, reason: str
    ) -> SagaRecord:
        """Undo a saga on request; it ends cancelled. Raises IllegalTransitionError past the pivot."""
        with ending(self._storage, transaction_id) as locked:
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

    # Parts

    def _get(self, transaction_id: str) -> tuple[SagaRecord, dict[str, StepRecord]]:
        saga, steps = self.get(transaction_id)
        return saga, {step.name: step for step in steps}

    def _prepare(
        self,
        definition: SagaDefinition,
        transaction_id: str,
        name: str,
        *,
        services: Any,
        params: Mapping[str, Any],
        run: RunView,
    ) -> _Taken | StepRecord:
        """Take an attempt of a step, having run every predecessor that is not done in this epoch."""
        begun, epoch, missing = self._admit(
            definition, transaction_id, name, services=services, params=params, run=run
        )
        for predecessor in missing:
            self._honour_mark(predecessor, transaction_id, epoch, run=run)
            self._execute(transaction_id, predecessor, epoch, services=services)
        return begun if begun is not None else self._begin(transaction_id, definition[name], epoch)

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
            self._compensation.finish(definition, transaction_id, services=services)
        return begun, locked.saga.epoch, missing

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

    def _is_alive(self, record: StepRecord) -> bool:
        """Whether there was a sign of life lately.

        One from far ahead was given before the database's clock went back. Who lives gives another
        one soon; until then the fence protects what it does.
        """
        return (
            record.status is StepStatus.IN_PROGRESS
            and record.heartbeat_age is not None
            and abs(record.heartbeat_age) < self._stale_seconds
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
                with named_attempt(locked.saga, record):
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
        moves.take(locked, step.name, worker=self._new_worker())
        locked.commit_lazily()
        return _Taken(
            saga=locked.saga,
            step=step,
            steps=dict(locked.steps),
            left_by=record.worker if record.status is StepStatus.IN_PROGRESS else None,
        )

    def _new_worker(self) -> str:
        # Unique, because a database that loses its last commits gives attempt numbers out again.
        return f"{self._worker}:{uuid4().hex[:8]}"

    def _perform(self, begun: _Taken | StepRecord, *, services: Any) -> Mapping[str, Any]:
        """Run the action of a step that was taken; returns the action_data, also of one that was done."""
        return cast("Mapping[str, Any]", self._attempt(begun, services=services, in_place=True))

    def _attempt(
        self, begun: _Taken | StepRecord, *, services: Any, in_place: bool
    ) -> Mapping[str, Any] | Waiting:
        """As `_perform`; where the action has to wait, wait `in_place` or lay the attempt down."""
        if isinstance(begun, StepRecord):
            return begun.action_data or {}
        with named_attempt(begun.saga, begun.steps[begun.step.name]):
            return self._run(begun, services=services, in_place=in_place)

    def _run(self, begun: _Taken, *, services: Any, in_place: bool) -> Mapping[str, Any] | Waiting:
        saga, step, record = begun.saga, begun.step, begun.steps[begun.step.name]
        if begun.left_by is not None:
            log.warning(
                "Saga %s: step %s was left by %s; taking it over",
                saga.transaction_id,
                step.name,
                begun.left_by,
            )
            self._terminate([record.step_id])
        log.info(
            "Saga %s: step %s, attempt %s%s",
            saga.transaction_id,
            step.name,
            record.attempt,
            "" if begun.so_far is None else " goes on",
        )
        attempt = Attempt(
            self._storage,
            saga=saga,
            step=step,
            record=record,
            others={name: other for name, other in begun.steps.items() if name != step.name},
            services=services,
            heart_beats=self._heart_beats,
            so_far=begun.so_far,
        )
        try:
            with observed("step", saga=saga, step=record), attempt:
                if begun.so_far is not None:
                    _require_time(step, record)
                data = step.action(attempt)
                while isinstance(data, Wait):
                    attempt.wait(data)
                    if not in_place:
                        break
                    self._wait_in_place(attempt, data)
                    data = step.action(attempt)
                else:
                    attempt.complete(data)
                    return data
            return attempt.lay_down(data)
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

    def _wait_in_place(self, attempt: Attempt, wait: Wait) -> None:
        """Wait until the condition is met, at most as long as the action wants to."""
        deadline = time.monotonic() + wait.seconds
        while True:
            with self._storage.database.transaction() as connection:
                met = is_met(attempt.step, connection, wait.condition)
            left = deadline - time.monotonic()
            if met or left <= 0:
                return
            self._sleep(min(wait.poll_seconds, left))
            attempt.check()

    def _failed(self, attempt: Attempt, error: BaseException) -> AttemptEnd:
        """Record the failure of an attempt, unless it had in truth completed or been overtaken."""
        name = attempt.step.name
        try:
            with ending(self._storage, attempt.saga.transaction_id) as locked:
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

    def _terminate(self, step_ids: Iterable[str]) -> None:
        """End the sessions of overtaken attempts, so that their locks do not hold anybody up."""
        for step_id in step_ids:
            transaction_id, _, step = step_id.partition(":")
            with named(transaction_id, step=step):
                try:
                    ended = self._storage.database.terminate(session_name(step_id))
                except NancalaccError as failure:
                    # They end by themselves when idle for too long, and the fence holds without it.
                    log.warning("Cannot end the sessions of overtaken attempts of %s: %s", step_id, failure)
                    continue
                if ended:
                    log.warning("Ended %s database session(s) of an overtaken attempt of %s", ended, step_id)


def _require_time(step: Step, record: StepRecord) -> None:
    """Raise TransientError when an attempt that goes on after a wait has had its time.

    The time limit of a task begins anew each time it goes on.
    """
    if record.start_time is None:
        return
    age = datetime.now(tz=UTC) - record.start_time.replace(tzinfo=UTC)
    if age > step.time_limit:
        raise TransientError(f"Step {step.name} has waited for {age}; its time limit is {step.time_limit}")


def _was_cancelled_during(run: RunView, saga: SagaRecord) -> bool:
    """True when somebody cancelled the saga after the run started: no queued task may open it."""
    return (
        saga.status is SagaStatus.CANCELLED
        and saga.goal == moves.CANCELLED
        and run.started is not None
        and saga.end_time is not None
        and run.started < saga.end_time.replace(tzinfo=UTC)
    )
