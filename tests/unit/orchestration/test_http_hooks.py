"""The hooks: what of an Airflow connection reaches the clients, and what the transport sends."""

import asyncio
import gzip
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from airflow.sdk import Connection

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.clients.transport import AnswerLostError, NotSentError
from nancalacc.clients.wps import WpsClient
from nancalacc.errors import ConfigurationError, IncompleteAnswerError, NancalaccError
from nancalacc.orchestration import http_transport
from nancalacc.orchestration.http_hooks import DingTalkHook, WpsHook, connection_info
from nancalacc.orchestration.http_transport import BareHttpHook

WPS_EXTRA = {
    "third_company_id": "third",
    "platform_id": "platform",
    "company_id": "company",
    "phone_salt_secret": "salt",
}


@pytest.mark.parametrize(
    "defined, base_url",
    [
        (
            '{"conn_type":"http","host":"http://127.0.0.1:9000","login":"k","password":"s"}',
            "http://127.0.0.1:9000",
        ),
        ('{"conn_type":"http","host":"http://127.0.0.1","port":9000}', "http://127.0.0.1:9000"),
        ('{"conn_type":"http","host":"oapi.dingtalk.com"}', "https://oapi.dingtalk.com"),
        ('{"conn_type":"http","host":"https://wps.example.com/gate/"}', "https://wps.example.com/gate"),
        (
            '{"conn_type":"http","host":"wps.example.com","schema":"https","port":8443}',
            "https://wps.example.com:8443",
        ),
        ('{"conn_type":"http","host":"wps.example.com","port":443}', "https://wps.example.com:443"),
        ("http://k:s@127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://k:s@127.0.0.1:9000/?prefix=%2Fopenapi", "http://127.0.0.1:9000"),
        ("http://k:s@127.0.0.1:9000/https", "https://127.0.0.1:9000"),
        ("https://k:s@127.0.0.1:9000", "https://127.0.0.1:9000"),
        ("http://k:s@oapi.dingtalk.com/", "https://oapi.dingtalk.com"),
        ("http://k:s@http%3A%2F%2F127.0.0.1%3A9000/", "http://127.0.0.1:9000"),
    ],
)
def test_every_way_to_define_a_connection_gives_its_base_url(monkeypatch, defined, base_url):
    monkeypatch.setenv("AIRFLOW_CONN_SOMETHING", defined)
    assert WpsHook("something").connection_info().base_url == base_url


def test_login_password_and_extra_are_taken_over():
    info = connection_info(
        Connection(conn_id="c", conn_type="http", host="h", login="k", password="s", extra='{"prefix": "x"}')
    )
    assert (info.conn_id, info.login, info.password, info.extra) == ("c", "k", "s", {"prefix": "x"})


def test_the_extra_of_a_uri_may_be_one_json_object(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_C", "http://k:s@h:1/?__extra__=%7B%22root_dept_id%22%3A+7%7D")
    assert DingTalkHook("c").settings().root_dept_id == 7


def test_an_extra_that_is_no_object_is_refused():
    with pytest.raises(ConfigurationError, match="'c': extra"):
        connection_info(Connection(conn_id="c", conn_type="http", host="h", extra="[1]"))


@pytest.mark.parametrize("hook", [DingTalkHook("nowhere"), WpsHook("nowhere")])
async def test_a_missing_connection_is_named_with_how_to_define_it(hook):
    with pytest.raises(ConfigurationError, match=r"'nowhere'.*AIRFLOW_CONN_NOWHERE"):
        hook.settings()
    with pytest.raises(ConfigurationError, match=r"'nowhere'.*AIRFLOW_CONN_NOWHERE"):
        async with hook.client():
            pass


@pytest.mark.parametrize("hook", [DingTalkHook(), WpsHook()])
def test_the_default_connections_are_the_documented_ones(hook):
    assert hook.http_conn_id == hook.default_conn_name
    assert hook.http_conn_id in {"dingtalk_default", "wps_default"}


async def test_hooks_give_a_client_for_their_connection(monkeypatch):
    common = {"conn_type": "http", "host": "http://127.0.0.1:9", "login": "k", "password": "s"}
    monkeypatch.setenv("AIRFLOW_CONN_DINGTALK_DEFAULT", json.dumps(common))
    monkeypatch.setenv("AIRFLOW_CONN_WPS_DEFAULT", json.dumps(common | {"extra": WPS_EXTRA}))
    assert DingTalkHook().settings().app_key == "k"
    assert WpsHook().settings().third_company_id == "third"
    async with DingTalkHook().client() as dingtalk, WpsHook().client() as wps:
        assert isinstance(dingtalk, DingTalkClient)
        assert isinstance(wps, WpsClient)


@asynccontextmanager
async def served(handler):
    """The base URL of a server and a transport whose connection has a login and an extra."""
    application = web.Application(client_max_size=2**26)
    application.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(application) as server, BareHttpHook("c").transport() as transport:
        yield str(server.make_url("")).rstrip("/"), transport


async def get(url, transport, *, timeout=5.0, headers=None):
    return await transport("GET", url, headers=headers or {}, timeout=timeout)


async def test_the_url_is_sent_as_given():
    async def echo(request):
        return web.Response(text=request.raw_path)

    target = "/a%2Fb/%E4%B8%AD?x=%2B%2f&y=a+b&z=%41"
    async with served(echo) as (base, transport):
        assert (await get(base + target, transport)).body.decode() == target


async def test_body_and_content_type_are_sent_as_given():
    async def echo(request):
        return web.Response(body=await request.read(), headers={"X-Type": request.headers["Content-Type"]})

    async with served(echo) as (base, transport):
        answer = await transport(
            "POST", base, headers={"Content-Type": "application/json"}, body="{'a': '中'}".encode(), timeout=5
        )
    assert (answer.body.decode(), answer.headers["x-type"]) == ("{'a': '中'}", "application/json")


async def test_nothing_of_the_connection_and_no_cookie_is_sent(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_C", "http://login:password@127.0.0.1:1/?callback_token=hidden")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    seen = []

    async def handler(request):
        seen.append({name.lower() for name in request.headers})
        return web.Response(headers={"Set-Cookie": "a=b"})

    async with served(handler) as (base, transport):
        await get(base, transport)
        await get(base, transport)
    assert seen[1] <= {"host", "accept", "accept-encoding", "user-agent"}


@pytest.mark.parametrize("status", [200, 204, 302, 400, 403, 429, 500, 502])
async def test_every_status_is_an_answer_and_asked_for_once(status):
    asked = []

    async def handler(request):
        asked.append(request.path)
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers)

    async with served(handler) as (base, transport):
        assert (await get(f"{base}/here", transport)).status == status
    assert asked == ["/here"]


async def test_an_answer_that_is_too_large_is_cut_off(monkeypatch):
    monkeypatch.setattr(http_transport, "LARGEST_ANSWER", 1024 * 1024)

    async def packed(_request):
        body = gzip.compress(b"0" * 1024 * 1024 * 4)
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async with served(packed) as (base, transport):
        with pytest.raises(IncompleteAnswerError, match="larger than 1 MB"):
            await get(base, transport)


async def test_nobody_listening_means_not_sent(unused_tcp_port):
    async with BareHttpHook("c").transport() as transport:
        with pytest.raises(NotSentError, match=rf"127\.0\.0\.1:{unused_tcp_port}/path.*'c'.*no connection"):
            await get(f"http://127.0.0.1:{unused_tcp_port}/path", transport)


async def test_a_server_without_tls_means_not_sent():
    async def handler(_request):
        return web.Response()

    async with served(handler) as (base, transport):
        with pytest.raises(NotSentError, match="no connection"):
            await get(base.replace("http://", "https://"), transport)


async def dropped(request):
    request.transport.abort()
    return web.Response()


async def cut_off(request):
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"{")
    request.transport.close()
    return response


async def garbled(request):
    request.transport.write(b"no HTTP at all\r\n\r\n")
    request.transport.close()
    return web.Response()


async def wrongly_packed(_request):
    return web.Response(body=b"plain", headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("handler", [dropped, cut_off, garbled, wrongly_packed])
async def test_an_answer_that_breaks_off_is_lost(handler):
    async with served(handler) as (base, transport):
        with pytest.raises(AnswerLostError, match="the answer was lost"):
            await transport("POST", base, headers={}, body=b"{}", timeout=5)


async def test_an_answer_that_does_not_come_in_time_is_lost():
    async def slow(_request):
        await asyncio.sleep(1)
        return web.Response()

    async with served(slow) as (base, transport):
        with pytest.raises(AnswerLostError, match=r"no complete answer in 0\.2 s"):
            await get(base, transport, timeout=0.2)


@pytest.mark.parametrize("handler", [dropped, cut_off, garbled])
async def test_errors_show_the_path_but_not_the_query(handler):
    async with served(handler) as (base, transport):
        with pytest.raises(NancalaccError) as caught:
            await get(f"{base}/topapi/v2/user/get?access_token=hidden-token", transport)
    assert "/topapi/v2/user/get" in str(caught.value)
    assert "hidden-token" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
