"""`POST /dingtalk/callback`: DingTalk's HTTP events, signed and encrypted [dt 6].

The only route without a login: the signature is its login. An event is committed before the
answer, and the answer comes well before DingTalk gives up after 1500 ms.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from nancalacc.clients.callback_crypto import BadCallbackError, CallbackCrypto, Sealed, check_timestamp
from nancalacc.errors import ConfigurationError, NancalaccError
from nancalacc.store.tables import EventStatus
from nancalacc.sync.inbox import CHECK_URL, Company, InboxEvent, read_plaintext
from nancalacc.web.services import WebServices

log = logging.getLogger(__name__)

LARGEST_BODY = 1024 * 1024
LARGEST_DISCARDED = 32 * LARGEST_BODY
CACHE_SECONDS = 30.0
STORE_SECONDS = 1.0
"""Leaves half a second for the way to DingTalk and back."""
SUCCESS = b"success"


@dataclass(frozen=True, slots=True)
class Receiver:
    """A company that takes callbacks, and what opens them."""

    company: Company
    crypto: CallbackCrypto


class Receivers:
    """The companies with a callback token and key; their connections are read now and then."""

    def __init__(self, services: WebServices, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._lock = asyncio.Lock()
        self._found: list[Receiver] = []
        self._valid_until: float | None = None

    async def get(self) -> list[Receiver]:
        """The companies; connections are resolved in a thread, at most every 30 s."""
        async with self._lock:
            if self._valid_until is None or self._clock() >= self._valid_until:
                self._found = await self._services.in_thread(self._read)
                self._valid_until = self._clock() + CACHE_SECONDS
            return self._found

    def _read(self) -> list[Receiver]:
        found: list[Receiver] = []
        for company in self._services.companies():
            try:
                settings = self._services.dingtalk_settings(company.dingtalk_conn_id)
                if not settings.callback_token or not settings.callback_aes_secret:
                    continue
                crypto = CallbackCrypto(
                    token=settings.callback_token,
                    aes_secret=settings.callback_aes_secret,
                    owner_key=settings.callback_owner_key,
                )
            except ConfigurationError as error:
                log.warning("No callbacks for connection %s: %s", company.dingtalk_conn_id, error)
                continue
            found.append(Receiver(company, crypto))
        return found


@dataclass(frozen=True, slots=True)
class _Opened:
    """A callback that is really from DingTalk."""

    message: bytes = field(repr=False)
    receivers: Sequence[Receiver]


def callback_router(services: WebServices) -> APIRouter:
    """The route; it belongs into the app that is mounted under /nancalacc."""
    router = APIRouter()
    receivers = Receivers(services)

    @router.post("/dingtalk/callback", include_in_schema=False)
    async def receive(request: Request) -> JSONResponse:
        """Take one callback; 404 when none is configured, 4xx for a bad one, 500 when it is not stored."""
        try:
            candidates = await receivers.get()
        except Exception as error:  # noqa: BLE001 - secrets backends raise what they like, with secrets in it
            log.error("A callback is not taken, connections cannot be read: %s", type(error).__name__)
            raise HTTPException(500, "connections cannot be read now") from None
        if not candidates:
            raise HTTPException(404, "Not Found")
        sealed = await _sealed(request)
        try:
            opened = _open(sealed, candidates=candidates)
        except BadCallbackError as error:
            log.warning("A callback is refused: %s", error)
            raise HTTPException(403, str(error)) from None
        event = read_plaintext(opened.message, sent=f"{sealed.timestamp} {sealed.nonce}")
        if event.event_type != CHECK_URL:
            await _store(services, event, companies=[receiver.company for receiver in opened.receivers])
        if not event.event_type and event.status is EventStatus.DEAD:
            raise HTTPException(400, event.error)
        return JSONResponse(_success(opened.receivers[0].crypto))

    return router


async def _store(services: WebServices, event: InboxEvent, *, companies: Sequence[Company]) -> None:
    try:
        async with asyncio.timeout(STORE_SECONDS):
            is_new = await services.store(event, companies=companies)
    except (NancalaccError, TimeoutError) as error:
        reason = str(error) or f"no answer of the database in {STORE_SECONDS:g} s"
        log.warning("Event %s type=%s outcome=later: %s", event.event_id, event.event_type, reason)
        raise HTTPException(500, "the event cannot be stored now") from None
    outcome = "stored" if is_new else "repeated"
    log.info("Event %s type=%s outcome=%s %s", event.event_id, event.event_type, outcome, event.error)


async def _sealed(request: Request) -> Sealed:
    """What the request holds; raises HTTPException 400 or 413."""
    values = _object(await _body(request))
    query = request.query_params
    sealed = Sealed(
        signature=query.get("msg_signature") or query.get("signature") or "",
        timestamp=query.get("timestamp", ""),
        nonce=query.get("nonce", ""),
        encrypt=str(values.get("encrypt") or ""),
    )
    if not (sealed.signature and sealed.timestamp and sealed.nonce and sealed.encrypt):
        raise HTTPException(
            400, "expected signature, timestamp and nonce in the query and encrypt in the body"
        )
    return sealed


async def _body(request: Request) -> bytes:
    """The body; a larger one is read to its end, within bounds, because its sender listens only then."""
    body, size = bytearray(), 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= LARGEST_BODY:
                body += chunk
            elif size > LARGEST_DISCARDED:
                break
    except ClientDisconnect:
        raise HTTPException(400, "the body is cut off") from None
    if size > LARGEST_BODY:
        raise HTTPException(413, f"the body is larger than {LARGEST_BODY} bytes")
    return bytes(body)


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body.decode())
    # Python's parser gives up on deep nesting with an error of its own.
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(values, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return values


def _open(sealed: Sealed, *, candidates: Sequence[Receiver]) -> _Opened:
    """Find out for whom a callback is; raises BadCallbackError.

    Several companies may share an app: its callbacks are for all of them.
    """
    signed = [receiver for receiver in candidates if receiver.crypto.verifies(sealed)]
    if not signed:
        raise BadCallbackError("The signature is wrong: is the callback token of the connection right?")
    check_timestamp(sealed.timestamp, now=datetime.now(tz=UTC))
    message: bytes | None = None
    opened: list[Receiver] = []
    reason = BadCallbackError("The encrypted text cannot be opened")
    for receiver in signed:
        try:
            message = receiver.crypto.open(sealed.encrypt)
        except BadCallbackError as error:
            reason = error
        else:
            opened.append(receiver)
    if message is None:
        raise reason
    return _Opened(message, opened)


def _success(crypto: CallbackCrypto) -> dict[str, str]:
    now = str(int(datetime.now(tz=UTC).timestamp() * 1000))
    sealed = crypto.seal(SUCCESS, timestamp=now, nonce=secrets.token_hex(8))
    return {
        "msg_signature": sealed.signature,
        "timeStamp": sealed.timestamp,
        "nonce": sealed.nonce,
        "encrypt": sealed.encrypt,
    }
