import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from nancalacc.config import Signature
from nancalacc.sandbox.directory import DirectoryDepartment, DirectoryUser
from nancalacc.sandbox.wps import sign

FULL = "/v7/ecisaccountsync/full/sync"
INCREMENT = "/v7/ecisaccountsync/increment/sync"
REQUEST = {"task_id": "20261122120000", "third_company_id": "sandbox", "collect_cost": 1500}


@pytest.mark.parametrize(
    "scheme, method, uri, body, expected",
    [
        (
            "KSO-1",
            "GET",
            "/v7/test?key=value",
            b"",
            "ce8df66877175e5198c8ea1362ffddf82e4941c6f25a4ca205a1ad09d0faaf03",
        ),
        (
            "KSO-1",
            "POST",
            "/v7/test",
            b'{"key":"value"}',
            "3c6ee93104280cc27c775700746c8715c71bcd12c9fcc9f3425c7f8889f6dbc5",
        ),
        (
            "WPS-4",
            "GET",
            "/v7/depts/root",
            b"",
            "9eb5c3fec34c1848aa7b0fa2309215b061dab9037496f646d72ad768c40e9a18",
        ),
        (
            "WPS-4",
            "POST",
            "/v7/test",
            b'{"key":"value"}',
            "1cf5004f4b4ca80c055f0af4f18d8121feb20ebbef4dd455b6255bf91d77aa01",
        ),
    ],
)
def test_signatures_are_those_of_the_published_vectors(scheme, method, uri, body, expected):
    assert (
        sign(
            scheme,
            secret="sk098765",
            method=method,
            uri=uri,
            content_type="application/json",
            date="Mon, 02 Jan 2006 15:04:05 GMT",
            body=body,
        )
        == expected
    )


@pytest.mark.parametrize(
    "change",
    [
        {"client_secret": "wrong"},
        {"client_id": "other"},
        {"grant_type": "password"},
        {"client_secret": ""},
    ],
)
async def test_a_token_needs_the_right_credentials(sandbox, session, change):
    form = {
        "grant_type": "client_credentials",
        "client_id": sandbox.options.client_id,
        "client_secret": sandbox.options.client_secret,
    }
    async with session.post(f"{sandbox.url}/openapi/oauth2/token", data=form | change) as response:
        answer = await response.json()

    assert response.status in {400, 401}
    assert isinstance(answer["code"], int)
    assert answer["code"] != 0


async def test_a_token_is_given_for_a_form_in_the_body_only(sandbox, session):
    form = {
        "grant_type": "client_credentials",
        "client_id": sandbox.options.client_id,
        "client_secret": sandbox.options.client_secret,
    }
    url = f"{sandbox.url}/openapi/oauth2/token"
    for call in (session.post(url, json=form), session.post(url, params=form), session.get(url, params=form)):
        async with call as response:
            assert response.status == 400


async def test_without_a_valid_bearer_token_every_call_is_refused(sandbox, session, wps):
    token = await wps.token()
    sandbox.wps.expire_tokens()
    for header in ({}, {"Authorization": f"Bearer {token}"}, {"Authorization": "Basic x"}):
        async with session.post(f"{sandbox.url}/openapi{FULL}", json=REQUEST, headers=header) as response:
            assert response.status == 401
            assert isinstance((await response.json())["code"], int)


@pytest.mark.parametrize(
    "kind, scheme, date_header, signature_header, prefix",
    [
        (Signature.KSO1, "KSO-1", "X-Kso-Date", "X-Kso-Authorization", "/openapi"),
        (Signature.WPS4, "WPS-4", "Wps-Docs-Date", "Wps-Docs-Authorization", "/openapi"),
        (Signature.WPS4, "WPS-4", "Wps-Docs-Date", "Wps-Docs-Authorization", "/graph"),
        (Signature.WPS4, "WPS-4", "Wps-Docs-Date", "Wps-Docs-Authorization", "/o/42"),
    ],
)
@pytest.mark.parametrize(
    "spoil, status",
    [
        ({}, 200),
        ({"secret": "wrong"}, 403),
        ({"uri": "/openapi/v7/users?status=active&page_size=5"}, 403),
        ({"content_type": "text/plain"}, 403),
        ({"minutes": 16}, 403),
        ({"minutes": -16}, 403),
        ({"minutes": 14}, 200),
    ],
)
async def test_the_signature_is_checked(
    sandbox, session, wps, kind, scheme, date_header, signature_header, prefix, spoil, status
):
    token = await wps.token()
    sandbox.wps.rules = replace(sandbox.wps.rules, signature=kind)
    uri = "/v7/users?status=active&page_size=5"
    moment = datetime.now(UTC) + timedelta(minutes=spoil.get("minutes", 0))
    date = format_datetime(moment, usegmt=True)
    signature = sign(
        scheme,
        secret=spoil.get("secret", sandbox.options.client_secret),
        method="GET",
        uri=spoil.get("uri", uri),
        content_type=spoil.get("content_type", "application/json"),
        date=date,
        body=b"",
    )
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        date_header: date,
        signature_header: f"{scheme} {sandbox.options.client_id}:{signature}",
    }
    async with session.get(f"{sandbox.url}{prefix}{uri}", headers=headers) as response:
        assert response.status == status


@pytest.mark.parametrize(
    "path, change, code",
    [
        (FULL, {}, "200"),
        (FULL, {"task_id": "2026112212000"}, "400"),
        (FULL, {"task_id": "20261322120000"}, "400"),
        (FULL, {"task_id": 20261122120000}, "400"),
        (FULL, {"collect_cost": 0}, "400"),
        (FULL, {"collect_cost": "1500"}, "400"),
        (FULL, {"collect_cost": None}, "400"),
        (FULL, {"third_company_id": ""}, "400"),
        (FULL, {"third_company_id": "other"}, "500"),
        (INCREMENT, {}, "200"),
        (INCREMENT, {"third_company_id": ""}, "400"),
        (INCREMENT, {"third_company_id": "other"}, "500"),
    ],
)
async def test_sync_calls_are_validated_with_string_codes(wps, path, change, code):
    status, answer = await wps("POST", path, json=REQUEST | change)

    assert (status, answer["code"]) == (200, code)


async def test_an_increment_during_a_run_is_refused_and_a_full_sync_queues(sandbox, wps):
    sandbox.consumer.set_rules(replace(sandbox.consumer.rules, paused=True))

    codes = [(await wps("POST", INCREMENT, json=REQUEST))[1]["code"] for _ in range(2)]
    queued = [(await wps("POST", FULL, json=REQUEST))[1]["code"] for _ in range(2)]

    assert codes == ["200", "500"]
    assert queued == ["200", "200"]
    assert [job.state for job in sandbox.consumer.jobs] == [-10, 10]
    sandbox.consumer.run_now()
    assert [job.state for job in sandbox.consumer.jobs] == [-10, 100]
    assert sandbox.consumer.idle()


async def test_accepted_is_not_done_when_full_syncs_are_switched_off(sandbox, wps):
    sandbox.consumer.set_rules(replace(sandbox.consumer.rules, full_sync_enabled=False))

    assert (await wps("POST", FULL, json=REQUEST))[1]["code"] == "200"
    assert sandbox.consumer.jobs == []


async def test_increments_need_a_schedule(sandbox, wps):
    sandbox.consumer.set_rules(replace(sandbox.consumer.rules, schedule_configured=False))

    assert (await wps("POST", INCREMENT, json=REQUEST))[1]["code"] == "500"


def fill(directory, *, users):
    directory.put_department(DirectoryDepartment(directory.new_id(), "1", "公司", "0"))
    directory.put_department(DirectoryDepartment(directory.new_id(), "100", "研发部", "1", 5))
    for number in range(users):
        directory.put_user(
            DirectoryUser(
                id=directory.new_id(),
                uid=f"u{number}",
                account=f"u{number}",
                nick_name=f"员工{number}",
                main="100",
                memberships={"100": number},
                employment_status="active" if number % 2 else "notactive",
            )
        )


async def test_reads_show_the_directory_page_by_page(sandbox, wps):
    fill(sandbox.directory, users=120)
    seen, token, pages = [], "", 0
    while True:
        query = [("status", "active"), ("status", "notactive"), ("page_size", "50"), ("with_total", "true")]
        _, answer = await wps("GET", "/v7/users", params=[*query, ("page_token", token)])
        seen += [item["ex_user_id"] for item in answer["data"]["items"]]
        token, pages = answer["data"]["next_page_token"], pages + 1
        if not token:
            break

    assert seen == ["", *(f"u{number}" for number in range(120))]
    assert answer["data"]["total"] == 121
    assert pages == 3


async def test_reads_of_departments_and_single_objects(sandbox, wps):
    fill(sandbox.directory, users=2)

    async def data(method, path, **arguments):
        return (await wps(method, path, **arguments))[1]["data"]

    root = await data("GET", "/v7/depts/root")
    children = await data("GET", f"/v7/depts/{root['id']}/children", params={"recursive": "true"})
    dept_id = children["items"][1]["id"]
    by_did = await data("POST", "/v7/depts/by_ex_dept_ids", json={"ex_dept_ids": ["100", "nothing"]})
    by_id = await data("POST", "/v7/depts/batch_read", json={"dept_ids": [dept_id]})
    members = await data("GET", f"/v7/depts/{dept_id}/members")
    by_uid = await data(
        "POST", "/v7/users/by_ex_user_ids", json={"ex_user_ids": ["u1"], "status": ["active"]}
    )
    user_id = by_uid["items"][0]["id"]
    user = await data("GET", f"/v7/users/{user_id}", params={"with_dept": "true"})
    places = await data("GET", f"/v7/users/{user_id}/depts")
    batch = {"user_ids": [user_id], "status": ["active"], "with_dept": True}

    assert root["ex_dept_id"] == "0"
    assert [item["ex_dept_id"] for item in children["items"]] == ["1", "100"]
    assert by_did == by_id == {"items": [children["items"][1]]}
    assert by_id["items"][0]["abs_path"] == "/公司/研发部"
    assert [item["ex_user_id"] for item in members["items"]] == ["u0", "u1"]
    assert user["depts"] == [{"abs_path": "/公司/研发部", "dept_id": dept_id, "name": "研发部"}]
    assert places["items"][0]["ex_dept_id"] == "100"
    assert (await data("POST", "/v7/users/batch_read", json=batch))["items"] == [user]


@pytest.mark.parametrize(
    "method, path, arguments, status",
    [
        ("GET", "/v7/users", {"params": {"page_size": "10"}}, 400),
        ("GET", "/v7/users", {"params": {"status": "nice"}}, 400),
        ("GET", "/v7/users", {"params": {"status": "active", "page_size": "51"}}, 400),
        ("GET", "/v7/users", {"params": {"status": "active", "page_token": "??"}}, 400),
        ("POST", "/v7/users/batch_read", {"json": {"user_ids": ["1"]}}, 400),
        ("POST", "/v7/users/by_ex_user_ids", {"json": {"ex_user_ids": ["1"]}}, 400),
        ("POST", "/v7/depts/by_ex_dept_ids", {"json": {"ex_dept_ids": ["1"] * 101}}, 400),
        ("GET", "/v7/users/999", {}, 404),
        ("GET", "/v7/depts/999/children", {}, 404),
        ("GET", "/v7/nothing", {}, 404),
        ("GET", "/v6/users", {}, 404),
        ("POST", "/v7/users/batch_delete", {"json": {"user_ids": ["1"]}}, 404),
    ],
)
async def test_wrong_reads_get_an_int_code(wps, method, path, arguments, status):
    got, answer = await wps(method, path, **arguments)

    assert got == status
    assert re.fullmatch(r"4\d{8}", str(answer["code"]))
