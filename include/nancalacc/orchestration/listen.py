"""`python -m nancalacc listen`: the events of every configured DingTalk app, into the inbox.

An event is confirmed after its commit, never before. While the inbox cannot store, events are
answered with "later", and the connections stay open.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import aiohttp

from nancalacc.clients.stream import Frame, Outcome, StreamClient, StreamTimes
from nancalacc.config import DingTalkSettings, Settings
from nancalacc.errors import ConfigurationError, DatabaseError, NancalaccError, TransientError
from nancalacc.orchestration.hooks import database_url
from nancalacc.orchestration.http_hooks import DingTalkHook
from nancalacc.orchestration.intake import Intake
from nancalacc.store import listeners
from nancalacc.store.database import Database
from nancalacc.store.migrate import require_current
from nancalacc.store.tables import EventStatus
from nancalacc.sync.inbox import Company, read_frame, require_working

log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0


@dataclass(slots=True)
class Apps:
    """Which companies the events of a connection are for.

    DingTalk sends an event to one connection of an app only. So it is for every company whose
    connection belongs to the same app, whichever connection it came by.
    """

    companies: Sequence[Company]
    resolve: Callable[[str], DingTalkSettings]
    _app_keys: dict[str, str] = field(default_factory=dict)

    @property
    def conn_ids(self) -> list[str]:
        """The DingTalk connections, each once."""
        return list(dict.fromkeys(company.dingtalk_conn_id for company in self.companies))

    async def settings(self, conn_id: str) -> DingTalkSettings:
        """Read a connection; raises ConfigurationError or TransientError."""
        try:
            settings = await asyncio.to_thread(self.resolve, conn_id)
        except NancalaccError:
            raise
        except Exception as error:  # noqa: BLE001 - secrets backends raise what they like, with secrets in it
            raise TransientError(
                f"Connection {conn_id!r} cannot be read now: {type(error).__name__}"
            ) from None
        self._app_keys[conn_id] = settings.app_key
        return settings

    async def try_all(self) -> None:
        """Read all connections, so that none is missing from `of`; errors show when it is opened."""
        await asyncio.gather(*map(self.settings, self.conn_ids), return_exceptions=True)

    def of(self, conn_id: str) -> list[Company]:
        """The companies an event that came by this connection is for."""
        app_key = self._app_keys.get(conn_id)
        return [
            company
            for company in self.companies
            if company.dingtalk_conn_id == conn_id or self._app_keys.get(company.dingtalk_conn_id) == app_key
        ]


class Listener:
    """Streams of all companies over one inbox."""

    def __init__(
        self,
        companies: Sequence[Company],
        *,
        database: Database,
        resolve: Callable[[str], DingTalkSettings],
        liveness: Path | None = None,
        times: StreamTimes | None = None,
    ) -> None:
        self._apps = Apps(companies, resolve)
        self._database = database
        self._intake = Intake(database)
        self._liveness = liveness
        self._times = times
        self._name = f"{socket.gethostname()[:200]}:{os.getpid()}:{uuid4().hex[:8]}"
        self._signing = threading.Lock()
        self._signed_off = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Listen until `stopping` is set and what was in hand by then is answered."""
        await self._apps.try_all()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session:
            clients = [self._client(conn_id, session=session) for conn_id in self._apps.conn_ids]
            log.info("Listening for the events of %s", ", ".join(self._apps.conn_ids))
            beside = [
                asyncio.create_task(self._intake.run()),
                asyncio.create_task(self._stay_alive(clients)),
                asyncio.create_task(self._show_signs(clients)),
            ]
            try:
                await asyncio.gather(*(client.run(stopping) for client in clients))
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
                await self._sign(dict.fromkeys(self._apps.conn_ids, False), last=True)
                if self._liveness is not None:
                    self._liveness.unlink(missing_ok=True)
        log.info("Stopped")

    def _client(self, conn_id: str, *, session: aiohttp.ClientSession) -> StreamClient:
        return StreamClient(
            conn_id,
            settings=lambda: self._apps.settings(conn_id),
            handler=lambda frame: self._handle(frame, conn_id=conn_id),
            session=session,
            times=self._times,
        )

    async def _handle(self, frame: Frame, *, conn_id: str) -> Outcome:
        event = read_frame(frame.headers, frame.data)
        try:
            is_new = await self._intake.put(event, companies=self._apps.of(conn_id))
        except NancalaccError as error:
            log.warning("Event %s type=%s outcome=later: %s", event.event_id, event.event_type, error)
            return Outcome.LATER
        outcome = "stored" if is_new else "repeated"
        if event.status is EventStatus.DEAD:
            log.warning(
                "Event %s type=%s outcome=%s: %s", event.event_id, event.event_type, outcome, event.error
            )
        else:
            log.info("Event %s type=%s outcome=%s", event.event_id, event.event_type, outcome)
        return Outcome.SUCCESS

    async def _stay_alive(self, clients: Sequence[StreamClient]) -> None:
        """Touch the liveness file as long as every stream is connected and the inbox answers."""
        if self._liveness is None:
            return
        while True:
            if all(client.connected for client in clients):
                try:
                    await asyncio.to_thread(self._ask_inbox)
                    self._liveness.touch()
                except (NancalaccError, OSError) as error:
                    log.warning("Not alive: %s", error)
            await asyncio.sleep(CHECK_SECONDS)

    async def _show_signs(self, clients: Sequence[StreamClient]) -> None:
        """Write into the tables which streams are connected: when that changes, and as a sign of life."""
        shown: dict[str, bool] = {}
        at = 0.0
        while True:
            connected = {
                conn_id: client.connected
                for conn_id, client in zip(self._apps.conn_ids, clients, strict=True)
            }
            is_due = time.monotonic() - at >= listeners.SIGN_SECONDS
            if (connected != shown or is_due) and await self._sign(connected):
                shown, at = connected, time.monotonic()
            await asyncio.sleep(CHECK_SECONDS)

    async def _sign(self, connected: Mapping[str, bool], *, last: bool = False) -> bool:
        def write() -> None:
            # A thread cannot be cancelled: one that is late must not undo the last sign.
            with self._signing:
                if self._signed_off:
                    return
                self._signed_off = last
                with self._database.transaction() as connection:
                    listeners.seen(connection, listener=self._name, connected=connected)

        try:
            await asyncio.to_thread(write)
        except NancalaccError as error:
            log.warning("The sign of life is not written: %s", error)
            return False
        return True

    def _ask_inbox(self) -> None:
        with self._database.transaction() as connection:
            require_working(connection)


def listen(*, liveness: Path | None = None) -> None:
    """Listen until SIGTERM or SIGINT; raises ConfigurationError for what only a person can repair."""
    settings = Settings.from_env()
    companies = [Company(dingtalk, wps) for dingtalk, wps in settings.companies]
    if liveness is not None:
        try:
            liveness.unlink(missing_ok=True)
            liveness.touch()
            liveness.unlink()
        except OSError as error:
            raise ConfigurationError(
                f"The liveness file {liveness} cannot be written: {error.strerror}"
            ) from None
    with Database(database_url(), pool_size=3, application_name="nancalacc-listen") as database:
        _check_schema(database)
        listener = Listener(
            companies,
            database=database,
            resolve=lambda conn_id: DingTalkHook(conn_id).settings(),
            liveness=liveness,
        )
        asyncio.run(_run_until_signal(listener))


async def _run_until_signal(listener: Listener) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await listener.run(stopping)


def _check_schema(database: Database) -> None:
    try:
        with database.transaction() as connection:
            require_current(connection)
    except DatabaseError as error:
        # DingTalk keeps the events until it is back.
        log.warning("The inbox cannot store yet: %s", error)
