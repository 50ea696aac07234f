"""Finishes sagas whose run has ended or is gone, from the tables alone [design 4.5].

Forward past the pivot, otherwise compensation in reverse; a saga of which nothing ever ran is
cancelled. What cannot be finished is tried again, each time after twice the pause, without end.
Sagas of live runs are left alone, whatever their steps look like: the run is to go on by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nancalacc.errors import ConfigurationError, DatabaseError, FatalError, NancalaccError, TransientError
from nancalacc.orchestration.runs import known_params
from nancalacc.saga.coordinator import Coordinator
from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.execution import message_of
from nancalacc.saga.records import SagaRecord
from nancalacc.saga.telemetry import named
from nancalacc.store import recovery as store
from nancalacc.store.database import Database
from nancalacc.store.recovery import OpenSaga

log = logging.getLogger(__name__)

LARGEST_BATCH = 200
"""Sagas tried by one run of the DAG."""
MOST_LOOKED_AT = 2000
LONGEST_RUN_SECONDS = 240.0
"""After this no further saga is begun: the next run of the DAG comes soon."""
CLAIM_SECONDS = 900.0
"""How long a saga stays with a recovery that says nothing more."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 3600.0


class Result(StrEnum):
    """What a recovery found or did."""

    FINISHED = "finished"
    FAILED = "failed"
    LIVE = "live"
    """Its run goes on."""
    SILENT = "silent"
    """Its run goes on, but the step in progress gives no sign of life."""
    AT_WORK = "at_work"
    """Its run has ended, but a process of it is still at work."""
    TAKEN = "taken"
    """Another recovery has it, or a person opened it again."""
    WAITING = "waiting"
    """Its next try comes later."""
    LEFT = "left"
    """There was no time left for it: the next run tries it."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a recovery needs from outside the tables.

    `is_live`: whether the saga's run is queued or running. `definition_of`: the definition of a DAG;
    raises ConfigurationError for one it does not know.
    """

    is_live: Callable[[SagaRecord], bool]
    definition_of: Callable[[str], SagaDefinition]
    services_of: Callable[[SagaRecord], Any]
    clock: Callable[[], float] = time.monotonic


def pause_after(tries: int) -> float:
    """Seconds until the next try, after so many that did not succeed."""
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(tries - 1, 20), LONGEST_PAUSE_SECONDS))


class Recovery:
    """One run of `saga_recovery`. Any number of them may run at once.

    Raises DatabaseError when the database is away; a saga that cannot be finished stops nothing.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        database: Database,
        environment: Environment,
        *,
        stale_seconds: float,
    ) -> None:
        self._coordinator = coordinator
        self._database = database
        self._environment = environment
        self._stale_seconds = stale_seconds

    def recover(self, *, batch: int = LARGEST_BATCH) -> dict[Result, int]:
        """Try every saga that is due, at most `batch` of them; returns how many had each result."""
        clock = self._environment.clock
        deadline = clock() + LONGEST_RUN_SECONDS
        counts = dict.fromkeys(Result, 0)
        with self._database.transaction() as connection:
            found = store.open_sagas(connection, limit=MOST_LOOKED_AT)
        for candidate in found:
            if not candidate.due:
                result = Result.WAITING
            elif counts[Result.FINISHED] + counts[Result.FAILED] >= batch or clock() >= deadline:
                result = Result.LEFT
            else:
                result = self._look_at(candidate)
            counts[result] += 1
        return counts

    def recover_one(self, transaction_id: str) -> Result | None:
        """Try one saga now, whatever its next try; returns None when it has ended or is of no DAG.

        Raises IllegalTransitionError when there is no such saga.
        """
        with self._database.transaction() as connection:
            candidate = store.open_saga(connection, transaction_id)
        if candidate is not None:
            return self._look_at(candidate)
        saga, _ = self._coordinator.get(transaction_id)
        with named(transaction_id, epoch=saga.epoch):
            log.info(
                "Saga %s (%s) has ended or is of no DAG: not recovered", transaction_id, saga.status.value
            )
        return None

    def _look_at(self, candidate: OpenSaga) -> Result:
        saga = candidate.saga
        with named(saga.transaction_id, epoch=saga.epoch, step=candidate.running):
            return self._treat(candidate)

    def _treat(self, candidate: OpenSaga) -> Result:
        saga, silence = candidate.saga, candidate.silence
        # A sign of life from far ahead was given before the database's clock went back.
        silent = silence is None or abs(silence) >= self._stale_seconds
        if self._environment.is_live(saga):
            if candidate.running is None or not silent:
                return Result.LIVE
            log.warning(
                "Saga %s: step %s has given no sign of life for %s, but run %s of DAG %s is not over"
                " (a pause before a retry, a queue, a paused DAG): it is left to that run",
                saga.transaction_id,
                candidate.running,
                "long" if silence is None else f"{silence:.0f} s",
                saga.run_id,
                saga.dag_id,
            )
            return Result.SILENT
        if candidate.running is not None and not silent:
            log.info("Saga %s: step %s is still at work", saga.transaction_id, candidate.running)
            return Result.AT_WORK
        log.info("::group::Saga %s", saga.transaction_id)
        try:
            return self._recover(candidate)
        finally:
            log.info("::endgroup::")

    def _recover(self, candidate: OpenSaga) -> Result:
        saga = candidate.saga
        try:
            with self._database.transaction() as connection:
                taken = store.claim(connection, saga, seconds=CLAIM_SECONDS)
            if not taken:
                log.info("Saga %s: somebody else is at it", saga.transaction_id)
                return Result.TAKEN
            log.info(
                "Saga %s (%s, for %.0f s) of run %s of DAG %s, which is over: try %s",
                saga.transaction_id,
                saga.status.value,
                candidate.age,
                saga.run_id,
                saga.dag_id,
                saga.recovery_tries + 1,
            )
            after = self._conclude(saga)
        except Exception as error:  # noqa: BLE001 - one saga must not keep the others from recovery
            return self._failed(candidate, error)
        if not after.status.ended:
            log.info("Saga %s was opened again", saga.transaction_id)
            return Result.TAKEN
        log.info("Saga %s is %s", saga.transaction_id, after.status.value)
        return Result.FINISHED

    def _conclude(self, saga: SagaRecord) -> SagaRecord:
        definition = self._environment.definition_of(saga.dag_id or "")
        _, steps = self._coordinator.get(saga.transaction_id)
        if {step.name for step in steps} != {step.name for step in definition}:
            raise ConfigurationError(
                f"Saga {saga.transaction_id} has other steps than definition {definition.name!r} of this"
                " version: install the version that started it, until it has ended"
            )
        return self._coordinator.conclude(
            definition, saga.transaction_id, services=self._environment.services_of(saga)
        )

    def _failed(self, candidate: OpenSaga, error: Exception) -> Result:
        saga = candidate.saga
        pause = pause_after(saga.recovery_tries + 1)
        try:
            with self._database.transaction() as connection:
                store.postpone(connection, saga, seconds=pause, error=message_of(error))
            now, _ = self._coordinator.get(saga.transaction_id)
        except DatabaseError:
            # Only this saga's rows may be out of reach (locked); if so, the others are not.
            with self._database.transaction() as connection:
                store.open_saga(connection, saga.transaction_id)
            now = saga
        if now.status.ended or now.epoch != saga.epoch:
            log.info("Saga %s is %s: somebody else went on with it", saga.transaction_id, now.status.value)
            return Result.TAKEN
        log.error(
            "Saga %s (%s, for %.0f s) cannot be finished, try %s: %s. It is tried again after %.0f s",
            saga.transaction_id,
            now.status.value,
            candidate.age,
            saga.recovery_tries + 1,
            message_of(error),
            pause,
            exc_info=None if isinstance(error, NancalaccError) else error,
        )
        return Result.FAILED


def recover_sagas(context: Mapping[str, Any]) -> None:
    """What the task of `saga_recovery` does: every saga that is due, or the one that is named.

    Then it tells people what nobody was told of yet. Raises FatalError when there is another parameter,
    the named saga does not exist, or its run is not over; TransientError when it could not be finished.
    """
    from nancalacc.orchestration.incidents import tell_incidents

    transaction_id = known_params(context, "transaction_id").get("transaction_id")
    try:
        _recover_sagas(context["ti"], transaction_id=transaction_id)
    finally:
        tell_incidents()


def _recover_sagas(task_instance: Any, *, transaction_id: str | None) -> None:
    from nancalacc.config import Settings
    from nancalacc.orchestration.hooks import coordinator_over, open_database
    from nancalacc.orchestration.registry import definition_of, recovery_services_of

    def is_live(saga: SagaRecord) -> bool:
        count = task_instance.get_dr_count(
            dag_id=saga.dag_id, run_ids=[saga.run_id], states=["queued", "running"]
        )
        return bool(count)

    environment = Environment(is_live=is_live, definition_of=definition_of, services_of=recovery_services_of)
    with open_database() as database:
        recovery = Recovery(
            coordinator_over(database),
            database,
            environment,
            stale_seconds=Settings.from_env().stale_seconds,
        )
        if transaction_id is None:
            counts = recovery.recover()
            log.info(
                "%s",
                ", ".join(f"{result.value}: {count}" for result, count in counts.items() if count)
                or "No saga is open",
            )
            return
        result = recovery.recover_one(transaction_id)
    if result in {None, Result.FINISHED}:
        return
    saga = f"Saga {transaction_id}"
    match result:
        case Result.FAILED:
            raise FatalError(f"{saga} could not be finished: the log says why; it is tried again by itself")
        case Result.LIVE | Result.SILENT:
            raise FatalError(f"{saga} is left alone: its run is not over. Mark the run as failed first")
        case _:
            raise TransientError(f"{saga} is being worked on ({result}): try again later")
