"""DingTalk's Stream protocol: events over a WebSocket that we open [dt 5].

The client opens connections, answers every frame, and comes back after whatever ends a
connection. What to do with an event is the handler's business; an event is confirmed only when
the handler says so, otherwise DingTalk delivers it again. Endpoint, ticket and content of frames
are secret or personal: they are in no log line and in no error.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from nancalacc.clients.dingtalk_errors import Call, read_answer
from nancalacc.clients.transport import Response
from nancalacc.config import DingTalkSettings
from nancalacc.errors import IncompleteAnswerError, NancalaccError, RateLimitedError, TransientError

log = logging.getLogger(__name__)

OPEN_PATH = "v1.0/gateway/connections/open"
SUBSCRIPTIONS = [{"type": "EVENT", "topic": "*"}]
USER_AGENT = "nancalacc/1"
LARGEST_ANSWER = 64 * 1024
LARGEST_FRAME = 16 * 1024 * 1024
FRAMES = (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
OK, UNKNOWN_TOPIC, INTERNAL_ERROR = 200, 404, 500


class Outcome(StrEnum):
    """What becomes of an event: it is ours now, or DingTalk shall deliver it again [dt 5.4]."""

    SUCCESS = "SUCCESS"
    LATER = "LATER"


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of the gateway; `data` is a JSON text in every frame seen so far."""

    kind: str
    headers: Mapping[str, Any] = field(repr=False)
    data: object = field(default=None, repr=False)

    @property
    def topic(self) -> str:
        """What a SYSTEM frame is about."""
        return str(self.headers.get("topic", ""))

    @property
    def message_id(self) -> str:
        """The id an answer must name; empty when the frame has none."""
        return str(self.headers.get("messageId") or "")


Handler = Callable[[Frame], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """How patient the client is, in seconds, and how many events it works on at a time.

    The pause before the n-th attempt in a row is `first_pause` * 2^n, `longest_pause` at most, less
    up to half of it at random; a connection that lasted `steady` starts the row anew.
    """

    connect: float = 15
    ping: float = 30
    finish: float = 5
    first_pause: float = 1
    longest_pause: float = 60
    steady: float = 10
    in_hand: int = 500


class StreamClient:
    """Keeps one connection of one app open until told to stop.

    `settings` is asked before every connection, so that a changed secret is used at the next one.
    """

    def __init__(
        self,
        conn_id: str,
        *,
        settings: Callable[[], Awaitable[DingTalkSettings]],
        handler: Handler,
        session: aiohttp.ClientSession,
        times: StreamTimes | None = None,
        random: Random | None = None,
    ) -> None:
        self.connected = False
        self._conn_id = conn_id
        self._settings = settings
        self._handler = handler
        self._session = session
        self._times = times or StreamTimes()
        self._random = random or Random()  # noqa: S311 - spreads clients in time, protects nothing

    async def run(self, stopping: asyncio.Event) -> None:
        """Receive events until `stopping` is set; then answer those in hand and close."""
        loop = asyncio.get_running_loop()
        failures = 0
        while not stopping.is_set():
            started = loop.time()
            pause = 0.0
            try:
                ending = await self._connection(stopping)
                log.info("Stream of connection %s ended: %s", self._conn_id, ending)
            except NancalaccError as error:
                log.warning("Stream of connection %s: %s", self._conn_id, error)
                pause = error.retry_after if isinstance(error, RateLimitedError) else 0.0
            except Exception as error:  # noqa: BLE001 - its text may show the ticket; a listener never gives up
                log.error("Stream of connection %s failed: %s", self._conn_id, type(error).__name__)
            finally:
                self.connected = False
            failures = 0 if loop.time() - started >= self._times.steady else failures + 1
            if not stopping.is_set():
                await self._pause(max(pause, self._back_off(failures)), stopping=stopping)

    def _back_off(self, failures: int) -> float:
        longest = min(
            self._times.longest_pause, self._times.first_pause * 2.0 ** min(max(0, failures - 1), 30)
        )
        return longest * self._random.uniform(0.5, 1)

    async def _pause(self, seconds: float, *, stopping: asyncio.Event) -> None:
        log.info("Stream of connection %s: next attempt in %.1f s", self._conn_id, seconds)
        try:
            async with asyncio.timeout(seconds):
                await stopping.wait()
        except TimeoutError:
            return

    async def _connection(self, stopping: asyncio.Event) -> str:
        """One connection from opening to closing; returns what ended it."""
        settings = await self._settings()
        address = await self._open(settings)
        async with await self._connect(address) as socket:
            self.connected = True
            log.info("Stream of connection %s: connected", self._conn_id)
            return await _Exchange(socket, handler=self._handler, times=self._times).run(stopping)

    async def _open(self, settings: DingTalkSettings) -> URL:
        """Get an endpoint and a ticket, which is valid for 90 s and one connection [dt 5.1]."""
        call = Call(settings.conn_id, OPEN_PATH)
        request = {
            "clientId": settings.app_key,
            "clientSecret": settings.app_secret,
            "ua": USER_AGENT,
            "subscriptions": SUBSCRIPTIONS,
        }
        try:
            async with (
                asyncio.timeout(self._times.connect),
                self._session.post(
                    f"{settings.api_url}/{OPEN_PATH}",
                    json=request,
                    headers={"Accept": "application/json"},
                    allow_redirects=False,
                ) as answer,
            ):
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        raise IncompleteAnswerError(f"{call}: the answer is larger than any real one")
                headers = {name.lower(): value for name, value in answer.headers.items()}
                response = Response(status=answer.status, headers=headers, body=bytes(body))
        except TimeoutError:
            raise TransientError(f"{call}: no answer in {self._times.connect:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError(f"{call}: no connection ({type(error).__name__})") from None
        payload = read_answer(response, call=call)
        endpoint, ticket = str(payload.get("endpoint") or ""), str(payload.get("ticket") or "")
        if urlsplit(endpoint).scheme not in {"ws", "wss"} or not ticket:
            raise IncompleteAnswerError(f"{call}: the answer lacks a usable endpoint or ticket")
        joint = "&" if "?" in endpoint else "?"
        return URL(f"{endpoint}{joint}ticket={quote(ticket, safe='')}", encoded=True)

    async def _connect(self, address: URL) -> aiohttp.ClientWebSocketResponse:
        try:
            async with asyncio.timeout(self._times.connect):
                return await self._session.ws_connect(
                    address,
                    heartbeat=self._times.ping,
                    max_msg_size=LARGEST_FRAME,
                    timeout=aiohttp.ClientWSTimeout(ws_close=self._times.finish),
                )
        except TimeoutError:
            raise TransientError(f"the gateway did not answer in {self._times.connect:g} s") from None
        except aiohttp.WSServerHandshakeError as error:
            raise TransientError(f"the gateway refused the connection (HTTP {error.status})") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError(f"no connection to the gateway ({type(error).__name__})") from None


class _Exchange:
    """The frames of one connection."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, *, handler: Handler, times: StreamTimes
    ) -> None:
        self._socket = socket
        self._handler = handler
        self._times = times
        self._in_hand: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> str:
        """Read until the connection ends or has to; then give events in hand time for their answer."""
        reading = asyncio.create_task(self._read())
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({reading, stop}, return_when=asyncio.FIRST_COMPLETED)
            if self._in_hand and not self._socket.closed:
                await asyncio.wait(self._in_hand, timeout=self._times.finish)
            return await reading if reading.done() else "told to stop"
        finally:
            left = {reading, stop, *self._in_hand}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self) -> str:
        while True:
            message = await self._socket.receive()
            if message.type not in FRAMES:
                error = self._socket.exception()
                return f"closed by the gateway ({self._socket.close_code or type(error).__name__})"
            frame = _frame(message.data)
            if frame is None:
                log.warning("A frame of %s characters is none of the protocol: ignored", len(message.data))
            elif frame.kind == "EVENT":
                await self._take(frame)
            elif frame.kind != "SYSTEM":
                await self._answer(frame, code=UNKNOWN_TOPIC, data={"response": None})
            elif frame.topic == "ping":
                await self._answer(frame, code=OK, data=frame.data)
            elif frame.topic == "disconnect":
                return "asked to reconnect"

    async def _take(self, frame: Frame) -> None:
        """Handle an event beside the others; when too many are in hand, the gateway has to wait."""
        while len(self._in_hand) >= self._times.in_hand:
            await asyncio.wait(self._in_hand, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._handle(frame))
        self._in_hand.add(task)
        task.add_done_callback(self._in_hand.discard)

    async def _handle(self, frame: Frame) -> None:
        try:
            outcome = await self._handler(frame)
        except Exception as error:  # noqa: BLE001 - DingTalk delivers it again, whatever the reason
            log.error("An event could not be handled: %s", type(error).__name__)
            outcome = Outcome.LATER
        # Some gateways go by the code, some by the status: say the same with both.
        code = OK if outcome is Outcome.SUCCESS else INTERNAL_ERROR
        await self._answer(frame, code=code, data={"status": outcome.value, "message": outcome.value.lower()})

    async def _answer(self, frame: Frame, *, code: int, data: object) -> None:
        if not frame.message_id:
            return
        answer = {
            "code": code,
            "message": "OK" if code == OK else "not done",
            "headers": {"messageId": frame.message_id, "contentType": "application/json"},
            "data": data if isinstance(data, str) else json.dumps(data),
        }
        try:
            await self._socket.send_str(json.dumps(answer))
        except (aiohttp.ClientError, OSError) as error:
            log.info("A frame was not answered, the connection is gone: %s", type(error).__name__)


def _frame(content: str | bytes) -> Frame | None:
    try:
        values = json.loads(content)
    # Python's parser gives up on deep nesting with an error of its own.
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    headers = values.get("headers", values.get("header"))
    return Frame(
        kind=str(values.get("type", "")).upper(),
        headers=headers if isinstance(headers, dict) else {},
        data=values.get("data"),
    )
