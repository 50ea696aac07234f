"""The plan of a sync, from rows in staging and in known state."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, text

from nancalacc.store.database import Database
from nancalacc.sync import plan as plans
from nancalacc.sync import publish, staging
from nancalacc.sync.known import KNOWN, difference
from nancalacc.sync.mapping import DepartmentRow, MembershipRow, PersonRow
from nancalacc.sync.phones import encrypt_phone
from nancalacc.sync.plan import Plan
from nancalacc.sync.publish import Snapshot
from nancalacc.sync.staging import Batch, Fetch

FETCH = Fetch("saga", epoch=1, attempt=1)
SNAPSHOT = Snapshot(task_id="20240101000000", third_company_id="c", platform_id="p")
NOTHING = {"added": 0, "changed": 0, "moved": 0, "disabled": 0, "removed": 0}


def person(uid: str, did: str = "200", **values: Any) -> PersonRow:
    fields = {"nick_name": f"name of {uid}", "employment_status": "active", "departments": 1, **values}
    return PersonRow(uid, uid, account=uid, account_key=uid, def_did=did, def_did_order=1, **fields)


def place(uid: str, did: str = "200", *, order: int = 1, main: bool = True) -> MembershipRow:
    return MembershipRow(uid, did, order=order, main=main, leader=None)


def department(did: str, pid: str, name: str = "") -> DepartmentRow:
    return DepartmentRow(did, pid, name or f"d{did}", name or f"d{did}", order=0)


def organisation() -> Batch:
    """Root (1) with 100 (110 below it) and 200; a and b in 110, c to f in 200."""
    return Batch(
        [department("1", "0"), department("100", "1"), department("110", "100"), department("200", "1")],
        [person("a", "110"), person("b", "110"), *(person(uid) for uid in "cdef")],
        [place("a", "110"), place("b", "110"), *(place(uid) for uid in "cdef")],
    )


class Planning:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.attempts = itertools.count(1)

    def known(self, batch: Batch) -> None:
        """Let WPS have been given these rows."""
        fetch = Fetch("before", epoch=1, attempt=1)
        staging.copy(self.connection, batch, fetch=fetch)
        for kind, table in KNOWN.items():
            columns = ", ".join(
                f'"{column.name}"' for column in table.columns if column.name in staging.TABLES[kind].c
            )
            self.connection.execute(
                text(
                    f"INSERT INTO {table.name} (third_company_id, task_id, {columns})"
                    f" SELECT 'c', '20230101000000', {columns} FROM {staging.TABLES[kind].name}"
                )
            )
        staging.delete_all(self.connection, transaction_id="before")

    def plan(self, batch: Batch, *, attempt: int | None = None) -> Plan:
        fetch = replace(FETCH, attempt=attempt or next(self.attempts))
        staging.copy(self.connection, batch, fetch=fetch)
        return plans.make(self.connection, fetch=fetch, third_company_id="c", managers_read=False)

    def changes(self, plan: Plan, kind: str) -> list[Any]:
        return list(
            self.connection.execute(
                text(
                    "SELECT * FROM plan_changes WHERE attempt = :attempt AND kind = :kind ORDER BY position"
                ),
                {"attempt": plan.fetch.attempt, "kind": kind},
            )
        )

    def subtrees(self, plan: Plan) -> dict[str, Any]:
        return {each.did: each for each in plans.subtrees(self.connection, fetch=plan.fetch)}


@pytest.fixture
def planning(database_url: str) -> Iterator[Planning]:
    with Database(database_url) as database, database.transaction() as connection:
        yield Planning(connection)


def without(rows: Iterable[Any], *uids: str) -> list[Any]:
    return [row for row in rows if row.uid not in uids]


def test_the_first_sync_adds_everything(planning):
    plan = planning.plan(organisation())
    assert plan.counts == {
        "departments": {"known": 0, **NOTHING, "added": 4},
        "users": {"known": 0, **NOTHING, "added": 6},
        "memberships": {"known": 0, **NOTHING, "added": 6},
    }
    assert not plan.is_empty


def test_an_unchanged_organisation_gives_an_empty_plan(planning):
    planning.known(organisation())
    plan = planning.plan(organisation())
    assert plan.is_empty
    assert plan.counts["users"] == {"known": 6, **NOTHING}
    assert plan.examples == ()


def test_departments_are_added_renamed_moved_and_removed(planning):
    planning.known(organisation())
    changed = organisation()
    changed.departments[2:] = [
        department("110", "1"),
        department("300", "110", "neu"),
    ]
    changed.departments[1] = department("100", "1", "umbenannt")
    plan = planning.plan(changed)
    assert plan.counts["departments"] == {
        "known": 4, "added": 1, "changed": 2, "moved": 1, "disabled": 0, "removed": 1,
    }  # fmt: skip
    found = {row.did: row for row in planning.changes(plan, "departments")}
    assert (found["200"].action, found["200"].old_name, found["200"].name) == ("removed", "d200", None)
    assert (found["100"].fields, found["100"].old_name, found["100"].name) == (["name"], "d100", "umbenannt")
    assert (found["110"].fields, found["110"].old_place, found["110"].place) == (["pid"], "100", "1")
    assert found["110"].is_moved
    assert (found["300"].action, found["300"].fields) == ("added", [])


def test_people_are_added_changed_moved_disabled_and_removed(planning):
    planning.known(organisation())
    changed = organisation()
    changed.users = [
        person("a", "200"),
        person("b", "110", employment_status="notactive"),
        person("c", title="neu", email="neu@example.com"),
        *changed.users[3:5],
        person("new"),
    ]
    plan = planning.plan(changed)
    assert plan.counts["users"] == {
        "known": 6, "added": 1, "changed": 3, "moved": 1, "disabled": 1, "removed": 1,
    }  # fmt: skip
    found = {row.uid: row for row in planning.changes(plan, "users")}
    assert found["a"].is_moved
    assert (found["a"].old_place, found["a"].place) == ("110", "200")
    assert found["b"].is_disabled
    assert sorted(found["c"].fields) == ["email", "title"]
    assert found["f"].action == "removed"


def test_who_was_never_active_is_not_disabled(planning):
    batch = organisation()
    batch.users[0] = person("a", "110", employment_status="notactive")
    planning.known(batch)
    changed = organisation()
    changed.users[0] = person("a", "110", employment_status="disabled")
    assert planning.plan(changed).counts["users"]["disabled"] == 0


def test_memberships_are_added_changed_and_removed(planning):
    planning.known(organisation())
    changed = organisation()
    changed.memberships[0] = place("a", "110", order=7)
    changed.memberships[1] = place("b", "100")
    plan = planning.plan(changed)
    assert plan.counts["memberships"] == {"known": 6, **NOTHING, "added": 1, "changed": 1, "removed": 1}
    assert [(row.action, row.uid, row.did) for row in planning.changes(plan, "memberships")] == [
        ("removed", "b", "110"),
        ("changed", "a", "110"),
        ("added", "b", "100"),
    ]


def test_no_value_but_names_and_departments_is_written_down(planning):
    planning.known(organisation())
    changed = organisation()
    secret = "geheim"
    changed.users[0] = person("a", "110", email=secret, title=secret, phone=secret, work_place=secret)
    # As with account_source email or mobile.
    changed.users[1] = replace(person("b", "110"), account=secret, account_key=secret)
    changed.users.append(person("new", email=secret, avatar=secret, phone=secret))
    plan = planning.plan(changed)
    for table in ("plan_changes", "sync_plans", "plan_subtrees"):
        for row in planning.connection.execute(text(f"SELECT t::text FROM {table} t")):
            assert secret not in row[0]
    assert secret not in str(plan)


HAS, HAS_OTHER, HAS_NONE, IS_HELD_BACK, NOT_READ, OF_UNKNOWN_KEY = (
    {"phone": "encrypted", "phone_key": "this"},
    {"phone": "encrypted otherwise", "phone_key": "other"},
    {"phone": "", "phone_key": ""},
    {"phone": "", "phone_key": "this"},
    {"phone": None, "phone_key": None},
    {"phone": "encrypted once", "phone_key": None},
)


ANOTHER_NUMBER = [
    (HAS, HAS_OTHER),
    (HAS, HAS_NONE),
    (HAS, IS_HELD_BACK),
    (HAS_NONE, HAS),
    (IS_HELD_BACK, HAS),
    (NOT_READ, HAS),
    (OF_UNKNOWN_KEY, HAS_NONE),
    ({"telephone": ""}, {"telephone": "encrypted"}),
    ({"telephone": "encrypted"}, {"telephone": ""}),
    ({"telephone": None}, {"telephone": "encrypted"}),
]
THE_SAME_OR_UNTOLD = [
    (HAS, HAS | {"phone": "encrypted anew"}),
    (HAS, NOT_READ),
    (OF_UNKNOWN_KEY, HAS),
    (OF_UNKNOWN_KEY, NOT_READ),
    (IS_HELD_BACK, IS_HELD_BACK),
    (IS_HELD_BACK, NOT_READ),
    (IS_HELD_BACK, HAS_NONE),
    (HAS_NONE, IS_HELD_BACK),
    (HAS_NONE, NOT_READ),
    (NOT_READ, HAS_NONE),
    ({"telephone": "encrypted"}, {"telephone": "encrypted anew"}),
    ({"telephone": "encrypted"}, {"telephone": None}),
    ({"telephone": None}, {"telephone": ""}),
]
"""What is known of somebody, and what is staged."""


class TestNumbers:
    """Equal numbers are encrypted differently; nobody may seem changed because of that."""

    def test_another_number_alone_is_a_change_and_what_cannot_be_told_is_none(self, planning):
        cases = {
            f"{kind}{number:02d}": case
            for kind, table in (("changed", ANOTHER_NUMBER), ("same", THE_SAME_OR_UNTOLD))
            for number, case in enumerate(table)
        }
        planning.known(Batch(users=[person(uid, **known) for uid, (known, _) in cases.items()]))
        plan = planning.plan(Batch(users=[person(uid, **staged) for uid, (_, staged) in cases.items()]))
        assert {row.uid: list(row.fields) for row in planning.changes(plan, "users")} == {
            f"changed{number:02d}": ["phone" if "phone" in known else "telephone"]
            for number, (known, _) in enumerate(ANOTHER_NUMBER)
        }
        counted = difference(
            planning.connection, "users", fetch=plan.fetch, third_company_id="c", managers_read=False
        )
        assert counted.changed == plan.counts["users"]["changed"] == len(ANOTHER_NUMBER)

    def test_the_hash_covers_the_number_and_not_its_encryption(self, planning):
        planning.known(organisation())
        hashes = []
        for numbers in (HAS, HAS | {"phone": "encrypted anew"}, HAS_OTHER):
            changed = organisation()
            changed.users[0] = person("a", "200", **numbers)
            changed.users.append(person("new", **numbers))
            hashes.append(planning.plan(changed).hash)
        assert hashes[0] == hashes[1] != hashes[2]


class TestSubtrees:
    def test_changes_are_counted_where_the_objects_were(self, planning):
        planning.known(organisation())
        changed = organisation()
        changed.users = [person("a", "200"), *without(changed.users, "a", "b", "c"), person("new", "110")]
        plan = planning.plan(changed)
        found = planning.subtrees(plan)
        assert found["100"].name == "d100"
        assert found["100"].counts["users"] == {
            "known": 2, "added": 1, "changed": 1, "moved": 1, "disabled": 0, "removed": 1,
        }  # fmt: skip
        assert found["200"].counts["users"] == {"known": 4, **NOTHING, "removed": 1}

    def test_a_new_department_below_the_root_is_a_subtree_too(self, planning):
        planning.known(organisation())
        changed = organisation()
        changed.departments += [department("400", "1", "vierte"), department("410", "400")]
        changed.users.append(person("new", "410"))
        found = planning.subtrees(planning.plan(changed))
        assert found["400"].name == "vierte"
        assert found["400"].counts["departments"] == {"known": 0, **NOTHING, "added": 2}
        assert found["400"].counts["users"] == {"known": 0, **NOTHING, "added": 1}

    def test_the_root_itself_is_a_subtree_of_its_own(self, planning):
        planning.known(organisation())
        changed = organisation()
        changed.users.append(person("new", "1"))
        assert set(planning.subtrees(planning.plan(changed))) == {"1"}

    def test_departments_in_a_circle_or_without_a_parent_do_not_stop_the_plan(self, planning):
        batch = organisation()
        batch.departments += [department("7", "8"), department("8", "7"), department("9", "nowhere")]
        batch.users += [person("x", "7"), person("y", "9")]
        planning.known(batch)
        plan = planning.plan(organisation())
        assert plan.counts["departments"]["removed"] == 3
        assert planning.subtrees(plan)[""].counts["users"] == {"known": 0, **NOTHING, "removed": 2}


class TestHash:
    def test_it_does_not_depend_on_order_attempt_or_the_encryption_of_phone_numbers(self, planning):
        planning.known(organisation())
        hashes = set()
        for _ in range(2):
            changed = organisation()
            phone = encrypt_phone("13800000000", uid="a", salt="s")
            changed.users[0] = person("a", "200", phone=phone, telephone=phone)
            changed.users[1] = person("b", "110", phone=phone)
            hashes.add(planning.plan(changed).hash)
            changed.users.reverse()
            changed.memberships.reverse()
            hashes.add(planning.plan(changed).hash)
        assert len(hashes) == 1

    @pytest.mark.parametrize(
        "change",
        [
            lambda batch: batch.users.append(person("new", title="other")),
            lambda batch: batch.users.append(person("other")),
            lambda batch: batch.memberships.append(place("a", "200", main=False)),
            lambda batch: batch.departments.append(department("300", "1")),
            lambda batch: batch.users.pop(3),
        ],
    )
    def test_it_covers_every_change_and_what_each_object_becomes(self, planning, change):
        planning.known(organisation())
        first, second = organisation(), organisation()
        first.users.append(person("new", title="this"))
        change(second)
        assert planning.plan(first).hash != planning.plan(second).hash

    def test_the_saved_rows_have_the_hash_of_their_plan(self, planning):
        before, changed = organisation(), organisation()
        before.users[2], before.users[3] = person("c", **HAS), person("d", **HAS, telephone="encrypted")
        planning.known(before)
        changed.users = [
            person("a", "200", employment_status=None, **HAS, telephone="encrypted"),
            person("c", **NOT_READ),
            person("d", **HAS_OTHER),
            *without(changed.users, *"abcd"),
        ]
        changed.departments[3] = replace(department("200", "1", "neu"), order=None)
        plan = planning.plan(changed)
        for kind in staging.TABLES:
            publish.save(planning.connection, kind, fetch=plan.fetch, snapshot=SNAPSHOT, managers_read=False)
        publish.insert_root(planning.connection, snapshot=SNAPSHOT, company_name="company")
        assert plans.hash_of_snapshot(planning.connection, snapshot=SNAPSHOT, fetch=plan.fetch) == plan.hash
        planning.connection.execute(text("UPDATE tb_las_user SET title = 'by hand' WHERE uid = 'c'"))
        assert plans.hash_of_snapshot(planning.connection, snapshot=SNAPSHOT, fetch=plan.fetch) != plan.hash

    def test_of_another_company_nothing_counts(self, planning):
        planning.known(organisation())
        planning.connection.execute(text("UPDATE known_users SET third_company_id = 'other' WHERE uid = 'a'"))
        assert planning.plan(organisation()).counts["users"] == {"known": 5, **NOTHING, "added": 1}


class TestAgain:
    def test_the_plan_of_a_fetch_is_made_once(self, planning):
        plan = planning.plan(organisation(), attempt=1)
        planning.connection.execute(text("DELETE FROM staged_users"))
        again = plans.make(planning.connection, fetch=plan.fetch, third_company_id="c", managers_read=False)
        assert again == plan == plans.find(planning.connection, fetch=plan.fetch)

    def test_the_changes_of_an_earlier_attempt_are_forgotten(self, planning):
        first, second = planning.plan(organisation()), planning.plan(organisation())
        assert planning.changes(first, "users") == []
        assert len(planning.changes(second, "users")) == 6
        assert plans.find(planning.connection, fetch=first.fetch) == first

    def test_examples_name_the_first_of_each_sort(self, planning):
        planning.known(Batch(users=[person(f"u{number:02d}") for number in range(9)]))
        plan = planning.plan(Batch(departments=[department("1", "0")]))
        named = [(each["kind"], each["sort"], each["uid"], each["name"]) for each in plan.examples]
        assert named == [
            ("departments", "added", None, "d1"),
            *(("users", "removed", f"u{number:02d}", f"name of u{number:02d}") for number in range(5)),
        ]
