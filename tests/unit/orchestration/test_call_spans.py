"""Calls to the outside are spans, and no secret is in them."""

import asyncio
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nancalacc.clients.transport import NotSentError
from nancalacc.orchestration.http_transport import BareHttpHook
from nancalacc.saga.definition import transaction_id_of
from nancalacc.saga.records import SagaRecord, StepRecord
from nancalacc.saga.state import SagaStatus, StepStatus
from nancalacc.saga.telemetry import observed


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


def test_a_call_of_a_step_is_a_span_below_the_steps_in_the_trace_of_the_saga(exporter: InMemorySpanExporter):
    saga = SagaRecord(
        transaction_id=transaction_id_of(dag_id="full_sync", run_id="r"),
        name="full_sync r",
        definition="full_sync",
        status=SagaStatus.IN_PROGRESS,
        epoch=1,
        progress=0,
    )
    step = StepRecord("id", "fetch_dingtalk_data", 2, StepStatus.IN_PROGRESS, epoch=1, attempt=1)

    async def call() -> None:
        async with BareHttpHook("somewhere").transport() as transport:
            with pytest.raises(NotSentError):
                await transport("GET", "http://127.0.0.1:9/x", headers={}, timeout=2)

    for kind in ("step", "compensation"):
        # As the actions make theirs: in an event loop of their own.
        with observed(kind, saga=saga, step=step):
            asyncio.run(call())
    calls_and_steps = exporter.get_finished_spans()
    assert [span.name for span in calls_and_steps] == [
        "GET /x",
        "step fetch_dingtalk_data",
        "GET /x",
        "compensation fetch_dingtalk_data",
    ]
    for made, of in (calls_and_steps[:2], calls_and_steps[2:]):
        assert made.parent == of.context
        assert {made.context.trace_id, of.context.trace_id} == {UUID(saga.transaction_id).int}


async def test_a_call_that_reaches_nobody_is_a_failed_span(exporter: InMemorySpanExporter):
    async with BareHttpHook("somewhere").transport() as transport:
        with pytest.raises(NotSentError):
            await transport("GET", "http://127.0.0.1:9/x?token=SECRET", headers={}, timeout=2)
    [span] = exporter.get_finished_spans()
    assert span.status.is_ok is False
    assert "SECRET" not in span.to_json()
