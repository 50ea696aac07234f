from dataclasses import replace

import pytest

from nancalacc.sandbox.dingtalk import TOKEN_HEADER, DingTalkRules
from nancalacc.sandbox.organisation import demo_organisation

LISTSUB = "topapi/v2/department/listsub"
LISTSUBID = "topapi/v2/department/listsubid"
DEPARTMENT = "topapi/v2/department/get"
USERS = "topapi/v2/user/list"
USER = "topapi/v2/user/get"


async def test_listsub_gives_one_level_without_order(dingtalk):
    answer = await dingtalk(LISTSUB)

    assert [item["dept_id"] for item in answer["result"]] == [100, 200]
    assert set(answer["result"][0]) == {"dept_id", "name", "parent_id", "create_dept_group", "auto_add_user"}
    assert (await dingtalk(LISTSUBID, dept_id=100))["result"] == {"dept_id_list": [110]}


async def test_the_root_has_no_parent_and_departments_have_an_order(dingtalk):
    assert "parent_id" not in (await dingtalk(DEPARTMENT, dept_id=1))["result"]
    assert (await dingtalk(DEPARTMENT, dept_id=110))["result"]["order"] == 5_000_000_000


async def test_user_list_lacks_what_only_user_get_has(dingtalk):
    listed = (await dingtalk(USERS, dept_id=100, cursor=0, size=100))["result"]["list"][1]
    full = (await dingtalk(USER, userid="u1"))["result"]

    only_full = {"dept_order_list", "leader_in_dept", "manager_userid", "senior", "real_authed", "role_list"}
    assert not only_full & set(listed)
    assert only_full <= set(full)
    assert listed["dept_order"] == 1
    assert full["dept_order_list"] == [{"dept_id": 100, "order": 1}]


@pytest.mark.parametrize(
    "name, size", [("空部门", 0), ("百人部", 100), ("二百人部", 200), ("二百三十人部", 230)]
)
async def test_pages_end_exactly_with_the_last_member(sandbox, dingtalk, name, size):
    organisation = sandbox.dingtalk.organisation = demo_organisation()
    dept_id = next(found.dept_id for found in organisation.departments.values() if found.name == name)
    seen, cursor, more = [], 0, True
    while more:
        page = (await dingtalk(USERS, dept_id=dept_id, cursor=cursor, size=100))["result"]
        seen += [item["userid"] for item in page["list"]]
        more, cursor = page["has_more"], page.get("next_cursor")

    assert seen == organisation.members(dept_id)
    assert len(seen) == size
    assert cursor is None


@pytest.mark.parametrize(
    "path, body, errcode",
    [
        (USERS, {"dept_id": 100, "cursor": 0, "size": 101}, 40035),
        (USERS, {"dept_id": 100, "cursor": 0, "size": 0}, 40035),
        (USERS, {"dept_id": 100, "cursor": 0, "size": "100"}, 40035),
        (USERS, {"dept_id": 100, "size": 100}, 40035),
        (USERS, {"dept_id": 100, "cursor": 2, "size": 2}, 40035),
        (USERS, {"dept_id": 100, "cursor": -1, "size": 2}, 40035),
        (USERS, {"dept_id": "100", "cursor": 0, "size": 2}, 40035),
        (USERS, {"dept_id": 100, "cursor": 0, "size": 2, "order_field": "name"}, 40035),
        (USERS, {"dept_id": 100, "cursor": 0, "size": 2, "contain_access_limit": "no"}, 40035),
        (USERS, {"dept_id": 999, "cursor": 0, "size": 2}, 60003),
        (LISTSUB, {"dept_id": 999}, 60003),
        (LISTSUB, {"dept_id": True}, 40035),
        (LISTSUB, {"language": "fr"}, 40035),
        (LISTSUBID, {}, 40035),
        (DEPARTMENT, {}, 40035),
        (DEPARTMENT, {"dept_id": 999}, 60003),
        (USER, {}, 40035),
        (USER, {"userid": "nobody"}, 60121),
        ("topapi/user/getbyunionid", {"unionid": "nobody"}, 60121),
        ("topapi/user/getbyunionid", {}, 400002),
        ("topapi/v2/user/nothing", {}, 22),
        ("v2/user/list", {}, 404),
    ],
)
async def test_wrong_requests_get_the_code_of_the_contract(dingtalk, path, body, errcode):
    assert (await dingtalk(path, **body))["errcode"] == errcode


async def test_a_wrong_method_or_a_broken_body_is_a_bad_parameter(sandbox, session, dingtalk):
    query = {"access_token": await dingtalk.token()}
    url = f"{sandbox.url}/{LISTSUB}"
    for call in (session.get(url, params=query), session.post(url, params=query, data=b'{"dept_id":')):
        async with call as response:
            assert (await response.json())["errcode"] == 40035


@pytest.mark.parametrize(
    "query, headers, sub_code",
    [
        ({}, {}, "40000"),
        ({}, {TOKEN_HEADER: "{valid}"}, "40000"),
        ({"access_token": "made-up"}, {}, "40014"),
    ],
)
async def test_the_old_family_takes_its_token_from_the_query_only(
    sandbox, session, dingtalk, query, headers, sub_code
):
    valid = await dingtalk.token()
    headers = {name: value.replace("{valid}", valid) for name, value in headers.items()}
    async with session.post(f"{sandbox.url}/{LISTSUB}", params=query, headers=headers, json={}) as response:
        answer = await response.json()

    assert (response.status, answer["errcode"], answer["sub_code"]) == (200, 88, sub_code)
    assert f"[subcode={sub_code}," in answer["errmsg"]


async def test_the_new_family_takes_its_token_from_the_header_only(sandbox, session, dingtalk):
    url, token = f"{sandbox.url}/v1.0/contact/anything", await dingtalk.token()
    seen = []
    for query, headers in [
        ({"access_token": token}, {}),
        ({}, {"Authorization": f"Bearer {token}"}),
        ({}, {TOKEN_HEADER: "made-up"}),
        ({}, {TOKEN_HEADER: token}),
    ]:
        async with session.get(url, params=query, headers=headers) as response:
            seen.append((response.status, (await response.json())["code"]))

    missing = (400, "AuthenticationFailed.MissingParameter")
    assert seen == [missing, missing, (400, "InvalidAuthentication"), (404, "InvalidAction.NotFound")]


async def test_both_families_give_the_same_token_until_it_expires(sandbox, session, dingtalk):
    credentials = {"appKey": sandbox.options.app_key, "appSecret": sandbox.options.app_secret}
    async with session.post(f"{sandbox.url}/v1.0/oauth2/accessToken", json=credentials) as response:
        first = (await response.json())["accessToken"]

    assert await dingtalk.token() == first
    sandbox.dingtalk.expire_tokens()
    async with session.post(f"{sandbox.url}/{LISTSUB}", params={"access_token": first}, json={}) as response:
        assert (await response.json())["sub_code"] == "42001"
    assert await dingtalk.token() != first


async def test_wrong_credentials_are_refused_by_both_families(sandbox, session):
    wrong = {"appKey": "other", "appSecret": "wrong"}
    async with session.post(f"{sandbox.url}/v1.0/oauth2/accessToken", json=wrong) as response:
        assert (response.status, (await response.json())["code"]) == (400, "invalidClientIdOrSecret")
    for query, errcode in [({"appkey": "other", "appsecret": "wrong"}, 40089), ({"appkey": "other"}, 40035)]:
        async with session.get(f"{sandbox.url}/gettoken", params=query) as response:
            assert (await response.json())["errcode"] == errcode


async def test_the_limit_counts_admitted_calls_of_each_api_in_a_sliding_second(sandbox, session, dingtalk):
    now = 100.0
    sandbox.dingtalk._clock = lambda: now
    sandbox.dingtalk.rules = DingTalkRules(calls_per_second=2)
    query = {"access_token": await dingtalk.token()}

    async def call(path):
        async with session.post(f"{sandbox.url}/{path}", params=query, json={"dept_id": 1}) as response:
            return (await response.json()).get("sub_code", "ok")

    assert [await call(LISTSUB) for _ in range(4)] == ["ok", "ok", "90018", "90018"]
    assert await call(DEPARTMENT) == "ok"
    now += 1.01
    assert await call(LISTSUB) == "ok"


async def test_objects_outside_the_scope_are_refused_or_hidden(sandbox, session, dingtalk):
    sandbox.dingtalk.rules = replace(sandbox.dingtalk.rules, authed_dept=(100,), authed_user=("boss",))

    assert [item["dept_id"] for item in (await dingtalk(LISTSUB))["result"]] == [100]
    assert (await dingtalk(DEPARTMENT, dept_id=200))["errcode"] == 50004
    assert (await dingtalk(DEPARTMENT, dept_id=110))["errcode"] == 0
    assert (await dingtalk(USERS, dept_id=200, cursor=0, size=10))["errcode"] == 50004
    assert (await dingtalk(USER, userid="boss"))["errcode"] == 0
    sandbox.organisation.modify_user("u1", placements=sandbox.organisation.user("boss").placements)
    assert (await dingtalk(USER, userid="u1"))["errcode"] == 50002
    query = {"access_token": await dingtalk.token()}
    async with session.get(f"{sandbox.url}/auth/scopes", params=query) as response:
        assert (await response.json())["auth_org_scopes"] == {"authed_dept": [100], "authed_user": ["boss"]}


async def test_without_the_permission_fields_are_absent_not_empty(sandbox, dingtalk):
    sandbox.dingtalk.rules = replace(sandbox.dingtalk.rules, omitted=frozenset({"mobile", "manager_userid"}))

    listed = (await dingtalk(USERS, dept_id=100, cursor=0, size=1))["result"]["list"][0]
    full = (await dingtalk(USER, userid="u1"))["result"]

    assert not {"mobile", "manager_userid"} & (set(listed) | set(full))
    assert full["email"] == "u1@example.com"


async def test_small_lists_of_ids_and_names(dingtalk):
    assert (await dingtalk("topapi/user/listid", dept_id=200))["result"] == {"userid_list": ["u0"]}
    page = (await dingtalk("topapi/user/listsimple", dept_id=200, cursor=0, size=5))["result"]
    assert page == {"has_more": False, "list": [{"userid": "u0", "name": "员工0"}]}
    unionid = (await dingtalk(USER, userid="u3"))["result"]["unionid"]
    assert (await dingtalk("topapi/user/getbyunionid", unionid=unionid))["result"] == {
        "contact_type": 0,
        "userid": "u3",
    }
