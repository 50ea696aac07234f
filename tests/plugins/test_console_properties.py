"""Whatever is sent to the API, it answers: never with an error of its own, always as its schema says."""

import asyncio
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from console_rows import Rows
from plugins.conftest import Airflow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = 13
"""Of each operation."""
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[*HealthCheck],
)


async def test_no_request_is_answered_with_a_server_error(app: FastAPI, rows: Rows, airflow_app: Airflow):
    real = [
        rows.saga("good"),
        rows.saga("bad", status="compensated", done=4, failed="save_users", error="broken"),
        rows.saga("open", status="in_progress", done=2),
    ]
    event = rows.inbox_event("e1")
    airflow_app.answers = {
        ("GET", "/dags/full_sync/dagRuns/bad"): (200, {"state": "failed"}),
        ("POST", "/dags/full_sync/clearTaskInstances"): (200, {"task_instances": []}),
    }

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "nancalacc.airflow": airflow_app}, receive, send)

    schema = schemathesis.openapi.from_asgi("/openapi.json", mounted)
    asked: set[str] = set()

    def ask(operation: Any) -> None:
        @seed(20260101)
        @BOUNDED
        @given(case=operation.as_strategy(), known=st.sampled_from([*real, None]))
        def check(case: schemathesis.Case, known: str | None) -> None:
            if known is not None and "transaction_id" in (case.path_parameters or {}):
                case.path_parameters["transaction_id"] = known
            if known is not None and "event_id" in (case.path_parameters or {}):
                case.path_parameters["event_id"] = event
            asked.add(case.path)
            headers = {"sec-fetch-site": "same-origin"}
            case.call_and_validate(checks=[not_a_server_error, response_schema_conformance], headers=headers)

        check()

    def ask_all() -> None:
        for operation in schema.get_all_operations():
            ask(operation.ok())

    await asyncio.to_thread(ask_all)
    assert asked == set(app.openapi()["paths"])
