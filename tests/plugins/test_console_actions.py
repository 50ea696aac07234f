"""What the console can do: permitted, justified, recorded, once, and only where it makes sense."""

import asyncio
import json
import uuid
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from console_rows import Rows
from nancalacc.saga.definition import SagaDefinition
from nancalacc.sync.full import FULL_SYNC
from nancalacc.sync.incremental import INCREMENTAL_SYNC
from nancalacc.web.access import get_user
from plugins.conftest import Airflow, Rights

RUN = "/dags/full_sync/dagRuns/r1"
CLEAR = "/dags/full_sync/clearTaskInstances"


def body(**values: Any) -> dict[str, Any]:
    return {"reason": "asked for by the tests", "request_id": str(uuid.uuid4()), **values}


def actions_of(rows: Rows, transaction_id: str) -> list[dict[str, Any]]:
    """What the events say of people's actions."""
    found = rows.value(
        "SELECT json_agg(event_data ORDER BY id) FROM saga_events"
        " WHERE transaction_id = %s AND event_type = 'action_requested'",
        transaction_id,
    )
    return found or []


@pytest.fixture
def failed(rows: Rows) -> str:
    return rows.saga("r1", status="compensated", done=4, failed="save_users", error="broken")


@pytest.fixture
def ended(airflow_app: Airflow) -> Airflow:
    """An Airflow in which the run has failed, and that clears what it is told to."""
    airflow_app.answers = {
        ("GET", RUN): (200, {"state": "failed"}),
        ("POST", CLEAR): (200, {"task_instances": [{"task_id": "save_users"}, {"task_id": "notify_wps"}]}),
    }
    return airflow_app


async def test_a_retry_clears_the_failed_step_and_says_who_wanted_it(
    client: httpx.AsyncClient, rows: Rows, failed: str, ended: Airflow
):
    answer = await client.post(f"/sagas/{failed}/retry", json=body())
    assert answer.status_code == 200, answer.text
    assert "save_users" in answer.json()["message"]
    method, path, sent = ended.calls[-1]
    assert (method, path) == ("POST", CLEAR)
    assert sent["task_ids"] == ["save_users"]
    assert sent["include_downstream"] is True
    assert sent["dry_run"] is False
    assert "ann: asked for" in sent["note"]
    [event] = actions_of(rows, failed)
    assert (event["action"], event["user"], event["reason"]) == ("retry", "ann", "asked for by the tests")


async def test_a_request_that_comes_twice_has_its_effect_once(
    client: httpx.AsyncClient, rows: Rows, failed: str, ended: Airflow
):
    same = body()
    first = await client.post(f"/sagas/{failed}/retry", json=same)
    again = await client.post(f"/sagas/{failed}/retry", json=same)
    assert (first.json()["changed"], again.json()["changed"]) == (True, False)
    assert first.json()["message"] == again.json()["message"]
    assert [path for _, path, _ in ended.calls].count(CLEAR) == 1
    assert len(actions_of(rows, failed)) == 1


async def test_two_people_who_retry_at_once_clear_once(
    client: httpx.AsyncClient, rows: Rows, failed: str, ended: Airflow
):
    def cleared() -> int:
        return [path for _, path, _ in ended.calls].count(CLEAR)

    class OnceFailed(dict):
        def get(self, key: Any, default: Any = None) -> Any:
            if key == ("GET", RUN) and cleared():
                return 200, {"state": "queued"}
            return super().get(key, default)

    ended.answers = OnceFailed(ended.answers)
    answers = await asyncio.gather(*[client.post(f"/sagas/{failed}/retry", json=body()) for _ in range(5)])
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    assert cleared() == 1


@pytest.mark.parametrize(
    "state, said",
    [((200, {"state": "running"}), "is running"), ((404, {"detail": "no run"}), "is gone")],
    ids=["running", "gone"],
)
async def test_a_retry_needs_a_run_that_has_ended(
    client: httpx.AsyncClient, rows: Rows, failed: str, airflow_app: Airflow, state: Any, said: str
):
    airflow_app.answers[("GET", RUN)] = state
    answer = await client.post(f"/sagas/{failed}/retry", json=body())
    assert answer.status_code == 409
    assert said in answer.json()["detail"]
    assert actions_of(rows, failed) == []


@pytest.mark.parametrize(
    "status, action, sent, said",
    [
        ("completed", "retry", {}, "start a new sync"),
        ("completed", "cancel", {}, "nothing to cancel"),
        ("completed", "recover", {}, "nothing to recover"),
        ("completed", "skip", {"step": "save_company_config"}, "nothing can be skipped"),
        ("compensating", "skip", {"step": "save_company_config"}, "nothing can be skipped"),
        ("in_progress", "skip", {"step": "save_users"}, "may not be skipped"),
        ("in_progress", "skip", {"step": "fly"}, "no step fly"),
        ("in_progress", "skip", {"step": "validate_task"}, "completed already"),
        ("in_progress", "retry", {"step": "fly"}, "no step fly"),
    ],
)
async def test_what_the_state_does_not_allow_is_refused_with_the_reason(
    client: httpx.AsyncClient, rows: Rows, ended: Airflow, status: str, action: str, sent: Any, said: str
):
    transaction_id = rows.saga("r1", status=status, done=2)
    answer = await client.post(f"/sagas/{transaction_id}/{action}", json=body(**sent))
    assert answer.status_code == 409
    assert said in answer.json()["detail"]
    assert actions_of(rows, transaction_id) == []


async def test_a_published_saga_cannot_be_cancelled(client: httpx.AsyncClient, rows: Rows, ended: Airflow):
    transaction_id = rows.saga("r1", status="in_progress", done=6, pivot="intended")
    answer = await client.post(f"/sagas/{transaction_id}/cancel", json=body())
    assert answer.status_code == 409
    assert "only go forward" in answer.json()["detail"]


@pytest.mark.parametrize("step", ["save_company_config", "update_task_status"])
async def test_a_step_nobody_needs_can_be_skipped_also_twice(
    client: httpx.AsyncClient, rows: Rows, ended: Airflow, step: str
):
    transaction_id = rows.saga("r1", status="in_progress", done=2)
    for _ in range(2):
        answer = await client.post(f"/sagas/{transaction_id}/skip", json=body(step=step))
        assert answer.status_code == 200, answer.text
    status = rows.value("SELECT status FROM saga_steps WHERE step_id = %s", f"{transaction_id}:{step}")
    assert status == "skipped"
    reason = rows.value(
        "SELECT event_data->>'reason' FROM saga_events"
        " WHERE event_type = 'step_skipped' AND transaction_id = %s",
        transaction_id,
    )
    assert reason == "ann: asked for by the tests"


@pytest.mark.parametrize(
    "definition, skippable",
    [
        (FULL_SYNC, {"save_company_config", "update_task_status"}),
        (INCREMENTAL_SYNC, {"update_event_status"}),
    ],
    ids=["full_sync", "incremental_sync"],
)
async def test_every_other_step_is_needed_and_cannot_be_skipped(
    client: httpx.AsyncClient,
    rows: Rows,
    ended: Airflow,
    definition: SagaDefinition,
    skippable: set[str],
):
    transaction_id = rows.saga("r1", status="in_progress", done=0, definition=definition)
    answers = {
        step.name: await client.post(f"/sagas/{transaction_id}/skip", json=body(step=step.name))
        for step in definition
    }
    assert {step for step, answer in answers.items() if answer.status_code == 200} == skippable
    refused = [answer for step, answer in answers.items() if step not in skippable]
    assert {answer.status_code for answer in refused} == {409}
    assert all("may not be skipped" in answer.json()["detail"] for answer in refused)
    assert {event["action"] for event in actions_of(rows, transaction_id)} == {"skip"}
    assert len(actions_of(rows, transaction_id)) == len(skippable)


async def test_a_cancelled_saga_is_undone_and_its_run_ended(
    client: httpx.AsyncClient, rows: Rows, airflow_app: Airflow
):
    airflow_app.answers = {("GET", RUN): (200, {"state": "running"}), ("PATCH", RUN): (200, {})}
    transaction_id = rows.saga("r1", status="in_progress", done=3)
    same = body()
    answer = await client.post(f"/sagas/{transaction_id}/cancel", json=same)
    assert answer.status_code == 200, answer.text
    again = await client.post(f"/sagas/{transaction_id}/cancel", json=same)
    assert again.json() == answer.json() | {"changed": False}
    assert [method for method, _, _ in airflow_app.calls].count("PATCH") == 1
    assert (
        rows.value("SELECT status FROM saga_transactions WHERE transaction_id = %s", transaction_id)
        == "cancelled"
    )
    method, _, sent = airflow_app.calls[-1]
    assert (method, sent["state"]) == ("PATCH", "failed")
    [event] = actions_of(rows, transaction_id)
    assert event["action"] == "cancel"


async def test_recovery_is_started_for_a_saga_whose_run_is_gone(
    client: httpx.AsyncClient, rows: Rows, airflow_app: Airflow
):
    airflow_app.answers = {("POST", "/dags/saga_recovery/dagRuns"): (200, {})}
    transaction_id = rows.saga("r1", status="in_progress", done=3)
    same = body()
    answer = await client.post(f"/sagas/{transaction_id}/recover", json=same)
    assert answer.status_code == 200, answer.text
    assert airflow_app.calls[-1][2]["conf"] == {"transaction_id": transaction_id}
    called = len(airflow_app.calls)
    again = await client.post(f"/sagas/{transaction_id}/recover", json=same)
    assert again.json() == answer.json() | {"changed": False}
    assert (len(airflow_app.calls), len(actions_of(rows, transaction_id))) == (called, 1)
    airflow_app.answers = {}
    answer = await client.post(f"/sagas/{transaction_id}/recover", json=body())
    assert answer.status_code == 409
    assert "saga_recovery" in answer.json()["detail"]


async def test_recovery_is_refused_while_the_run_lives(
    client: httpx.AsyncClient, rows: Rows, airflow_app: Airflow
):
    airflow_app.answers = {("GET", RUN): (200, {"state": "running"})}
    transaction_id = rows.saga("r1", status="in_progress", done=3)
    assert (await client.post(f"/sagas/{transaction_id}/recover", json=body())).status_code == 409


async def test_a_full_sync_starts_once_with_its_parameters_and_its_author(
    client: httpx.AsyncClient, rows: Rows, airflow_app: Airflow
):
    runs = ("POST", "/dags/full_sync/dagRuns")
    airflow_app.answers = {runs: (200, {})}
    same = body(dry_run=True)
    answer = await client.post("/full-syncs", json=same)
    assert answer.status_code == 200, answer.text
    assert airflow_app.calls[-1][2]["conf"] == {"dry_run": True}
    [event] = actions_of(rows, answer.json()["transaction_id"])
    assert (event["user"], event["action"]) == ("ann", "start")
    airflow_app.answers = {runs: (409, {"detail": "exists"})}
    again = await client.post("/full-syncs", json=same)
    assert again.json()["changed"] is False
    assert again.json()["transaction_id"] == answer.json()["transaction_id"]
    assert len(actions_of(rows, answer.json()["transaction_id"])) == 1
    assert (await client.post("/full-syncs", json=body(dag_id="smoke"))).status_code == 409


async def test_a_full_sync_whose_record_was_lost_is_recorded_when_it_is_asked_for_again(
    client: httpx.AsyncClient, rows: Rows, airflow_app: Airflow
):
    airflow_app.answers = {("POST", "/dags/full_sync/dagRuns"): (409, {"detail": "exists"})}
    answer = await client.post("/full-syncs", json=body())
    assert answer.json()["changed"] is False
    [event] = actions_of(rows, answer.json()["transaction_id"])
    assert (event["user"], event["action"]) == ("ann", "start")


async def test_dead_events_are_tried_again_or_dropped(client: httpx.AsyncClient, rows: Rows):
    first, second = rows.inbox_event("e1"), rows.inbox_event("e2")
    same = body()
    answer = await client.post(f"/inbox/{first}/retry", json=same)
    assert answer.json()["event"]["status"] == "pending"
    assert answer.json()["event"]["attempts"] == 0
    [done] = answer.json()["event"]["actions"]
    assert (done["action"], done["user"], done["reason"]) == ("retry", "ann", "asked for by the tests")
    assert (done["request_id"], done["error"]) == (same["request_id"], "60011: no access")
    assert done["at"].endswith("Z")
    assert (await client.post(f"/inbox/{first}/retry", json=body())).json()["changed"] is False
    rows.execute("UPDATE dingtalk_events SET status = 'dead', error = 'again' WHERE id = %s", first)
    again = (await client.post(f"/inbox/{first}/retry", json=same)).json()
    assert (again["changed"], again["event"]["status"]) == (False, "dead"), "that request was carried out"
    assert (await client.get("/inbox", params={"status": "dead"})).json()["items"][-1]["actions"] == [done]
    answer = await client.post(f"/inbox/{second}/drop", json=body())
    assert answer.json()["event"]["status"] == "done"
    assert (await client.post(f"/inbox/{second}/drop", json=body())).json()["changed"] is False
    third = rows.inbox_event("e3", status="pending")
    refused = await client.post(f"/inbox/{third}/drop", json=body())
    assert refused.status_code == 409
    assert (await client.post("/inbox/999999/retry", json=body())).status_code == 404


async def test_an_event_nobody_can_read_can_only_be_dropped(client: httpx.AsyncClient, rows: Rows):
    event = rows.inbox_event("e1", error="Unreadable: it is not JSON")
    answer = await client.post(f"/inbox/{event}/retry", json=body())
    assert answer.status_code == 409
    assert (await client.post(f"/inbox/{event}/drop", json=body())).status_code == 200


async def test_who_may_only_look_changes_nothing(
    app: FastAPI, client: httpx.AsyncClient, rows: Rows, failed: str, rights: Rights, airflow_app: Airflow
):
    rights.methods = {"GET"}
    event = rows.inbox_event("e1")
    tried = 0
    for path, operations in app.openapi()["paths"].items():
        if "post" not in operations:
            continue
        filled = path.replace("{transaction_id}", failed).replace("{event_id}", str(event))
        answer = await client.post(filled, json=body(**({"step": "save_users"} if "skip" in path else {})))
        assert answer.status_code == 403, (path, answer.text)
        tried += 1
    assert tried == 8
    assert airflow_app.calls == []
    assert actions_of(rows, failed) == []
    can = (await client.get(f"/sagas/{failed}")).json()["actions"]
    assert not any(each["allowed"] for each in can)


async def test_without_a_login_nothing_is_answered(app: FastAPI, client: httpx.AsyncClient):
    from fastapi import HTTPException

    def nobody() -> None:
        raise HTTPException(401, "Not authenticated")

    app.dependency_overrides[get_user] = nobody
    tried = 0
    for path, operations in app.openapi()["paths"].items():
        if path in {"/health", "/metrics"}:
            continue
        filled = path.replace("{transaction_id}", str(uuid.uuid4())).replace("{event_id}", "1")
        for method in operations:
            answer = await client.request(method, filled.replace("{name}", "x"), json=body())
            assert answer.status_code == 401, (method, path, answer.text)
            tried += 1
    assert tried > 15
    assert (await client.get("/openapi.json")).status_code == 401


FOREIGN: list[tuple[dict[str, str], int]] = [
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"sec-fetch-site": "same-site"}, 403),
    ({"sec-fetch-site": "", "origin": "https://elsewhere.example"}, 403),
    ({"content-type": "text/plain"}, 415),
    ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ({"content-type": "multipart/form-data; boundary=x"}, 415),
]
"""What a page of another site can send with the person's cookie, and the answer."""
WITH_A_TOKEN = {"sec-fetch-site": "cross-site", "authorization": "Bearer token"}


async def test_another_sites_page_cannot_act_with_a_persons_cookie(
    app: FastAPI, client: httpx.AsyncClient, rows: Rows, failed: str, ended: Airflow
):
    event = rows.inbox_event("e1")
    paths = [path for path, operations in app.openapi()["paths"].items() if "post" in operations]
    assert len(paths) == 8

    async def sent(path: str, headers: dict[str, str]) -> int:
        content = json.dumps(body(**({"step": "save_users"} if path.endswith("/skip") else {})))
        filled = path.format(transaction_id=failed, event_id=event)
        said = {"content-type": "application/json", **headers}
        return (await client.post(filled, content=content, headers=said)).status_code

    for headers, status in FOREIGN:
        assert {path: await sent(path, headers) for path in paths} == dict.fromkeys(paths, status), headers
    assert ended.calls == []
    assert actions_of(rows, failed) == []
    assert rows.value("SELECT status FROM dingtalk_events") == "dead"
    # A program knows the token: no browser attaches it. The state of things may still refuse.
    assert {await sent(path, WITH_A_TOKEN) for path in paths} <= {200, 409}
    assert CLEAR in [path for _, path, _ in ended.calls]


async def test_an_action_needs_a_reason_and_nothing_it_does_not_know(client: httpx.AsyncClient, failed: str):
    for sent in ({}, {"reason": ""}, {"reason": "   "}, {"reason": "x" * 501}, {"reason": "x", "sudo": True}):
        assert (await client.post(f"/sagas/{failed}/retry", json=sent)).status_code == 422, sent


@pytest.mark.parametrize("theirs, ours", [(401, 401), (403, 403), (404, 409), (400, 409), (500, 503)])
async def test_what_airflow_refuses_is_told_as_airflow_tells_it(
    client: httpx.AsyncClient, failed: str, ended: Airflow, theirs: int, ours: int
):
    ended.answers[("POST", CLEAR)] = (theirs, {"detail": "no such luck"})
    answer = await client.post(f"/sagas/{failed}/retry", json=body())
    assert answer.status_code == ours
    assert ("no such luck" in answer.text) is (theirs < 500)
