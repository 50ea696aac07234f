"""The sandbox as a server: DingTalk, WPS and the control API on one port."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Self

from aiohttp import web

from nancalacc.config import ConnectionInfo, Signature
from nancalacc.sandbox.callback import CallbackRules, CallbackSender
from nancalacc.sandbox.comparison import Comparison, compare
from nancalacc.sandbox.consumer import Consumer, ConsumerRules
from nancalacc.sandbox.control import Control
from nancalacc.sandbox.dingtalk import DingTalk, DingTalkRules, family_of
from nancalacc.sandbox.directory import Directory
from nancalacc.sandbox.faults import Family, Faults, faulty_answer
from nancalacc.sandbox.organisation import ROOT_DEPT_ID, Organisation, demo_organisation
from nancalacc.sandbox.robot import ROBOT_PATH, Robot, RobotRules
from nancalacc.sandbox.stream import CONNECT_PATH, OPEN_PATH, StreamGateway, StreamRules
from nancalacc.sandbox.wps import GATEWAY_PATH, Wps, WpsRules

CONTROL_PREFIX = "/_sandbox"
LARGEST_BODY = 16 * 2**20


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """Who may call, and for which company; the values of both connections of design section 2."""

    app_key: str = "sandbox-app"
    app_secret: str = field(default="sandbox-app-secret", repr=False)
    client_id: str = "sandbox-client"
    client_secret: str = field(default="sandbox-client-secret", repr=False)
    third_company_id: str = "sandbox"
    company_id: str = "sandbox-wps"
    company_name: str = "演示集团"
    platform_id: str = "dingtalk"
    phone_salt_secret: str = field(default="sandbox-salt", repr=False)
    dingtalk: DingTalkRules = field(default_factory=DingTalkRules)
    wps: WpsRules = field(default_factory=WpsRules)
    consumer: ConsumerRules = field(default_factory=ConsumerRules)
    stream: StreamRules = field(default_factory=StreamRules)
    callback: CallbackRules = field(default_factory=CallbackRules)
    robot_token: str = field(default="sandbox-robot", repr=False)
    robot_secret: str = field(default="SECsandbox", repr=False)
    robot: RobotRules = field(default_factory=RobotRules)


class CallLog:
    """How often each path was called, and when (seconds of a monotonic clock); nothing else of the call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, list[float]] = defaultdict(list)

    def add(self, path: str) -> None:
        """Note a call that came in."""
        with self._lock:
            self._calls[path].append(monotonic())

    def clear(self) -> None:
        """Forget all calls."""
        with self._lock:
            self._calls.clear()

    def times(self, path: str) -> list[float]:
        """When a path was called."""
        with self._lock:
            return list(self._calls.get(path, []))

    def counts(self) -> dict[str, int]:
        """How often each path was called."""
        with self._lock:
            return {path: len(times) for path, times in sorted(self._calls.items())}


class Sandbox:
    """Stand-in for one DingTalk app and one WPS company, as long as the `async with` block.

    Everything is reachable in-process, from other threads too: `organisation`, `dingtalk`, `wps`,
    `consumer`, `directory`, `stream`, `callback`, `robot`, `faults`, `calls`. `port` 0 takes a free one;
    `url` names it.
    """

    def __init__(
        self,
        *,
        organisation: Organisation | None = None,
        database_url: str | None = None,
        options: SandboxOptions | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.options = options or SandboxOptions()
        self.host = host
        self.port = port
        self.faults = Faults()
        self.calls = CallLog()
        self.stream = StreamGateway(
            app_key=self.options.app_key, app_secret=self.options.app_secret, rules=self.options.stream
        )
        self.callback = CallbackSender(owner_key=self.options.app_key, rules=self.options.callback)
        self.robot = Robot(
            access_token=self.options.robot_token,
            sign_secret=self.options.robot_secret,
            rules=self.options.robot,
        )
        self.dingtalk = DingTalk(
            demo_organisation() if organisation is None else organisation,
            app_key=self.options.app_key,
            app_secret=self.options.app_secret,
            rules=self.options.dingtalk,
            observer=self._changed,
        )
        self.consumer = Consumer(
            database_url=database_url,
            third_company_id=self.options.third_company_id,
            salt=self.options.phone_salt_secret,
            rules=self.options.consumer,
        )
        self.wps = Wps(
            self.consumer,
            client_id=self.options.client_id,
            client_secret=self.options.client_secret,
            rules=self.options.wps,
        )
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=LARGEST_BODY)
        Control(self).add_routes(app, prefix=CONTROL_PREFIX)
        app.router.add_get(CONNECT_PATH, self.stream.connect)
        app.router.add_route("*", "/{path:.*}", self._answer)
        # The access log would hold the tokens of the old family, which travel in the query.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]
        self.consumer.start()
        self.stream.start()
        self.callback.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.callback.close()
        await self.stream.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.to_thread(self.consumer.close)

    @property
    def url(self) -> str:
        """The base URL of both sides."""
        return f"http://{self.host}:{self.port}"

    @property
    def organisation(self) -> Organisation:
        """The organisation DingTalk serves."""
        return self.dingtalk.organisation

    @property
    def directory(self) -> Directory:
        """The directory of the sandbox's own company in WPS."""
        return self.consumer.directory()

    @property
    def dingtalk_connection(self) -> ConnectionInfo:
        """What the connection `dingtalk_default` must say to reach this sandbox.

        It stays a quarter below the limit in force, as one should [dt 4.3].
        """
        limit = self.dingtalk.rules.calls_per_second
        return ConnectionInfo(
            conn_id="dingtalk_default",
            host=self.url,
            login=self.options.app_key,
            password=self.options.app_secret,
            extra={
                "api_host": self.url,
                "calls_per_second": max(1, limit * 3 // 4) if limit else 0,
                "callback_token": self.options.callback.token,
                "callback_aes_secret": self.options.callback.aes_secret,
            },
        )

    @property
    def wps_connection(self) -> ConnectionInfo:
        """What the connection `wps_default` must say to reach this sandbox."""
        options = self.options
        return ConnectionInfo(
            conn_id="wps_default",
            host=self.url,
            login=options.client_id,
            password=options.client_secret,
            extra={
                "prefix": "/openapi",
                "signature": Signature(self.wps.rules.signature).value,
                "third_company_id": options.third_company_id,
                "platform_id": options.platform_id,
                "company_id": options.company_id,
                "company_name": options.company_name,
                "phone_salt_secret": options.phone_salt_secret,
                "timezone": self.consumer.rules.timezone,
            },
        )

    @property
    def robot_connection(self) -> ConnectionInfo:
        """What a connection must say to reach the robot of this sandbox."""
        return ConnectionInfo(
            conn_id="dingtalk_robot",
            host=self.url,
            password=self.options.robot_token,
            extra={"sign_secret": self.options.robot_secret},
        )

    def compare(
        self, *, root_dept_id: int = ROOT_DEPT_ID, third_company_id: str = "", accounts: bool = True
    ) -> Comparison:
        """Compare what DingTalk has with what WPS has; fields without permission are left out."""
        return compare(
            self.organisation,
            self.consumer.directory(third_company_id),
            root_dept_id=root_dept_id,
            omitted=self.dingtalk.rules.omitted,
            accounts=accounts,
        )

    def reset(self, *, organisation: Organisation | None = None) -> None:
        """Go back to the start: rules, faults, calls, tokens and the directory; tables stay."""
        self.faults.clear()
        self.calls.clear()
        self.dingtalk.rules = self.options.dingtalk
        self.dingtalk.organisation = demo_organisation() if organisation is None else organisation
        self.dingtalk.reset()
        self.stream.reset(self.options.stream)
        self.callback.rules = self.options.callback
        self.robot.reset(self.options.robot)
        self.wps.rules = self.options.wps
        self.wps.expire_tokens()
        self.consumer.set_rules(self.options.consumer)
        self.consumer.reset()

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.path
        self.calls.add(path)
        is_wps = GATEWAY_PATH.fullmatch(path) is not None
        ours = {OPEN_PATH: self._open_stream, ROBOT_PATH: self.robot.handle}
        handle = self.wps.handle if is_wps else ours.get(path, self.dingtalk.handle)
        answer: Callable[[], Awaitable[web.Response]] = lambda: handle(request)  # noqa: E731
        values = dict(request.query) | _values(await request.read())
        fault = self.faults.take(path, values=values)
        if fault is None:
            return await answer()
        family = Family.WPS if is_wps else family_of(path)
        return await faulty_answer(fault, request=request, values=values, family=family, answer=answer)

    async def _open_stream(self, request: web.Request) -> web.Response:
        status, answer = self.stream.open(_values(await request.read()))
        if "endpoint" in answer:
            answer["endpoint"] = f"ws://{self.host}:{self.port}{answer['endpoint']}"
        return web.json_response(answer, status=status)

    def _changed(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Tell of a change of the organisation, where the rules say so."""
        if self.stream.rules.emit:
            self.stream.emit(event_type, data)
        if self.callback.rules.emit:
            self.callback.emit(event_type, data)


def _values(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body) if body else {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


@contextmanager
def running_sandbox(
    *,
    organisation: Organisation | None = None,
    database_url: str | None = None,
    options: SandboxOptions | None = None,
    port: int = 0,
) -> Iterator[Sandbox]:
    """A sandbox in a thread of its own, for tests that are not asynchronous."""
    sandbox = Sandbox(organisation=organisation, database_url=database_url, options=options, port=port)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sandbox", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(sandbox.__aenter__(), loop).result()
        try:
            yield sandbox
        finally:
            asyncio.run_coroutine_threadsafe(sandbox.__aexit__(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8970,
    database_url: str | None = None,
    options: SandboxOptions | None = None,
    organisation: Organisation | None = None,
    ready: Callable[[Sandbox], None] | None = None,
) -> None:
    """Run a sandbox until the task is cancelled; `ready` is told when it answers."""
    sandbox = Sandbox(
        organisation=organisation, database_url=database_url, options=options, host=host, port=port
    )
    async with sandbox:
        if ready is not None:
            ready(sandbox)
        await asyncio.Event().wait()
