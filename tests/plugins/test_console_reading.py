"""What the console's API shows, to whom, and how it is cut into pages."""

import httpx
import pytest

from console_rows import STEPS, Rows
from nancalacc.store.migrate import expected_revision
from plugins.conftest import SCRAPE_TOKEN, Rights

MARKUP = "<script>alert(1)</script>'; DROP TABLE saga_steps; --"


async def listed(client: httpx.AsyncClient, **query: object) -> list[str]:
    answer = await client.get("/sagas", params=query)
    assert answer.status_code == 200, answer.text
    return [saga["run_id"] for saga in answer.json()["items"]]


async def test_sagas_come_newest_first_in_pages_that_neither_repeat_nor_leave_out(
    client: httpx.AsyncClient, rows: Rows
):
    for number in range(7):
        rows.saga(f"r{number}")
    found, cursor = [], None
    while True:
        answer = (
            await client.get("/sagas", params={"limit": 3, **({"cursor": cursor} if cursor else {})})
        ).json()
        found += [saga["run_id"] for saga in answer["items"]]
        rows.saga(f"later-{len(found)}")
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert found == [f"r{number}" for number in reversed(range(7))]


async def test_filters_narrow_the_list_and_counts_tell_of_every_status(client: httpx.AsyncClient, rows: Rows):
    rows.saga("good", task_id="20260101000000")
    rows.saga("bad", status="compensated", done=4, failed="save_users", error="save_users: broken on purpose")
    rows.saga("other", company="tenant-2", dag_id="full_sync__wps_b")
    assert await listed(client) == ["other", "bad", "good"]
    assert await listed(client, status="compensated") == ["bad"]
    assert await listed(client, status=["completed", "compensated"], company="tenant-1") == ["bad", "good"]
    assert await listed(client, text="BROKEN purpose") == ["bad"]
    assert await listed(client, text="20260101") == ["good"]
    assert await listed(client, text="100%") == []
    assert await listed(client, dag_id="full_sync__wps_b") == ["other"]
    assert await listed(client, run_id="good") == ["good"]
    assert await listed(client, definition="incremental_sync") == []
    assert await listed(client, since="2999-01-01T00:00:00Z") == []
    assert len(await listed(client, until="2999-01-01T00:00:00+08:00")) == 3
    answer = (await client.get("/sagas", params={"status": "failed"})).json()
    assert answer["items"] == []
    assert answer["counts"] == {"completed": 2, "compensated": 1}


@pytest.mark.parametrize(
    "query",
    [
        "status=gone",
        "limit=0",
        "limit=1000",
        "cursor=x",
        "since=yesterday",
        "since=2026-01-01T00:00:00",
        "text=%00",
    ],
)
async def test_a_wrong_query_is_refused(client: httpx.AsyncClient, query: str):
    assert (await client.get(f"/sagas?{query}")).status_code == 422


async def test_the_detail_tells_steps_events_links_and_what_can_be_done(
    client: httpx.AsyncClient, rows: Rows
):
    transaction_id = rows.saga(
        "run/1 +", status="compensated", done=4, failed="save_users", error="broken on purpose"
    )
    answer = await client.get(f"/sagas/{transaction_id}")
    detail = answer.json()
    assert [step["name"] for step in detail["steps"]] == STEPS
    assert detail["steps"][4]["status"] == "failed"
    assert detail["steps"][4]["error_message"] == "broken on purpose"
    assert detail["steps"][6]["kind"] == "pivot"
    assert detail["links"]["run"] == "dags/full_sync/runs/run%2F1%20%2B"
    assert detail["steps"][4]["log_url"] == "dags/full_sync/runs/run%2F1%20%2B/tasks/save_users"
    assert len(detail["events"]) == 10
    assert detail["start_time"].endswith("Z")
    can = {each["action"]: each for each in detail["actions"]}
    assert can["retry"]["steps"][0] == "save_users"
    assert not can["skip"]["allowed"]
    assert "compensated" in can["cancel"]["reason"]
    assert "compensate_data" not in answer.text


async def test_what_has_not_changed_is_answered_without_a_body(client: httpx.AsyncClient, rows: Rows):
    transaction_id = rows.saga("r1", status="in_progress", done=2)
    for path in ("/sagas", f"/sagas/{transaction_id}", "/health/details", "/inbox"):
        first = await client.get(path)
        again = await client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b""), path
    rows.execute("UPDATE saga_transactions SET progress = 50")
    changed = await client.get("/sagas", headers={"if-none-match": first.headers["etag"]})
    assert changed.json()["items"][0]["progress"] == 50


async def test_events_are_read_on_from_the_last_one_seen(client: httpx.AsyncClient, rows: Rows):
    transaction_id = rows.saga("r1")
    path = f"/sagas/{transaction_id}/events"
    first = (await client.get(path, params={"limit": 5})).json()
    rest = (await client.get(path, params={"after": first["next_after"]})).json()
    assert [event["step"] for event in (first["items"] + rest["items"])[::2]] == STEPS
    assert rest["next_after"] is None


async def test_sagas_of_dags_that_a_person_may_not_see_do_not_exist(
    client: httpx.AsyncClient, rows: Rows, rights: Rights
):
    rows.saga("mine")
    theirs = rows.saga("theirs", dag_id="full_sync__secret")
    rights.hidden_dags = {"full_sync__secret"}
    answer = await client.get("/sagas")
    assert [saga["run_id"] for saga in answer.json()["items"]] == ["mine"]
    assert answer.json()["counts"] == {"completed": 1}
    for path in (f"/sagas/{theirs}", f"/sagas/{theirs}/steps", f"/sagas/{theirs}/events"):
        assert (await client.get(path)).status_code == 404
    assert "theirs" not in (await client.get("/statistics")).text
    rights.methods = set()
    for path in ("/sagas", "/inbox", "/tasks", "/statistics", "/health/details", "/me"):
        assert (await client.get(path)).status_code == 403, path


async def test_markup_and_sql_in_names_come_back_as_text(client: httpx.AsyncClient, rows: Rows):
    transaction_id = rows.saga(MARKUP, name=MARKUP, error=MARKUP, status="failed", done=1)
    answer = await client.get("/sagas", params={"text": "DROP"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["items"][0]["name"] == MARKUP
    assert (await client.get(f"/sagas/{transaction_id}")).json()["error_message"] == MARKUP
    assert len((await client.get("/sagas", params={"run_id": MARKUP})).json()["items"]) == 1


async def test_statistics_count_durations_reasons_and_compensations(client: httpx.AsyncClient, rows: Rows):
    for number in range(3):
        rows.saga(f"good{number}")
    rows.saga("bad", status="compensated", done=4, failed="save_users", error="broken")
    rows.saga("back", status="compensating", done=4, failed="save_users", error="broken")
    found = (await client.get("/statistics")).json()
    assert found["counts"] == {"full_sync": {"completed": 3, "compensated": 1, "compensating": 1}}
    assert found["compensation_rate"] == 0.25
    assert found["reasons"][0]["count"] == 2
    assert found["oldest_uncompensated"]["run_id"] == "back"
    step = found["steps"][0]
    assert (step["step_name"], step["p50"], step["p95"]) == ("validate_task", 10.0, 10.0)


async def test_health_names_what_is_wrong(client: httpx.AsyncClient, rows: Rows):
    rows.saga("good")
    assert (await client.get("/health/details")).json()["problems"] == []
    rows.inbox_event("e1")
    rows.inbox_event("e2", status="pending")
    rows.execute("UPDATE dingtalk_events SET received_at = received_at - interval '1 hour'")
    rows.saga("back", status="compensating", done=4, failed="save_users", error="broken")
    rows.execute(
        "UPDATE saga_transactions SET updated_at = updated_at - interval '1 hour' WHERE run_id = 'back'"
    )
    problems = " | ".join((await client.get("/health/details")).json()["problems"])
    assert "1 dead events" in problems
    assert "60 minutes" in problems
    assert "is compensating and does not get on" in problems
    forward = rows.saga("forward", status="in_progress", done=6, pivot="intended")
    assert forward not in " | ".join((await client.get("/health/details")).json()["problems"])
    rows.execute(
        "UPDATE saga_transactions SET recovery_error = 'WPS is away', recovery_tries = 1"
        " WHERE run_id = 'forward'"
    )
    problems = " | ".join((await client.get("/health/details")).json()["problems"])
    assert f"Saga {forward} is in_progress and does not get on" in problems
    assert problems.count("does not get on") == 2


async def test_health_tells_whether_somebody_listens(client: httpx.AsyncClient, rows: Rows):
    rows.saga("good")

    async def health() -> tuple[dict, list[str]]:
        found = (await client.get("/health/details")).json()
        [listener] = found["listeners"]
        return listener, found["problems"]

    listener, problems = await health()
    assert (listener["dingtalk_conn_id"], listener["is_connected"]) == ("dingtalk_default", False)
    assert listener["seen_at"] is None
    assert problems == [], "events may come by the callback alone"
    rows.listener("dingtalk_default", silence=600)
    rows.listener("of_another_installation", is_connected=False)
    listener, problems = await health()
    assert listener["is_connected"] is False, "it said that it was, but that is long ago"
    assert "No listener is connected to DingTalk by dingtalk_default" in problems[0]
    assert "10 minutes ago" in problems[0]
    assert len(problems) == 1
    rows.listener("dingtalk_default", is_connected=False, silence=1)
    assert (await health())[0]["is_connected"] is False
    rows.listener("dingtalk_default", silence=5)
    listener, problems = await health()
    assert listener["is_connected"] is True, "one of several is enough"
    assert problems == []


async def test_health_tells_of_every_companys_last_full_sync_and_of_messages_that_do_not_arrive(
    client: httpx.AsyncClient, rows: Rows
):
    rows.saga("a1", company="a")
    rows.saga("a2", company="a")
    rows.saga("b1", company="b", dag_id="full_sync__wps_b")
    rows.saga("dry", company="b", dag_id="full_sync__wps_b")
    rows.execute("UPDATE saga_transactions SET params = '{\"dry_run\": true}' WHERE run_id = 'dry'")
    rows.execute(
        "INSERT INTO incidents (key, kind, facts, error) VALUES ('a', 'dead_events', '{}', 'sign not match'),"
        " ('b', 'dead_events', '{}', NULL)"
    )
    found = (await client.get("/health/details")).json()
    assert [saga["run_id"] for saga in found["last_full_syncs"]] == ["b1", "a2"]
    assert found["last_full_sync"]["run_id"] == "b1"
    assert found["problems"] == ["1 messages about incidents could not be sent: sign not match"]


async def test_calls_and_throttles_are_those_of_the_last_day_whatever_became_of_the_sagas(
    client: httpx.AsyncClient, rows: Rows
):
    report = '{"evidence": {"calls": {"topapi/v2/user/list": 3, "gettoken": 1}, "throttled": 2}}'
    rows.saga("good")
    rows.saga("bad", status="compensated", done=4, failed="save_users", error="broken")
    rows.saga("old")
    rows.execute("UPDATE saga_steps SET action_data = %s WHERE step_name = 'fetch_dingtalk_data'", report)
    rows.execute("UPDATE saga_steps SET action_data = '{\"calls\": 2}' WHERE step_name = 'notify_wps'")
    rows.execute("UPDATE saga_steps SET action_data = '[1]' WHERE step_name = 'validate_task'")
    rows.execute("UPDATE saga_steps SET action_data = '{\"evidence\": 7}' WHERE step_name = 'save_users'")
    rows.execute(
        "UPDATE saga_steps SET start_time = start_time - interval '2 days' WHERE transaction_id = %s",
        rows.made[2],
    )
    answer = await client.get("/metrics", headers={"authorization": f"Bearer {SCRAPE_TOKEN}"})
    for line in (
        'nancalacc_dingtalk_calls{definition="full_sync",path="topapi/v2/user/list"} 6.0',
        'nancalacc_dingtalk_throttled_calls{definition="full_sync"} 4.0',
        'nancalacc_wps_calls{definition="full_sync"} 2.0',
    ):
        assert line in answer.text, answer.text


async def test_metrics_count_open_sagas_of_any_age_and_ended_ones_of_the_last_day(
    client: httpx.AsyncClient, rows: Rows
):
    rows.saga("good")
    rows.saga("old")
    rows.saga("stuck", status="compensating", done=4, failed="save_users", error="broken", company="b")
    rows.execute(
        "UPDATE saga_transactions SET created_at = created_at - interval '3 days' WHERE run_id != 'good'"
    )
    rows.listener("dingtalk_default", silence=600)
    answer = await client.get("/metrics", headers={"authorization": f"Bearer {SCRAPE_TOKEN}"})
    for line in (
        'nancalacc_sagas{definition="full_sync",status="completed"} 1.0',
        'nancalacc_sagas{definition="full_sync",status="compensating"} 1.0',
        'nancalacc_listener_connected{connection="dingtalk_default"} 0.0',
        'nancalacc_company_last_success_timestamp_seconds{company="tenant-1",definition="full_sync"}',
    ):
        assert line in answer.text, answer.text


async def test_task_records_are_found_by_name(client: httpx.AsyncClient, rows: Rows):
    rows.execute("INSERT INTO task (title, status, creator_id) VALUES ('20260101000000', 'completed', 1)")
    assert (await client.get("/tasks/20260101000000")).json()["status"] == "completed"
    assert (await client.get("/tasks/20260101000001")).status_code == 404
    assert len((await client.get("/tasks")).json()["items"]) == 1


async def test_metrics_are_for_the_scrape_token_or_a_login(client: httpx.AsyncClient, rows: Rows):
    rows.saga("good")
    rows.inbox_event("e1")
    answer = await client.get("/metrics", headers={"authorization": f"Bearer {SCRAPE_TOKEN}"})
    assert answer.status_code == 200
    assert 'nancalacc_sagas{definition="full_sync",status="completed"} 1.0' in answer.text
    assert 'nancalacc_inbox_events{status="dead"} 1.0' in answer.text
    assert 'nancalacc_rows_written{definition="full_sync",kind="users"} 12.0' in answer.text
    names = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith("nancalacc_") for name in names)


@pytest.mark.parametrize("metrics_token", ["", SCRAPE_TOKEN], ids=["unset", "set"])
async def test_no_other_token_opens_the_metrics(
    client: httpx.AsyncClient, rights: Rights, metrics_token: str
):
    rights.signed_in = False
    assert (await client.get("/metrics")).status_code == 401
    for sent in ("", " ", "wrong", SCRAPE_TOKEN[:-1], f"{SCRAPE_TOKEN}x", SCRAPE_TOKEN.upper()):
        answer = await client.get("/metrics", headers={"authorization": f"Bearer {sent}"})
        assert answer.status_code == 401, sent
        assert "nancalacc_" not in answer.text
    answer = await client.get("/metrics", headers={"authorization": f"Bearer {SCRAPE_TOKEN}"})
    assert answer.status_code == (200 if metrics_token else 401)


async def test_health_names_a_schema_that_is_not_the_one_of_this_version(
    client: httpx.AsyncClient, rows: Rows
):
    rows.saga("good")
    rows.execute("UPDATE nancalacc_alembic_version SET version_num = '0001'")
    found = (await client.get("/health/details")).json()
    assert (found["schema_revision"], found["schema_expected"]) == ("0001", expected_revision())
    assert found["problems"] == [f"The schema is at revision 0001, {expected_revision()} is needed"]
    answer = await client.get("/health")
    assert (answer.status_code, answer.json()) == (503, {"status": "unhealthy"})


async def test_errors_of_the_database_are_told_without_a_trace(client: httpx.AsyncClient, rows: Rows):
    rows.execute("ALTER TABLE saga_transactions RENAME TO elsewhere")
    answer = await client.get("/sagas")
    assert answer.status_code == 503
    assert "Traceback" not in answer.text
    assert "SELECT" not in answer.text
    assert "python -m nancalacc db upgrade" in answer.json()["detail"]


async def test_the_page_runs_nothing_but_its_own_scripts(client: httpx.AsyncClient):
    answer = await client.get("/console/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'self'" in policy
    assert " style=" not in answer.text
    assert "<script>" not in answer.text
