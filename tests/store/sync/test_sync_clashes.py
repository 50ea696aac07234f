"""Mobile numbers and e-mail addresses of two people, on staged rows: who keeps them, who is held back."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text

from nancalacc.config import AccountSource
from nancalacc.store.database import Database
from nancalacc.sync import conflicts, resolve, staging
from nancalacc.sync.findings import Findings
from nancalacc.sync.mapping import Mapper
from nancalacc.sync.staging import Batch, Fetch

FETCH = Fetch("saga", epoch=1, attempt=1)
MAPPER = Mapper(root_dept_id=1, account_source=AccountSource.JOB_NUMBER, phone_salt="s", company="c")


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with Database(database_url) as database, database.transaction() as connection:
        yield connection


class Snapshot:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.findings = Findings()

    def people(self, **people):
        """Each a record: mobile, email, job_number."""
        batch = Batch()
        for uid, record in people.items():
            record = {"userid": uid, "job_number": uid, **record}
            batch.users.append(MAPPER.person(record, dept_ids=(5,), order=1))
            batch.memberships += MAPPER.memberships(record, dept_ids=(5,))
        staging.copy(self.connection, batch, fetch=FETCH)

    def known(self, uid, *, phone="", mobile="", email=""):
        row = MAPPER.person({"userid": uid, "mobile": mobile, "email": email}, dept_ids=(5,), order=1)
        self.connection.execute(
            text(
                "INSERT INTO known_users (third_company_id, uid, uid_key, account, account_key, nick_name,"
                " task_id, phone, phone_key, email, email_key)"
                " VALUES ('c', :uid, :uid, :uid, :uid, 'n', 't', :phone, :phone_key, :email, :email_key)"
            ),
            {
                "uid": uid,
                "phone": phone,
                "phone_key": row.phone_key,
                "email": email,
                "email_key": row.email_key,
            },
        )

    def resolve(self):
        resolve.resolve(
            self.connection,
            fetch=FETCH,
            third_company_id="c",
            account_source=AccountSource.JOB_NUMBER,
            managers_read=False,
            findings=self.findings,
        )

    def holders(self, column="phone"):
        rows = self.connection.execute(
            text(f"SELECT uid FROM staged_users WHERE {column} <> '' ORDER BY uid")
        )
        return list(rows.scalars())

    def conflicts(self):
        rows = self.connection.execute(
            text("SELECT kind, key, other FROM staged_conflicts ORDER BY kind, key")
        )
        return [tuple(row) for row in rows]


@pytest.fixture
def snapshot(connection: Connection) -> Snapshot:
    return Snapshot(connection)


def test_of_two_new_people_the_lowest_userid_keeps_the_number(snapshot):
    snapshot.people(b={"mobile": "199"}, a={"mobile": "199"}, c={"mobile": "198"})
    snapshot.resolve()
    assert snapshot.holders() == ["a", "c"]
    assert snapshot.conflicts() == [("mobile", "b", "a")]
    assert snapshot.findings.counts == {"mobile_not_distinct": 1}


def test_who_has_it_in_wps_keeps_it(snapshot):
    snapshot.known("b", phone="cipher", mobile="199")
    snapshot.people(a={"mobile": "199"}, b={"mobile": "199"})
    snapshot.resolve()
    assert snapshot.holders() == ["b"]


def test_who_wants_it_but_does_not_have_it_in_wps_does_not(snapshot):
    snapshot.known("b", phone="", mobile="199")
    snapshot.people(a={"mobile": "199"}, b={"mobile": "199"})
    snapshot.resolve()
    assert snapshot.holders() == ["a"]


@pytest.mark.parametrize(
    "one, other",
    [
        ({"mobile": "199 0000-0001"}, {"mobile": "19900000001"}),
        ({"mobile": "+86-19900000001"}, {"mobile": "19900000001", "state_code": "86"}),
        ({"mobile": "5551", "state_code": "1"}, {"mobile": "+1 5551"}),
    ],
)
def test_ways_to_write_a_number_do_not_tell_numbers_apart(snapshot, one, other):
    snapshot.people(a=one, b=other)
    snapshot.resolve()
    assert snapshot.holders() == ["a"]


def test_numbers_of_two_countries_differ(snapshot):
    snapshot.people(a={"mobile": "5551", "state_code": "1"}, b={"mobile": "5551"}, c={"mobile": ""}, d={})
    snapshot.resolve()
    assert snapshot.conflicts() == []


def test_addresses_are_compared_without_case(snapshot):
    snapshot.people(a={"email": "Z@example.com"}, b={"email": "z@Example.com"}, c={"email": ""}, d={})
    snapshot.resolve()
    assert snapshot.holders("email") == ["a"]
    assert snapshot.conflicts() == [("email", "b", "a")]


def test_a_number_that_was_not_read_this_time_still_is_whose_it_was(snapshot):
    snapshot.known("b", phone="cipher", mobile="199")
    snapshot.people(a={"mobile": "199"}, b={})
    snapshot.resolve()
    assert snapshot.holders() == []
    assert snapshot.conflicts() == [("mobile", "a", "b")]


def test_a_held_back_number_that_was_not_read_does_not_keep_it_from_who_could_have_it(snapshot):
    snapshot.known("a", phone="", mobile="199")
    snapshot.people(a={}, b={"mobile": "199"})
    snapshot.resolve()
    assert snapshot.holders() == ["b"]


def test_a_rejected_person_holds_nothing(snapshot):
    snapshot.people(ABC={"mobile": "199"}, abc={"mobile": "199"}, d={"mobile": "199"})
    snapshot.resolve()
    assert snapshot.conflicts() == [("mobile", "d", "ABC"), ("userid", "abc", "ABC")]


def test_accounts_name_who_keeps_them(snapshot):
    snapshot.people(
        a={"job_number": "7"}, b={"job_number": "7"}, c={"job_number": "7"}, d={"job_number": "8"}
    )
    snapshot.resolve()
    assert snapshot.conflicts() == [("account", "b", "a"), ("account", "c", "a")]


def test_an_account_stays_in_conflict_while_both_want_it(snapshot):
    snapshot.people(a={"job_number": "7"}, b={"job_number": "7"})
    snapshot.connection.execute(
        text(
            "INSERT INTO known_users"
            " (third_company_id, uid, uid_key, account, account_key, nick_name, task_id)"
            " VALUES ('c', 'b', 'b', '7-b', '7-b', 'n', 't')"
        )
    )
    snapshot.resolve()
    assert snapshot.conflicts() == [("account", "b", "a")]


def test_keys_tell_nothing_without_the_secret_and_differ_between_companies():
    record = {"userid": "a", "mobile": "19900000001", "email": "a@example.com"}
    rows = [
        Mapper(root_dept_id=1, account_source=AccountSource.USERID, phone_salt=salt, company=company).person(
            record, dept_ids=(5,), order=1
        )
        for salt, company in (("s", "c"), ("s", "d"), ("t", "c"))
    ]
    keys = [key for row in rows for key in (row.phone_key, row.email_key)]
    assert len(set(keys)) == 6
    assert all(len(key) == 32 and "199" not in key for key in keys if key)
    assert "1990" not in repr(rows)


class TestPresentConflicts:
    def rows(self, snapshot):
        rows = snapshot.connection.execute(
            text("SELECT kind, key, other, transaction_id FROM conflicts ORDER BY kind, key")
        )
        return [tuple(row) for row in rows]

    def stage(self, snapshot, *found, fetch=FETCH):
        wanted = [conflicts.Conflict(kind, key, other, "r") for kind, key, other in found]
        conflicts.add(snapshot.connection, wanted, fetch=fetch)

    def test_a_full_sync_replaces_all_and_keeps_since_when(self, snapshot):
        self.stage(snapshot, (conflicts.Kind.MOBILE, "a", "b"), (conflicts.Kind.NAME, "7", "8"))
        kept = conflicts.replace(snapshot.connection, fetch=FETCH, third_company_id="c")
        assert kept == {"new": 2, "released": 0}
        since = snapshot.connection.execute(text("SELECT since FROM conflicts WHERE key = 'a'")).scalar_one()
        other = Fetch("other", epoch=1, attempt=1)
        self.stage(snapshot, (conflicts.Kind.MOBILE, "a", "z"), (conflicts.Kind.EMAIL, "a", "b"), fetch=other)
        kept = conflicts.replace(snapshot.connection, fetch=other, third_company_id="c")
        assert kept == {"new": 1, "released": 1}
        assert self.rows(snapshot) == [("email", "a", "b", "other"), ("mobile", "a", "z", "saga")]
        again = snapshot.connection.execute(text("SELECT since FROM conflicts WHERE kind = 'mobile'"))
        assert again.scalar_one() == since

    def test_a_batch_replaces_those_of_what_it_handled(self, snapshot):
        self.stage(
            snapshot,
            (conflicts.Kind.MOBILE, "7", "b"),
            (conflicts.Kind.MOBILE, "x", "b"),
            (conflicts.Kind.NAME, "7", "8"),
        )
        conflicts.replace(snapshot.connection, fetch=FETCH, third_company_id="c")
        empty = Fetch("other", epoch=1, attempt=1)
        self.stage(snapshot, (conflicts.Kind.EMAIL, "y", "z"), fetch=empty)
        kept = conflicts.replace(
            snapshot.connection, fetch=empty, third_company_id="c", people={"7"}, departments=set()
        )
        assert kept == {"new": 0, "released": 1}
        assert [row[:2] for row in self.rows(snapshot)] == [("mobile", "x"), ("name", "7")]
