"""Undoing a sync from the console: who may, of what, and that a run of `undo_sync` is started once."""

import httpx
import pytest
from psycopg.types.json import Jsonb

from console_rows import Rows
from plugins.conftest import Airflow
from plugins.test_console_actions import actions_of, body

RUNS = "/dags/undo_sync/dagRuns"
PARAMS = "UPDATE saga_transactions SET params = %s"


async def test_an_undo_starts_a_run_for_this_saga_with_its_connections(
    client: httpx.AsyncClient, rows: Rows, airflow_app: Airflow
):
    saga = rows.saga("done")
    rows.execute(PARAMS, Jsonb({"dingtalk_conn_id": "dingtalk_b", "wps_conn_id": "wps_b"}))
    airflow_app.answers[("POST", RUNS)] = (200, {"dag_run_id": "r"})
    same = body()
    answers = [await client.post(f"/sagas/{saga}/undo", json=same) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.json()["changed"] for answer in answers] == [True, False]
    [sent] = [content for method, path, content in airflow_app.calls if (method, path) == ("POST", RUNS)]
    assert sent["conf"] == {
        "transaction_id": saga,
        "dingtalk_conn_id": "dingtalk_b",
        "wps_conn_id": "wps_b",
    }
    [event] = actions_of(rows, saga)
    assert (event["action"], event["user"]) == ("undo", "ann")


@pytest.mark.parametrize(
    "saga, params, said",
    [
        ({"status": "failed", "done": 4, "failed": "save_users"}, {}, "is failed"),
        ({}, {"dry_run": True}, "dry run"),
    ],
    ids=["failed", "dry run"],
)
async def test_only_a_sync_that_published_can_be_undone(
    client: httpx.AsyncClient, rows: Rows, airflow_app: Airflow, saga: dict, params: dict, said: str
):
    transaction_id = rows.saga("other", **saga)
    rows.execute(PARAMS, Jsonb(params))
    answer = await client.post(f"/sagas/{transaction_id}/undo", json=body())
    assert answer.status_code == 409
    assert said in answer.json()["detail"]
    shown = (await client.get(f"/sagas/{transaction_id}")).json()["actions"]
    [undo] = [each for each in shown if each["action"] == "undo"]
    assert (undo["allowed"], said in undo["reason"]) == (False, True)
    assert not [path for _, path, _ in airflow_app.calls if path == RUNS]
