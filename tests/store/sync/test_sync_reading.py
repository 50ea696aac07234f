"""What is staged when the pages of DingTalk do not agree."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from nancalacc.clients.dingtalk import MemberPage
from nancalacc.config import AccountSource
from nancalacc.errors import IncompleteAnswerError, ObjectError, ObjectNotFoundError
from nancalacc.store.database import Database
from nancalacc.sync.mapping import Mapper
from nancalacc.sync.reading import Reading
from nancalacc.sync.settling import MOST_CONTRADICTIONS
from nancalacc.sync.staging import Fetch

FETCH = Fetch("saga", epoch=1, attempt=1)


class ScriptedDingTalk:
    """Departments 1 > 5, 7; pages and users as the test says."""

    def __init__(self, pages, users=None) -> None:
        self.pages, self.present = pages, users or {}
        self.calls: Counter[str] = Counter()
        self.throttled = 0
        self.parents = {1: None, 5: 1, 7: 1}

    async def departments(self, root, *, listed_again=None):
        for dept_id, parent in self.parents.items():
            yield {
                "dept_id": dept_id,
                "name": f"d{dept_id}",
                "order": 1,
                **({"parent_id": parent} if parent else {}),
            }

    async def members(self, dept_ids):
        for dept_id in dept_ids:
            pages = self.pages.get(dept_id, [[]])
            for number, page in enumerate(pages, start=1):
                yield MemberPage(dept_id, page, is_last=number == len(pages))

    async def user(self, userid):
        self.calls["user"] += 1
        found = self.present.get(userid)
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise ObjectNotFoundError("gone", code="60121")
        return {"userid": userid, **found}


class Context:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.saga = SimpleNamespace(transaction_id="saga")

    @contextmanager
    def transaction(self) -> Iterator:
        with self.database.transaction() as connection:
            yield connection

    def report(self, data) -> None:
        assert set(data) == {"departments", "users", "pages"}


@pytest.fixture
def read(database_url):
    def run(client, *, user_details=False):
        mapper = Mapper(
            root_dept_id=1, account_source=AccountSource.USERID, phone_salt="s", user_details=user_details
        )
        with Database(database_url) as database:
            reading = Reading(
                Context(database),
                client=client,
                mapper=mapper,
                fetch=FETCH,
                third_company_id="c",
                settings="",
            )
            asyncio.run(reading.read())
            with database.transaction() as connection:
                users = connection.execute(
                    text("SELECT uid, def_did, coalesce(rejected, '') FROM staged_users ORDER BY uid")
                )
                reading.users = [tuple(row) for row in users]
                places = connection.execute(
                    text("SELECT uid, did, main FROM staged_memberships ORDER BY uid, did")
                )
                reading.places = [tuple(row) for row in places]
                orders = connection.execute(
                    text("""
                        SELECT m.uid, m.did, m."order", m.leader, u.def_did_order
                        FROM staged_memberships m JOIN staged_users u USING (uid) ORDER BY m.uid, m.did
                    """)
                )
                reading.orders = [tuple(row) for row in orders]
        return reading

    return run


def item(uid, *dept_ids, **more):
    return {"userid": uid, "dept_id_list": list(dept_ids), "dept_order": 1, **more}


def test_people_are_staged_once_and_memberships_at_each_listing(read):
    reading = read(
        ScriptedDingTalk(
            {1: [[item("a", 1, 5)]], 5: [[item("a", 1, 5), item("b", 5, 7)]], 7: [[item("b", 5, 7)]]}
        )
    )
    assert reading.users == [("a", "5", ""), ("b", "5", "")]
    assert reading.places == [("a", "1", 0), ("a", "5", 1), ("b", "5", 1), ("b", "7", 0)]


def test_who_moved_while_the_pages_were_read_is_staged_as_he_is_now(read):
    client = ScriptedDingTalk({5: [[item("a", 5)]], 7: [[item("a", 7)]]}, users={"a": {"dept_id_list": [7]}})
    reading = read(client)
    assert reading.users == [("a", "7", "")]
    assert reading.places == [("a", "7", 1)]
    assert reading.findings.counts == {"moved_while_reading": 1}


def test_who_moved_away_from_a_department_read_later_is_not_lost(read):
    client = ScriptedDingTalk({7: [[item("a", 5, 7)]]}, users={"a": {"dept_id_list": [5, 7]}})
    assert read(client).places == [("a", "5", 1), ("a", "7", 0)]


def test_somebody_listed_twice_is_staged_once(read):
    client = ScriptedDingTalk({5: [[item("a", 5)], [item("a", 5)]]}, users={"a": {"dept_id_list": [5]}})
    assert read(client).users == [("a", "5", "")]


def test_who_left_while_the_pages_were_read_is_dropped_and_explained(read):
    reading = read(ScriptedDingTalk({5: [[item("a", 5, 7)]]}))
    assert (reading.users, reading.places) == ([], [])
    assert reading.findings.counts == {"left_while_reading": 1}


def test_who_is_in_no_department_of_the_snapshot_any_more_is_ignored(read):
    reading = read(ScriptedDingTalk({5: [[item("a", 5, 7)]]}, users={"a": {"dept_id_list": [99]}}))
    assert (reading.users, reading.places) == ([], [])
    assert reading.ignored["users"] == 1


def test_who_is_listed_but_says_to_be_elsewhere_only_is_read_again(read):
    reading = read(ScriptedDingTalk({1: [[item("a", 99)]]}, users={"a": {"dept_id_list": [99]}}))
    assert (reading.users, reading.places) == ([], [])
    assert reading.ignored["users"] == 1


def test_without_department_lists_the_listings_count(read):
    users = {"b": {}}
    client = ScriptedDingTalk({5: [[{"userid": "a"}, {"userid": "b"}]], 7: [[{"userid": "b"}]]}, users=users)
    reading = read(client)
    assert reading.users == [("a", "5", ""), ("b", "5", "")]
    assert reading.places == [("a", "5", 1), ("b", "5", 1), ("b", "7", 0)]


def test_departments_outside_are_ignored_and_counted(read):
    reading = read(ScriptedDingTalk({5: [[item("a", 99, 5, 98)]]}))
    assert reading.users == [("a", "5", "")]
    assert reading.ignored["memberships"] == 2


def test_records_without_userid_are_rejected_and_stop_nothing(read):
    reading = read(ScriptedDingTalk({5: [[{"name": "x", "dept_id_list": [5]}, item("a", 5)]]}))
    assert reading.users == [("", "5", "no_userid"), ("a", "5", "")]


def test_too_many_contradictions_are_an_incomplete_answer(read):
    client = ScriptedDingTalk({5: [[item(f"u{number}", 5, 7) for number in range(201)]]})
    with pytest.raises(IncompleteAnswerError, match="more than 200 people"):
        read(client)


class TestDetails:
    def test_who_moved_between_page_and_details_is_read_again(self, read):
        client = ScriptedDingTalk({5: [[item("a", 5)]]}, users={"a": {"dept_id_list": [7]}})
        reading = read(client, user_details=True)
        assert reading.places == [("a", "7", 1)]
        assert client.calls["user"] == 2

    def test_who_left_between_page_and_details_is_dropped(self, read):
        reading = read(
            ScriptedDingTalk({5: [[item("a", 5), item("b", 5)]]}, users={"b": {"dept_id_list": [5]}}),
            user_details=True,
        )
        assert reading.users == [("b", "5", "")]
        assert reading.findings.counts == {"left_while_reading": 1}

    def test_refused_details_leave_what_the_page_said(self, read):
        client = ScriptedDingTalk({5: [[item("a", 5)]]}, users={"a": ObjectError("no", code="60120")})
        reading = read(client, user_details=True)
        assert reading.users == [("a", "5", "")]
        assert reading.findings.counts == {"details_not_read": 1}


MANY = [f"u{number:03d}" for number in range(MOST_CONTRADICTIONS + 5)]


def places_of(*dids, main):
    return [(uid, did, int(did == main)) for uid in MANY for did in dids]


class TestAnyOrder:
    """DingTalk promises no order of `dept_id_list`: who is listed everywhere has not moved."""

    def test_the_persons_own_record_decides_on_the_main_department(self, read):
        pages = {dept_id: [[item(uid, 5, 7, leader=False) for uid in MANY]] for dept_id in (5, 7)}
        client = ScriptedDingTalk(pages, users={uid: {"dept_id_list": [7, 5]} for uid in MANY})
        reading = read(client, user_details=True)
        assert reading.users == [(uid, "7", "") for uid in MANY]
        assert reading.places == places_of("5", "7", main="7")
        assert {order for *_, order in reading.orders} == {1}
        assert client.calls["user"] == len(MANY)
        assert reading.findings.counts == {}

    @pytest.mark.parametrize("backwards", [False, True])
    def test_of_pages_that_differ_the_smallest_is_the_main_one(self, read, backwards):
        pages = {
            dept_id: [
                [item(uid, *sorted((5, 7), key=lambda each: (each == dept_id) is backwards)) for uid in MANY]
            ]
            for dept_id in (5, 7)
        }
        client = ScriptedDingTalk(pages)
        assert read(client).places == places_of("5", "7", main="5")
        assert client.calls["user"] == 0

    @pytest.mark.parametrize("user_details", [False, True])
    def test_where_nothing_says_the_departments_the_listings_do(self, read, user_details):
        pages = {
            dept_id: [[{"userid": uid, "dept_order": dept_id, "leader": False} for uid in MANY]]
            for dept_id in (1, 5, 7)
        }
        reading = read(ScriptedDingTalk(pages, users={uid: {} for uid in MANY}), user_details=user_details)
        assert reading.users == [(uid, "5", "") for uid in MANY]
        assert reading.places == places_of("1", "5", "7", main="5")
        assert {order for *_, order in reading.orders} == {5}

    def test_where_only_the_persons_record_says_them_it_decides(self, read):
        pages = {dept_id: [[{"userid": uid} for uid in MANY]] for dept_id in (5, 7)}
        client = ScriptedDingTalk(pages, users={uid: {"dept_id_list": [99, 7, 5]} for uid in MANY})
        reading = read(client, user_details=True)
        assert reading.places == places_of("5", "7", main="7")
        assert reading.ignored["memberships"] == len(MANY)

    def test_somebody_listed_twice_by_one_page_is_read_again_all_the_same(self, read):
        client = ScriptedDingTalk({5: [[{"userid": "a"}], [{"userid": "a"}]]}, users={"a": {}})
        reading = read(client)
        assert reading.places == [("a", "5", 1)]
        assert reading.findings.counts == {"moved_while_reading": 1}


def test_order_and_leader_that_the_pages_do_not_tell_are_those_of_the_persons_record(read):
    detail = {
        "dept_id_list": [7, 5],
        "dept_order_list": [{"dept_id": 5, "order": 50}, {"dept_id": 7, "order": 70}],
        "leader_in_dept": [{"dept_id": 5, "leader": False}, {"dept_id": 7, "leader": True}],
    }
    pages = {dept_id: [[{"userid": "a", "dept_id_list": [7, 5]}]] for dept_id in (5, 7)}
    reading = read(ScriptedDingTalk(pages, users={"a": detail}), user_details=True)
    assert reading.orders == [("a", "5", 50, False, 70), ("a", "7", 70, True, 70)]
