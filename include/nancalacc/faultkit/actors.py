"""What tasks, a recovery and people do to a saga, one call each, for the schedules."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from nancalacc.errors import NancalaccError
from nancalacc.faultkit.boundaries import Kind, Trace, traced
from nancalacc.faultkit.clock import Clock
from nancalacc.faultkit.run import NO_HEARTBEAT_SECONDS, in_order, recover
from nancalacc.faultkit.schedule import Schedule, ScheduledDatabase
from nancalacc.faultkit.subject import Subject
from nancalacc.saga.checkpoint import Answer, Checkpoint
from nancalacc.saga.coordinator import Coordinator, RunView
from nancalacc.saga.definition import transaction_id_of
from nancalacc.store.repository import SagaStore

STALE_SECONDS = 30.0
POLL_FACTOR = 12
"""A wait takes so many times longer: after a few the other process counts as dead."""
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SURPRISES = ("changed by somebody else", "SQLSTATE")
"""Parts of messages that no order of events may lead to: a lost guard, a lock waited for in vain."""


class ActorTrace(Trace):
    """Makes the boundaries around actions and calls moments of the schedule."""

    def __init__(self, database: ScheduledDatabase) -> None:
        super().__init__()
        self._database = database

    def at(self, kind: Kind, name: str = "", *, behind: bool) -> None:
        """See Trace; a compensation holds the saga's row, so that nobody could go on there."""
        if kind is not Kind.COMPENSATION:
            self._database.pause(f"{'behind' if behind else 'before'} {kind} {name}")


class Actor:
    """One process; its clock is the database's, in which `install_clock` was called."""

    def __init__(self, url: str, setup: Callable[[Trace], Subject]) -> None:
        self.database = ScheduledDatabase(url)
        self.surprises: list[str] = []
        self._clock = Clock(url)
        self._coordinator = Coordinator(
            SagaStore(self.database),
            heartbeat_seconds=NO_HEARTBEAT_SECONDS,
            stale_seconds=STALE_SECONDS,
            sleep=self._sleep,
        )
        trace = ActorTrace(self.database)
        self._subject = setup(trace)
        self._definition = traced(self._subject.definition, trace)
        self._transaction_id = transaction_id_of(dag_id=self._subject.dag_id, run_id=self._subject.run_id)

    def begin(self, schedule: Schedule) -> None:
        """Take part in a schedule."""
        self.database.begin(schedule)
        self.surprises = []

    def do(self, what: str, step: str = "") -> None:
        """Do one thing, by the name of a method here; an error of ours ends only that."""
        schedule = self.database.schedule
        name = " ".join(filter(None, (what, step)))
        schedule.tell(name)
        try:
            getattr(self, what)(*filter(None, (step,)))
        except NancalaccError as error:
            schedule.tell(f"{name} ended with {type(error).__name__}: {error}")
            if any(part in str(error) for part in SURPRISES):
                self.surprises.append(f"{name}: {error}")
        else:
            schedule.tell(f"{name} is over")

    def start(self) -> None:
        """Make sure there is a saga."""
        subject = self._subject
        self._coordinator.start(
            self._definition, dag_id=subject.dag_id, run_id=subject.run_id, params=subject.params
        )

    def run(self) -> None:
        """All tasks of a run, one after the other; what is asked is approved."""
        for each in in_order(self._definition):
            if isinstance(each, Checkpoint):
                self.do("check", each.name)
                self.do("approve", each.name)
            else:
                self.do("step", each.name)
        self.do("settle")
        self.do("outcome")

    def step(self, name: str) -> None:
        """The task of a step, in a run that began long ago."""
        self._step(name, RunView(started=LONG_AGO))

    def clear(self, name: str) -> None:
        """The task of a step that a person has cleared."""
        self._step(name, RunView())

    def step_after_marks(self, name: str) -> None:
        """The task of a step in a run in which a person has marked all others successful."""
        self._step(name, RunView(started=LONG_AGO, green=self._others(name)))

    def check(self, name: str) -> None:
        """The task of a checkpoint; what it asks is there for whoever decides."""
        question = self._coordinator.check(
            self._definition,
            self._transaction_id,
            name,
            services=self._subject.services,
            params=self._subject.params,
            run=RunView(started=LONG_AGO),
        )
        if question is not None:
            self.database.schedule.asked[name] = question.key

    def approve(self, name: str) -> None:
        """A person says yes to what the checkpoint has asked last."""
        self._decide(name, is_approved=True)

    def reject(self, name: str) -> None:
        """A person says no to what the checkpoint has asked last."""
        self._decide(name, is_approved=False)

    def retry(self, name: str) -> None:
        """A step again, through the engine."""
        self._coordinator.retry_step(
            self._definition, self._transaction_id, name, services=self._subject.services
        )

    def fail(self, name: str) -> None:
        """The callback of a step's, or a checkpoint's, task that has failed for good."""
        self._coordinator.fail(self._transaction_id, step=name, error="its task has failed")

    def skip(self, name: str) -> None:
        """A person skips a step."""
        self._coordinator.skip_step(self._definition, self._transaction_id, name, reason="by hand")

    def settle(self) -> None:
        """The task settle_saga."""
        self._coordinator.settle(self._definition, self._transaction_id)

    def settle_after_mark(self, name: str) -> None:
        """The task settle_saga in a run in which a person has marked this step successful."""
        view = RunView(green=frozenset({name}))
        self._coordinator.settle(self._definition, self._transaction_id, run=view)

    def settle_after_failure(self, name: str) -> None:
        """The task settle_saga in a run in which the task of this checkpoint has failed."""
        view = RunView(failed=frozenset({name}))
        self._coordinator.settle(self._definition, self._transaction_id, run=view)

    def outcome(self) -> None:
        """The task saga_outcome."""
        self._coordinator.conclude(self._definition, self._transaction_id, services=self._subject.services)

    def recovery(self) -> None:
        """`saga_recovery`, for a run that is over."""
        recover(
            self._coordinator,
            self.database,
            self._definition,
            services=self._subject.services,
            stale_seconds=STALE_SECONDS,
        )

    def cancel(self) -> None:
        """A person cancels the saga."""
        self._coordinator.cancel(
            self._definition, self._transaction_id, services=self._subject.services, reason="by hand"
        )

    def _others(self, name: str) -> frozenset[str]:
        return frozenset(step.name for step in self._definition if step.name != name)

    def _decide(self, name: str, *, is_approved: bool) -> None:
        key = self.database.schedule.asked.get(name)
        if key is not None:
            self._coordinator.decide(
                self._definition,
                self._transaction_id,
                name,
                key=key,
                answer=Answer(is_approved=is_approved, by=threading.current_thread().name),
                services=self._subject.services,
            )

    def _step(self, name: str, view: RunView) -> None:
        self._coordinator.run_step(
            self._definition,
            self._transaction_id,
            name,
            services=self._subject.services,
            params=self._subject.params,
            run=view,
        )

    def _sleep(self, seconds: float) -> None:
        self._clock.move(seconds * POLL_FACTOR)
        self.database.pause("while it waits", waits=True)

    def close(self) -> Any:
        """Close the connections."""
        self.database.close()
