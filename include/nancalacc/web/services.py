"""What the pages and routes need: connections and the database, used outside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nancalacc.config import DingTalkSettings, Settings
from nancalacc.orchestration.hooks import database_url
from nancalacc.orchestration.http_hooks import DingTalkHook
from nancalacc.store.database import Database
from nancalacc.store.migrate import require_current
from nancalacc.sync.inbox import Company, InboxEvent, store

T = TypeVar("T")

THREADS = 4


class WebServices:
    """Connections and one small pool of database connections, opened when first asked for.

    The threads are its own: a database that hangs must not take those of the API server.
    """

    def __init__(
        self,
        *,
        url: Callable[[], str] = database_url,
        dingtalk_settings: Callable[[str], DingTalkSettings] = lambda conn_id: DingTalkHook(
            conn_id
        ).settings(),
        settings: Callable[[], Settings] = Settings.from_env,
    ) -> None:
        self.dingtalk_settings = dingtalk_settings
        self._settings = settings
        self._url = url
        self._opening = threading.Lock()
        self._database: Database | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="nancalacc-web")

    def close(self) -> None:
        """Close threads and database connections."""
        self._threads.shutdown()
        if self._database is not None:
            self._database.close()

    def companies(self) -> Sequence[Company]:
        """The configured pairs of connections; raises ConfigurationError."""
        return [Company(dingtalk, wps) for dingtalk, wps in self._settings().companies]

    async def store(self, event: InboxEvent, *, companies: Sequence[Company]) -> bool:
        """Commit an event to the inbox, and return whether it was new; raises what the database raises."""

        def commit() -> bool:
            with self._opened().transaction() as connection:
                return bool(store(connection, [event], companies=companies))

        return await self.in_thread(commit)

    async def require_healthy(self) -> None:
        """Raise DatabaseError or SchemaError unless the database answers and has our schema."""

        def ask() -> None:
            with self._opened().transaction() as connection:
                require_current(connection)

        await self.in_thread(ask)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run something that waits, outside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _opened(self) -> Database:
        with self._opening:
            if self._database is None:
                self._database = Database(self._url(), application_name="nancalacc-web")
            return self._database
