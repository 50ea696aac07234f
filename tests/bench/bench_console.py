"""The console's own time with 10 000 sagas and 200 000 events."""

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

from bench.targets import at_most
from nancalacc.config import Settings
from nancalacc.web.access import get_user
from nancalacc.web.app import create_app
from nancalacc.web.desk import Desk
from nancalacc.web.services import WebServices

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

SAGAS = 10_000
TOKEN = "scrape-token-of-the-bench"
ROUNDS = 60
FILL = f"""
INSERT INTO saga_transactions (transaction_id, name, definition, dag_id, run_id, status, epoch, progress,
    failed_step, error_message, third_company_id, start_time, end_time, created_at, updated_at)
SELECT gen_random_uuid(), 'full_sync run ' || n, 'full_sync', 'full_sync', 'run-' || n,
    CASE WHEN n % 50 = 0 THEN 'compensated' WHEN n > {SAGAS} - 5 THEN 'in_progress' ELSE 'completed' END,
    1, CASE WHEN n % 50 = 0 THEN 0 WHEN n > {SAGAS} - 5 THEN 50 ELSE 100 END,
    CASE WHEN n % 50 = 0 THEN 'save_users' END,
    CASE WHEN n % 50 = 0 THEN 'save_users: reason number ' || n % 7 END,
    'tenant-' || n % 5, at, CASE WHEN n <= {SAGAS} - 5 THEN at + interval '30 s' END, at, at
FROM (SELECT n, timezone('utc', now()) - ({SAGAS} - n) * interval '1 min' AS at
      FROM generate_series(1, {SAGAS}) n) AS numbers;
INSERT INTO saga_steps (step_id, transaction_id, step_name, position, status, epoch, attempt, action_data,
    start_time, end_time)
SELECT t.transaction_id || ':' || s.name, t.transaction_id, s.name, s.position,
    CASE WHEN t.status = 'in_progress' AND s.position > 4 THEN 'pending' ELSE 'completed' END, 1, 1,
    CASE WHEN s.position = 2 THEN '{{"evidence": {{"throttled": 1, "calls": {{"a": 3, "b": 4}}}}}}'
         ELSE '{{"rows": 100, "fetch": {{"epoch": 1, "attempt": 1}}}}' END::jsonb,
    t.start_time + s.position * interval '3 s',
    t.start_time + s.position * interval '3 s' + random() * interval '3 s'
FROM saga_transactions t, (VALUES ('validate_task', 1), ('fetch_dingtalk_data', 2),
    ('save_company_config', 3), ('save_departments', 4), ('save_users', 5), ('save_relations', 6),
    ('notify_wps', 7), ('update_task_status', 8)) AS s (name, position);
INSERT INTO saga_events (transaction_id, step_id, event_type, event_data, created_at)
SELECT s.transaction_id, s.step_id,
    (ARRAY['step_started', 'step_completed', 'step_retried', 'step_failed'])[1 + e % 4],
    '{{"epoch": 1, "attempt": 1}}', s.start_time + e * interval '1 s'
FROM saga_steps s JOIN saga_transactions t USING (transaction_id),
    generate_series(0, 24) e WHERE e < CASE WHEN t.id % 100 = 0 THEN 25 ELSE 2 END
    OR (t.id % 2 = 0 AND e < 3);
INSERT INTO dingtalk_events (dingtalk_conn_id, wps_conn_id, event_id, event_type, status)
SELECT 'd', 'w', 'e' || n, 'user_modify_org', CASE WHEN n % 100 = 0 THEN 'pending' ELSE 'done' END
FROM generate_series(1, 20000) n;
"""


class Anybody:
    """May everything: Airflow's own time is not measured."""

    async def person(self, request: Any, *, token: Any) -> SimpleAuthManagerUser:
        return SimpleAuthManagerUser(username="ann", role="ADMIN")

    def may(self, request: Any, user: Any, *, method: str, entity: Any, dag_id: str) -> bool:
        return True


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(FILL)
        connection.execute("VACUUM ANALYZE")
    desk = Desk(url=lambda: database_url, settings=lambda: Settings(metrics_token=TOKEN))
    services = WebServices(url=lambda: database_url)
    app = create_app(services, desk=desk, access=Anybody())
    app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username="ann", role="ADMIN")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://bench") as made:
        yield made
    desk.close()
    services.close()


async def p95(ask: Callable[[], Awaitable[httpx.Response]]) -> float:
    """Milliseconds within which 95 % of the answers came."""
    taken = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        answer = await ask()
        taken.append(1000 * (time.perf_counter() - begin))
        assert answer.status_code == 200, answer.text
    return statistics.quantiles(taken, n=20)[-1]


async def test_pages_and_metrics_with_many_sagas(client: httpx.AsyncClient, database_url: str):
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM saga_transactions), (SELECT count(*) FROM saga_events)"
        ).fetchone()
        largest = connection.execute(
            "SELECT transaction_id FROM saga_events GROUP BY transaction_id ORDER BY count(*) DESC LIMIT 1"
        ).fetchone()
    assert row
    assert largest
    print(f"\n{row[0]} sagas, {row[1]} events; p95 of {ROUNDS}:")
    token = {"authorization": f"Bearer {TOKEN}"}
    asked = {
        "list": ("/sagas", {}, 100),
        "list, filtered": ("/sagas?status=compensated&text=reason&company=tenant-0", {}, 100),
        "list, a page far back": ("/sagas?cursor=500", {}, 100),
        "detail": (f"/sagas/{largest[0]}", {}, 100),
        "health": ("/health/details", {}, 100),
        "inbox": ("/inbox", {}, 100),
        "statistics": ("/statistics", {}, 500),
        "metrics": ("/metrics", token, 200),
    }
    for name, (path, headers, most) in asked.items():
        taken = await p95(lambda path=path, headers=headers: client.get(path, headers=headers))
        print(f"  {name:24} {taken:7.1f} ms   ({at_most(taken, most, ' ms')})")
