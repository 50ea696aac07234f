"""The trigger that watches a step that waits, in an event loop as the triggerer has one."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from nancalacc.orchestration import triggers
from nancalacc.orchestration.triggers import StepTrigger
from nancalacc.saga.waiting import Wait, Waiting
from nancalacc.sandbox.postgres import free_port
from toy_saga import DAG, TOY, Toy

LONG = Wait(condition={"phone": "here"}, seconds=300, poll_seconds=0.05)


@pytest.fixture
def waiting(saga: Toy) -> Waiting:
    """An attempt of `finish` that was laid down."""
    saga.run_until("publish")
    saga.services.waits = [LONG]
    laid_down = saga.coordinator.run_step_or_wait(TOY, saga.id, "finish", services=saga.services, params={})
    assert isinstance(laid_down, Waiting)
    return laid_down


@pytest.fixture
def urls(toy_url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the trigger looks for the database: the last of these."""
    found = [toy_url]

    async def url() -> str:
        return found[-1]

    monkeypatch.setattr(triggers, "database_url_async", url)
    monkeypatch.setattr(triggers, "definition_of", {DAG: TOY}.__getitem__)
    monkeypatch.setenv("NANCALACC_HEARTBEAT_SECONDS", "0.1")
    return found


def trigger(waiting: Waiting, *, seconds: float = 300) -> StepTrigger:
    """The trigger as the triggerer makes it."""
    made = StepTrigger(DAG, waiting.as_data(), until=time.time() + seconds)
    path, arguments = made.serialize()
    assert path == "nancalacc.orchestration.triggers.StepTrigger"
    return StepTrigger(**arguments)


@asynccontextmanager
async def running(trigger: StepTrigger) -> AsyncIterator["asyncio.Task[Any]"]:
    """The trigger at work; the task's result is the payload of its event."""

    async def first() -> Any:
        async for event in trigger.run():
            return event.payload
        return None

    task = asyncio.create_task(first())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await trigger.cleanup()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - another thread sets no event
            await asyncio.sleep(0.02)


def execute(saga: Toy, statement: str) -> None:
    with saga.database.transaction() as connection:
        connection.execute(text(statement))


def be_silent(saga: Toy) -> None:
    execute(saga, "UPDATE saga_steps SET heartbeat_at = heartbeat_at - interval '1 hour'")


def is_alive(saga: Toy) -> bool:
    age = saga.steps["finish"].heartbeat_age
    return age is not None and age < 300


async def test_it_keeps_the_attempt_alive_and_fires_when_the_condition_is_met(saga, waiting, urls):
    be_silent(saga)
    async with running(trigger(waiting)) as task:
        await until(lambda: is_alive(saga))
        execute(saga, "INSERT INTO toy_people VALUES ('here', 1)")
        assert await asyncio.wait_for(task, 30) == {"outlook": "met"}
    assert saga.steps["finish"].attempt == 1


async def test_it_fires_when_the_time_is_over(saga, waiting, urls):
    async with running(trigger(waiting, seconds=0.3)) as task:
        assert await asyncio.wait_for(task, 30) == {"outlook": "not_yet"}


async def test_it_fires_when_the_attempt_was_overtaken(saga, waiting, urls):
    saga.coordinator.watch(TOY, waiting).let_go()
    saga.run("finish")
    async with running(trigger(waiting)) as task:
        assert await asyncio.wait_for(task, 30) == {"outlook": "overtaken"}


async def test_another_triggerer_goes_on_with_it(saga, waiting, urls):
    one = trigger(waiting)
    async with running(one) as task:
        await until(lambda: is_alive(saga))
    assert task.cancelled()
    be_silent(saga)
    _, arguments = one.serialize()
    async with running(StepTrigger(**arguments)) as task:
        await until(lambda: is_alive(saga))
        assert not task.done()


async def test_while_the_database_is_away_it_asks_less_often_and_fires_when_it_is_back(
    saga, waiting, urls, monkeypatch, caplog
):
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def short_sleep(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(triggers.asyncio, "sleep", short_sleep)
        urls.append(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
        watcher = trigger(replace(waiting, seconds=0.1), seconds=0.1)
        async with running(watcher) as task:
            while len(pauses) < 8:
                await sleep(0.05)
            assert not task.done()
            urls.pop()
            await watcher.cleanup()
            assert await asyncio.wait_for(task, 30) == {"outlook": "not_yet"}
    assert pauses[:6] == [1, 2, 4, 8, 16, 30]
    assert "cannot be watched; next try in 30 s" in caplog.text


async def test_when_a_person_marks_or_clears_the_task_who_goes_on_need_not_wait(saga, another, waiting, urls):
    watcher = trigger(waiting)
    async with running(watcher):
        await until(lambda: is_alive(saga))
    await watcher.on_kill()
    await watcher.cleanup()
    await asyncio.to_thread(another(stale_seconds=1000).run, "finish")
    assert saga.steps["finish"].attempt == 2
