"""The WPS client against a server that answers as a script says, and against the gateway of the sandbox."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from nancalacc.clients.signatures import signature_headers
from nancalacc.clients.transport import AnswerLostError, NotSentError
from nancalacc.clients.wps import WpsClient
from nancalacc.config import Signature, WpsSettings
from nancalacc.errors import (
    BusyError,
    CallRefusedError,
    ConfigurationError,
    IncompleteAnswerError,
    RateLimitedError,
    TransientError,
    UnknownOutcomeError,
)
from nancalacc.orchestration.http_transport import BareHttpHook
from nancalacc.sandbox.directory import Directory, DirectoryDepartment
from nancalacc.sandbox.server import Sandbox, SandboxOptions
from nancalacc.sandbox.wps import WpsRules

SECRET = "client-secret-value"
MOMENT = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
TOKEN = {"access_token": "token-1", "expires_in": 7200, "token_type": "bearer"}
RUNNING = "已有同步任务在执行中"
HTML = b"<html><body>502 Bad Gateway</body></html>"


@dataclass
class Script:
    """Answers tokens by counting and every other call by the next entry of `answers`."""

    answers: list = field(default_factory=list)
    token_answers: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    bodies: list = field(default_factory=list)
    tokens: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.path.endswith("/oauth2/token"):
            self.tokens += 1
            self.requests.append(request)
            self.bodies.append(body)
            given = self.token_answers.pop(0) if self.token_answers else {**TOKEN, "access_token": self.token}
            return await answer(request, given)
        self.requests.append(request)
        self.bodies.append(body)
        return await answer(request, self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    @property
    def token(self) -> str:
        return f"token-{self.tokens}"

    @property
    def calls(self):
        return [request for request in self.requests if not request.path.endswith("/oauth2/token")]


async def answer(request: web.Request, given) -> web.StreamResponse:
    status, given = given if isinstance(given, tuple) else (200, given)
    if given == "drop":
        request.transport.abort()
        return web.Response()
    if given == "cut off":
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"code":"200"')
        request.transport.close()
        return response
    if isinstance(given, bytes):
        return web.Response(body=given, status=status, content_type="text/html")
    return web.json_response(given, status=status)


@asynccontextmanager
async def client_for(script: Script, **changes) -> AsyncIterator[WpsClient]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", script.handle)
    async with TestServer(application) as server, BareHttpHook("wps_test").transport() as transport:
        yield WpsClient(
            settings(str(server.make_url("")).rstrip("/"), **changes),
            transport=transport,
            now=lambda: MOMENT,
            sleep=lambda _seconds: asyncio.sleep(0),
        )


def settings(base_url: str, **changes) -> WpsSettings:
    return replace(
        WpsSettings(
            conn_id="wps_test",
            base_url=base_url,
            client_id="client",
            client_secret=SECRET,
            third_company_id="third",
            platform_id="platform",
            company_id="company",
            company_name="公司",
            phone_salt_secret="salt",
        ),
        **changes,
    )


async def publish(script: Script, **changes) -> None:
    async with client_for(script, **changes) as client:
        await client.full_sync(task_id="20261122120000", collect_cost_ms=1500)


async def test_a_full_sync_names_the_snapshot_and_what_collecting_took():
    script = Script([{"code": "200", "msg": "success"}])
    await publish(script)
    assert [request.path for request in script.requests] == [
        "/openapi/oauth2/token",
        "/openapi/v7/ecisaccountsync/full/sync",
    ]
    assert json.loads(script.bodies[1]) == {
        "task_id": "20261122120000",
        "third_company_id": "third",
        "collect_cost": 1500,
    }


async def test_collecting_that_took_no_time_is_not_sent_as_zero():
    script = Script([{"code": "200"}])
    async with client_for(script) as client:
        await client.full_sync(task_id="20261122120000", collect_cost_ms=0)
    assert json.loads(script.bodies[1])["collect_cost"] == 1


async def test_an_increment_names_the_company():
    script = Script([{"code": "200"}])
    async with client_for(script) as client:
        await client.increment_sync()
    assert script.calls[0].path == "/openapi/v7/ecisaccountsync/increment/sync"
    assert json.loads(script.bodies[1]) == {"third_company_id": "third"}


async def test_the_token_is_asked_for_with_a_form_and_used_as_bearer():
    script = Script([{"code": "200"}])
    await publish(script)
    assert script.requests[0].headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(script.bodies[0].decode()) == {
        "grant_type": ["client_credentials"],
        "client_id": ["client"],
        "client_secret": [SECRET],
    }
    assert script.calls[0].headers["Authorization"] == "Bearer token-1"


@pytest.mark.parametrize("kind", list(Signature))
@pytest.mark.parametrize("prefix", ["/openapi", "/graph", ""])
async def test_the_signature_covers_path_and_query_as_sent_without_the_prefix(kind, prefix):
    page = {"code": 0, "data": {"items": [], "next_page_token": ""}}
    script = Script([page])
    async with client_for(script, signature=kind, prefix=prefix) as client:
        assert [user async for user in client.users()] == []
    call = script.calls[0]
    assert call.raw_path.startswith(f"{prefix}/v7/users?status=active&status=notactive&status=disabled&")
    expected = signature_headers(
        kind,
        client_id="client",
        client_secret=SECRET,
        method="GET",
        uri=call.raw_path.removeprefix(prefix),
        content_type=call.headers["Content-Type"],
        date="Sun, 22 Nov 2026 12:00:00 GMT",
        body=None,
    )
    signed = {
        name: value for name, value in call.headers.items() if "kso" in name.lower() or "docs" in name.lower()
    }
    assert signed == dict(expected)


async def test_the_signature_covers_the_body_as_sent():
    script = Script([{"code": "200"}])
    await publish(script)
    call = script.calls[0]
    expected = signature_headers(
        Signature.KSO1,
        client_id="client",
        client_secret=SECRET,
        method="POST",
        uri="/v7/ecisaccountsync/full/sync",
        content_type="application/json",
        date="Sun, 22 Nov 2026 12:00:00 GMT",
        body=script.bodies[1],
    )
    assert call.headers["X-Kso-Authorization"] == expected["X-Kso-Authorization"]


ACCEPTED = [{"code": "200"}, {"code": 200}, {"code": 0, "msg": ""}, {"code": "200", "msg": "同步正在进行"}]


@pytest.mark.parametrize("given", ACCEPTED)
async def test_an_accepted_publish_returns(given):
    await publish(Script([given]))


OUTCOMES = [
    ({"code": "400", "msg": "not number type"}, CallRefusedError, "400"),
    ({"code": 400, "msg": "not number type"}, CallRefusedError, "400"),
    ({"code": "401", "msg": "no"}, CallRefusedError, "401"),
    ((401, {"code": 401000201, "msg": "no"}), CallRefusedError, "401000201"),
    ({"code": "403", "msg": "no"}, CallRefusedError, "403"),
    ({"code": "500", "msg": "no tenant row"}, CallRefusedError, "500"),
    ((400, {"code": 400000201, "msg": "invalid argument"}), CallRefusedError, "400000201"),
    ({"code": 404000201, "msg": "no such path"}, CallRefusedError, "404000201"),
    ((401, HTML), CallRefusedError, "401"),
    ((302, b""), CallRefusedError, "302"),
    ({"code": "505", "msg": ""}, BusyError, None),
    ({"code": 505, "msg": ""}, BusyError, None),
    ({"code": "500", "msg": RUNNING}, BusyError, None),
    ({"code": "500", "msg": "a sync is running"}, BusyError, None),
    ({"code": "500", "msg": "当前企业已有同步任务在执行中请等待任务结束后再试一次"}, BusyError, None),
    ({"code": "500", "msg": f"{RUNNING}task_20261122021000_c1"}, BusyError, None),
    ({"code": "500", "msg": "failed", "detail": RUNNING}, BusyError, None),
    ({"code": "500", "msg": "failed", "detail": {"client_status": 400}}, CallRefusedError, "500"),
    ((500, {"code": "500", "msg": RUNNING}), BusyError, None),
    ((429, {"code": 429000001, "msg": "slow down"}), BusyError, None),
    ((429, b"slow down"), BusyError, None),
    ((500, {"code": 500000001, "msg": "oops"}), UnknownOutcomeError, None),
    ((502, HTML), UnknownOutcomeError, None),
    ((504, b""), UnknownOutcomeError, None),
    ((403, HTML), UnknownOutcomeError, None),
    ((404, HTML), UnknownOutcomeError, None),
    ((413, b""), UnknownOutcomeError, None),
    ((400, {"code": "200", "msg": "?"}), UnknownOutcomeError, None),
    ((408, b""), UnknownOutcomeError, None),
    (HTML, UnknownOutcomeError, None),
    (b"", UnknownOutcomeError, None),
    (b'{"code":"200', UnknownOutcomeError, None),
    ([], UnknownOutcomeError, None),
    ({"msg": "success"}, UnknownOutcomeError, None),
    ({"code": True}, UnknownOutcomeError, None),
    ({"code": "777", "msg": "?"}, UnknownOutcomeError, None),
    ({"code": 50000001, "msg": "internal"}, UnknownOutcomeError, None),
    ({"code": 400000005, "msg": "again"}, UnknownOutcomeError, None),
    ("drop", UnknownOutcomeError, None),
    ("cut off", UnknownOutcomeError, None),
]


@pytest.mark.parametrize("given, error, code", OUTCOMES, ids=[repr(row[0])[:48] for row in OUTCOMES])
async def test_the_outcomes_of_a_publish_are_told_apart(given, error, code):
    with pytest.raises(error) as caught:
        await publish(Script([given]))
    assert type(caught.value) is error
    assert getattr(caught.value, "code", None) == code
    assert "/v7/ecisaccountsync/full/sync" in str(caught.value)


async def test_a_page_in_place_of_an_answer_says_what_to_check():
    with pytest.raises(UnknownOutcomeError, match=r"HTTP 404.*check host and extra 'prefix'.*wps_test"):
        await publish(Script([(404, HTML)]))


@pytest.mark.parametrize("given", ["drop", HTML, {"code": "500", "msg": RUNNING}, {"code": "400", "msg": ""}])
async def test_a_publish_is_sent_once_whatever_comes(given):
    script = Script([given])
    with pytest.raises((TransientError, CallRefusedError)):
        await publish(script)
    assert len(script.calls) == 1


async def test_a_publish_that_gets_no_answer_in_time_has_an_unknown_outcome(monkeypatch):
    monkeypatch.setattr("nancalacc.clients.wps.CALL_SECONDS", 0.3)

    class Silent(Script):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            if not request.path.endswith("/oauth2/token"):
                await asyncio.sleep(1)
            return await super().handle(request)

    with pytest.raises(UnknownOutcomeError, match="no complete answer"):
        await publish(Silent([{"code": "200"}]))


async def test_a_publish_that_reaches_nobody_was_not_sent(unused_tcp_port):
    async with BareHttpHook("wps_test").transport() as transport:
        client = WpsClient(settings(f"http://127.0.0.1:{unused_tcp_port}"), transport=transport)
        with pytest.raises(NotSentError, match="wps_test"):
            await client.increment_sync()


@pytest.mark.parametrize("given", ["drop", "cut off", (502, HTML), b"{", {"code": 50000001, "msg": ""}])
async def test_a_token_that_does_not_come_leaves_the_publish_unsent_not_unknown(given):
    script = Script([{"code": "200"}], token_answers=[given])
    with pytest.raises(TransientError) as caught:
        await publish(script)
    assert not isinstance(caught.value, UnknownOutcomeError | AnswerLostError)
    assert script.calls == []


@pytest.mark.parametrize(
    "given",
    [
        (401, {"code": 401000201, "msg": "invalid client"}),
        (400, {"error": "invalid_client"}),
        {"code": 40001, "msg": "bad secret"},
        (404, HTML),
    ],
)
async def test_a_refused_app_is_a_matter_of_the_connection(given):
    with pytest.raises(ConfigurationError, match=r"wps_test.*Check login") as caught:
        await publish(Script([{"code": "200"}], token_answers=[given]))
    assert SECRET not in str(caught.value)


async def test_a_limited_token_call_says_when_to_come_back():
    with pytest.raises(RateLimitedError):
        await publish(Script([{"code": "200"}], token_answers=[(429, b"")]))


@pytest.mark.parametrize(
    "refusal", [(401, {"code": 401000201, "msg": "expired"}), {"code": "401", "msg": "expired"}]
)
async def test_a_refused_token_is_renewed_once_and_the_call_repeated(refusal):
    script = Script([refusal, {"code": "200"}])
    await publish(script)
    assert [call.headers["Authorization"] for call in script.calls] == ["Bearer token-1", "Bearer token-2"]


async def test_a_token_refused_twice_ends_the_call():
    script = Script([(401, {"code": 401000201, "msg": "no"})])
    with pytest.raises(CallRefusedError, match="login and password"):
        await publish(script)
    assert (len(script.calls), script.tokens) == (2, 2)


async def test_one_token_serves_fifty_calls_at_once():
    script = Script([{"code": 0, "data": {"id": "1"}}])
    async with client_for(script) as client:
        await asyncio.gather(*(client.root_department() for _ in range(50)))
    assert script.tokens == 1


async def test_pages_are_read_to_the_last_one():
    script = Script(
        [
            {"code": 0, "data": {"items": [{"id": "1"}, {"id": "2"}], "next_page_token": "a/b+c="}},
            {"code": 0, "data": {"items": [{"id": "3"}]}},
        ]
    )
    async with client_for(script) as client:
        found = [child["id"] async for child in client.department_children("7/8")]
    assert found == ["1", "2", "3"]
    assert [call.raw_path for call in script.calls] == [
        "/openapi/v7/depts/7%2F8/children?page_size=50",
        "/openapi/v7/depts/7%2F8/children?page_size=50&page_token=a%2Fb%2Bc%3D",
    ]


async def test_pages_that_lead_in_a_circle_are_incomplete():
    def page(following):
        return {"code": 0, "data": {"items": [], "next_page_token": following}}

    async with client_for(Script([page("a"), page("b"), page("a")])) as client:
        with pytest.raises(IncompleteAnswerError, match="/v7/users"):
            _ = [user async for user in client.users()]


@pytest.mark.parametrize("data", [None, [], {}, {"items": None}, {"items": {}}, {"items": ["1"]}])
async def test_a_page_without_a_list_of_records_is_incomplete(data):
    async with client_for(Script([{"code": 0, "data": data}])) as client:
        with pytest.raises(IncompleteAnswerError, match="page 1"):
            _ = [user async for user in client.users()]


@pytest.mark.parametrize(
    "given",
    ["drop", "cut off", (502, HTML), HTML, b"{", (429, b""), {"code": 400000005, "msg": ""}, {"code": "x"}],
)
async def test_a_read_is_repeated_when_that_may_help(given):
    script = Script([given, {"code": 0, "data": {"id": "1"}}])
    async with client_for(script) as client:
        assert (await client.root_department())["id"] == "1"
    assert len(script.calls) >= 2


async def test_a_read_gives_up_after_some_attempts():
    script = Script([(502, HTML)])
    async with client_for(script) as client:
        with pytest.raises(TransientError, match="HTTP 502"):
            await client.root_department()
    assert len(script.calls) == 5


async def test_a_refused_read_is_not_repeated():
    script = Script([(404, {"code": 404000201, "msg": "department not found"})])
    async with client_for(script) as client:
        with pytest.raises(CallRefusedError, match="department not found") as caught:
            await client.root_department()
    assert caught.value.code == "404000201"
    assert len(script.calls) == 1


async def test_messages_hold_neither_tokens_nor_phone_numbers_that_the_other_side_quotes():
    quoted = "a" * 40
    script = Script([{"code": "400", "msg": f"bad token {quoted} of 13800000000"}])
    with pytest.raises(CallRefusedError) as caught:
        await publish(script)
    assert quoted not in str(caught.value)
    assert "13800000000" not in str(caught.value)


@asynccontextmanager
async def sandbox_client(*, rules: WpsRules, **changes):
    """The client of a sandbox without a database: it serves reads and refuses syncs."""
    async with (
        Sandbox(options=SandboxOptions(wps=rules)) as sandbox,
        BareHttpHook("wps_test").transport() as transport,
    ):
        options = sandbox.options
        known = {
            "client_id": options.client_id,
            "client_secret": options.client_secret,
            "third_company_id": options.third_company_id,
            "signature": rules.signature,
        }
        yield sandbox, WpsClient(settings(sandbox.url, **(known | changes)), transport=transport)


@pytest.mark.parametrize("kind", list(Signature))
@pytest.mark.parametrize("prefix", ["/openapi", "/graph", "/o/cid"])
async def test_the_gateway_accepts_signed_reads_of_the_directory(kind, prefix):
    async with sandbox_client(rules=WpsRules(signature=kind), prefix=prefix) as (_, client):
        root = await client.root_department()
        assert [child async for child in client.department_children(root["id"])] == []
        assert [user["id"] async for user in client.users()] == ["1"]


async def test_the_gateway_refuses_the_wrong_signature():
    wrong = {"signature": Signature.WPS4}
    async with sandbox_client(rules=WpsRules(signature=Signature.KSO1), **wrong) as (_, client):
        with pytest.raises(CallRefusedError, match="extra 'signature'"):
            await client.root_department()


async def test_the_gateway_refuses_a_wrong_secret():
    async with sandbox_client(rules=WpsRules(), client_secret="wrong") as (_, client):
        with pytest.raises(ConfigurationError, match="password"):
            await client.increment_sync()


async def test_a_token_that_ended_early_is_renewed():
    async with sandbox_client(rules=WpsRules()) as (sandbox, client):
        await client.root_department()
        sandbox.wps.expire_tokens()
        assert (await client.root_department())["id"] == "1"


async def test_the_children_of_a_department_with_many_are_read_page_by_page(monkeypatch):
    directory = Directory(company_name="公司")
    for number in range(1, 121):
        did = str(number)
        directory.departments[did] = DirectoryDepartment(directory.new_id(), did, f"d{did}", "0", number)
    async with sandbox_client(rules=WpsRules()) as (sandbox, client):
        monkeypatch.setattr(sandbox.consumer, "directory", lambda: directory)
        root = await client.root_department()
        found = [child["ex_dept_id"] async for child in client.department_children(root["id"])]
    assert sorted(map(int, found)) == list(range(1, 121))
