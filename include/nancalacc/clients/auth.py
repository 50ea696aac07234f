"""Access tokens: fetched once for everybody, renewed before they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

RENEW_BEFORE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and for how many seconds from now it is valid."""

    value: str = field(repr=False)
    expires_in: float


class TokenCache:
    """Holds the current token of one client of one event loop.

    `fetch` asks the other side for a token; its errors reach everybody who waits for it.
    `clock` returns seconds of a clock that does not jump.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[Token]], *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._value = ""
        self._renew_at = 0.0
        self._failures = 0
        self._last_error: Exception | None = None

    async def get(self) -> str:
        """Return a valid token; callers at the same time share one fetch, failed ones included."""
        if self._is_fresh():
            return self._value
        failures_seen = self._failures
        async with self._lock:
            if self._is_fresh():
                return self._value
            # Callers that queued up behind a failed fetch must not each repeat it:
            # the token endpoints block an app that asks too often.
            if self._failures != failures_seen and self._last_error is not None:
                raise self._last_error
            asked_at = self._clock()
            try:
                token = await self._fetch()
            except Exception as error:
                self._failures += 1
                self._last_error = error
                raise
            self._last_error = None
            # A token that lives shorter than the margin would otherwise be fetched anew for every call.
            margin = min(RENEW_BEFORE_SECONDS, token.expires_in / 2)
            self._renew_at = asked_at + token.expires_in - margin
            self._value = token.value
            return token.value

    def drop(self, token: str) -> None:
        """Forget `token` because the other side refused it; a newer one is kept."""
        if token == self._value:
            self._value = ""

    def _is_fresh(self) -> bool:
        return bool(self._value) and self._clock() < self._renew_at
