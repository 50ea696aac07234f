"""Spans and log fields of a saga at work."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nancalacc.errors import GuardError
from toy_saga import Toy


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[ReadableSpan]]:
    """The spans so far, as an exporter gets them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return lambda: list(exporter.get_finished_spans())


def fail_at(saga: Toy, point: str, error: Exception) -> None:
    def hook(reached: str, context: Any) -> None:
        if reached == point:
            raise error

    saga.services.hook = hook


def test_every_step_and_compensation_is_a_span_of_the_sagas_own_trace(
    saga: Toy, spans: Callable[[], list[ReadableSpan]]
):
    saga.run_until("left")
    saga.cancel()
    names = [span.name for span in spans()]
    assert names == [
        "step validate",
        "step fetch",
        "step left",
        "compensation left",
        "compensation fetch",
        "compensation validate",
    ]
    assert {span.context.trace_id for span in spans()} == {UUID(saga.id).int}
    assert len({span.parent.span_id for span in spans() if span.parent}) == 1


def test_a_new_epoch_is_a_new_parent_in_the_same_trace(saga: Toy, spans: Callable[[], list[ReadableSpan]]):
    saga.run("validate")
    saga.cancel()
    saga.run("validate")
    first, last = spans()[0], spans()[-1]
    assert first.context.trace_id == last.context.trace_id
    assert first.parent != last.parent
    assert (first.attributes or {})["nancalacc.epoch"] == 1
    assert (last.attributes or {})["nancalacc.epoch"] == 2


def test_a_failed_step_tells_our_words_and_nobody_elses(saga: Toy, spans: Callable[[], list[ReadableSpan]]):
    fail_at(saga, "validate:before", GuardError("too many are missing"))
    with pytest.raises(GuardError):
        saga.run("validate")
    fail_at(saga, "validate:before", ValueError("13900000001"))
    with pytest.raises(ValueError, match="139"):
        saga.run("validate")
    ours, other = spans()
    assert (ours.status.is_ok, ours.status.description) == (False, "too many are missing")
    assert other.status.is_ok is False
    assert "139" not in other.to_json()


def test_what_an_action_logs_carries_the_saga_the_step_and_the_attempt(saga: Toy):
    seen: list[dict[str, Any]] = []
    saga.services.hook = lambda reached, context: seen.append(structlog.contextvars.get_contextvars())
    saga.run("validate")
    assert seen[0] == {"transaction_id": saga.id, "step": "validate", "epoch": 1, "attempt": 1}
    assert structlog.contextvars.get_contextvars() == {}
