"""The limiter, in a time that passes by itself, against a server that counts strictly."""

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from itertools import count, pairwise

import pytest

from nancalacc.clients.rate_limit import RateLimiter
from nancalacc.errors import RateLimitedError


class SkippingSelector(selectors.DefaultSelector):
    """Does not wait for the time to pass: it says that it has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout=None):
        self.now += timeout or 0
        return super().select(0)


class SkippingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = SkippingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def run(main: Callable[[], Coroutine]):
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


def limiter(calls_per_second: float) -> RateLimiter:
    return RateLimiter(calls_per_second, clock=now)


async def arrivals_of(limit: RateLimiter, *, calls: int, travel: Callable[[int], float], callers: int = 64):
    """When calls reached the server, each of them on the way for a while there and as long back."""
    arrivals = []
    numbers = iter(range(calls))

    async def caller() -> None:
        for number in numbers:
            async with limit.slot("path"):
                await asyncio.sleep(travel(number))
                arrivals.append(now())
                await asyncio.sleep(travel(number))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return sorted(arrivals)


def most_within_a_second(arrivals: list[float]) -> int:
    return max(sum(start <= other < start + 1 for other in arrivals) for start in arrivals)


TRAVELS = {
    "at once": lambda number: 0.0,
    "evenly": lambda number: 0.02,
    "the first ones slowly": lambda number: 0.055 if number < 20 else 0.001,
    "unsteadily": lambda number: random.Random(number).uniform(0.001, 0.05),
}


@pytest.mark.parametrize("travel", TRAVELS.values(), ids=TRAVELS)
@pytest.mark.parametrize("rate", [1, 5, 15, 60])
def test_a_server_never_sees_more_calls_a_second_and_gets_nine_tenths_of_them(rate, travel):
    calls = rate * 20

    arrivals = run(lambda: arrivals_of(limiter(rate), calls=calls, travel=travel))

    assert most_within_a_second(arrivals) <= rate
    assert len(arrivals) == calls
    assert (calls - rate) / (arrivals[-1] - arrivals[0]) >= 0.9 * rate


def test_below_one_call_a_second_calls_are_that_far_apart():
    arrivals = run(lambda: arrivals_of(limiter(0.5), calls=4, travel=TRAVELS["at once"]))

    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert all(2 <= gap < 2.2 for gap in gaps)


def test_zero_means_no_limit():
    arrivals = run(lambda: arrivals_of(limiter(0), calls=500, travel=TRAVELS["at once"]))

    assert arrivals[-1] == arrivals[0]


def test_paths_have_limits_of_their_own():
    async def main() -> float:
        limit = limiter(1)
        start = now()
        for path in ("a", "b", "c"):
            async with limit.slot(path):
                pass
        return now() - start

    assert run(main) == 0


def test_calls_go_in_the_order_in_which_they_came():
    async def main() -> list[int]:
        limit, order = limiter(2), []

        async def call(number: int) -> None:
            async with limit.slot("path"):
                order.append(number)

        await asyncio.gather(*(call(number) for number in range(20)))
        return order

    assert run(main) == list(range(20))


@pytest.mark.parametrize("rate", [0, 10])
def test_a_pause_holds_back_its_path_only(rate):
    async def main() -> tuple[float, float]:
        limit = limiter(rate)
        limit.throttled("path", 3)
        limit.throttled("path", 1)
        start = now()
        async with limit.slot("other"):
            other = now() - start
        async with limit.slot("path"):
            return other, now() - start

    other, paused = run(main)
    assert other == 0
    assert paused == pytest.approx(3)


def test_a_pause_also_holds_back_who_waits_already():
    async def main() -> float:
        limit = limiter(1)
        start = now()
        async with limit.slot("path"):
            pass
        waiting = asyncio.create_task(arrivals_of(limit, calls=1, travel=TRAVELS["at once"]))
        await asyncio.sleep(0.5)
        limit.throttled("path", 5)
        return (await waiting)[0] - start

    assert run(main) == pytest.approx(5.5)


class StrictServer:
    """Refuses what is more than so many calls in any second, refused ones included."""

    def __init__(self, permitted: int) -> None:
        self.permitted = permitted
        self.arrivals: list[float] = []

    def accepts(self) -> bool:
        self.arrivals.append(now())
        return sum(each > now() - 1 for each in self.arrivals[-1000:]) <= self.permitted


@pytest.mark.parametrize("rate", [0, 15, 60])
@pytest.mark.parametrize("permitted", [1, 2, 5, 10])
def test_a_server_that_permits_less_is_adapted_to_and_no_call_starves(rate, permitted):
    calls = 20 * permitted + 40

    async def main() -> tuple[int, float]:
        limit, server, start = limiter(rate), StrictServer(permitted), now()
        most_tries = 0

        async def call() -> None:
            nonlocal most_tries
            for tries in count(1):
                most_tries = max(tries, most_tries)
                async with limit.slot("path"):
                    await asyncio.sleep(0.01)
                    accepted = server.accepts()
                if accepted:
                    return
                limit.throttled("path", 1.0)

        numbers = iter(range(calls))

        async def caller() -> None:
            for _ in numbers:
                await call()

        await asyncio.gather(*(caller() for _ in range(24)))
        return most_tries, now() - start

    most_tries, seconds = run(main)
    assert most_tries <= 12
    assert seconds <= 60 + 3 * calls / permitted


def test_a_rate_that_was_lowered_rises_again_to_what_is_configured():
    async def main() -> tuple[list[float], list[float]]:
        limit = limiter(10)
        for _ in range(5):
            limit.throttled("path", 0)
            await asyncio.sleep(2)
        await asyncio.sleep(3)
        slow = await arrivals_of(limit, calls=10, travel=TRAVELS["at once"])
        for _ in range(10):
            await asyncio.sleep(21)
            async with limit.slot("path"):
                pass
        await asyncio.sleep(2)
        return slow, await arrivals_of(limit, calls=40, travel=TRAVELS["at once"])

    slow, fast = run(main)
    assert most_within_a_second(slow) == 1
    assert most_within_a_second(fast) == 10


def test_a_block_refuses_all_paths_until_it_is_over():
    async def main() -> None:
        limit = limiter(10)
        async with limit.slot("path"):
            pass
        limit.block(300)
        await asyncio.sleep(100)
        with pytest.raises(RateLimitedError, match="blocks this IP address") as caught:
            async with limit.slot("other"):
                pass
        assert caught.value.retry_after == pytest.approx(200)
        await asyncio.sleep(200)
        async with limit.slot("other"):
            pass

    run(main)


def test_who_is_cancelled_while_waiting_takes_no_place():
    async def main() -> float:
        limit = limiter(1)
        start = now()
        async with limit.slot("path"):
            pass
        waiting = [
            asyncio.create_task(arrivals_of(limit, calls=1, travel=TRAVELS["at once"])) for _ in range(10)
        ]
        await asyncio.sleep(0.1)
        for task in waiting[:9]:
            task.cancel()
        return (await waiting[9])[0] - start

    assert run(main) == pytest.approx(1, abs=0.1)


def test_an_error_in_a_call_leaves_the_limiter_usable():
    async def main() -> None:
        limit = limiter(5)
        with pytest.raises(ValueError):
            async with limit.slot("path"):
                raise ValueError
        async with limit.slot("path"):
            pass

    run(main)
