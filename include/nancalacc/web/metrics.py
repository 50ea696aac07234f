"""`GET /metrics` for Prometheus, from the tables at the moment it is asked for.

Nothing is counted in a process: any API server gives the same answer, and a restart loses nothing.
What would grow for ever is a gauge over the last 24 hours: a sum over the tables would go down whenever
they are pruned, which Prometheus takes for a restart, and would cost more each day.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from nancalacc.saga.state import EventType, SagaStatus
from nancalacc.store import figures, incidents, listeners, queries
from nancalacc.web.access import Access
from nancalacc.web.desk import Desk
from nancalacc.web.routes import Reader

WINDOW = timedelta(hours=24)
COUNTED_EVENTS = {
    EventType.STEP_RETRIED: "retries",
    EventType.STEP_FAILED: "step failures",
    EventType.COMPENSATION_FAILED: "failed compensations",
    EventType.RECORD_REJECTED: "rejected records",
    EventType.WARNING: "warnings",
    EventType.ACTION_REQUESTED: "actions of people",
}
BEARER = HTTPBearer(auto_error=False)
SYNCS = ("full_sync", "incremental_sync")
KINDS = {"save_departments": "departments", "save_users": "users", "save_relations": "memberships"}


def metrics_router(desk: Desk, access: Access) -> APIRouter:
    """The route; an Airflow login or the scrape token opens it."""
    reader = Reader(desk, access)
    router = APIRouter()

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text"}},
    )
    async def metrics(
        request: Request, token: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
    ) -> Response:
        """The metrics `nancalacc_*` in Prometheus's text format."""
        if _is_scraper(token, wanted=desk.settings().metrics_token):
            dags = await desk.read(queries.dag_ids)
        else:
            user = await access.person(request, token=token)
            dags = tuple(await reader.dags(request, user))
        text = await desk.read(lambda connection: _exposed(connection, dags=dags))
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router


def _is_scraper(token: HTTPAuthorizationCredentials | None, *, wanted: str) -> bool:
    if token is None or not wanted:
        return False
    return secrets.compare_digest(token.credentials.encode(), wanted.encode())


def _exposed(connection: Connection, *, dags: Iterable[str]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Tables(connection, dags=tuple(dags)))
    return generate_latest(registry)


class _Tables(Collector):
    """What the tables say, as metrics."""

    def __init__(self, connection: Connection, *, dags: tuple[str, ...]) -> None:
        self._connection = connection
        self._dags = dags
        self._now = figures.now(connection)
        self._since = self._now - WINDOW

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is shows when it is collected."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        yield self._sagas()
        yield from self._steps()
        yield self._events()
        yield from self._ages()
        yield from self._inbox()
        yield from self._syncs()
        yield from self._calls()
        yield from self._listeners()
        yield _gauge(
            "nancalacc_incidents_unsent",
            "Messages about incidents that could not be sent so far",
            incidents.unsent(self._connection)[0],
        )

    def _sagas(self) -> Metric:
        family = GaugeMetricFamily(
            "nancalacc_sagas",
            "Sagas: all that have not ended, and those of the last 24 hours that have",
            labels=["definition", "status"],
        )
        found = {
            (row.definition, row.status): row.count
            for row in (
                *figures.counts(self._connection, dags=self._dags, since=self._since),
                *figures.open_counts(self._connection, dags=self._dags),
            )
        }
        for definition in sorted({definition for definition, _ in found} | {"full_sync"}):
            for status in SagaStatus:
                family.add_metric([definition, status.value], found.get((definition, status.value), 0))
        return family

    def _steps(self) -> Iterable[Metric]:
        seconds = GaugeMetricFamily(
            "nancalacc_step_duration_seconds",
            "Duration of completed steps that began in the last 24 hours",
            labels=["definition", "step", "quantile"],
        )
        runs = GaugeMetricFamily(
            "nancalacc_step_runs",
            "Steps that began in the last 24 hours",
            labels=["definition", "step"],
        )
        for row in figures.steps(self._connection, dags=self._dags, since=self._since):
            runs.add_metric([row.definition, row.step_name], row.count)
            for quantile, value in (("0.5", row.p50), ("0.95", row.p95)):
                if value is not None:
                    seconds.add_metric([row.definition, row.step_name, quantile], float(value))
        return seconds, runs

    def _events(self) -> Metric:
        family = GaugeMetricFamily(
            "nancalacc_saga_events",
            f"Events of the last 24 hours: {', '.join(COUNTED_EVENTS.values())}, compensations",
            labels=["definition", "type"],
        )
        types = [*(each.value for each in COUNTED_EVENTS), EventType.COMPENSATION_STARTED.value]
        for row in figures.events(self._connection, types=types, dags=self._dags, since=self._since):
            family.add_metric([row.definition, row.event_type], row.count)
        return family

    def _ages(self) -> Iterable[Metric]:
        for name, what, statuses in (
            ("unfinished", "has not ended", figures.OPEN),
            ("compensating", "goes back", figures.GOING_BACK),
        ):
            oldest = figures.oldest(self._connection, dags=self._dags, statuses=statuses)
            yield _gauge(
                f"nancalacc_oldest_{name}_saga_seconds",
                f"Age of the oldest saga that {what}; 0 without one",
                0 if oldest is None else self._age(oldest.start_time),
            )

    def _inbox(self) -> Iterable[Metric]:
        inbox = figures.inbox(self._connection)
        depth = GaugeMetricFamily("nancalacc_inbox_events", "Events in the inbox", labels=["status"])
        for status in ("pending", "claimed", "dead"):
            depth.add_metric([status], getattr(inbox, status))
        yield depth
        yield _gauge(
            "nancalacc_inbox_lag_seconds",
            "Age of the oldest event that is not dealt with; 0 without one",
            inbox.lag_seconds or 0,
        )
        if inbox.last_received_at is not None:
            yield _gauge(
                "nancalacc_inbox_last_received_timestamp_seconds",
                "When the latest event was received",
                _timestamp(inbox.last_received_at),
            )

    def _syncs(self) -> Iterable[Metric]:
        success = GaugeMetricFamily(
            "nancalacc_last_success_timestamp_seconds", "When a sync last completed", labels=["definition"]
        )
        companies = GaugeMetricFamily(
            "nancalacc_company_last_success_timestamp_seconds",
            "When a sync of the company last completed",
            labels=["definition", "company"],
        )
        rows = GaugeMetricFamily(
            "nancalacc_rows_written", "Rows of the last completed sync", labels=["definition", "kind"]
        )
        for definition in SYNCS:
            last = figures.last_completed(self._connection, dags=self._dags, definition=definition)
            for saga in last:
                company = saga.third_company_id or ""
                companies.add_metric([definition, company], _timestamp(saga.end_time or self._now))
            if last:
                success.add_metric([definition], _timestamp(last[0].end_time or self._now))
                reports = queries.reports(self._connection, last[0].transaction_id)
                for kind, number in _rows(reports).items():
                    rows.add_metric([definition, kind], number)
        return success, companies, rows

    def _calls(self) -> Iterable[Metric]:
        calls = GaugeMetricFamily(
            "nancalacc_dingtalk_calls",
            "Calls of DingTalk by steps that began in the last 24 hours",
            labels=["definition", "path"],
        )
        throttled = GaugeMetricFamily(
            "nancalacc_dingtalk_throttled_calls",
            "Those of them that DingTalk refused as too many",
            labels=["definition"],
        )
        wps = GaugeMetricFamily(
            "nancalacc_wps_calls",
            "Calls that asked WPS to sync, by steps that began in the last 24 hours",
            labels=["definition"],
        )
        found = figures.calls(self._connection, dags=self._dags, since=self._since)
        for definition, called in sorted(found.items()):
            for path, number in sorted(called.dingtalk.items()):
                calls.add_metric([definition, path], number)
            throttled.add_metric([definition], called.throttled)
            wps.add_metric([definition], called.wps)
        return calls, throttled, wps

    def _listeners(self) -> Iterable[Metric]:
        connected = GaugeMetricFamily(
            "nancalacc_listener_connected",
            "1 when a listener is connected to DingTalk by this connection, 0 when the last one is not",
            labels=["connection"],
        )
        seen = GaugeMetricFamily(
            "nancalacc_listener_seen_timestamp_seconds",
            "When a listener of this connection gave its last sign of life",
            labels=["connection"],
        )
        for sign in listeners.present(self._connection):
            connected.add_metric([sign.dingtalk_conn_id], int(sign.is_connected))
            seen.add_metric([sign.dingtalk_conn_id], _timestamp(sign.seen_at))
        return connected, seen

    def _age(self, moment: datetime | None) -> float:
        return 0 if moment is None else max(0.0, (self._now - moment).total_seconds())


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _timestamp(moment: datetime) -> float:
    return (moment - datetime(1970, 1, 1)).total_seconds()  # noqa: DTZ001 - the tables have UTC without zone


def _rows(reports: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Rows by kind: as one step reports them all, or each step those of its kind."""
    found: dict[str, float] = {}
    for step, report in reports:
        rows = report.get("rows") if isinstance(report, dict) else None
        if isinstance(rows, dict):
            found |= _numbers(rows)
        elif step in KINDS:
            found |= _numbers({KINDS[step]: rows})
    return found


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
