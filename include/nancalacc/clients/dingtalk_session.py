"""Calls of one DingTalk app: token, limit and retries [dt 0, 1, 4]."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any
from urllib.parse import quote

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.wait import wait_random_exponential

from nancalacc.clients.auth import Token, TokenCache
from nancalacc.clients.dingtalk_errors import AddressBlockedError, Call, TokenRefusedError, read_answer
from nancalacc.clients.rate_limit import RateLimiter
from nancalacc.clients.transport import Transport
from nancalacc.config import DingTalkSettings
from nancalacc.errors import IncompleteAnswerError, RateLimitedError, TransientError

log = logging.getLogger(__name__)
Record = dict[str, Any]

TOKEN_PATH = "v1.0/oauth2/accessToken"  # noqa: S105
CALL_SECONDS = 30.0
MOST_TRIES = 5
MOST_THROTTLED_TRIES = 12
LONGEST_PAUSE_SECONDS = 60.0
"""A longer pause is not slept through inside a call: the caller gets the error and decides."""
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}

BACK_OFF = wait_random_exponential(multiplier=0.5, max=8)


class DingTalkSession:
    """Sends calls, all of them reads; one instance belongs to one event loop.

    `calls` counts what was sent by path, `throttled` the answers that meant "too many calls".
    """

    def __init__(
        self,
        settings: DingTalkSettings,
        *,
        transport: Transport,
        limiter: RateLimiter | None = None,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._limiter = limiter or RateLimiter(settings.calls_per_second, clock=clock, sleep=sleep)
        self._sleep = sleep
        self._tokens = TokenCache(self._fetch_token, clock=clock)
        self.calls: Counter[str] = Counter()
        self.throttled = 0

    async def get(self, call: Call, body: Mapping[str, Any] | None = None) -> Record:
        """POST `body` (GET without one) to the old family and return the payload of success.

        Whatever passes by itself is tried again: TransientError (also for unknown codes, a
        truncated answer or a lost connection) up to 5 times with growing random pauses,
        RateLimitedError up to 12 times after the pause DingTalk asks for; then the last one is
        raised. Raised at once: AddressBlockedError and other pauses above a minute, a token that
        is refused again right after its renewal, ConfigurationError, CallRefusedError, ObjectError.
        """
        attempts = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=_is_enough,
            wait=_pause,
            sleep=self._sleep,
            before_sleep=partial(_log_pause, call),
            reraise=True,
        )
        return await attempts(self._try, call, body)

    async def _try(self, call: Call, body: Mapping[str, Any] | None) -> Record:
        token = await self._tokens.get()
        try:
            return await self._send_with(token, call=call, body=body)
        except TokenRefusedError:
            self._tokens.drop(token)
        token = await self._tokens.get()
        try:
            return await self._send_with(token, call=call, body=body)
        except TokenRefusedError as error:
            self._tokens.drop(token)
            raise TokenRefusedError(
                f"{error}; the token was renewed and is refused again. If that stays so, host and api_host of"
                " the connection do not belong to the same DingTalk"
            ) from None

    async def _send_with(self, token: str, *, call: Call, body: Mapping[str, Any] | None) -> Record:
        # The old family takes the token from the query and nowhere else [dt 0].
        url = f"{self._settings.base_url}/{call.path}?access_token={quote(token, safe='')}"
        return await self._send("GET" if body is None else "POST", url, call=call, body=body)

    async def _fetch_token(self) -> Token:
        call = Call(conn_id=self._settings.conn_id, path=TOKEN_PATH)
        credentials = {"appKey": self._settings.app_key, "appSecret": self._settings.app_secret}
        payload = await self._send(
            "POST", f"{self._settings.api_url}/{TOKEN_PATH}", call=call, body=credentials
        )
        token = payload.get("accessToken")
        try:
            seconds = float(payload.get("expireIn", ""))
        except (TypeError, ValueError):
            seconds = 0
        if not isinstance(token, str) or not token or not seconds > 0:
            raise IncompleteAnswerError(f"{call}: the answer holds no valid token")
        return Token(value=token, expires_in=seconds)

    async def _send(self, method: str, url: str, *, call: Call, body: Mapping[str, Any] | None) -> Record:
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        async with self._limiter.slot(call.path):
            self.calls[call.path] += 1
            response = await self._transport(method, url, headers=HEADERS, body=content, timeout=CALL_SECONDS)
        try:
            return read_answer(response, call=call)
        except AddressBlockedError as error:
            self.throttled += 1
            self._limiter.block(error.retry_after)
            raise
        except RateLimitedError as error:
            self.throttled += 1
            self._limiter.throttled(call.path, min(error.retry_after, LONGEST_PAUSE_SECONDS))
            raise


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, RateLimitedError):
        return error.retry_after <= LONGEST_PAUSE_SECONDS
    # A refused token has been renewed and the call repeated already.
    return isinstance(error, TransientError) and not isinstance(error, TokenRefusedError)


def _is_enough(state: RetryCallState) -> bool:
    throttled = state.outcome is not None and isinstance(state.outcome.exception(), RateLimitedError)
    return state.attempt_number >= (MOST_THROTTLED_TRIES if throttled else MOST_TRIES)


def _pause(state: RetryCallState) -> float:
    """Seconds to the next try.

    A throttled call goes back into the limiter's queue, which holds it back for the pause DingTalk
    asks for: waiting outside it would let newer calls pass it again and again.
    """
    throttled = state.outcome is not None and isinstance(state.outcome.exception(), RateLimitedError)
    return 0.0 if throttled else BACK_OFF(state)


def _log_pause(call: Call, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.info("Try %s of: %s; next in %.1f s", state.attempt_number, error or call, state.upcoming_sleep)
