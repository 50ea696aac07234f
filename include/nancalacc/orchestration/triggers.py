"""What the triggerer waits for on behalf of deferred tasks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from nancalacc.errors import NancalaccError
from nancalacc.orchestration.hooks import database_url_async
from nancalacc.store.database import Database
from nancalacc.sync.batch import NAME
from nancalacc.sync.claims import Tenant, due_tenants

log = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 30.0


class EventsTrigger(BaseTrigger):
    """Fires when a company has events that may be handled, or when the time is over.

    `tenants`: pairs of connection ids with the company's id, as lists. `until`: seconds since the
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
                    pause = min(max(1.0, pause * 2), LONGEST_PAUSE_SECONDS)
                    log.warning("The inbox cannot be read; next try in %.0f s: %s", pause, error)
                await asyncio.sleep(max(0.0, min(pause, self.until - time.time())))
            yield TriggerEvent({"due": False})  # type: ignore[no-untyped-call]
        finally:
            if database is not None:
                database.close()

    def _is_due(self, database: Database) -> bool:
        with database.transaction() as connection:
            return bool(due_tenants(connection, [Tenant(*each) for each in self.tenants], definition=NAME))
