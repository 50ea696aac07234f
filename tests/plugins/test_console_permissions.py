"""Which right of Airflow opens what: for every action exactly one, offered and enforced alike."""

from typing import Any
from uuid import uuid4

import httpx
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from fastapi import FastAPI

from console_rows import Rows
from plugins.conftest import Airflow, Right, Rights
from plugins.test_console_actions import body

OWN = "full_sync__wps_b"
SIGHT: Right = ("GET", DagAccessEntity.RUN, OWN)
NEEDED: dict[str, Right] = {
    "/sagas/{transaction_id}/retry": ("PUT", DagAccessEntity.TASK_INSTANCE, OWN),
    "/sagas/{transaction_id}/skip": ("PUT", DagAccessEntity.TASK_INSTANCE, OWN),
    "/sagas/{transaction_id}/cancel": ("PUT", DagAccessEntity.RUN, OWN),
    "/sagas/{transaction_id}/recover": ("POST", DagAccessEntity.RUN, "saga_recovery"),
    "/sagas/{transaction_id}/undo": ("POST", DagAccessEntity.RUN, "undo_sync"),
    "/full-syncs": ("POST", DagAccessEntity.RUN, "full_sync"),
    "/inbox/{event_id}/retry": ("PUT", DagAccessEntity.RUN, "incremental_sync"),
    "/inbox/{event_id}/drop": ("PUT", DagAccessEntity.RUN, "incremental_sync"),
}


async def act(client: httpx.AsyncClient, path: str, *, saga: str, event: int) -> httpx.Response:
    sent = body(**({"step": "save_users"} if path.endswith("/skip") else {}))
    return await client.post(path.format(transaction_id=saga, event_id=event), json=sent)


async def test_every_action_needs_one_right_and_nothing_else(
    app: FastAPI, client: httpx.AsyncClient, rows: Rows, rights: Rights, airflow_app: Airflow
):
    assert {path for path, does in app.openapi()["paths"].items() if "post" in does} == set(NEEDED)
    saga, event = rows.saga("r1", dag_id=OWN), rows.inbox_event("e1")
    for path, needed in NEEDED.items():
        rights.denied = {needed}
        refused = await act(client, path, saga=saga, event=event)
        assert (refused.status_code, needed[2] in refused.json()["detail"]) == (403, True), path
    assert airflow_app.calls == []
    rights.denied = set()
    for path, needed in NEEDED.items():
        rights.only = {SIGHT, needed}
        answer = await act(client, path, saga=saga, event=event)
        # There is no DAG and no run: what comes behind the permission refuses.
        assert answer.status_code in {200, 409}, (path, answer.text)


async def test_an_action_is_offered_to_whoever_has_its_right(
    client: httpx.AsyncClient, rows: Rows, rights: Rights
):
    open_ = rows.saga("open", dag_id=OWN, status="in_progress", done=3)
    undone = rows.saga("undone", dag_id=OWN, status="compensated", done=3, failed="save_users")
    done = rows.saga("done", dag_id=OWN)
    for saga, can in (
        (open_, {"retry", "skip", "cancel", "recover"}),
        (undone, {"retry"}),
        (done, {"undo"}),
    ):
        path = f"/sagas/{saga}"
        actions = {each["action"] for each in (await client.get(path)).json()["actions"]}
        needed = {action: NEEDED[f"/sagas/{{transaction_id}}/{action}"] for action in actions}
        for right in set(needed.values()):
            rights.only = {SIGHT, right}
            offered = {each["action"]: each for each in (await client.get(path)).json()["actions"]}
            allowed = {action for action, each in offered.items() if each["allowed"]}
            assert allowed == {action for action in can if needed[action] == right}
            for action in can - allowed:
                assert offered[action]["reason"] == f"You may not do this to {needed[action][2]} in Airflow"
        rights.only = None


async def test_the_page_is_told_who_may_start_a_sync_and_decide_about_events(
    client: httpx.AsyncClient, rights: Rights
):
    sight: Right = ("GET", DagAccessEntity.RUN, "full_sync")
    for right, starts, decides in (
        (NEEDED["/full-syncs"], ["full_sync"], False),
        (NEEDED["/inbox/{event_id}/retry"], [], True),
        (("PUT", DagAccessEntity.TASK_INSTANCE, "full_sync"), [], False),
    ):
        rights.only = {sight, right}
        me = (await client.get("/me")).json()
        assert (me["full_sync_dags"], me["decides_events"]) == (starts, decides)


async def test_without_any_right_no_operation_answers(
    app: FastAPI, client: httpx.AsyncClient, rows: Rows, rights: Rights, airflow_app: Airflow
):
    saga, event = rows.saga("r1", task_id="20260101000000"), rows.inbox_event("e1")
    rights.methods = set()
    tried = 0
    for path, operations in app.openapi()["paths"].items():
        if path == "/health":
            continue
        # That there is a saga is not for them to know.
        expected = {404} if "{transaction_id}" in path else {403}
        if path == "/metrics":
            expected = {403}
        filled = path.format(transaction_id=saga, event_id=event, name="20260101000000")
        for method in operations:
            sent = body(**({"step": "save_users"} if path.endswith("/skip") else {}))
            answer = await client.request(method, filled, **({"json": sent} if method == "post" else {}))
            assert answer.status_code in expected, (method, path, answer.text)
            assert "tenant-1" not in answer.text
            tried += 1
    assert tried > 22
    assert airflow_app.calls == []


async def test_what_is_of_hidden_dags_shows_nowhere(client: httpx.AsyncClient, rows: Rows, rights: Rights):
    mine = rows.saga("mine", task_id="20260101000001")
    rows.saga("theirs", dag_id=OWN, company="tenant-b", task_id="20260101000002")
    for title in ("20260101000001", "20260101000002", "20260101000003"):
        rows.execute("INSERT INTO task (title, status, creator_id) VALUES (%s, 'completed', 1)", title)
    rows.conflict("name", "300", saga=mine)
    rows.conflict("email", "u1", saga=rows.made[1])
    rows.conflict("mobile", "u2", company="tenant-b", saga=rows.made[1])
    waiting, claimed = rows.inbox_event("e1", status="pending"), rows.inbox_event("e2", status="claimed")
    batch = rows.saga("batch", dag_id="incremental_sync__b", company="tenant-b")
    rows.execute("UPDATE dingtalk_events SET transaction_id = %s WHERE id = %s", batch, claimed)

    async def seen() -> dict[str, Any]:
        conflicts = (await client.get("/conflicts")).json()
        inbox = (await client.get("/inbox")).json()
        tasks = (await client.get("/tasks")).json()
        assert sum(conflicts["counts"].values()) == len(conflicts["items"])
        assert sum(inbox["counts"].values()) == len(inbox["items"])
        return {
            "conflicts": {each["key"]: each["transaction_id"] for each in conflicts["items"]},
            "inbox": {each["id"] for each in inbox["items"]},
            "tasks": {each["title"][-1] for each in tasks["items"]},
        }

    assert await seen() == {
        "conflicts": {"300": mine, "u1": rows.made[1], "u2": rows.made[1]},
        "inbox": {waiting, claimed},
        "tasks": {"1", "2", "3"},
    }
    rights.hidden_dags = {OWN, "incremental_sync__b"}
    # The conflict is one of a company whose syncs they see; which of the others found it they do not.
    assert await seen() == {
        "conflicts": {"300": mine, "u1": None},
        "inbox": {waiting},
        "tasks": {"1", "3"},
    }
    assert (await client.get("/tasks/20260101000002")).status_code == 404
    rights.hidden_dags.add("incremental_sync")
    assert (await seen())["inbox"] == set()
    rights.hidden_dags = {"full_sync", "incremental_sync__b", "incremental_sync"}
    assert await seen() == {"conflicts": {"u2": rows.made[1]}, "inbox": set(), "tasks": {"2", "3"}}
    rights.hidden_dags = {"incremental_sync", "full_sync", OWN}
    assert (await seen())["inbox"] == {claimed}


async def test_a_saga_that_is_not_there_and_one_that_is_hidden_are_told_apart_by_nobody(
    client: httpx.AsyncClient, rows: Rows, rights: Rights
):
    saga, none = rows.saga("r1"), str(uuid4())
    rights.hidden_dags = {"full_sync"}
    hidden, missing = [await client.get(f"/sagas/{each}") for each in (saga, none)]
    assert hidden.json()["detail"].replace(saga, none) == missing.json()["detail"]
