"""What the engine needs from the room that keeps sagas (`nancalacc.store` is the one there is)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.records import EventRecord, SagaRecord, StepRecord
from nancalacc.saga.state import EventType, SagaStatus, StepStatus

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Locked(Protocol):
    """A saga under its row lock; changes are written when the lock's block ends."""

    saga: SagaRecord
    steps: dict[str, StepRecord]
    connection: Connection

    def set_saga(self, status: SagaStatus | None = None, **values: Any) -> None:
        """Change the saga's row; raises IllegalTransitionError for a status it cannot take now."""

    def set_step(self, name: str, status: StepStatus | None = None, **values: Any) -> None:
        """Change a step's row; raises IllegalTransitionError for a status it cannot take now."""

    def reset_steps(self) -> None:
        """Put every step back to pending for the saga's present epoch."""

    def append(self, event: EventType, step: str | None = None, **data: Any) -> None:
        """Append an event; without `step` it belongs to the saga as a whole."""

    def release_locks(self) -> None:
        """Give back every resource lock of this saga."""

    def commit_lazily(self) -> None:
        """Do not wait until the change is on disk, for one that a crash of the server may undo.

        Has no effect on a change of the saga's status. What is committed after it is on disk
        only when this is, too.
        """

    def has_event(self, event: EventType, step: str) -> bool:
        """True when the step has such an event, of whatever epoch."""


class Transactions(Protocol):
    """The database under the store."""

    def transaction(self, *, name: str = "") -> AbstractContextManager[Connection]:
        """A transaction: committed at the end of the block, rolled back when it raises.

        `name` is the session's name as long as it lasts, for `terminate`.
        """

    def has_written(self, connection: Connection) -> bool:
        """True when the transaction has changed or locked a row so far."""

    def terminate(self, name_prefix: str, *, but: str = "") -> int:
        """End every other session whose name begins so, except the one named `but`."""


class Storage(Protocol):
    """Where sagas are kept."""

    @property
    def database(self) -> Transactions:
        """The database, for transactions that are not about the saga's own rows."""

    def create(
        self,
        definition: SagaDefinition,
        *,
        transaction_id: str,
        dag_id: str,
        run_id: str,
        params: Mapping[str, Any],
    ) -> bool:
        """Insert a pending saga with its steps; returns False when it is there already."""

    def open(self, transaction_id: str) -> AbstractContextManager[Locked]:
        """Lock a saga in a transaction of its own."""

    def join(self, connection: Connection, transaction_id: str) -> AbstractContextManager[Locked]:
        """Lock a saga inside the caller's transaction."""

    def beat(self, step: StepRecord, *, report: Mapping[str, Any] | None) -> bool:
        """Say that this attempt is alive; False when it was overtaken."""

    def let_go(self, step: StepRecord) -> None:
        """Take back the last sign of life of this attempt, if it is still the step's."""

    def get(self, transaction_id: str) -> tuple[SagaRecord, tuple[StepRecord, ...]] | None:
        """A saga and its steps in order, None when there is no such saga."""

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

    def events(self, transaction_id: str, *, after: int = 0, limit: int = 1000) -> tuple[EventRecord, ...]:
        """Events of a saga in the order in which they were written."""

    def append(
        self, transaction_id: str, events: Sequence[tuple[EventType, str | None, Mapping[str, Any]]]
    ) -> None:
        """Append events (type, step name or None, data) without touching any status."""

    def count_by_status(self) -> dict[tuple[str, SagaStatus], int]:
        """How many sagas of each definition have each status."""
