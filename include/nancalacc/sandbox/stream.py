"""DingTalk's Stream gateway [dt 5]: tickets, connections, and events until they are confirmed."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiohttp import WSMsgType, web

OPEN_PATH = "/v1.0/gateway/connections/open"
CONNECT_PATH = "/connect"
CONSUMED = "SUCCESS"


@dataclass(frozen=True, slots=True)
class StreamRules:
    """How the gateway behaves; times are in seconds.

    `redelivery` is the wait for an answer, and that before an event that was not consumed is sent
    again. `duplicates` is the share of events that come once more although consumed; `disorder`
    the longest random delay of an event. `ping` and `lifetime` 0 mean never: how often a
    connection is pinged, and when it is asked to make room for a new one. With `emit` the changes
    of the organisation become events.
    """

    ticket_lifetime: float = 90
    redelivery: float = 60
    duplicates: float = 0
    disorder: float = 0
    ping: float = 0
    lifetime: float = 0
    close_after_disconnect: float = 10
    emit: bool = False


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event on its way; `data` is sent as it is."""

    event_id: str
    event_type: str
    data: str = field(repr=False)
    born: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client said about one delivery of an event; `code` 0 stands for none in time."""

    event_id: str
    message_id: str
    code: int
    status: str

    @property
    def consumed(self) -> bool:
        """Whether the event need not be delivered again [dt 5.4]."""
        return self.code == 200 and self.status in {"", CONSUMED}


class _Connection:
    """One client that is connected."""

    def __init__(self, socket: web.WebSocketResponse, *, transport: asyncio.Transport | None) -> None:
        self.socket = socket
        self.transport = transport
        self.waiting: dict[str, asyncio.Future[tuple[int, str]]] = {}
        self.is_leaving = False


class StreamGateway:
    """The gateway of one app. Methods without `async` may be called from any thread."""

    def __init__(
        self, *, app_key: str, app_secret: str, rules: StreamRules | None = None, seed: int = 1
    ) -> None:
        self.rules = rules or StreamRules()
        self.answers: list[Answer] = []
        self.opened = 0
        self.violations: list[str] = []
        self._credentials = f"{app_key}\n{app_secret}".encode()
        self._random = Random(seed)
        self._tickets: dict[str, float] = {}
        self._connections: list[_Connection] = []
        self._somebody = asyncio.Event()
        self._outstanding: dict[str, StreamEvent] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Belong to the event loop that runs now."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Cut all connections and forget what is outstanding."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._cut()
        self._outstanding.clear()

    @property
    def connections(self) -> int:
        """How many clients are connected and were not asked to leave."""
        return len([found for found in list(self._connections) if not found.is_leaving])

    @property
    def outstanding(self) -> list[str]:
        """The ids of events that nobody has consumed yet."""
        return list(self._outstanding)

    def consumed(self) -> list[str]:
        """The ids of consumed events, one for each delivery that was."""
        return [answer.event_id for answer in list(self.answers) if answer.consumed]

    def reset(self, rules: StreamRules | None = None) -> None:
        """Forget events and answers, and cut connections."""
        self.rules = rules or StreamRules()
        self.answers.clear()
        self.violations.clear()
        self._outstanding.clear()
        self.cut()

    def emit(
        self,
        event_type: str,
        data: Mapping[str, Any] | str,
        *,
        event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Deliver an event until a client consumes it; returns its id.

        `data` may be any text; `headers` replace the usual ones, an empty value leaves one out.
        """
        event = StreamEvent(
            event_id=event_id or secrets.token_hex(16),
            event_type=event_type,
            data=data if isinstance(data, str) else json.dumps(data, ensure_ascii=False),
            born=_milliseconds(),
            headers=headers or {},
        )
        self._outstanding[event.event_id] = event
        self._call(lambda: self._start(self._deliver(event)))
        return event.event_id

    def send_raw(self, text: str | bytes) -> None:
        """Send something to every client, whether it is of the protocol or not."""
        self._call(lambda: self._start(self._broadcast(text)))

    def ping(self) -> None:
        """Send a SYSTEM ping to every client; a wrong answer is a violation."""
        self._call(lambda: self._for_each(self._ping))

    def disconnect(self, reason: str = "connection is expired") -> None:
        """Ask every client to open a new connection, and close the old ones after a while."""
        self._call(lambda: self._for_each(lambda found: self._dismiss(found, reason)))

    def cut(self) -> None:
        """Break every connection without a word."""
        self._call(lambda: self._start(self._cut()))

    def open(self, body: Mapping[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """HTTP status and answer for a request to open; the endpoint lacks scheme and host."""
        values = body or {}
        given = f"{values.get('clientId')}\n{values.get('clientSecret')}".encode()
        if not secrets.compare_digest(given, self._credentials):
            return 400, {"code": "invalidClientIdOrSecret", "message": "", "requestid": "sandbox"}
        if {"type": "EVENT", "topic": "*"} not in (values.get("subscriptions") or []):
            return 400, {"code": "MissingParameter", "message": "subscriptions", "requestid": "sandbox"}
        # Characters that must be encoded in a URL, as real tickets have them.
        ticket = f"{secrets.token_hex(8)}+/= &{secrets.token_hex(8)}"
        self._tickets[ticket] = time.monotonic() + self.rules.ticket_lifetime
        self.opened += 1
        return 200, {"endpoint": CONNECT_PATH, "ticket": ticket}

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Serve one client until its connection ends."""
        end = self._tickets.pop(request.query.get("ticket", ""), None)
        if end is None or end <= time.monotonic():
            return web.json_response({"code": "ticketInvalid"}, status=401)
        socket = web.WebSocketResponse(timeout=1)
        await socket.prepare(request)
        connection = _Connection(socket, transport=request.transport)
        self._connections.append(connection)
        self._somebody.set()
        if self.rules.ping:
            self._start(self._ping_regularly(connection))
        if self.rules.lifetime:
            self._start(self._expire(connection))
        try:
            async for message in socket:
                if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                    self._answered(connection, message.data)
        finally:
            self._connections.remove(connection)
            if not self.connections:
                self._somebody.clear()
        return socket

    def _call(self, action: Callable[[], object]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _for_each(self, action: Callable[[_Connection], Coroutine[Any, Any, None]]) -> None:
        for connection in self._connections:
            self._start(action(connection))

    async def _deliver(self, event: StreamEvent) -> None:
        """Send an event to one client after the other until one consumes it."""
        await asyncio.sleep(self._random.uniform(0, self.rules.disorder))
        while self._outstanding.get(event.event_id) is event:
            answer = await self._attempt(event)
            self.answers.append(answer)
            if answer.consumed:
                self._outstanding.pop(event.event_id, None)
                if self._random.random() < self.rules.duplicates:
                    self.answers.append(await self._attempt(event))
                return
            if answer.code:
                await asyncio.sleep(self.rules.redelivery)

    async def _attempt(self, event: StreamEvent) -> Answer:
        connection = await self._any_connection()
        message_id = secrets.token_hex(8)
        code, data = await self._exchange(connection, message_id, frame=_frame(event, message_id))
        return Answer(event.event_id, message_id, code, self._status(data))

    async def _any_connection(self) -> _Connection:
        while True:
            await self._somebody.wait()
            ready = [found for found in self._connections if not found.is_leaving]
            if ready:
                return self._random.choice(ready)
            await asyncio.sleep(0.02)

    async def _exchange(
        self, connection: _Connection, message_id: str, *, frame: Mapping[str, Any]
    ) -> tuple[int, str]:
        """Send a frame and return code and data of its answer; code 0 when none comes in time."""
        waiting: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        connection.waiting[message_id] = waiting
        try:
            await connection.socket.send_str(json.dumps(frame, ensure_ascii=False))
            async with asyncio.timeout(self.rules.redelivery):
                return await waiting
        except TimeoutError:
            return 0, ""
        except (ConnectionError, RuntimeError):
            # Closed already: it leaves the list of connections in a moment.
            await asyncio.sleep(0.02)
            return 0, ""
        finally:
            del connection.waiting[message_id]

    def _answered(self, connection: _Connection, text: str | bytes) -> None:
        try:
            answer = json.loads(text)
            message_id, code, data = answer["headers"]["messageId"], answer["code"], answer.get("data", "")
        except (ValueError, KeyError, TypeError):
            self.violations.append("an answer without code and messageId")
            return
        if not isinstance(code, int) or not isinstance(data, str):
            self.violations.append("an answer whose code is no number or whose data is no text")
        elif message_id not in connection.waiting:
            self.violations.append("an answer to a message that does not wait for one")
        elif not connection.waiting[message_id].done():
            connection.waiting[message_id].set_result((code, data))

    def _status(self, data: str) -> str:
        try:
            values = json.loads(data) if data else {}
        except ValueError:
            values = None
        if not isinstance(values, dict):
            self.violations.append("an answer whose data is no JSON object")
            return "unreadable"
        return str(values.get("status", ""))

    async def _broadcast(self, text: str | bytes) -> None:
        for connection in list(self._connections):
            if isinstance(text, bytes):
                await connection.socket.send_bytes(text)
            else:
                await connection.socket.send_str(text)

    async def _ping(self, connection: _Connection) -> None:
        opaque = json.dumps({"opaque": secrets.token_hex(4)})
        message_id = secrets.token_hex(8)
        frame = _system("ping", opaque, message_id=message_id)
        answer = await self._exchange(connection, message_id, frame=frame)
        if answer != (200, opaque) and connection in self._connections:
            self.violations.append("a ping without its echo")

    async def _ping_regularly(self, connection: _Connection) -> None:
        while connection in self._connections:
            await self._ping(connection)
            await asyncio.sleep(self.rules.ping)

    async def _expire(self, connection: _Connection) -> None:
        await asyncio.sleep(self.rules.lifetime)
        await self._dismiss(connection, "connection is expired")

    async def _dismiss(self, connection: _Connection, reason: str) -> None:
        connection.is_leaving = True
        if connection.socket.closed:
            return
        await connection.socket.send_str(json.dumps(_system("disconnect", json.dumps({"reason": reason}))))
        await asyncio.sleep(self.rules.close_after_disconnect)
        await connection.socket.close()

    async def _cut(self) -> None:
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abort()


def _milliseconds() -> str:
    return str(int(time.time() * 1000))


def _frame(event: StreamEvent, message_id: str) -> dict[str, Any]:
    headers = {
        "topic": "*",
        "messageId": message_id,
        "contentType": "application/json",
        "time": _milliseconds(),
        "eventType": event.event_type,
        "eventId": event.event_id,
        "eventCorpId": "dingsandbox",
        "eventBornTime": event.born,
        "eventUnifiedAppId": "sandbox",
        **event.headers,
    }
    return {
        "specVersion": "1.0",
        "type": "EVENT",
        "headers": {name: value for name, value in headers.items() if value},
        "data": event.data,
    }


def _system(topic: str, data: str, *, message_id: str = "") -> dict[str, Any]:
    headers = {"topic": topic, "contentType": "application/json"}
    if message_id:
        headers["messageId"] = message_id
    return {"specVersion": "1.0", "type": "SYSTEM", "headers": headers, "data": data}
