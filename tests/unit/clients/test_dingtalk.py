"""The DingTalk client against the sandbox, which is as strict as DingTalk."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import aiohttp
import pytest
from aiohttp.test_utils import unused_port
from yarl import URL

from nancalacc.clients.dingtalk import (
    DEPARTMENT_PATH,
    LISTSUB_PATH,
    SCOPES_PATH,
    USER_LIST_PATH,
    USER_PATH,
    DingTalkClient,
    Scopes,
)
from nancalacc.clients.dingtalk_errors import AddressBlockedError
from nancalacc.clients.dingtalk_session import TOKEN_PATH
from nancalacc.clients.rate_limit import RateLimiter
from nancalacc.clients.transport import AnswerLostError, NotSentError, Response
from nancalacc.config import DingTalkSettings
from nancalacc.errors import (
    CallRefusedError,
    ConfigurationError,
    IncompleteAnswerError,
    ObjectError,
    ObjectNotFoundError,
    RateLimitedError,
    TransientError,
)
from nancalacc.sandbox.dingtalk import DingTalkRules
from nancalacc.sandbox.organisation import Organisation, Placement, User
from nancalacc.sandbox.server import Sandbox, SandboxOptions


class AiohttpTransport:
    """Notes the tokens it sends, and how many calls are under way at the same time."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.under_way = 0
        self.most_under_way = 0
        self.tokens: set[str] = set()

    async def __call__(self, method, url, *, headers, body=None, timeout) -> Response:
        self.tokens |= set(URL(url).query.getall("access_token", []))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            async with self.session.request(
                method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
            ) as response:
                return Response(
                    status=response.status,
                    headers={name.lower(): value for name, value in response.headers.items()},
                    body=await response.read(),
                )
        except aiohttp.ClientConnectorError:
            raise NotSentError("no connection") from None
        except (aiohttp.ClientError, TimeoutError):
            raise AnswerLostError("no answer") from None
        finally:
            self.under_way -= 1


def organisation_of(*, children: int = 2, people: int = 7) -> Organisation:
    """Root with 100 > 110 > … and 200; everybody in 100, the first also in 200, the boss in the root."""
    organisation = Organisation(name="公司")
    organisation.add_department("研发部", dept_id=100, order=10)
    organisation.add_department("市场部", dept_id=200, order=20)
    parent = 100
    for number in range(children):
        parent = organisation.add_department(f"组{number}", dept_id=110 + number, parent_id=parent).dept_id
    for number in range(people):
        placements = [Placement(100, number)] + ([Placement(200, 1)] if number == 0 else [])
        organisation.add_user(User(userid=f"u{number}", name=f"员工{number}", placements=tuple(placements)))
    organisation.add_user(User(userid="boss", name="总", placements=(Placement(1),)))
    return organisation


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    options = SandboxOptions(dingtalk=DingTalkRules(calls_per_second=0))
    async with Sandbox(organisation=organisation_of(), options=options) as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield AiohttpTransport(session)


@pytest.fixture
def sleeps() -> list[float]:
    return []


@pytest.fixture
def settings(sandbox: Sandbox) -> DingTalkSettings:
    return DingTalkSettings.of(sandbox.dingtalk_connection)


@pytest.fixture
def client(settings, transport, sleeps) -> DingTalkClient:
    """A client that waits for nothing: asked to sleep it moves its clock on."""
    return hasty(settings, transport, sleeps)


def hasty(settings, transport, sleeps) -> DingTalkClient:
    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        await asyncio.sleep(0)

    return DingTalkClient(settings, transport=transport, clock=lambda: sum(sleeps), sleep=sleep)


async def listed(results) -> list:
    async with aclosing(results):
        return [result async for result in results]


def other_tasks() -> set:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


# What is read


async def test_the_scope_is_read(client, sandbox):
    sandbox.dingtalk.rules = replace(sandbox.dingtalk.rules, authed_dept=(100, 200), authed_user=("boss",))

    assert await client.scopes() == Scopes(
        departments=(100, 200), users=("boss",), user_fields=("mobile", "email", "job_number"), conditions=()
    )


async def test_one_level_of_departments_is_listed(client):
    assert [item["dept_id"] for item in await client.sub_departments(1)] == [100, 200]
    assert await client.sub_departments(200) == []


async def test_a_department_and_a_user_are_read_in_full(client):
    assert (await client.department(100))["order"] == 10
    assert "parent_id" not in await client.department(1)
    assert (await client.user("u0"))["dept_order_list"]


async def test_the_tree_is_read_at_any_depth_parents_first(sandbox, client):
    sandbox.dingtalk.organisation = organisation_of(children=40)

    records = await listed(client.departments(1))

    places = {record["dept_id"]: place for place, record in enumerate(records)}
    assert records[0]["dept_id"] == 1
    assert set(places) == set(sandbox.organisation.departments)
    assert all(places[record["parent_id"]] < places[record["dept_id"]] for record in records[1:])
    assert all("order" in record for record in records[1:])


async def test_a_subtree_starts_with_its_root(client):
    records = await listed(client.departments(100))

    assert [(record["dept_id"], record["parent_id"]) for record in records] == [
        (100, 1),
        (110, 100),
        (111, 110),
    ]


async def test_all_pages_of_all_departments_are_read(sandbox, client):
    sandbox.dingtalk.organisation = organisation_of(people=230)

    pages = await listed(client.members([1, 100, 200, 110]))

    found = {}
    for page in pages:
        found.setdefault(page.dept_id, []).extend(record["userid"] for record in page.records)
    assert found == {dept_id: sandbox.organisation.members(dept_id) for dept_id in (1, 100, 200, 110)}
    assert [page.is_last for page in pages if page.dept_id == 100] == [False, False, True]
    assert not any(page.went_back for page in pages)
    assert [len(page) for page in await listed(client.user_pages(100))] == [100, 100, 30]


async def test_members_of_departments_that_are_still_being_read(client):
    async def dept_ids():
        async with aclosing(client.departments(1)) as records:
            async for record in records:
                yield record["dept_id"]

    assert len(await listed(client.members(dept_ids()))) == 5


async def test_users_who_are_gone_are_left_out(client):
    records = await listed(client.users(["u0", "gone", "boss"]))

    assert {record["userid"] for record in records} == {"u0", "boss"}


async def test_many_calls_are_under_way_at_once_but_not_more_than_allowed(sandbox, settings, transport):
    sandbox.dingtalk.organisation = organisation_of(people=90)
    sandbox.faults.add("delay", path="user/get", seconds=0.02, times=None)
    client = DingTalkClient(settings, transport=transport, at_once=8)

    records = await listed(client.users(f"u{number}" for number in range(90)))

    assert len(records) == 90
    assert transport.most_under_way == 8


async def test_calls_are_counted_by_path(client):
    await client.scopes()
    await listed(client.departments(1))

    assert client.calls == {TOKEN_PATH: 1, SCOPES_PATH: 1, DEPARTMENT_PATH: 5, LISTSUB_PATH: 5}
    assert client.throttled == 0


# Tokens


async def test_fifty_calls_at_once_fetch_one_token(client):
    await asyncio.gather(*(client.user("u0") for _ in range(50)))

    assert client.calls[TOKEN_PATH] == 1


async def test_an_expired_token_is_renewed_once_for_fifty_calls_and_each_is_repeated(sandbox, client):
    await client.scopes()
    sandbox.dingtalk.expire_tokens()

    await asyncio.gather(*(client.user("u0") for _ in range(50)))

    assert client.calls[TOKEN_PATH] == 2
    assert client.calls[USER_PATH] <= 100


@pytest.mark.parametrize("code", ["40001", "40014", "42001"])
async def test_a_token_that_is_refused_again_is_left_to_a_later_try_of_the_step(sandbox, client, code):
    sandbox.faults.add("sub_code", path="user/get", code=code, times=None)

    with pytest.raises(TransientError, match="api_host"):
        await client.user("u0")
    assert client.calls == {TOKEN_PATH: 2, USER_PATH: 2}


async def test_wrong_credentials_name_the_connection_and_are_not_tried_again(settings, transport, sleeps):
    client = hasty(replace(settings, app_secret="wrong-one"), transport, sleeps)

    with pytest.raises(ConfigurationError) as caught:
        await client.scopes()

    assert "dingtalk_default" in str(caught.value)
    assert "login and password" in str(caught.value)
    assert "wrong-one" not in str(caught.value)
    assert client.calls == {TOKEN_PATH: 1}


# Errors that pass


@pytest.mark.parametrize(
    "kind, details",
    [
        ("errcode", {"code": "-1"}),
        ("errcode", {"code": "123456"}),
        ("sub_code", {"code": "400001"}),
        ("http", {"status": 502}),
        ("truncate", {}),
        ("drop", {}),
    ],
)
async def test_what_passes_is_tried_again_with_growing_pauses(sandbox, client, sleeps, kind, details):
    sandbox.faults.add(kind, path="user/get", times=4, **details)

    assert (await client.user("u0"))["userid"] == "u0"
    assert client.calls[USER_PATH] == 5
    assert all(0 <= pause <= 8 for pause in sleeps)


async def test_what_does_not_pass_fails_with_the_code(sandbox, client):
    sandbox.faults.add("errcode", path="user/get", code="123456", times=None)

    with pytest.raises(TransientError, match="123456"):
        await client.user("u0")
    assert client.calls[USER_PATH] == 5


@pytest.mark.parametrize("kind, code", [("sub_code", "90018"), ("sub_code", "90002"), ("qps", "")])
async def test_a_throttled_call_is_repeated_after_a_pause_of_its_path(sandbox, client, sleeps, kind, code):
    sandbox.faults.add(kind, path="user/get", code=code, times=6)

    assert (await client.user("u0"))["userid"] == "u0"
    assert client.throttled == 6
    assert sum(sleeps) >= 6


async def test_throttling_that_does_not_end_fails(sandbox, client):
    sandbox.faults.add("sub_code", path="user/get", code="90018", times=None)

    with pytest.raises(RateLimitedError):
        await client.user("u0")
    assert client.throttled == 12


@pytest.mark.parametrize("kind", ["html", "punish"])
async def test_a_blocked_address_stops_all_paths_at_once(sandbox, client, kind):
    sandbox.faults.add(kind, path="user/get", times=None)

    with pytest.raises(AddressBlockedError) as caught:
        await client.user("u0")
    with pytest.raises(RateLimitedError):
        await client.scopes()

    assert caught.value.retry_after == 300
    assert client.calls == {TOKEN_PATH: 1, USER_PATH: 1}


async def test_an_unreachable_host_is_tried_a_few_times(settings, transport, sleeps):
    url = f"http://127.0.0.1:{unused_port()}"
    client = hasty(replace(settings, base_url=url, api_url=url), transport, sleeps)

    with pytest.raises(NotSentError):
        await client.scopes()
    assert client.calls == {TOKEN_PATH: 5}


async def test_neither_the_log_nor_an_error_holds_a_token(sandbox, client, transport, caplog):
    caplog.set_level(logging.DEBUG, logger="nancalacc")
    sandbox.faults.add("errcode", path="user/get", code="-1", times=None)

    with pytest.raises(TransientError) as caught:
        await client.user("u0")

    token = transport.tokens.pop()
    assert token
    assert "next in" in caplog.text
    assert token not in caplog.text
    assert token not in str(caught.value)


# Errors that stay


@pytest.mark.parametrize(
    "code, kind",
    [
        ("60121", ObjectNotFoundError),
        ("60111", ObjectNotFoundError),
        ("33012", ObjectError),
        ("40003", ObjectError),
        ("50002", ObjectError),
        ("60120", ObjectError),
        ("60011", ConfigurationError),
        ("90020", CallRefusedError),
    ],
)
async def test_what_stays_is_not_tried_again(sandbox, client, code, kind):
    sandbox.faults.add("errcode", path="user/get", code=code, times=None)

    with pytest.raises(kind) as caught:
        await client.user("u0")

    assert type(caught.value) is kind
    assert client.calls[USER_PATH] == 1


# Answers that are not whole


async def test_a_cursor_that_repeats_is_named(sandbox, client):
    sandbox.dingtalk.organisation = organisation_of(people=230)
    sandbox.faults.add("repeat_cursor", path="user/list", after=1, times=None)

    with pytest.raises(IncompleteAnswerError, match=r"department 100, cursor 1007.*1007 again"):
        await listed(client.members([100]))


class Scripted:
    """A transport that gives a token, and to every other call what `answer` makes of path and body."""

    def __init__(self, answer) -> None:
        self.answer = answer

    async def __call__(self, method, url, *, headers, body=None, timeout) -> Response:
        path = URL(url).path.lstrip("/")
        if path == TOKEN_PATH:
            payload = {"accessToken": "t", "expireIn": "7200"}
        else:
            payload = {"errcode": 0} | self.answer(path, json.loads(body or b"{}"))
        return Response(status=200, headers={}, body=json.dumps(payload).encode())


@pytest.fixture
def scripted(settings, sleeps):
    return lambda answer: hasty(settings, Scripted(answer), sleeps)


@pytest.mark.parametrize(
    "result, message",
    [
        ({"has_more": True, "next_cursor": 5, "list": []}, "empty"),
        ({"has_more": True, "list": [{}]}, "next_cursor"),
        ({"has_more": True, "next_cursor": 0, "list": [{}]}, "again"),
        ({"has_more": True, "next_cursor": "x", "list": [{}]}, "next_cursor"),
        ({"has_more": True, "next_cursor": True, "list": [{}]}, "next_cursor"),
        ({"list": [{}]}, "has_more"),
        ({"has_more": False}, "list"),
        ({"has_more": False, "list": {}}, "list"),
        ({"has_more": False, "list": ["u1"]}, "list"),
        ([], "result"),
        (None, "result"),
    ],
)
async def test_a_page_that_is_not_whole(scripted, result, message):
    client = scripted(lambda path, body: {"result": result})

    with pytest.raises(IncompleteAnswerError, match=message) as caught:
        await listed(client.user_pages(7))
    assert USER_LIST_PATH in str(caught.value)
    assert "department 7" in str(caught.value)


async def test_null_is_an_empty_list_of_people_or_departments(scripted):
    client = scripted(lambda path, body: {"result": {"has_more": False, "list": None}})
    assert await listed(client.members([1])) == [(1, [], True, False)]
    assert await scripted(lambda path, body: {"result": None}).sub_departments(1) == []


@pytest.mark.parametrize("nothing", [None, "", {}])
async def test_what_the_scope_tells_besides_need_not_be_there(scripted, nothing):
    answer = {
        "auth_org_scopes": {"authed_dept": [1], "authed_user": nothing},
        "auth_user_field": nothing,
        "condition_field": nothing,
    }
    scopes = await scripted(lambda path, body: answer).scopes()
    assert scopes == Scopes(departments=(1,), users=(), user_fields=(), conditions=())


async def test_records_without_a_userid_are_passed_on(scripted):
    client = scripted(lambda path, body: {"result": {"has_more": "false", "list": [{"name": "甲"}]}})

    assert await listed(client.members([1])) == [(1, [{"name": "甲"}], True, False)]


async def test_a_cursor_that_goes_back_without_repeating_is_told(scripted):
    cursors = {0: 50, 50: 20}

    def answer(path, body):
        following = cursors.get(body["cursor"])
        return {
            "result": {"has_more": following is not None, "next_cursor": following, "list": [{"userid": "a"}]}
        }

    pages = await listed(scripted(answer).members([1]))

    assert [(page.is_last, page.went_back) for page in pages] == [
        (False, False),
        (False, False),
        (True, True),
    ]


@pytest.mark.parametrize("call", ["sub_departments", "department", "scopes"])
@pytest.mark.parametrize("answer", [{}, {"result": "text"}, {"result": [1]}, {"result": [{}]}])
async def test_results_of_another_shape(scripted, call, answer):
    client = scripted(lambda path, body: answer)

    with pytest.raises(IncompleteAnswerError):
        await getattr(client, call)(*([] if call == "scopes" else [1]))


async def test_the_record_of_somebody_else_is_refused(scripted):
    client = scripted(lambda path, body: {"result": {"userid": "u2", "dept_id": 2}})

    with pytest.raises(IncompleteAnswerError, match="u2"):
        await client.user("u1")
    with pytest.raises(IncompleteAnswerError, match="about department 2"):
        await client.department(1)


def tree(children: dict[int, list[int]]):
    """Answers of a tree whose ids are texts; a department that nobody defined does not exist."""

    def answer(path, body):
        dept_id = int(body["dept_id"])
        if dept_id not in children:
            return {"errcode": 60003}
        if path == LISTSUB_PATH:
            return {"result": [{"dept_id": str(child), "parent_id": dept_id} for child in children[dept_id]]}
        return {"result": {"dept_id": str(dept_id), "name": "x"}}

    return answer


async def test_ids_may_be_texts(scripted):
    records = await listed(scripted(tree({1: [2], 2: []})).departments(1))

    assert [(record["dept_id"], record.get("parent_id")) for record in records] == [(1, None), (2, 1)]


async def test_a_department_listed_twice_by_the_same_parent_is_read_once(scripted):
    records = await listed(scripted(tree({1: [2, 2], 2: []})).departments(1))

    assert [record["dept_id"] for record in records] == [1, 2]


@pytest.mark.parametrize(
    "children, message",
    [
        ({1: [2, 3], 2: [3], 3: []}, "department 3"),
        ({1: [2], 2: [3], 3: [2]}, "department 2"),
        ({1: [2], 2: [1]}, "as the root"),
        ({1: [1]}, "as the root"),
        ({1: [2, 3], 2: []}, "Department 3 was removed"),
    ],
)
async def test_a_tree_that_contradicts_itself(scripted, children, message):
    with pytest.raises(IncompleteAnswerError, match=message):
        await listed(scripted(tree(children)).departments(1))


async def test_a_department_listed_by_two_parents_is_read_once_and_told(scripted):
    again = []
    client = scripted(tree({1: [2, 3], 2: [3, 1], 3: [2]}))

    records = await listed(client.departments(1, listed_again=lambda *each: again.append(each)))

    assert sorted(record["dept_id"] for record in records) == [1, 2, 3]
    assert sorted(again) == [(1, 2), (2, 3), (3, 2)]


async def test_a_root_that_does_not_exist_is_a_matter_of_configuration(client):
    with pytest.raises(ConfigurationError, match=r"999.*root_dept_id"):
        await listed(client.departments(999))


async def test_a_department_that_goes_away_between_listing_and_reading_its_members(client):
    with pytest.raises(IncompleteAnswerError, match="Department 999 was removed"):
        await listed(client.members([1, 999]))


# Ends


async def test_a_failure_cancels_what_is_under_way(sandbox, client):
    sandbox.faults.add("delay", path="user/get", seconds=4, times=None, body={"userid": "u1"})
    sandbox.faults.add("errcode", path="user/get", code="60011", body={"userid": "u2"})
    before = other_tasks()

    async with asyncio.timeout(3):
        with pytest.raises(ConfigurationError):
            await listed(client.users(["u1", "u2", "u3"]))

    assert other_tasks() - before <= server_tasks()


def server_tasks() -> set:
    """The tasks of the sandbox in this loop, which serve open connections."""
    return {task for task in other_tasks() if "RequestHandler" in repr(task)}


@pytest.mark.parametrize("stop", ["cancelled", "left early"])
async def test_nothing_keeps_running_when_the_reader_stops(sandbox, client, stop):
    sandbox.faults.add("delay", path="user/list", after=1, seconds=4, times=None)
    before = other_tasks()

    async def dept_ids():
        async with aclosing(client.departments(1)) as records:
            async for record in records:
                yield record["dept_id"]

    async def read() -> None:
        async with aclosing(client.members(dept_ids())) as pages:
            async for _ in pages:
                if stop == "left early":
                    break

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.3)
    reading.cancel()
    async with asyncio.timeout(2):
        await asyncio.gather(reading, return_exceptions=True)

    assert other_tasks() - before <= server_tasks()


async def test_a_caller_without_a_limit_of_its_own_loses_nothing_to_a_strict_server(
    sandbox, settings, transport
):
    sandbox.dingtalk.rules = replace(sandbox.dingtalk.rules, calls_per_second=40)
    sandbox.dingtalk.organisation = organisation_of(people=100)
    client = DingTalkClient(settings, transport=transport, limiter=RateLimiter(0))

    records = await listed(client.users(f"u{number}" for number in range(100)))

    assert {record["userid"] for record in records} == {f"u{number}" for number in range(100)}
    assert client.throttled > 0
