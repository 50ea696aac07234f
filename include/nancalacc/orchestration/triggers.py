"""What the triggerer waits for on behalf of deferred tasks."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from nancalacc.errors import NancalaccError
from nancalacc.orchestration.hooks import coordinator_over, database_url_async
from nancalacc.orchestration.registry import definition_of
from nancalacc.saga.telemetry import named
from nancalacc.saga.waiting import Outlook, Waiting, Watch
from nancalacc.store.database import Database
from nancalacc.sync.batch import NAME
from nancalacc.sync.claims import Tenant, due_tenants

log = logging.getLogger(__name__)
T = TypeVar("T")

LONGEST_PAUSE_SECONDS = 30.0


def longer(pause: float) -> float:
    """The next pause while the database is away."""
    return min(max(1.0, pause * 2), LONGEST_PAUSE_SECONDS)


class EventsTrigger(BaseTrigger):
    """Fires when a company has events that may be handled, or when the time is over.

    `tenants`: the fields of each `Tenant`, as lists. `until`: seconds since the
    epoch. The event is {"due": whether there are any}. While the database is away it asks less often.
    """

    def __init__(self, tenants: Sequence[Sequence[str]], until: float, poll_seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tenants = [list(tenant) for tenant in tenants]
        self.until = until
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How Airflow makes this trigger again, in the triggerer and after its restart."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"tenants": self.tenants, "until": self.until, "poll_seconds": self.poll_seconds},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask the inbox until one of the two happens."""
        pause = self.poll_seconds
        database: Database | None = None
        try:
            while time.time() < self.until:
                try:
                    if database is None:
                        database = Database(await database_url_async(), pool_size=1)
                    if await asyncio.to_thread(self._is_due, database):
                        yield TriggerEvent({"due": True})  # type: ignore[no-untyped-call]
                        return
                    pause = self.poll_seconds
                except NancalaccError as error:
                    pause = longer(pause)
                    log.warning("The inbox cannot be read; next try in %.0f s: %s", pause, error)
                await asyncio.sleep(max(0.0, min(pause, self.until - time.time())))
            yield TriggerEvent({"due": False})  # type: ignore[no-untyped-call]
        finally:
            if database is not None:
                database.close()

    def _is_due(self, database: Database) -> bool:
        with database.transaction() as connection:
            return bool(due_tenants(connection, [Tenant(*each) for each in self.tenants], definition=NAME))


class StepTrigger(BaseTrigger):
    """Watches an attempt of a step that waits: keeps its heart-beat, and fires when it is to go on.

    `waiting`: the attempt, as `Waiting.as_data` gives it. `until`: seconds since the epoch, when it goes
    on in any case. The event is {"outlook": what the last look showed}. While the database is away it asks
    less often, also beyond `until`: the step could do nothing then.
    """

    def __init__(self, dag_id: str, waiting: Mapping[str, Any], until: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dag_id = dag_id
        self.waiting = dict(waiting)
        self.until = until
        self._database: Database | None = None
        self._watch: Watch | None = None
        # A look outlives the cancelled task that wanted it.
        self._looking = threading.Lock()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How Airflow makes this trigger again, in the triggerer and after its restart."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"dag_id": self.dag_id, "waiting": self.waiting, "until": self.until},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the condition is met, the attempt was overtaken, or the time is over."""
        waiting = Waiting.of(self.waiting)
        pause = waiting.poll_seconds
        while True:
            try:
                outlook = await self._with_watch(Watch.look)
                pause = waiting.poll_seconds
                if outlook is not Outlook.NOT_YET or time.time() >= self.until:
                    yield TriggerEvent({"outlook": outlook.value})  # type: ignore[no-untyped-call]
                    return
                await asyncio.sleep(max(0.0, min(pause, self.until - time.time())))
            except NancalaccError as error:
                pause = longer(pause)
                with named(
                    waiting.transaction_id, step=waiting.step, epoch=waiting.epoch, attempt=waiting.attempt
                ):
                    log.warning(
                        "Saga %s: %s cannot be watched; next try in %.0f s: %s",
                        waiting.transaction_id,
                        waiting.step,
                        pause,
                        error,
                    )
                await asyncio.sleep(pause)

    async def on_kill(self) -> None:
        """A person has marked or cleared the task: who goes on with the step need not wait."""
        try:
            await self._with_watch(Watch.let_go)
        except NancalaccError as error:
            waiting = Waiting.of(self.waiting)
            with named(waiting.transaction_id, step=waiting.step, epoch=waiting.epoch):
                log.warning("Saga %s: %s cannot be let go: %s", waiting.transaction_id, waiting.step, error)

    async def cleanup(self) -> None:
        """Close the database."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._looking:
            if self._database is not None:
                self._database.close()
            self._database = self._watch = None

    async def _with_watch(self, use: Callable[[Watch], T]) -> T:
        url = await database_url_async() if self._database is None else ""

        def used() -> T:
            with self._looking:
                if self._database is None:
                    self._database = Database(url, pool_size=1)
                if self._watch is None:
                    coordinator, definition = coordinator_over(self._database), definition_of(self.dag_id)
                    self._watch = coordinator.watch(definition, Waiting.of(self.waiting))
                return use(self._watch)

        return await asyncio.to_thread(used)
