import json

import pytest

from nancalacc.config import DingTalkSettings, Signature, WpsSettings
from nancalacc.sandbox.organisation import organisation_of_size
from nancalacc.sandbox.server import running_sandbox


@pytest.fixture
def control(sandbox, session):
    async def call(method, path, body=None, *, status=200):
        async with session.request(method, f"{sandbox.url}/_sandbox{path}", json=body) as response:
            answer = await response.json()
            assert response.status == status, answer
            return answer

    return call


async def test_the_index_lists_what_there_is(control):
    assert "GET /_sandbox/compare" in (await control("GET", ""))["paths"]
    await control("GET", "/nothing", status=404)


async def test_faults_are_ordered_shown_and_cleared(sandbox, control, dingtalk):
    rules = [
        {"kind": "errcode", "path": "listsub", "code": "-1", "times": 1},
        {"kind": "drop", "path": "never"},
    ]
    await control("POST", "/faults", rules)

    assert (await dingtalk("topapi/v2/department/listsub"))["errcode"] == -1
    assert [fault["seen"] for fault in (await control("GET", "/faults"))["faults"]] == [1, 0]
    assert (await control("DELETE", "/faults"))["faults"] == []


@pytest.mark.parametrize(
    "method, path, body",
    [
        ("POST", "/faults", {"kind": "explode"}),
        ("POST", "/faults", {"kind": "drop", "pfad": "x"}),
        ("POST", "/faults", "drop"),
        ("PATCH", "/settings", {"dingtalk": {"calls_per_second": "many"}}),
        ("PATCH", "/settings", {"dingtalk": {"calls": 1}}),
        ("PATCH", "/settings", {"wps": {"signature": "md5"}}),
        ("PATCH", "/settings", {"other": {}}),
        ("POST", "/dingtalk/departments", {"order": 1}),
        ("POST", "/dingtalk/users", {"userid": "x"}),
        ("POST", "/dingtalk/users", {"userid": "u1", "name": "x", "placements": [{"dept_id": 1}]}),
        ("PATCH", "/dingtalk/departments/100", {"parent_id": 110}),
        ("DELETE", "/dingtalk/departments/100", None),
        ("PUT", "/dingtalk", {"people": "all"}),
        ("GET", "/compare?root_dept_id=x", None),
    ],
)
async def test_wrong_orders_are_refused_with_a_reason(control, method, path, body):
    assert (await control(method, path, body, status=400))["error"]


async def test_settings_change_only_what_is_named(sandbox, control):
    wanted = {
        "dingtalk": {"calls_per_second": 5, "omitted": ["mobile"], "authed_dept": [100]},
        "wps": {"signature": "wps4"},
        "consumer": {"thresholds": {"memberships": 1000}, "paused": True},
    }
    answer = await control("PATCH", "/settings", wanted)

    assert answer["dingtalk"]["omitted"] == ["mobile"]
    assert sandbox.dingtalk.rules.authed_dept == (100,)
    assert sandbox.dingtalk.rules.token_lifetime == 7200
    assert sandbox.wps.rules.signature is Signature.WPS4
    assert sandbox.consumer.rules.thresholds.memberships == 1000
    assert sandbox.consumer.rules.thresholds.users == 200
    assert await control("GET", "/settings") == answer


async def test_the_organisation_changes_by_requests(sandbox, control):
    await control("POST", "/dingtalk/departments", {"name": "新", "dept_id": 300, "parent_id": 200})
    await control("PATCH", "/dingtalk/departments/300", {"name": "新部", "order": 9, "managers": ["u1"]})
    await control("POST", "/dingtalk/users", {"userid": "x", "name": "X", "placements": [{"dept_id": 300}]})
    await control("PATCH", "/dingtalk/users/x", {"placements": [{"dept_id": 100, "order": 3}], "title": "T"})
    await control("DELETE", "/dingtalk/users/u5")
    await control("DELETE", "/dingtalk/departments/300")
    await control("DELETE", "/dingtalk/departments/300", status=404)

    answer = await control("GET", "/dingtalk")
    shown = {user["userid"]: user for user in answer["users"]}
    assert answer["counts"] == {"departments": 4, "users": 7, "memberships": 8}
    assert shown["x"]["placements"] == [{"dept_id": 100, "order": 3, "leader": False}]
    assert shown["x"]["title"] == "T"
    assert "u5" not in shown
    assert sandbox.organisation.user("x").title == "T"


async def test_phone_numbers_and_tokens_are_never_shown(control, dingtalk):
    token = await dingtalk.token()
    await dingtalk("topapi/v2/user/get", userid="u1")

    shown = json.dumps(
        [await control("GET", path) for path in ("/dingtalk", "/wps", "/calls?timestamps=1", "/settings")]
    )

    assert "1990000000" not in shown
    assert token not in shown
    assert '"has_mobile": true' in shown


async def test_calls_are_counted_by_path(control, dingtalk):
    await dingtalk("topapi/v2/user/get", userid="u1")
    await dingtalk("topapi/v2/user/get", userid="u2")

    answer = await control("GET", "/calls?timestamps=1")
    assert answer["calls"] == {"/gettoken": 2, "/topapi/v2/user/get": 2}
    assert len(answer["timestamps"]["/topapi/v2/user/get"]) == 2
    assert (await control("DELETE", "/calls"))["total"] == 0


async def test_compare_tells_what_wps_lacks(control):
    answer = await control("GET", "/compare")

    assert not answer["equal"]
    assert answer["differences"][0] == "department 1: missing in WPS"
    assert answer["counts"]["users_expected"] == 7
    await control("GET", "/compare?root_dept_id=999", status=404)


async def test_waiting_work_runs_on_request(sandbox, control, wps):
    await control("PATCH", "/settings", {"consumer": {"paused": True}})
    await wps("POST", "/v7/ecisaccountsync/increment/sync", json={"third_company_id": "sandbox"})

    assert not (await control("GET", "/wps?counts"))["idle"]
    answer = await control("POST", "/wps/run")
    assert answer["idle"]
    assert answer["runs"][0]["error"] == ""


async def test_reset_goes_back_to_the_start(sandbox, control, dingtalk):
    token = await dingtalk.token()
    sandbox.faults.add("drop")
    await control("PATCH", "/settings", {"dingtalk": {"calls_per_second": 1}})

    assert (await control("POST", "/reset", {"people": 20, "departments": 3}))["counts"]["users"] == 20
    assert sandbox.faults.in_force() == []
    assert sandbox.dingtalk.rules == sandbox.options.dingtalk
    assert await dingtalk.token() != token
    assert (await control("PUT", "/dingtalk", {}))["counts"]["users"] == 1250


async def test_expired_tokens_are_refused(control, dingtalk):
    token = await dingtalk.token()
    await control("POST", "/tokens/expire")

    assert await dingtalk.token() != token


def test_a_sandbox_in_a_thread_gives_working_connections():
    with running_sandbox(organisation=organisation_of_size(5, departments=2)) as sandbox:
        dingtalk = DingTalkSettings.of(sandbox.dingtalk_connection)
        wps = WpsSettings.of(sandbox.wps_connection)

        assert dingtalk.base_url == dingtalk.api_url == wps.base_url == sandbox.url
        assert len(sandbox.organisation.users) == 5
        assert not sandbox.compare().equal
