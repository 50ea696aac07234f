"""Many small calls at once, their results as a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[Item], Coroutine[Any, Any, tuple[Result, Iterable[Item]]]]


async def fan_out(
    source: Iterable[Item] | AsyncIterable[Item], *, work: Work[Item, Result], at_once: int
) -> AsyncGenerator[Result, None]:
    """Run `work` on every item, at most `at_once` at a time, and yield results as they come.

    `work` returns its result and the items that follow from it (children, the next page), which go
    before further items of `source`. A failure, a cancellation or closing the generator cancels
    everything under way, waits until it has ended, and closes `source`; so close it
    (`contextlib.aclosing`) when it may be left early. Nothing is read ahead of the consumer but
    the calls under way.
    """
    items = _stream(source)
    waiting: deque[Item] = deque()
    working: set[asyncio.Task[tuple[Result, Iterable[Item]]]] = set()
    reading: asyncio.Task[Item] | None = None
    exhausted = False
    try:
        while True:
            while waiting and len(working) < at_once:
                working.add(asyncio.create_task(work(waiting.popleft())))
            if not exhausted and reading is None and len(working) < at_once:
                reading = asyncio.create_task(_next(items))
            under_way: set[asyncio.Task[Any]] = {*working, *([reading] if reading else [])}
            if not under_way:
                return
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                try:
                    waiting.append(reading.result())
                except _EndOfSourceError:
                    exhausted = True
                reading = None
            # Failures first: results of a fetch that cannot become complete are of no use.
            done = [(task, task.result()) for task in working if task.done()]
            for task, (result, following) in done:
                working.discard(task)
                waiting.extend(following)
                yield result
    finally:
        await _end([*working, *([reading] if reading else [])])
        if isinstance(items, AsyncGenerator):
            await items.aclose()


class _EndOfSourceError(Exception):
    """The source has no more items; a task cannot end with StopAsyncIteration."""


async def _next(items: AsyncIterator[Item]) -> Item:
    try:
        return await anext(items)
    except StopAsyncIteration:
        raise _EndOfSourceError from None


def _stream(source: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(source, AsyncIterable):
        return aiter(source)
    return _as_stream(source)


async def _as_stream(source: Iterable[Item]) -> AsyncGenerator[Item, None]:
    for item in source:
        yield item


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    running = list(tasks)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
