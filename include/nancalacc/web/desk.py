"""The console's way to the database: threads and connections of its own.

A slow page must not keep an event of DingTalk waiting, nor the API server's own threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, text

from nancalacc.config import Settings
from nancalacc.orchestration.hooks import coordinator_over, database_url
from nancalacc.saga.coordinator import Coordinator
from nancalacc.store.database import Database
from nancalacc.store.repository import SagaStore

T = TypeVar("T")

THREADS = 6
SHORT = text("SET LOCAL statement_timeout = '10s'")


class Desk:
    """One small pool of database connections and threads, opened when first asked for."""

    def __init__(
        self, *, url: Callable[[], str] = database_url, settings: Callable[[], Settings] = Settings.from_env
    ) -> None:
        self.settings = settings
        self._url = url
        self._opening = threading.Lock()
        self._database: Database | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="nancalacc-console")

    def close(self) -> None:
        """Close threads and database connections."""
        self._threads.shutdown()
        if self._database is not None:
            self._database.close()

    async def read(self, question: Callable[[Connection], T]) -> T:
        """Ask the database something, in a thread and in a transaction that may last 10 s."""

        def ask() -> T:
            with self.database.transaction() as connection:
                connection.execute(SHORT)
                return question(connection)

        return await self.in_thread(ask)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run something that waits, outside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    @property
    def database(self) -> Database:
        """The nancalacc database; raises ConfigurationError when its connection is missing."""
        with self._opening:
            if self._database is None:
                self._database = Database(
                    self._url(), pool_size=THREADS, application_name="nancalacc-console"
                )
            return self._database

    @property
    def store(self) -> SagaStore:
        """The sagas."""
        return SagaStore(self.database)

    @property
    def coordinator(self) -> Coordinator:
        """The saga engine."""
        return coordinator_over(self.database)
