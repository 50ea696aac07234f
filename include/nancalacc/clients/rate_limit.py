"""Keeps calls below a limit per API path, as the other side counts them [dt 4.3]."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from nancalacc.errors import RateLimitedError

SLACK_SECONDS = 0.01
"""Added to every window, for clocks that are not quite as fast as ours."""
LONGEST_WAY_SECONDS = 0.06
"""How long after being sent a call may still be on its way; longer would cost too much of the rate."""


@dataclass(slots=True)
class _Call:
    sent_at: float
    answered_at: float | None = None

    def leaves_at(self, window: float) -> float:
        """When the call is certainly out of the other side's window, as far as is known now."""
        arrived_by = self.sent_at + LONGEST_WAY_SECONDS
        if self.answered_at is not None:
            arrived_by = min(arrived_by, self.answered_at)
        return arrived_by + window


class _Lane:
    """The calls of one path; whoever holds the lock is the next to go."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.calls: deque[_Call] = deque()
        self.paused_until = 0.0


class RateLimiter:
    """A sliding window for each API path: first come, first served.

    At most `calls_per_second` (rounded down; below 1 one call in 1/rate seconds; 0: no limit) calls
    of a path reach the other side in any second. The window of a call starts when the call must have
    arrived, not when it was sent: the first calls of a session open connections and travel longer than
    the next ones, which a strict server would count within the same second.
    """

    def __init__(
        self,
        calls_per_second: float,
        *,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._most = max(1, int(calls_per_second)) if calls_per_second else 0
        self._window = (1 / calls_per_second if 0 < calls_per_second < 1 else 1.0) + SLACK_SECONDS
        self._clock = clock
        self._sleep = sleep
        self._lanes: dict[str, _Lane] = {}
        self._blocked_until = 0.0

    @asynccontextmanager
    async def slot(self, path: str) -> AsyncIterator[None]:
        """Wait until a call of `path` may be sent; the block is the call.

        Raises RateLimitedError at once while all paths are blocked.
        """
        lane = self._lanes.setdefault(path, _Lane())
        async with lane.turn:
            await self._wait_for_room(lane)
            call = _Call(sent_at=self._clock())
            if self._most:
                lane.calls.append(call)
        try:
            yield
        finally:
            call.answered_at = self._clock()

    def pause(self, path: str, seconds: float) -> None:
        """Send nothing more to `path` for `seconds`; a longer pause in force stays."""
        lane = self._lanes.setdefault(path, _Lane())
        lane.paused_until = max(lane.paused_until, self._clock() + seconds)

    def block(self, seconds: float) -> None:
        """Refuse calls of all paths for `seconds`: the other side blocks our address."""
        self._blocked_until = max(self._blocked_until, self._clock() + seconds)

    async def _wait_for_room(self, lane: _Lane) -> None:
        while (seconds := self._seconds_to_wait(lane)) > 0:
            await self._sleep(seconds)

    def _seconds_to_wait(self, lane: _Lane) -> float:
        now = self._clock()
        if now < self._blocked_until:
            raise RateLimitedError(
                f"All calls are held back for another {self._blocked_until - now:.0f} s,"
                " because DingTalk blocks this IP address",
                retry_after=self._blocked_until - now,
            )
        if now < lane.paused_until:
            return lane.paused_until - now
        while lane.calls and lane.calls[0].leaves_at(self._window) <= now:
            lane.calls.popleft()
        if not self._most or len(lane.calls) < self._most:
            return 0.0
        oldest = lane.calls[0]
        # An answer that is still to come can only bring the moment forward to this.
        earliest = oldest.sent_at + self._window
        return (earliest if now < earliest else oldest.leaves_at(self._window)) - now
