"""Rules that need the whole snapshot, on staged rows."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text

from nancalacc.config import AccountSource
from nancalacc.store.database import Database
from nancalacc.sync import known, resolve, staging
from nancalacc.sync.findings import Findings
from nancalacc.sync.mapping import DepartmentRow, MembershipRow, PersonRow, fold
from nancalacc.sync.staging import Batch, Fetch

FETCH = Fetch("saga", epoch=1, attempt=1)


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with Database(database_url) as database, database.transaction() as connection:
        yield connection


class Snapshot:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.findings = Findings()

    def people(self, *rows, fetch=FETCH):
        batch = Batch()
        for row in rows:
            values = {"def_did": "5", "departments": 1, **row}
            uid = values.pop("uid")
            values.setdefault("account", uid)
            account = values["account"]
            batch.users.append(
                PersonRow(uid, fold(uid), account_key=None if account is None else fold(account), **values)
            )
            batch.memberships.append(MembershipRow(uid, "5", order=1, main=True, leader=None))
        staging.copy(self.connection, batch, fetch=fetch)

    def departments(self, *rows):
        batch = Batch()
        for did, pid, name in rows:
            batch.departments.append(DepartmentRow(did, pid, name, name and fold(name), order=0))
        staging.copy(self.connection, batch, fetch=FETCH)

    def known_user(self, uid, account, **columns):
        values = {"leader": None, **columns}
        self.connection.execute(
            text(
                "INSERT INTO known_users (third_company_id, uid, uid_key, account, account_key,"
                " nick_name, task_id, leader)"
                " VALUES ('c', :uid, :uid_key, :account, :account_key, 'n', 't', :leader)"
            ),
            {"uid": uid, "uid_key": fold(uid), "account": account, "account_key": fold(account), **values},
        )

    def resolve(self, source=AccountSource.USERID, *, managers_read=False):
        resolve.resolve(
            self.connection,
            fetch=FETCH,
            third_company_id="c",
            account_source=source,
            managers_read=managers_read,
            findings=self.findings,
        )

    def column(self, table, key, column):
        rows = self.connection.execute(text(f"SELECT {key}, {column} FROM {table} WHERE rejected IS NULL"))
        return {row[0]: row[1] for row in rows}

    @property
    def accounts(self):
        return self.column("staged_users", "uid", "account")

    @property
    def names(self):
        return self.column("staged_departments", "did", "name")


@pytest.fixture
def snapshot(connection: Connection) -> Snapshot:
    return Snapshot(connection)


class TestUserids:
    def test_of_equal_ones_the_first_stays_and_the_others_are_rejected_with_their_memberships(self, snapshot):
        snapshot.people({"uid": "abc"}, {"uid": "ABC"}, {"uid": "Äbc"}, {"uid": "other"})
        snapshot.resolve()
        assert set(snapshot.accounts) == {"ABC", "other"}
        assert staging.count(snapshot.connection, fetch=FETCH).as_data() == {
            "departments": 0,
            "users": 2,
            "memberships": 2,
        }
        rejected = resolve.rejected_people(snapshot.connection, fetch=FETCH, limit=10)
        assert [uid for uid, _ in rejected] == ["abc", "Äbc"]
        assert "ABC" in rejected[0][1]
        assert resolve.rejections_by_reason(snapshot.connection, fetch=FETCH) == {"userid_not_distinct": 2}

    def test_who_is_known_stays(self, snapshot):
        snapshot.known_user("abc", "abc")
        snapshot.people({"uid": "abc"}, {"uid": "ABC"})
        snapshot.resolve()
        assert set(snapshot.accounts) == {"abc"}

    def test_another_fetch_does_not_count(self, snapshot):
        snapshot.people({"uid": "abc"})
        snapshot.people({"uid": "ABC"}, fetch=Fetch("saga", epoch=1, attempt=2))
        snapshot.resolve()
        assert set(snapshot.accounts) == {"abc", "ABC"}


class TestNames:
    def test_equal_siblings_are_told_apart_and_the_lowest_id_keeps_the_name(self, snapshot):
        snapshot.departments(
            ("10", "1", "市场部"),
            ("9", "1", "市场部"),
            ("11", "9", "市场部"),
            ("12", "1", "A"),
            ("13", "1", "ａ"),
        )
        snapshot.resolve()
        assert snapshot.names == {
            "9": "市场部",
            "10": "市场部 (10)",
            "11": "市场部",
            "12": "A",
            "13": "ａ (13)",
        }
        assert snapshot.findings.counts == {"name_not_distinct": 2}

    def test_a_new_name_that_is_taken_gets_another_suffix(self, snapshot):
        snapshot.departments(("2", "1", "A"), ("3", "1", "A"), ("4", "1", "A (3)"))
        snapshot.resolve()
        assert snapshot.names == {"2": "A", "3": "A (3)", "4": "A (3) (4)"}

    def test_long_names_stay_within_the_column(self, snapshot):
        snapshot.departments(("2", "1", "x" * 255), ("3", "1", "x" * 255))
        snapshot.resolve()
        assert snapshot.names["3"] == "x" * 251 + " (3)"

    def test_a_name_that_was_not_read_stays_as_known(self, snapshot):
        snapshot.connection.execute(
            text(
                "INSERT INTO known_departments (third_company_id, did, pid, name, name_key, task_id)"
                " VALUES ('c', '2', '1', 'Alt', 'alt', 't')"
            )
        )
        snapshot.departments(("2", "1", None), ("3", "1", None))
        snapshot.resolve()
        assert snapshot.names == {"2": "Alt", "3": "3"}

    def test_thousands_of_equal_names_are_all_told_apart(self, snapshot):
        snapshot.departments(*((str(number), "1", "同名") for number in range(2, 2502)))
        snapshot.resolve()
        assert len(set(snapshot.names.values())) == 2500


class TestAccounts:
    def test_of_equal_ones_the_lowest_userid_keeps_it(self, snapshot):
        snapshot.people({"uid": "u2", "account": "Zhang"}, {"uid": "u1", "account": "zhang"})
        snapshot.resolve(AccountSource.JOB_NUMBER)
        assert snapshot.accounts == {"u1": "zhang", "u2": "Zhang-u2"}
        assert snapshot.findings.as_data()["examples"] == [{"id": "u2", "reason": "account_not_distinct"}]

    def test_who_is_known_to_have_it_keeps_it(self, snapshot):
        snapshot.known_user("u2", "zhang")
        snapshot.people({"uid": "u2", "account": "zhang"}, {"uid": "u1", "account": "zhang"})
        snapshot.resolve(AccountSource.JOB_NUMBER)
        assert snapshot.accounts == {"u1": "zhang-u1", "u2": "zhang"}

    def test_a_suffix_stays_when_the_other_person_is_gone(self, snapshot):
        snapshot.known_user("u2", "zhang-u2")
        snapshot.people({"uid": "u2", "account": "zhang"})
        snapshot.resolve(AccountSource.JOB_NUMBER)
        assert snapshot.accounts == {"u2": "zhang-u2"}

    def test_what_was_not_read_stays_as_known_and_new_people_get_the_userid(self, snapshot):
        snapshot.known_user("u1", "zhang")
        snapshot.people({"uid": "u1", "account": None}, {"uid": "u2", "account": None})
        snapshot.resolve(AccountSource.EMAIL)
        assert snapshot.accounts == {"u1": "zhang", "u2": "u2"}

    def test_an_account_that_equals_a_userid_taken_as_fallback_is_told_apart(self, snapshot):
        snapshot.people({"uid": "u1", "account": "u2"}, {"uid": "u2", "account": "u2"})
        snapshot.resolve(AccountSource.JOB_NUMBER)
        assert snapshot.accounts == {"u1": "u2", "u2": "u2-u2"}

    def test_one_account_for_everybody_ends_with_one_for_each(self, snapshot):
        snapshot.people(*({"uid": f"u{number}", "account": "0"} for number in range(2300)))
        snapshot.resolve(AccountSource.JOB_NUMBER)
        accounts = snapshot.accounts.values()
        assert len({fold(account) for account in accounts}) == 2300

    def test_very_long_ones_stay_within_the_column(self, snapshot):
        uids = ["a" * 200 + "1", "a" * 200 + "2"]
        snapshot.people(*({"uid": uid, "account": "x" * 255} for uid in uids))
        snapshot.resolve(AccountSource.JOB_NUMBER)
        assert len(set(snapshot.accounts.values())) == 2


class TestLeaders:
    def leaders(self, snapshot):
        return snapshot.column("staged_users", "uid", "leader")

    def test_only_people_of_the_snapshot_lead(self, snapshot):
        snapshot.people(
            {"uid": "u1", "leader": "u2"}, {"uid": "u2", "leader": "gone"}, {"uid": "u3", "leader": "u3"}
        )
        snapshot.resolve(managers_read=True)
        assert self.leaders(snapshot) == {"u1": "u2", "u2": "", "u3": "u3"}
        assert snapshot.findings.as_data()["examples"] == [{"id": "u2", "reason": "leader_unknown"}]

    def test_a_rejected_person_does_not_lead(self, snapshot):
        snapshot.people({"uid": "U1"}, {"uid": "u1"}, {"uid": "u2", "leader": "u1"})
        snapshot.resolve(managers_read=True)
        assert self.leaders(snapshot)["u2"] == ""

    def test_a_leader_that_was_not_read_is_carried_over_only_while_there(self, snapshot):
        snapshot.known_user("u1", "u1", leader="u2")
        snapshot.known_user("u3", "u3", leader="gone")
        snapshot.people({"uid": "u1"}, {"uid": "u2"}, {"uid": "u3"})
        snapshot.resolve()
        assert self.leaders(snapshot) == {"u1": None, "u2": None, "u3": ""}


class TestDifference:
    def difference(self, snapshot):
        return known.difference(
            snapshot.connection, "users", fetch=FETCH, third_company_id="c", managers_read=False
        )

    def test_unread_fields_are_no_change(self, snapshot):
        snapshot.known_user("u1", "u1", leader="x")
        snapshot.connection.execute(
            text("UPDATE known_users SET def_did = '5', def_did_order = 3, employment_status = 'active'")
        )
        snapshot.people({"uid": "u1"})
        assert self.difference(snapshot).as_data() == {"known": 1, "added": 0, "changed": 0, "removed": 0}

    def test_added_changed_and_removed_are_counted(self, snapshot):
        for uid in ("u1", "u2", "u3"):
            snapshot.known_user(uid, uid)
        snapshot.people({"uid": "u1", "nick_name": "neu"}, {"uid": "u4"})
        assert self.difference(snapshot).as_data() == {"known": 3, "added": 1, "changed": 1, "removed": 2}

    def test_missing_is_what_was_not_read_at_all(self, snapshot):
        for uid in ("abc", "ABC", "gone"):
            snapshot.known_user(uid, uid)
        snapshot.people({"uid": "abc"}, {"uid": "ABC"})
        snapshot.resolve()
        assert known.missing(snapshot.connection, "users", fetch=FETCH, third_company_id="c", limit=10) == [
            "gone"
        ]
