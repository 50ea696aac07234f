"""The Stream client against the sandbox's gateway."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from nancalacc.clients.stream import Frame, Outcome, StreamClient, StreamTimes
from nancalacc.config import DingTalkSettings
from nancalacc.errors import ConfigurationError
from nancalacc.sandbox.organisation import Organisation
from nancalacc.sandbox.server import Sandbox, SandboxOptions
from nancalacc.sandbox.stream import StreamRules

QUICK = StreamTimes(connect=5, ping=5, finish=2, first_pause=0.05, longest_pause=0.2, steady=60)
DATA = {"timeStamp": "1685501863357", "userId": ["u1"]}


class Listener:
    """A client in a task, with a handler that notes events and answers as it is told."""

    def __init__(self, session: aiohttp.ClientSession, settings, times: StreamTimes) -> None:
        self.frames: list[Frame] = []
        self.outcome: Outcome | Exception = Outcome.SUCCESS
        self.hold = asyncio.Event()
        self.hold.set()
        self.stopping = asyncio.Event()
        self.client = StreamClient(
            "dingtalk_default", settings=settings, handler=self.handle, session=session, times=times
        )
        self.task = asyncio.create_task(self.client.run(self.stopping))

    async def handle(self, frame: Frame) -> Outcome:
        self.frames.append(frame)
        await self.hold.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    @property
    def event_ids(self) -> list[str]:
        return [frame.headers["eventId"] for frame in self.frames]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - conditions of another thread set no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    options = SandboxOptions(stream=StreamRules(redelivery=0.3, close_after_disconnect=0.5))
    async with Sandbox(organisation=Organisation(), options=options) as running:
        yield running


@asynccontextmanager
async def listening(sandbox: Sandbox, *, times: StreamTimes = QUICK, **changes) -> AsyncIterator[Listener]:
    async def settings() -> DingTalkSettings:
        return replace(DingTalkSettings.of(sandbox.dingtalk_connection), **changes)

    async with aiohttp.ClientSession() as session:
        listener = Listener(session, settings, times)
        try:
            yield listener
        finally:
            listener.stopping.set()
            listener.hold.set()
            await asyncio.wait_for(listener.task, 10)


@pytest.fixture
async def listener(sandbox: Sandbox) -> AsyncIterator[Listener]:
    async with listening(sandbox) as started:
        await until(lambda: started.client.connected)
        yield started


async def test_events_reach_the_handler_and_are_confirmed(sandbox, listener):
    event_id = sandbox.stream.emit("user_add_org", DATA)
    await until(lambda: sandbox.stream.consumed())

    (frame,) = listener.frames
    assert (frame.headers["eventType"], frame.headers["eventId"]) == ("user_add_org", event_id)
    assert json.loads(frame.data) == DATA
    assert (sandbox.stream.outstanding, sandbox.stream.violations) == ([], [])


async def test_many_events_are_handled_at_a_time(sandbox, listener):
    listener.hold.clear()
    ids = [sandbox.stream.emit("user_add_org", DATA) for _ in range(100)]
    await until(lambda: len(listener.frames) == 100)
    listener.hold.set()
    await until(lambda: not sandbox.stream.outstanding)

    assert sorted(listener.event_ids) == sorted(ids)


async def test_no_more_events_are_in_hand_than_allowed(sandbox):
    sandbox.stream.rules = replace(sandbox.stream.rules, redelivery=5)
    async with listening(sandbox, times=replace(QUICK, in_hand=3)) as listener:
        listener.hold.clear()
        for _ in range(20):
            sandbox.stream.emit("user_add_org", DATA)
        await until(lambda: len(listener.frames) == 3)
        await asyncio.sleep(0.1)
        assert len(listener.frames) == 3
        listener.hold.set()
        await until(lambda: len(sandbox.stream.consumed()) == 20)


@pytest.mark.parametrize("outcome", [Outcome.LATER, RuntimeError("secret content")])
async def test_what_is_not_ours_yet_is_delivered_again(sandbox, listener, outcome, caplog):
    listener.outcome = outcome
    event_id = sandbox.stream.emit("user_add_org", DATA)
    await until(lambda: len(listener.frames) >= 2)
    listener.outcome = Outcome.SUCCESS
    await until(lambda: sandbox.stream.consumed())

    assert set(listener.event_ids) == {event_id}
    assert {(answer.code, answer.status) for answer in sandbox.stream.answers[:-1]} == {(500, "LATER")}
    assert "secret content" not in caplog.text


async def test_answers_pings_with_their_echo(sandbox, listener):
    sandbox.stream.ping()
    await asyncio.sleep(0.4)

    assert sandbox.stream.violations == []
    assert sandbox.stream.connections == 1


async def test_opens_a_new_connection_with_a_new_ticket_when_asked_to(sandbox, listener):
    sandbox.stream.disconnect()
    await until(lambda: sandbox.stream.opened == 2 and sandbox.stream.connections == 1)
    sandbox.stream.emit("user_add_org", DATA)
    await until(lambda: sandbox.stream.consumed())


async def test_answers_what_is_in_hand_before_it_reconnects(sandbox, listener):
    listener.hold.clear()
    sandbox.stream.emit("user_add_org", DATA)
    await until(lambda: listener.frames)
    sandbox.stream.disconnect()
    await asyncio.sleep(0.05)
    listener.hold.set()
    await until(lambda: sandbox.stream.opened == 2 and sandbox.stream.connections == 1)

    assert len(sandbox.stream.consumed()) == len(listener.frames) == 1


async def test_comes_back_after_a_broken_connection(sandbox, listener):
    for opened in (2, 3):
        sandbox.stream.cut()
        await until(lambda opened=opened: sandbox.stream.opened == opened and listener.client.connected)


async def test_an_event_whose_answer_was_lost_comes_again(sandbox, listener):
    listener.hold.clear()
    event_id = sandbox.stream.emit("user_add_org", DATA)
    await until(lambda: listener.frames)
    sandbox.stream.cut()
    listener.hold.set()
    await until(lambda: sandbox.stream.consumed())

    assert set(listener.event_ids) == {event_id}
    assert len(listener.frames) >= 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "garbage",
        "[" * 100_000,
        "[]",
        "7",
        "{}",
        '{"type": "EVENT"',
        b"\xff\xfe\x00",
        '{"type": "SYSTEM"}',
        '{"type": "SYSTEM", "headers": {"topic": "KEEPALIVE", "messageId": "m"}, "data": "{}"}',
        '{"type": "SYSTEM", "headers": [], "data": null}',
        '{"type": null, "headers": null}',
        "x" * 1_000_000,
    ],
)
async def test_frames_that_are_none_do_no_harm(sandbox, listener, content, caplog):
    sandbox.stream.send_raw(content)
    sandbox.stream.emit("user_add_org", DATA)
    await until(lambda: sandbox.stream.consumed())

    assert (sandbox.stream.opened, sandbox.stream.violations) == (1, [])
    assert "garbage" not in caplog.text


@pytest.mark.parametrize("kind", ["CALLBACK", "SOMETHING"])
async def test_frames_of_other_kinds_are_refused(sandbox, listener, kind):
    sandbox.stream.send_raw(json.dumps({"type": kind, "headers": {"topic": "/x", "messageId": "m1"}}))
    await until(lambda: sandbox.stream.violations)

    assert sandbox.stream.violations == ["an answer to a message that does not wait for one"]
    assert listener.frames == []


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "EVENT"},
        {"type": "event", "header": {"eventType": "user_add_org"}, "data": {"userId": ["u1"]}},
        {"type": "EVENT", "headers": {"topic": "dingTalk"}, "data": None},
    ],
)
async def test_events_are_known_by_their_type_whatever_else_they_lack(sandbox, listener, frame):
    sandbox.stream.send_raw(json.dumps(frame))
    await until(lambda: listener.frames)

    assert sandbox.stream.violations == []


async def test_told_to_stop_it_answers_what_is_in_hand_and_closes(sandbox, listener):
    listener.hold.clear()
    sandbox.stream.emit("user_add_org", DATA)
    await until(lambda: listener.frames)
    listener.stopping.set()
    await asyncio.sleep(0.05)
    assert not listener.task.done()
    listener.hold.set()
    await asyncio.wait_for(listener.task, 5)

    assert len(sandbox.stream.consumed()) == 1
    assert not listener.client.connected
    await until(lambda: not sandbox.stream.connections)


async def test_told_to_stop_it_does_not_wait_for_ever(sandbox):
    async with listening(sandbox, times=replace(QUICK, finish=0.1)) as listener:
        listener.hold.clear()
        sandbox.stream.emit("user_add_org", DATA)
        await until(lambda: listener.frames)
        listener.stopping.set()
        await asyncio.wait_for(listener.task, 5)

    assert sandbox.stream.consumed() == []


async def test_told_to_stop_it_ends_in_the_middle_of_a_pause(sandbox):
    sandbox.faults.add("http", path="connections/open", status=500, times=None)
    async with listening(sandbox, times=replace(QUICK, first_pause=60)) as listener:
        await until(lambda: sandbox.calls.counts())
        listener.stopping.set()
        await asyncio.wait_for(listener.task, 5)


async def test_wrong_credentials_are_named_and_tried_again(sandbox, caplog):
    with caplog.at_level(logging.INFO):
        async with listening(sandbox, app_secret="wrong-secret"):
            await until(lambda: len(sandbox.calls.times("/v1.0/gateway/connections/open")) >= 2)

    assert "wrong app key or app secret" in caplog.text
    assert "wrong-secret" not in caplog.text


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "http", "status": 503},
        {"kind": "drop"},
        {"kind": "truncate"},
        {"kind": "errcode", "code": "systemError"},
        {"kind": "http", "status": 200, "text": '{"endpoint": "http://127.0.0.1/", "ticket": "t"}'},
        {"kind": "http", "status": 200, "text": '{"endpoint": "ws://127.0.0.1:9/", "ticket": "t"}'},
        {"kind": "http", "status": 200, "text": '{"endpoint": "ws://[", "ticket": "t"}'},
        {"kind": "http", "status": 200, "text": "x" * 100_000},
    ],
)
async def test_whatever_goes_wrong_when_opening_it_tries_again(sandbox, fault):
    sandbox.faults.add(**fault, path="connections/open", times=2)
    async with listening(sandbox) as listener:
        await until(lambda: listener.client.connected)


async def test_a_used_or_old_ticket_is_refused_and_the_next_one_is_new(sandbox, caplog):
    sandbox.stream.rules = replace(sandbox.stream.rules, ticket_lifetime=0)
    with caplog.at_level(logging.INFO):
        async with listening(sandbox) as listener:
            await until(lambda: sandbox.stream.opened >= 2)
            sandbox.stream.rules = replace(sandbox.stream.rules, ticket_lifetime=90)
            await until(lambda: listener.client.connected)

    assert "the gateway refused the connection (HTTP 401)" in caplog.text
    assert "ticket=" not in caplog.text
    assert "ws://" not in caplog.text


async def test_settings_are_read_for_every_connection():
    asked = 0

    async def settings() -> DingTalkSettings:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise ConfigurationError("no such connection")
        raise RuntimeError("unexpected")

    async with aiohttp.ClientSession() as session:
        listener = Listener(session, settings, QUICK)
        await until(lambda: asked >= 4)
        listener.stopping.set()
        await listener.task


async def test_pauses_grow_and_are_spread():
    client = StreamClient("c", settings=None, handler=None, session=None)
    for failures, longest in [(0, 1), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)]:
        pauses = [client._back_off(failures) for _ in range(200)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
        assert len(set(pauses)) > 100


async def test_a_gateway_that_falls_silent_is_left():
    """It accepts the connection and then answers nothing at all, not even pings."""
    connections = []

    async def open_(request: web.Request) -> web.Response:
        port = request.url.port
        return web.json_response({"endpoint": f"ws://127.0.0.1:{port}/connect", "ticket": "t"})

    async def connect(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False, timeout=0.1)
        await socket.prepare(request)
        connections.append(socket)
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.router.add_post("/v1.0/gateway/connections/open", open_)
    app.router.add_get("/connect", connect)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession() as session:

            async def settings() -> DingTalkSettings:
                return DingTalkSettings("c", url, url, "key", "secret")

            listener = Listener(session, settings, replace(QUICK, ping=0.2, finish=0.1))
            await until(lambda: len(connections) >= 2)
            listener.stopping.set()
            await listener.task
    finally:
        await runner.cleanup()
