"""Undoes the steps of a saga in reverse, each in one transaction, and ends the saga."""

from __future__ import annotations

import logging
from typing import Any

from nancalacc.errors import IllegalTransitionError, NancalaccError
from nancalacc.saga import moves
from nancalacc.saga.context import CompensationContext
from nancalacc.saga.definition import SagaDefinition, Step
from nancalacc.saga.execution import message_of
from nancalacc.saga.records import NOW
from nancalacc.saga.state import EventType, SagaStatus, StepStatus
from nancalacc.saga.storage import Storage
from nancalacc.saga.telemetry import ending, named, observed

log = logging.getLogger(__name__)


class Compensation:
    """The way back; any number of processes may be on it at once, each step is undone once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def undo_step(self, definition: SagaDefinition, transaction_id: str, name: str, *, services: Any) -> bool:
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
        self._end(definition, transaction_id)
        return needed

    def undo_all(self, definition: SagaDefinition, transaction_id: str, *, services: Any) -> None:
        """Undo everything that is still to be undone, in reverse, and end the saga."""
        for step in reversed(definition.steps):
            self.undo_step(definition, transaction_id, step.name, services=services)

    def finish(self, definition: SagaDefinition, transaction_id: str, *, services: Any) -> None:
        """Undo everything; of two that do so at once one may find the saga open again already."""
        try:
            self.undo_all(definition, transaction_id, services=services)
        except IllegalTransitionError:
            found = self._storage.get(transaction_id)
            if found is None or found[0].status is SagaStatus.COMPENSATING:
                raise

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
            with named(transaction_id, step=name):
                log.warning("Saga %s: cannot record a failed compensation: %s", transaction_id, failure)

    def _end(self, definition: SagaDefinition, transaction_id: str) -> None:
        with ending(self._storage, transaction_id) as locked:
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
