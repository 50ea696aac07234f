import json

import aiohttp
import pytest

from nancalacc.sandbox.faults import Faults

USERS = "topapi/v2/user/list"
PAGE = {"dept_id": 100, "cursor": 0, "size": 4}


async def raw(dingtalk, path, body):
    url = f"{dingtalk.sandbox.url}/{path}"
    token = await dingtalk.token()
    async with dingtalk.session.post(url, params={"access_token": token}, json=body) as response:
        return response.status, await response.text()


def test_a_rule_applies_to_its_path_and_body_after_some_calls_for_some_times():
    faults = Faults()
    faults.add("http", path="user/list", body={"dept_id": 5}, after=1, times=2)

    def hit(path, **values):
        return faults.take(path, values=values) is not None

    assert not hit("/topapi/v2/user/get", dept_id=5)
    assert not hit("/topapi/v2/user/list", dept_id=6)
    assert [hit("/topapi/v2/user/list", dept_id="5") for _ in range(4)] == [False, True, True, False]
    faults.clear()
    assert faults.in_force() == []


@pytest.mark.parametrize(
    "fault, status, expected",
    [
        ({"kind": "errcode", "code": "-1"}, 200, {"errcode": -1}),
        ({"kind": "sub_code", "code": "60011"}, 200, {"errcode": 88, "sub_code": "60011"}),
        ({"kind": "punish"}, 200, {"status": 1111, "punish": "deny"}),
        ({"kind": "qps"}, 403, {"code": "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"}),
        ({"kind": "vanish"}, 200, {"errcode": 60003}),
        ({"kind": "gateway", "code": "50000001", "status": 500}, 500, {"code": 50000001}),
        ({"kind": "busy"}, 200, {"code": "500", "msg": "已有同步任务在执行中"}),
    ],
)
async def test_answers_with_the_ordered_error(sandbox, dingtalk, fault, status, expected):
    sandbox.faults.add(**fault, path=USERS)

    got_status, text = await raw(dingtalk, USERS, PAGE)

    assert got_status == status
    assert expected.items() <= json.loads(text).items()
    assert json.loads((await raw(dingtalk, USERS, PAGE))[1])["errcode"] == 0


@pytest.mark.parametrize(
    "fault, expected",
    [
        ({"kind": "lose_page"}, {"has_more": False, "next_cursor": None, "length": 4}),
        ({"kind": "omit_has_more"}, {"has_more": None, "next_cursor": None, "length": 4}),
        ({"kind": "fewer"}, {"has_more": True, "next_cursor": 47, "length": 2}),
        ({"kind": "repeat_cursor"}, {"has_more": True, "next_cursor": 0, "length": 4}),
        ({"kind": "empty"}, {"has_more": False, "next_cursor": None, "length": 0}),
    ],
)
async def test_changes_a_page_so_that_it_looks_complete_or_endless(sandbox, dingtalk, fault, expected):
    sandbox.faults.add(**fault, path=USERS)

    page = (await dingtalk(USERS, **PAGE))["result"]

    assert {
        "has_more": page.get("has_more"),
        "next_cursor": page.get("next_cursor"),
        "length": len(page["list"]),
    } == expected


async def test_an_empty_root_has_no_departments(sandbox, dingtalk):
    sandbox.faults.add("empty", path="listsub")

    assert (await dingtalk("topapi/v2/department/listsub"))["result"] == []


async def test_html_truncated_and_plain_http_errors_are_no_json(sandbox, dingtalk):
    for fault in ({"kind": "html"}, {"kind": "truncate"}, {"kind": "http", "status": 502, "text": "bad"}):
        sandbox.faults.add(**fault, path=USERS)
        status, text = await raw(dingtalk, USERS, PAGE)
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
        assert status == fault.get("status", 200)


@pytest.mark.parametrize("kind", ["drop", "hang"])
async def test_a_dropped_connection_has_no_answer(sandbox, dingtalk, kind):
    sandbox.faults.add(kind, path=USERS, seconds=0.01)

    with pytest.raises(aiohttp.ClientConnectionError):
        await raw(dingtalk, USERS, PAGE)


@pytest.mark.parametrize("kind", ["drop", "http"])
@pytest.mark.parametrize("after_effect, jobs", [(False, 0), (True, 1)])
async def test_the_effect_may_happen_although_the_answer_is_lost(sandbox, wps, kind, after_effect, jobs):
    sandbox.faults.add(kind, path="full/sync", after_effect=after_effect)
    body = {"task_id": "20261122120000", "third_company_id": "sandbox", "collect_cost": 5}

    with pytest.raises((aiohttp.ClientConnectionError, aiohttp.ContentTypeError)):
        await wps("POST", "/v7/ecisaccountsync/full/sync", json=body)

    assert len(sandbox.consumer.jobs) == jobs


async def test_a_delayed_call_is_answered_truly(sandbox, dingtalk):
    sandbox.faults.add("delay", path=USERS, seconds=0.01)

    assert len((await dingtalk(USERS, **PAGE))["result"]["list"]) == 4


async def test_an_error_on_a_wps_path_has_a_string_code(sandbox, wps):
    sandbox.faults.add("errcode", path="increment/sync", code="505", text="busy")

    assert await wps("POST", "/v7/ecisaccountsync/increment/sync", json={"third_company_id": "sandbox"}) == (
        200,
        {"code": "505", "msg": "busy"},
    )
