"""Checkpoints: looks at a saga between two of its steps, which may stop it or ask a person.

A checkpoint is no step: it has no attempt, no compensation and no part in the progress. It may be
passed several times, by whoever runs the steps behind it, and must then come to the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from nancalacc.saga.records import SagaRecord

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is to decide: `key` names it exactly, no answer within `seconds` is a no.

    `subject` is one line, `body` Markdown.
    """

    key: str
    subject: str
    body: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision; `by` is None when nobody decided in time."""

    is_approved: bool
    by: str | None
    reason: str = ""


class Looking(Protocol):
    """What a check is given; the context of a step will do as well."""

    @property
    def saga(self) -> SagaRecord:
        """The saga."""

    @property
    def services(self) -> Any:
        """Clients and settings the saga's actions need, as the composition root built them."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """A transaction of its own, committed at the end of the block if the saga still goes on."""

    def action_data(self, step: str) -> Mapping[str, Any]:
        """What a completed step of this epoch returned; raises IllegalTransitionError otherwise."""

    def event(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Append an event, in a transaction of its own; raises FencedError when the saga has ended."""


class Deciding(Looking, Protocol):
    """What a decision is given."""

    def record(self, connection: Connection, event_type: str, data: Mapping[str, Any]) -> None:
        """Append an event in the given transaction."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A check after some steps and before others, in the order of the definition.

    `check` raises what stops the saga, or returns what a person must decide first, if anything.
    `decide` records their answer to the question with this key; it raises what a no means.
    `time_limit`: how long one check may take.
    """

    name: str
    check: Callable[[Looking], Question | None]
    decide: Callable[[Deciding, str, Answer], None]
    after: tuple[str, ...]
    before: tuple[str, ...]
    time_limit: timedelta = timedelta(minutes=30)
