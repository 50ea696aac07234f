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
LOWERED_TO = 0.75
"""What is left of a path's rate when the other side says that it is too high."""
RISE_SECONDS = 20.0
"""After so long without that, the rate rises by a tenth, up to what is permitted."""


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
    """The calls of one path; whoever holds the lock is the next to go.

    `most` calls may be in a window, 0 is no limit; `changed_at` is when it was last lowered or raised.
    """

    def __init__(self, most: int) -> None:
        self.turn = asyncio.Lock()
        self.calls: deque[_Call] = deque()
        self.paused_until = 0.0
        self.most = most
        self.changed_at = 0.0


class RateLimiter:
    """A sliding window for each API path: first come, first served.

    At most `calls_per_second` (rounded down; below 1 one call in 1/rate seconds; 0: no limit) calls
    of a path reach the other side in any second. The window of a call starts when the call must have
    arrived, not when it was sent: the first calls of a session open connections and travel longer than
    the next ones, which a strict server would count within the same second.

    Where the other side permits less (others may use up the same quota), the rate of the path falls
    with every `throttled`, and rises again by and by.
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
        lane = self._lane(path)
        async with lane.turn:
            await self._wait_for_room(lane)
            call = _Call(sent_at=self._clock())
            lane.calls.append(call)
        try:
            yield
        finally:
            call.answered_at = self._clock()

    def throttled(self, path: str, seconds: float) -> None:
        """The other side has refused a call of `path` as one too many.

        Nothing more is sent to it for `seconds` (a longer pause in force stays), and fewer calls after
        that; of the many refusals of one window only the first lowers the rate.
        """
        lane, now = self._lane(path), self._clock()
        lane.paused_until = max(lane.paused_until, now + seconds)
        if now < lane.changed_at + self._window:
            return
        lane.changed_at = now
        lane.most = max(1, int((lane.most or len(lane.calls)) * LOWERED_TO))

    def block(self, seconds: float) -> None:
        """Refuse calls of all paths for `seconds`: the other side blocks our address."""
        self._blocked_until = max(self._blocked_until, self._clock() + seconds)

    def _lane(self, path: str) -> _Lane:
        return self._lanes.setdefault(path, _Lane(self._most))

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
        self._raise(lane, now)
        if not lane.most or len(lane.calls) < lane.most:
            return 0.0
        oldest = lane.calls[-lane.most]
        # An answer that is still to come can only bring the moment forward to this.
        earliest = oldest.sent_at + self._window
        return (earliest if now < earliest else oldest.leaves_at(self._window)) - now

    def _raise(self, lane: _Lane, now: float) -> None:
        if lane.most != self._most and now >= lane.changed_at + RISE_SECONDS:
            lane.changed_at = now
            lane.most += max(1, lane.most // 10)
            if self._most:
                lane.most = min(lane.most, self._most)
