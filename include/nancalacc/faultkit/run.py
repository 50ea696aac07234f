"""One run of a saga in one process: the jobs that the tasks of its DAG would do, in their order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import or_, select

from nancalacc.errors import FencedError, IllegalTransitionError, NancalaccError, TransientError
from nancalacc.faultkit.boundaries import Trace, traced
from nancalacc.faultkit.subject import Ending, Scenario, Subject
from nancalacc.orchestration.recovery import Environment, Recovery
from nancalacc.saga.checkpoint import Answer, Checkpoint
from nancalacc.saga.coordinator import Coordinator, RunView, Verdict
from nancalacc.saga.definition import SagaDefinition, Step, transaction_id_of
from nancalacc.saga.moves import past_pivot
from nancalacc.store.database import Database
from nancalacc.store.repository import SagaStore
from nancalacc.store.tables import company_locks

T = TypeVar("T")

log = logging.getLogger(__name__)

NO_HEARTBEAT_SECONDS = 3600.0
"""The kit decides who is dead: attempts give no signs of life, and all count as left."""
LOCK = company_locks.c
START, SETTLE, OUTCOME = "start", "settle", "outcome"
TRIES = 5
"""How often a job is tried, as a task would be."""


class Engine:
    """A store and a coordinator over a database, for any number of runs one after the other."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = SagaStore(database)
        self.coordinator = Coordinator(
            self.store, heartbeat_seconds=NO_HEARTBEAT_SECONDS, stale_seconds=0, sleep=lambda _: None
        )


def recover(
    coordinator: Coordinator,
    database: Database,
    definition: SagaDefinition,
    *,
    services: Any,
    stale_seconds: float,
    transaction_id: str | None = None,
) -> None:
    """What `saga_recovery` does where the runs of all sagas are over: for all, or for one at once."""
    environment = Environment(
        is_live=lambda _: False, definition_of=lambda _: definition, services_of=lambda _: services
    )
    recovery = Recovery(coordinator, database, environment, stale_seconds=stale_seconds)
    if transaction_id is None:
        recovery.recover()
    else:
        recovery.recover_one(transaction_id)


def in_order(definition: SagaDefinition) -> Iterator[Step | Checkpoint]:
    """Steps and checkpoints as one process passes them: a checkpoint right after the steps before it."""
    for step in definition:
        yield step
        for checkpoint in definition.checkpoints:
            if step.name == max(checkpoint.after, key=definition.position):
                yield checkpoint


def upstream(definition: SagaDefinition, name: str) -> set[str]:
    """Every step and checkpoint whose task must have succeeded before the one of this name starts."""
    checkpoints = {each.name: each for each in definition.checkpoints}
    if name in checkpoints:
        direct = set(checkpoints[name].after)
    else:
        between = {each.name for each in definition.checkpoints if name in each.before}
        direct = between.union(definition[name].depends_on)
    return direct.union(*(upstream(definition, each) for each in direct))


class Run:
    """A run over a database; `trace` learns which job is under way."""

    def __init__(self, subject: Subject, engine: Engine, *, scenario: Scenario, trace: Trace) -> None:
        self._subject = subject
        self._database = engine.database
        self._store = engine.store
        self._coordinator = engine.coordinator
        self._scenario = scenario
        self._trace = trace
        self._definition = traced(subject.definition, trace, fails=scenario.fails)
        self._failed: set[str] = set()
        self._may_undo = True
        self._tries = TRIES
        self.transaction_id = transaction_id_of(dag_id=subject.dag_id, run_id=subject.run_id)

    def go(self, *, start: str = START, until: str = OUTCOME, tries: int = TRIES) -> None:
        """Do all jobs from `start` to `until`. Raises what the last one, the outcome, raises.

        `tries`: how often a job is tried that ends with a transient error.
        """
        self._tries = tries
        jobs = self._jobs()
        names = list(jobs)
        for name in names[names.index(start) : names.index(until) + 1]:
            self._trace.job = name
            jobs[name]()

    def recover(self, *, at_once: bool = False) -> None:
        """What `saga_recovery` does when the run is over; `at_once` also when another one has the saga."""
        self._trace.job = "recovery"
        recover(
            self._coordinator,
            self._database,
            self._definition,
            services=self._subject.services,
            stale_seconds=0,
            transaction_id=self.transaction_id if at_once else None,
        )

    def must_complete(self) -> bool:
        """Whether recovery has to go forward: it has published, or may have, or everything is done."""
        ending = self.ending()
        if ending.saga is None:
            return False
        is_done = all(step.status.done for step in ending.steps.values())
        return is_done or past_pivot(self._definition, ending.steps)

    def ending(self) -> Ending:
        """How the saga is now."""
        found = self._store.get(self.transaction_id)
        if found is None:
            return Ending(self._scenario, saga=None, steps={}, events=(), is_locked=False)
        with self._database.transaction() as connection:
            mine = or_(*(column == self.transaction_id for column in (LOCK.holder, LOCK.waiting)))
            locked = select(company_locks).where(mine)
            is_locked = connection.execute(locked).first() is not None
        return Ending(
            self._scenario,
            saga=found[0],
            steps={step.name: step for step in found[1]},
            events=self._store.events(self.transaction_id),
            is_locked=is_locked,
        )

    def _jobs(self) -> Mapping[str, Callable[[], None]]:
        forward = {
            each.name: partial(self._check if isinstance(each, Checkpoint) else self._step, each.name)
            for each in in_order(self._definition)
        }
        undoing = {
            f"compensation of {step.name}": partial(self._undo, step.name)
            for step in reversed(self._definition.steps)
        }
        return {START: self._start, **forward, SETTLE: self._settle, **undoing, OUTCOME: self._conclude}

    def _start(self) -> None:
        self._tried(
            lambda: self._coordinator.start(
                self._definition,
                dag_id=self._subject.dag_id,
                run_id=self._subject.run_id,
                params=self._subject.params,
            )
        )

    def _step(self, name: str) -> None:
        self._go_forward(
            name,
            lambda: self._coordinator.run_step(
                self._definition,
                self.transaction_id,
                name,
                services=self._subject.services,
                params=self._subject.params,
            ),
        )

    def _check(self, name: str) -> None:
        self._go_forward(name, partial(self._pass, name))

    def _pass(self, name: str) -> None:
        """Pass a checkpoint, and answer for a person where it asks one."""
        question = self._coordinator.check(
            self._definition,
            self.transaction_id,
            name,
            services=self._subject.services,
            params=self._subject.params,
        )
        if question is not None:
            self._coordinator.decide(
                self._definition,
                self.transaction_id,
                name,
                key=question.key,
                answer=Answer(is_approved=name != self._scenario.rejects, by="the fault kit"),
                services=self._subject.services,
            )

    def _go_forward(self, name: str, job: Callable[[], object]) -> None:
        """The task of a step or checkpoint, and what is told of it when it has failed for good."""
        if self._failed & upstream(self._definition, name):
            return
        try:
            self._tried(job)
        except NancalaccError as error:
            log.info("%s has failed: %s", name, error)
            self._failed.add(name)
            if isinstance(error, FencedError | IllegalTransitionError):
                # Overtaken, or refused to start: that says nothing about the saga.
                return
            with suppress(NancalaccError):
                self._coordinator.fail(self.transaction_id, step=name, error=str(error))

    def _settle(self) -> None:
        run = RunView(failed=frozenset(self._failed & {each.name for each in self._definition.checkpoints}))
        settlement = self._tried(
            lambda: self._coordinator.settle(self._definition, self.transaction_id, run=run)
        )
        self._may_undo = settlement.verdict is Verdict.COMPENSATE

    def _undo(self, name: str) -> None:
        if not self._may_undo:
            return
        try:
            self._tried(
                lambda: self._coordinator.compensate_step(
                    self._definition, self.transaction_id, name, services=self._subject.services
                )
            )
        except NancalaccError as error:
            log.info("%s cannot be undone: %s", name, error)
            self._may_undo = False

    def _conclude(self) -> None:
        self._tried(
            lambda: self._coordinator.conclude(
                self._definition, self.transaction_id, services=self._subject.services
            )
        )

    def _tried(self, job: Callable[[], T]) -> T:
        for _ in range(self._tries - 1):
            try:
                return job()
            except TransientError as error:
                log.info("%s: %s; trying again", self._trace.job, error)
        return job()
