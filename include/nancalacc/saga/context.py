"""What an action and a compensation are given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nancalacc.saga.definition import Step
from nancalacc.saga.records import SagaRecord, StepRecord

if TYPE_CHECKING:
    from sqlalchemy import Connection


class StepContext(Protocol):
    """One attempt of one step. Everything it writes is fenced: a lost attempt writes nothing."""

    @property
    def saga(self) -> SagaRecord:
        """The saga as it was when this attempt began (and as `identify` changed it since)."""

    @property
    def step(self) -> Step:
        """The step of the definition."""

    @property
    def record(self) -> StepRecord:
        """The step's row as it was when this attempt began; `attempt` and `epoch` are this attempt's."""

    @property
    def services(self) -> Any:
        """Clients and settings the saga's actions need, as the composition root built them."""

    @property
    def so_far(self) -> Mapping[str, Any] | None:
        """The data of the `Wait` after which this attempt goes on; None at its beginning."""

    @property
    def connection(self) -> Connection:
        """The completing transaction, opened at first use.

        It commits together with the step's `completed` and its event after the action has
        returned, or not at all. Use it last and briefly: its session times out when idle.
        """

    def transaction(self, *, intend: bool = False) -> AbstractContextManager[Connection]:
        """A transaction of its own, committed at the end of the block if this attempt still counts.

        `intend=True` (pivot only) records in the same transaction that the effect may happen
        from now on. A step that has a compensation is compensated from the first such
        transaction on that writes: call `remember` before it if the compensation needs data.
        Raises FencedError when the attempt was overtaken.
        """

    def refused(self) -> None:
        """Record that every call so far was definitely refused (pivot only).

        Does nothing when an earlier attempt left the outcome open.
        """

    def remember(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep what the compensation needs, before the effect; returns what is kept.

        Written once per epoch: a later attempt gets the first one's data back. Raises
        IllegalTransitionError when this attempt has written already.
        """

    def action_data(self, step: str) -> Mapping[str, Any]:
        """What a completed step of this epoch returned; raises IllegalTransitionError otherwise."""

    def identify(self, connection: Connection, *, third_company_id: str, task_id: str | None) -> None:
        """Write the company and the task id of this saga into its row, in the given transaction."""

    def event(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Append an event of this step, in a transaction of its own.

        Raises FencedError when the attempt was overtaken.
        """

    def report(self, data: Mapping[str, Any]) -> None:
        """Show intermediate counts: written to the step's action_data with the next heart-beat."""

    def check(self) -> None:
        """Raise FencedError when this attempt is known to be overtaken."""


@dataclass(frozen=True, slots=True)
class CompensationContext:
    """One compensation; `connection` commits together with the step's `compensated`."""

    saga: SagaRecord
    step: Step
    record: StepRecord
    services: Any
    connection: Connection

    @property
    def data(self) -> Mapping[str, Any]:
        """What the action remembered."""
        return self.record.compensate_data or {}
