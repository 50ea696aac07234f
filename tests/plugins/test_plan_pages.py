"""The plan of a saga in the console's API: who may see it, in what pages, and as CSV."""

import csv
import io
from uuid import uuid4

import httpx
import pytest

from console_rows import Rows
from nancalacc.web import plan_routes
from plan_rows import FORMULA, HASH, decision, plan
from plugins.conftest import Airflow, Rights


@pytest.fixture
def saga(rows: Rows) -> str:
    return rows.saga("r", status="in_progress", done=2)


async def test_a_saga_without_a_plan_has_none(client: httpx.AsyncClient, saga: str):
    assert (await client.get(f"/sagas/{saga}/plan")).json() == {"plan": None}
    assert (await client.get(f"/sagas/{saga}/plan/changes")).json() == {"items": [], "next_cursor": None}
    assert (await client.get(f"/sagas/{saga}/plan.csv")).status_code == 404


async def test_the_latest_plan_is_shown_with_subtrees_examples_and_decisions(
    client: httpx.AsyncClient, rows: Rows, saga: str
):
    plan(rows, saga, attempt=1, removed=7)
    plan(rows, saga, attempt=2)
    decision(rows, saga, is_approved=False, by=None)
    decision(rows, saga, is_approved=True, by="ann", reason="They left")
    answer = await client.get(f"/sagas/{saga}/plan")
    found = answer.json()["plan"]
    assert (found["hash"], found["attempt"]) == (HASH, 2)
    assert found["counts"]["users"]["removed"] == 2
    assert [(each["did"], each["name"]) for each in found["subtrees"]] == [("200", "市场部")]
    assert found["every_subtree"] == 1
    assert [(each["is_approved"], each["decided_by"]) for each in found["decisions"]] == [
        (False, None),
        (True, "ann"),
    ]
    again = await client.get(f"/sagas/{saga}/plan", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


async def test_changes_come_in_pages_with_the_names_of_departments(
    client: httpx.AsyncClient, rows: Rows, saga: str
):
    plan(rows, saga)
    found, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await client.get(f"/sagas/{saga}/plan/changes", params=query)).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [each["position"] for each in found] == [1, 2, 3, 4, 5]
    moved, gone, _, new, left = found
    assert (moved["old_place_name"], moved["place_name"]) == ("研发部", "市场部")
    assert gone["old_place_name"] == "市场部"
    # The department is renamed by the same plan.
    assert new["place_name"] == "新组"
    assert left["place_name"] == "市场部"
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    "query, positions",
    [
        ({"kind": "users"}, [2, 3, 4]),
        ({"sort": "removed"}, [2, 3, 5]),
        ({"kind": "users", "sort": "added"}, [4]),
        ({"sort": "moved"}, [1]),
        ({"sort": "disabled"}, []),
        ({"text": "员工1"}, [3]),
        ({"text": "100%"}, []),
        ({"subtree": "100"}, []),
    ],
)
async def test_changes_are_filtered(client, rows, saga, query, positions):
    plan(rows, saga)
    page = (await client.get(f"/sagas/{saga}/plan/changes", params=query)).json()
    assert [each["position"] for each in page["items"]] == positions


@pytest.mark.parametrize("query", ["kind=people", "sort=all", "limit=0", "cursor=x"])
async def test_a_wrong_query_is_refused(client: httpx.AsyncClient, saga: str, query: str):
    assert (await client.get(f"/sagas/{saga}/plan/changes?{query}")).status_code == 422


async def test_the_csv_holds_every_change_and_no_formula(client, rows, saga, monkeypatch):
    monkeypatch.setattr(plan_routes, "ROWS_AT_ONCE", 2)
    plan(rows, saga, removed=6)
    answer = await client.get(f"/sagas/{saga}/plan.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="plan-{HASH[:12]}.csv"'
    text = answer.content.decode("utf-8-sig")
    assert answer.content.startswith(b"\xef\xbb\xbf")
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == 9
    assert found[0]["fields"] == "name pid"
    assert (found[0]["is_moved"], found[0]["place_name"]) == ("yes", "市场部")
    assert found[7]["name"] == f"'{FORMULA}"
    assert "secret" not in text


@pytest.mark.parametrize(
    "value, cell",
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        (" =1", "' =1"),
        ("＝1", "'＝1"),
        ("员工-1", "员工-1"),
        (None, ""),
        (True, "yes"),
        (False, ""),
        (["email", "title"], "email title"),
    ],
)
def test_no_cell_is_a_formula(value, cell):
    assert plan_routes._cell({"name": value}, "name") == cell


@pytest.mark.parametrize("path", ["plan", "plan/changes", "plan.csv"])
async def test_who_may_not_see_the_run_sees_no_plan(client, rows, saga, rights: Rights, path: str):
    plan(rows, saga)
    rights.hidden_dags.add("full_sync")
    assert (await client.get(f"/sagas/{saga}/{path}")).status_code == 404


@pytest.mark.parametrize("named", [{}, {"step": "plan_changes"}])
async def test_a_retry_clears_a_checkpoint_that_failed(client, rows, airflow_app: Airflow, named: dict):
    saga = rows.saga("r", status="compensated", done=2, failed="plan_changes", error="beyond the limits")
    airflow_app.answers = {
        ("GET", "/dags/full_sync/dagRuns/r"): (200, {"state": "failed"}),
        ("POST", "/dags/full_sync/clearTaskInstances"): (200, {"task_instances": [{"task_id": "x"}]}),
        ("PATCH", "/dags/full_sync/dagRuns/r"): (200, {}),
    }
    body = {"reason": "Limits are wider now", "request_id": str(uuid4()), **named}
    answer = await client.post(f"/sagas/{saga}/retry", json=body)
    assert answer.status_code == 200, answer.text
    [cleared] = [body for method, path, body in airflow_app.calls if path.endswith("clearTaskInstances")]
    assert cleared["task_ids"] == ["plan_changes"]
