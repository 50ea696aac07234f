"""Calls to the outside are spans, and no secret is in them."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nancalacc.clients.transport import NotSentError
from nancalacc.orchestration.http_transport import BareHttpHook


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    monkeypatch.setenv("AIRFLOW_CONN_SOMEWHERE", "http://127.0.0.1")
    return made


async def test_a_call_is_a_span_with_path_and_status_but_without_its_token(exporter: InMemorySpanExporter):
    async def busy(_: web.Request) -> web.Response:
        return web.Response(status=503, text="busy")

    app = web.Application()
    app.router.add_post("/topapi/v2/user/get", busy)
    async with TestServer(app) as server, BareHttpHook("somewhere").transport() as transport:
        url = str(server.make_url("/topapi/v2/user/get?access_token=SECRET"))
        await transport("POST", url, headers={"authorization": "SECRET"}, body=b"{}", timeout=5)
    [span] = exporter.get_finished_spans()
    assert span.name == "POST /topapi/v2/user/get"
    assert (span.attributes or {})["http.response.status_code"] == 503
    assert "SECRET" not in span.to_json()


async def test_a_call_that_reaches_nobody_is_a_failed_span(exporter: InMemorySpanExporter):
    async with BareHttpHook("somewhere").transport() as transport:
        with pytest.raises(NotSentError):
            await transport("GET", "http://127.0.0.1:9/x?token=SECRET", headers={}, timeout=2)
    [span] = exporter.get_finished_spans()
    assert span.status.is_ok is False
    assert "SECRET" not in span.to_json()
