"""DingTalk as the sender of HTTP callbacks [dt 6]: signed, encrypted, repeated until accepted."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from nancalacc.clients.callback_crypto import CallbackCrypto, Sealed
from nancalacc.errors import NancalaccError

ANSWER_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class CallbackRules:
    """Where callbacks go and how they are secured.

    `redelivery` is the pause in seconds before an event that was not accepted is sent again. With
    `emit` the changes of the organisation are sent.
    """

    url: str = ""
    token: str = field(default="sandbox-callback-token", repr=False)
    aes_secret: str = field(default="c2FuZGJveC1jYWxsYmFjay1hZXMta2V5LTMyLWJ5dGU", repr=False)
    redelivery: float = 60
    emit: bool = False


@dataclass(frozen=True, slots=True)
class Reaction:
    """What came back for one callback; `message` is the decrypted answer, `seconds` how long it took."""

    status: int
    message: str
    seconds: float

    @property
    def accepted(self) -> bool:
        """Whether DingTalk counts the callback as delivered: the right answer, and in time."""
        return self.status == 200 and self.message == "success" and self.seconds <= ANSWER_SECONDS


class CallbackSender:
    """Sends events of one app to a URL; `emit` may be called from any thread."""

    def __init__(self, *, owner_key: str, rules: CallbackRules | None = None) -> None:
        self.rules = rules or CallbackRules()
        self.reactions: list[Reaction] = []
        self._owner_key = owner_key
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Belong to the event loop that runs now."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Forget what was not accepted."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def emit(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Send an event until it is accepted."""
        message = self.message(event_type, data)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._start, message)

    @property
    def outstanding(self) -> int:
        """How many events were not accepted yet."""
        return len(self._tasks)

    def message(self, event_type: str, data: Mapping[str, Any]) -> bytes:
        """An event as plaintext, in the present form [dt 6.1]."""
        head = {
            "EventType": event_type,
            "EventTime": int(time.time() * 1000),
            "CorpId": "dingsandbox",
            "BizId": secrets.token_hex(8),
            "eventId": secrets.token_hex(16),
        }
        return json.dumps({**head, **data}, ensure_ascii=False).encode()

    def sealed(
        self,
        message: bytes,
        *,
        token: str = "",
        aes_secret: str = "",
        owner_key: str = "",
        timestamp: str = "",
    ) -> Sealed:
        """An encrypted and signed message; a test may name wrong values for each part."""
        crypto = self._crypto(token=token, aes_secret=aes_secret, owner_key=owner_key)
        sent_at = timestamp or str(int(time.time() * 1000))
        return crypto.seal(message, timestamp=sent_at, nonce=secrets.token_hex(8))

    async def send(self, message: bytes, **wrong: str) -> Reaction:
        """Send one callback and read the answer; `wrong` as in `sealed`."""
        return await self.post(self.sealed(message, **wrong))

    async def post(self, sealed: Sealed) -> Reaction:
        """Send what was sealed before, as a repetition does; status 0 when there is no answer."""
        started = time.monotonic()
        query = {
            "signature": sealed.signature,
            "msg_signature": sealed.signature,
            "timestamp": sealed.timestamp,
            "nonce": sealed.nonce,
        }
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
                session.post(self.rules.url, params=query, json={"encrypt": sealed.encrypt}) as answer,
            ):
                status, body = answer.status, await answer.read()
        except (aiohttp.ClientError, OSError):
            status, body = 0, b""
        reaction = Reaction(status, self._opened(body), time.monotonic() - started)
        self.reactions.append(reaction)
        return reaction

    def _crypto(self, *, token: str = "", aes_secret: str = "", owner_key: str = "") -> CallbackCrypto:
        return CallbackCrypto(
            token=token or self.rules.token,
            aes_secret=aes_secret or self.rules.aes_secret,
            owner_key=owner_key or self._owner_key,
        )

    def _opened(self, body: bytes) -> str:
        """The message of an answer, "" for one that DingTalk would not understand."""
        crypto = self._crypto()
        try:
            values = json.loads(body)
            sealed = Sealed(
                signature=values["msg_signature"],
                timestamp=values["timeStamp"],
                nonce=values["nonce"],
                encrypt=values["encrypt"],
            )
            return crypto.open(sealed.encrypt).decode() if crypto.verifies(sealed) else ""
        except (ValueError, KeyError, TypeError, AttributeError, NancalaccError):
            return ""

    def _start(self, message: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, message: bytes) -> None:
        reaction = await self.send(message)
        while not reaction.accepted:
            await asyncio.sleep(self.rules.redelivery)
            reaction = await self.send(message)
