"""Spans and log fields of a saga at work."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import StatusCode

from log_lines import Line
from nancalacc.errors import DatabaseError, GuardError, RefusedError
from nancalacc.saga.checkpoint import Answer, Checkpoint
from nancalacc.saga.definition import SagaDefinition
from nancalacc.saga.settlement import Verdict
from toy_saga import TOY, Toy


def exported(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Callable[[], list[ReadableSpan]]:
    """The spans so far, as an exporter gets them; `options` of the provider."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(**options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return lambda: list(exporter.get_finished_spans())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[ReadableSpan]]:
    return exported(monkeypatch)


def fail_at(saga: Toy, point: str, error: Exception) -> None:
    def hook(reached: str, context: Any) -> None:
        if reached == point:
            raise error

    saga.services.hook = hook


def of_sagas(spans: list[ReadableSpan]) -> list[ReadableSpan]:
    return [span for span in spans if span.name.startswith("saga ")]


def seconds(moment: datetime | None) -> float:
    assert moment
    return moment.replace(tzinfo=UTC).timestamp()


def test_a_saga_is_a_span_and_its_steps_and_compensations_are_below_it(
    saga: Toy, spans: Callable[[], list[ReadableSpan]]
):
    saga.run_until("left")
    saga.cancel()
    assert [span.name for span in spans()] == [
        "step validate",
        "step fetch",
        "step left",
        "compensation left",
        "compensation fetch",
        "compensation validate",
        "saga toy",
    ]
    *below, whole = spans()
    assert whole.context.trace_id == UUID(saga.id).int
    assert whole.parent is None
    assert {(span.parent.trace_id, span.parent.span_id) for span in below if span.parent} == {
        (whole.context.trace_id, whole.context.span_id)
    }
    assert all(span.parent for span in below)
    assert (whole.attributes or {})["nancalacc.status"] == "cancelled"
    assert whole.status.status_code is StatusCode.UNSET


def test_the_span_of_a_saga_lasts_as_long_as_the_saga(saga: Toy, spans: Callable[[], list[ReadableSpan]]):
    saga.run_until("finish")
    saga.settle()
    saga.settle()
    [whole] = of_sagas(spans())
    assert whole.start_time
    assert whole.end_time
    assert whole.start_time / 1e9 == pytest.approx(seconds(saga.saga.start_time), abs=1e-5)
    assert whole.end_time / 1e9 == pytest.approx(seconds(saga.saga.end_time), abs=1e-5)
    attributes = whole.attributes or {}
    assert (attributes["nancalacc.status"], attributes["nancalacc.run_id"]) == ("completed", "run-1")


def test_each_epoch_has_a_span_of_its_own_in_the_same_trace(
    saga: Toy, spans: Callable[[], list[ReadableSpan]]
):
    saga.run("validate")
    saga.cancel()
    saga.run_until("finish")
    saga.conclude()
    first, second = of_sagas(spans())
    assert first.context.trace_id == second.context.trace_id
    assert first.context.span_id != second.context.span_id
    by_epoch = {
        epoch: {span.parent.span_id for span in spans() if span.parent and epoch_of(span) == epoch}
        for epoch in (1, 2)
    }
    assert by_epoch == {1: {first.context.span_id}, 2: {second.context.span_id}}


def epoch_of(span: ReadableSpan) -> Any:
    return (span.attributes or {})["nancalacc.epoch"]


def test_an_undone_saga_is_an_error_that_says_why(saga: Toy, spans: Callable[[], list[ReadableSpan]]):
    fail_at(saga, "left:before", GuardError("too many are missing"))
    saga.run_until("fetch")
    with pytest.raises(GuardError):
        saga.run("left")
    saga.conclude()
    [whole] = of_sagas(spans())
    assert (whole.attributes or {})["nancalacc.status"] == "compensated"
    assert (whole.status.status_code, whole.status.description) == (
        StatusCode.ERROR,
        "left: too many are missing",
    )


def test_a_saga_that_refuses_itself_and_one_that_never_ran_are_spans(
    saga: Toy, another: Callable[..., Toy], spans: Callable[[], list[ReadableSpan]]
):
    refused, unwanted = another(run_id="run-2"), another(run_id="run-3")
    saga.run("validate")
    with pytest.raises(RefusedError):
        refused.run("validate")
    unwanted.cancel()
    found = of_sagas(spans())
    assert [span.context.trace_id for span in found] == [UUID(refused.id).int, UUID(unwanted.id).int]
    assert {(span.attributes or {})["nancalacc.status"] for span in found} == {"cancelled"}


@pytest.mark.parametrize(
    "sampler, names",
    [
        (ALWAYS_OFF, []),
        (ParentBased(ALWAYS_OFF), ["step validate", "compensation validate", "saga toy"]),
    ],
    ids=["none", "a part"],
)
def test_a_saga_is_traced_where_its_steps_are(
    saga: Toy, monkeypatch: pytest.MonkeyPatch, sampler: Sampler, names: list[str]
):
    spans = exported(monkeypatch, sampler=sampler)
    saga.run("validate")
    saga.cancel()
    assert [span.name for span in spans()] == names


def away(saga: Toy) -> Any:
    raise DatabaseError("The database is away")


def opened_again(saga: Toy) -> Any:
    return replace(saga.saga, epoch=2, end_time=None), ()


@pytest.mark.parametrize("read", [away, opened_again])
def test_the_end_of_an_epoch_is_told_whatever_happens_after_it(
    saga: Toy,
    spans: Callable[[], list[ReadableSpan]],
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Toy], Any],
):
    saga.run_until("finish")
    with monkeypatch.context() as patched:
        found = read(saga) if read is opened_again else None
        patched.setattr(saga.store, "get", lambda _: found or read(saga))
        assert saga.settle().verdict is Verdict.COMPLETED
    [whole] = of_sagas(spans())
    assert epoch_of(whole) == 1
    assert (whole.start_time or 0) <= (whole.end_time or 0)


def test_a_process_without_an_sdk_reads_nothing_to_tell_of_an_end(saga: Toy, monkeypatch: pytest.MonkeyPatch):
    saga.run_until("finish")
    with monkeypatch.context() as patched:
        patched.setattr(saga.store, "get", lambda _: pytest.fail("The saga is read again"))
        assert saga.settle().verdict is Verdict.COMPLETED


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


def test_what_the_engine_says_of_an_attempt_names_it(saga: Toy, lines: list[Line]):
    saga.run("validate")
    [line] = [line for line in lines if "step validate, attempt 1" in line.text]
    assert line.fields == {"transaction_id": saga.id, "step": "validate", "epoch": 1, "attempt": 1}


def test_what_the_engine_says_of_a_takeover_names_the_new_attempt(
    saga: Toy, another: Callable[..., Toy], lines: list[Line]
):
    def die(reached: str, context: Any) -> None:
        raise KeyboardInterrupt

    saga.services.hook = die
    with pytest.raises(KeyboardInterrupt):
        saga.run("validate")
    saga.query(
        "UPDATE saga_steps SET status = 'in_progress', end_time = NULL, error_message = NULL,"
        " heartbeat_at = timezone('utc', now()) - interval '1 hour' WHERE step_id = :id RETURNING 1",
        id=f"{saga.id}:validate",
    )
    another().run("validate")
    [line] = [line for line in lines if "taking it over" in line.text]
    assert line.fields == {"transaction_id": saga.id, "step": "validate", "epoch": 1, "attempt": 2}


def test_what_the_engine_says_while_it_waits_for_another_process_names_the_step(
    saga: Toy, another: Callable[..., Toy], lines: list[Line]
):
    at_it, may_end = threading.Event(), threading.Event()

    def hold(reached: str, context: Any) -> None:
        if reached == "validate:before":
            at_it.set()
            assert may_end.wait(60)

    saga.services.hook = hold
    waiting = another()
    waiting.coordinator._sleep = lambda _: may_end.set()
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(saga.run, "validate")
        assert at_it.wait(60)
        waiting.run("validate")
        first.result(60)
    [line] = [line for line in lines if "waiting for it" in line.text]
    assert line.fields == {"transaction_id": saga.id, "step": "validate", "epoch": 1, "attempt": 1}


def test_what_is_said_when_a_saga_is_settled_names_it(saga: Toy, lines: list[Line]):
    saga.run("validate")
    saga.settle()
    [line] = [line for line in lines if "is settled" in line.text]
    assert line.fields == {"transaction_id": saga.id, "epoch": 1}


def test_what_is_said_of_ended_sessions_names_their_step(
    saga: Toy, lines: list[Line], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(saga.database, "terminate", lambda *_, **__: 1)
    saga.coordinator._terminate([f"{saga.id}:left"])
    [line] = [line for line in lines if "Ended 1 database session" in line.text]
    assert line.fields == {"transaction_id": saga.id, "step": "left"}


def test_a_heart_beat_that_fails_names_its_attempt(
    saga: Toy, lines: list[Line], monkeypatch: pytest.MonkeyPatch
):
    failed = threading.Event()

    def beat(*_: Any, **__: Any) -> bool:
        failed.set()
        raise DatabaseError("The database is away")

    monkeypatch.setattr(saga.store, "beat", beat)
    saga.services.hook = lambda reached, context: failed.wait(60)
    saga.run("validate")
    line = next(line for line in lines if "heart-beat" in line.text)
    assert line.fields == {"transaction_id": saga.id, "step": "validate", "epoch": 1, "attempt": 1}


def test_a_checkpoint_and_its_decision_name_the_saga(saga: Toy, lines: list[Line]):
    logger = logging.getLogger("nancalacc.test")
    checkpoint = Checkpoint(
        "look",
        check=lambda look: logger.warning("checked"),
        decide=lambda look, key, answer: logger.warning("decided"),
        after=("fetch",),
        before=("left", "middle", "right"),
    )
    definition = SagaDefinition("toy", TOY.steps, checkpoints=(checkpoint,))
    engine, services = saga.coordinator, saga.services
    engine.check(definition, saga.id, "look", services=services, params={})
    engine.decide(definition, saga.id, "look", key="", answer=Answer(True, "ann"), services=services)
    said = {line.text: line.fields for line in lines if line.text in {"checked", "decided"}}
    fields = {"transaction_id": saga.id, "step": "look", "epoch": 1}
    assert said == {"checked": fields, "decided": fields}
