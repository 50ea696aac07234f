"""The moments of a run at which a process can be struck: noted in a clean run, struck in another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from nancalacc.errors import GuardError
from nancalacc.saga.checkpoint import Answer, Checkpoint, Deciding, Looking, Question
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.saga.definition import SagaDefinition, Step
from nancalacc.saga.waiting import Wait
from nancalacc.store.database import Database


class Kind(StrEnum):
    """What a boundary lies before or behind."""

    ACTION = "action"
    COMPENSATION = "compensation"
    CHECK = "check"
    """A checkpoint looks at the saga."""
    DECISION = "decision"
    """What a person answered to the question of a checkpoint is recorded."""
    COMMIT = "commit"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Boundary:
    """A moment in a job (a step, a checkpoint, settlement …): the n-th of its kind and name there.

    Behind a call its effect has happened and the answer has not arrived.
    """

    job: str
    kind: Kind
    name: str
    behind: bool
    number: int

    def __str__(self) -> str:
        where = "behind" if self.behind else "before"
        return f"{self.job}: {where} {' '.join(filter(None, (self.kind, self.name)))} {self.number}"


class Trace:
    """Counts the boundaries that this process passes; at one of them it calls `strike`."""

    def __init__(self, strike_at: Boundary | None = None, strike: Callable[[], None] = lambda: None) -> None:
        self.job = ""
        self.arm(strike_at, strike)

    def arm(self, strike_at: Boundary | None = None, strike: Callable[[], None] = lambda: None) -> None:
        """Begin to count anew, to strike elsewhere or nowhere."""
        self.passed: list[Boundary] = []
        self._strike_at = strike_at
        self._strike = strike
        self._counts: Counter[tuple[str, Kind, str, bool]] = Counter()

    def at(self, kind: Kind, name: str = "", *, behind: bool) -> None:
        """Pass a boundary."""
        key = (self.job, kind, name, behind)
        self._counts[key] += 1
        boundary = Boundary(*key, number=self._counts[key])
        self.passed.append(boundary)
        if boundary == self._strike_at:
            self._strike()

    @contextmanager
    def around(self, kind: Kind, name: str = "") -> Iterator[None]:
        """The boundaries before and behind a block that succeeds."""
        self.at(kind, name, behind=False)
        yield
        self.at(kind, name, behind=True)

    def call(self, name: str) -> Any:
        """The boundaries of one outgoing call, as a context manager; services put it around theirs."""
        return self.around(Kind.CALL, name)


class TracedDatabase(Database):
    """Has a boundary before and behind each commit of a transaction that has written."""

    def __init__(self, url: str, trace: Trace, **options: Any) -> None:
        super().__init__(url, **options)
        self._trace = trace

    @contextmanager
    def transaction(self, *, name: str = "") -> Iterator[Connection]:
        """See Database."""
        with super().transaction(name=name) as connection:
            yield connection
            written = self.has_written(connection)
            if written:
                self._trace.at(Kind.COMMIT, behind=False)
        if written:
            self._trace.at(Kind.COMMIT, behind=True)


def traced(definition: SagaDefinition, trace: Trace, *, fails: str = "") -> SagaDefinition:
    """The same saga with boundaries around its actions, compensations, checks and decisions.

    The step or checkpoint `fails` fails for good.
    """
    steps = tuple(_traced(step, trace, fails=step.name == fails) for step in definition)
    checkpoints = tuple(_watched(each, trace, fails=each.name == fails) for each in definition.checkpoints)
    return replace(definition, steps=steps, checkpoints=checkpoints)


def _traced(step: Step, trace: Trace, *, fails: bool) -> Step:
    def action(context: StepContext) -> Mapping[str, Any] | Wait:
        with trace.around(Kind.ACTION, step.name):
            if fails:
                raise _failure(step.name)
            return step.action(context)

    def compensation(context: CompensationContext) -> None:
        if step.compensation is not None:
            with trace.around(Kind.COMPENSATION, step.name):
                step.compensation(context)

    return replace(step, action=action, compensation=compensation if step.compensation else None)


def _watched(checkpoint: Checkpoint, trace: Trace, *, fails: bool) -> Checkpoint:
    def check(look: Looking) -> Question | None:
        with trace.around(Kind.CHECK, checkpoint.name):
            if fails:
                raise _failure(checkpoint.name)
            return checkpoint.check(look)

    def decide(look: Deciding, key: str, answer: Answer) -> None:
        with trace.around(Kind.DECISION, checkpoint.name):
            checkpoint.decide(look, key, answer)

    return replace(checkpoint, check=check, decide=decide)


def _failure(name: str) -> GuardError:
    return GuardError(f"The fault kit lets {name} fail")
