"""One pass of a checkpoint through a saga: what its check reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nancalacc.errors import FencedError, IllegalTransitionError
from nancalacc.saga.checkpoint import Checkpoint
from nancalacc.saga.execution import RUNNING
from nancalacc.saga.records import SagaRecord, StepRecord
from nancalacc.saga.state import EventType, StepStatus
from nancalacc.saga.storage import Storage

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Look:
    """One pass of a checkpoint through a saga whose steps before it are done."""

    storage: Storage
    checkpoint: Checkpoint
    saga: SagaRecord
    steps: Mapping[str, StepRecord]
    services: Any

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction of its own, committed at the end of the block if the saga still goes on."""
        with self.storage.database.transaction() as connection:
            yield connection
            with self.storage.join(connection, self.saga.transaction_id) as locked:
                if locked.saga.status not in RUNNING or locked.saga.epoch != self.saga.epoch:
                    raise FencedError(
                        f"Saga {self.saga.transaction_id} went on without {self.checkpoint.name}: it is"
                        f" {locked.saga.status.value} in epoch {locked.saga.epoch}, this was epoch"
                        f" {self.saga.epoch}"
                    )

    def action_data(self, step: str) -> Mapping[str, Any]:
        """What a completed step of this epoch returned."""
        record = self.steps.get(step)
        if record is None or record.status is not StepStatus.COMPLETED:
            raise IllegalTransitionError(f"Step {step} has not completed in this epoch")
        return record.action_data or {}

    def event(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Append an event of the saga that names the checkpoint, if the saga still goes on."""
        with self.transaction() as connection:
            self.record(connection, event_type, data)

    def record(self, connection: Connection, event_type: str, data: Mapping[str, Any]) -> None:
        """Append an event of the saga that names the checkpoint, in the given transaction."""
        with self.storage.join(connection, self.saga.transaction_id) as locked:
            locked.append(EventType(event_type), checkpoint=self.checkpoint.name, **data)
