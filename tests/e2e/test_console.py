"""The console on a running Airflow: real logins, real rights, and actions that Airflow carries out."""

import contextlib
import time
import uuid
from typing import Any

import httpx
import pytest

from e2e.company import DAG, Company
from nancalacc.errors import CallRefusedError
from nancalacc.saga.definition import transaction_id_of
from nancalacc.sandbox.airflow_api import AirflowApi
from nancalacc.sandbox.stack import AirflowStack

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]

OPEN_PATHS = {"/health"}


def body(**values: Any) -> dict[str, Any]:
    return {"reason": "asked for by the tests", "request_id": str(uuid.uuid4()), **values}


def saga_of(run_id: str) -> str:
    return f"/nancalacc/sagas/{transaction_id_of(dag_id=DAG, run_id=run_id)}"


def filled(path: str) -> str:
    return "/nancalacc" + path.replace("{transaction_id}", str(uuid.uuid4())).replace(
        "{event_id}", "1"
    ).replace("{name}", "x")


@pytest.fixture
def web(stack: AirflowStack) -> Any:
    """Somebody who has not signed in."""
    with httpx.Client(base_url=stack.base_url, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
def viewer(stack: AirflowStack) -> Any:
    with stack.api_as("viewer") as api:
        yield api


@pytest.fixture
def paths(company: Company) -> dict[str, Any]:
    """The API's own schema: a route that is added is covered."""
    found: dict[str, Any] = company.stack.api.request("GET", "/nancalacc/openapi.json")["paths"]
    return found


def test_without_a_login_no_route_answers(web: httpx.Client, paths: dict[str, Any]):
    tried = 0
    for path, operations in paths.items():
        for method in operations:
            answer = web.request(method, filled(path), json=body())
            assert answer.status_code == (200 if path in OPEN_PATHS else 401), (method, path)
            tried += 1
    assert tried > 18
    assert web.get("/nancalacc/openapi.json").status_code == 401
    # No key for callbacks is configured here.
    assert web.post("/nancalacc/dingtalk/callback", json={"encrypt": "x"}).status_code == 404
    assert web.get("/nancalacc/console/").status_code == 200
    wrong = {"authorization": "Bearer not-a-token"}
    assert web.get("/nancalacc/sagas", headers=wrong).status_code in {401, 403}


def test_a_viewer_sees_everything_and_changes_nothing(
    company: Company, viewer: AirflowApi, paths: dict[str, Any]
):
    run_id = company.run(dry_run=True)
    saga = saga_of(run_id)
    for path in ("sagas", "inbox", "statistics", "health/details", "tasks", "me"):
        viewer.request("GET", f"/nancalacc/{path}")
    assert viewer.request("GET", saga)["status"] == "completed"
    company.execute(
        "INSERT INTO dingtalk_events (dingtalk_conn_id, wps_conn_id, event_id, event_type, status)"
        " VALUES ('dingtalk_default', 'wps_default', 'e1', 'user_add_org', 'dead')"
    )
    token = viewer._client.headers["Authorization"]
    with httpx.Client(base_url=company.stack.base_url, trust_env=False) as client:
        for path, operations in paths.items():
            if "post" in operations:
                where = filled(path.replace("{transaction_id}", saga.rpartition("/")[2]))
                sent = body(**({"step": "save_users"} if path.endswith("skip") else {}))
                answer = client.post(where, json=sent, headers={"Authorization": token})
                assert answer.status_code == 403, (path, answer.text)
    company.execute("DELETE FROM dingtalk_events")


def test_an_editor_who_is_no_admin_may_do_everything_that_changes_runs(
    company: Company, paths: dict[str, Any]
):
    with company.broken("tb_las_user"):
        run_id = company.run()
    event = company.rows(
        "INSERT INTO dingtalk_events (dingtalk_conn_id, wps_conn_id, event_id, event_type, status)"
        " VALUES ('dingtalk_default', 'wps_default', 'e1', 'user_add_org', 'dead') RETURNING id"
    )[0]["id"]
    with company.stack.api_as("editor") as editor:
        me = editor.request("GET", "/nancalacc/me")
        assert DAG in me["editable_dags"]
        assert DAG in me["full_sync_dags"]
        token = editor._client.headers["Authorization"]
        with httpx.Client(base_url=company.stack.base_url, trust_env=False, timeout=60) as client:
            for path, operations in paths.items():
                if "post" not in operations or path == "/full-syncs":
                    continue
                where = "/nancalacc" + path.replace("{transaction_id}", saga_of(run_id).rpartition("/")[2])
                sent = body(**({"step": "save_users"} if path.endswith("skip") else {}))
                answer = client.post(
                    where.replace("{event_id}", str(event)), json=sent, headers={"Authorization": token}
                )
                assert answer.status_code in {200, 409}, (path, answer.text)
    company.execute("DELETE FROM dingtalk_events")
    company.wait(run_id)
    assert company.state(run_id) == "success", "the retry was carried out as the editor"


def test_a_form_of_another_site_does_nothing_with_a_persons_cookie(company: Company, web: httpx.Client):
    company.run(dry_run=True)
    token = company.stack.api._client.headers["Authorization"].removeprefix("Bearer ")
    web.cookies.set("_token", token)
    assert web.get("/nancalacc/sagas").status_code == 200
    before = len(company.stack.api.runs(DAG))
    path = "/nancalacc/full-syncs"
    assert web.post(path, data={"reason": "x"}).status_code == 415
    assert web.post(path, json=body()).status_code == 403
    foreign = {"sec-fetch-site": "cross-site", "origin": "https://elsewhere.example"}
    assert web.post(path, json=body(), headers=foreign).status_code == 403
    assert len(company.stack.api.runs(DAG)) == before


def test_a_failed_sync_is_retried_as_the_person_and_ends_well(company: Company):
    with company.broken("tb_las_user"):
        run_id = company.run()
    assert company.saga(run_id)["status"] == "compensated"
    answer = company.stack.api.request("POST", f"{saga_of(run_id)}/retry", body=body())
    assert "save_users" in answer["message"]
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.saga(run_id)["epoch"] == 2
    assert company.compare().equal
    [asked] = [
        row["event_data"]
        for row in company.rows("SELECT event_data FROM saga_events WHERE event_type = 'action_requested'")
    ]
    assert (asked["user"], asked["action"]) == ("admin", "retry")
    log = company.stack.api.call("GET", "/eventLogs", query={"dag_id": DAG, "run_id": run_id, "limit": 100})
    by_admin = {entry["event"] for entry in log["event_logs"] if entry["owner"] == "admin"}
    assert "post_clear_task_instances" in by_admin


def test_a_running_sync_is_cancelled_and_leaves_nothing(company: Company):
    with company.slow("tb_las_user", seconds=15):
        run_id = company.trigger()
        company.worker(run_id, "save_users")
        answer = company.stack.api.request("POST", f"{saga_of(run_id)}/cancel", body=body())
        assert "cancelled" in answer["message"]
        company.wait(run_id)
    saga = company.saga(run_id)
    assert saga["status"] == "cancelled"
    assert company.state(run_id) == "failed"
    assert company.snapshot_rows(saga["task_id"]) == 0
    assert company.lock_holder() is None


def test_a_full_sync_is_started_once(company: Company):
    same = body()
    first = company.stack.api.request("POST", "/nancalacc/full-syncs", body=same)
    again = company.stack.api.request("POST", "/nancalacc/full-syncs", body=same)
    assert (first["changed"], again["changed"]) == (True, False)
    run_id = f"console__{same['request_id']}"
    company.wait(run_id)
    assert company.state(run_id) == "success"
    assert company.compare().equal
    events = company.stack.api.request("GET", f"/nancalacc/sagas/{first['transaction_id']}/events")["items"]
    assert [e["event_data"]["user"] for e in events if e["event_type"] == "action_requested"] == ["admin"]


def test_a_saga_whose_run_is_gone_is_finished_on_request(company: Company):
    with company.slow("tb_las_user", seconds=8):
        run_id = company.trigger()
        company.worker(run_id, "save_users")
        company.stack.api.set_run_state(DAG, run_id, state="failed")
        company.stack.api.delete_run(DAG, run_id)
    deadline = time.monotonic() + 60
    while company.saga(run_id)["status"] != "compensated":
        assert time.monotonic() < deadline, company.saga(run_id)
        # Refused as long as the step's last sign of life is fresh, or the run before is at it.
        with contextlib.suppress(CallRefusedError):
            company.stack.api.request("POST", f"{saga_of(run_id)}/recover", body=body())
        time.sleep(1)
    assert company.snapshot_rows(company.saga(run_id)["task_id"]) == 0
    with pytest.raises(CallRefusedError, match="nothing to recover"):
        company.stack.api.request("POST", f"{saga_of(run_id)}/recover", body=body())
    with pytest.raises(CallRefusedError, match="is gone"):
        company.stack.api.request("POST", f"{saga_of(run_id)}/retry", body=body())


def test_metrics_answer_a_login_or_the_scrape_token(company: Company, web: httpx.Client):
    company.run()
    by_token = web.get("/nancalacc/metrics", headers={"Authorization": "Bearer scrape-token-of-the-tests"})
    assert 'nancalacc_sagas{definition="full_sync",status="completed"} 1.0' in by_token.text
    assert 'nancalacc_rows_written{definition="full_sync",kind="users"} 6.0' in by_token.text
    assert web.get("/nancalacc/metrics").status_code == 401
    login = {"Authorization": company.stack.api._client.headers["Authorization"]}
    assert web.get("/nancalacc/metrics", headers=login).status_code == 200


def test_a_task_links_to_its_saga_and_tasks_of_other_dags_do_not(company: Company):
    run_id = company.run(dry_run=True)
    path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/validate_task/links"
    links = company.stack.api.call("GET", path)["extra_links"]
    saga = transaction_id_of(dag_id=DAG, run_id=run_id)
    assert links["Saga"] == (f"{company.stack.base_url}/plugin/nancalacc/nancalacc/console/?saga={saga}")


def test_the_lines_that_a_step_logs_name_saga_step_epoch_and_attempt(company: Company):
    run_id = company.run()
    log = company.log(run_id, "notify_wps")
    for field in (
        f"transaction_id={transaction_id_of(dag_id=DAG, run_id=run_id)}",
        "step=notify_wps",
        "epoch=1",
        "attempt=1",
    ):
        assert field in log, log
