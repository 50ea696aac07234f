"""The order in which WPS must see the rows of a batch."""

import json

import pytest

from nancalacc.sync.planning import (
    MOST_ROWS,
    Slot,
    offsets_of,
    plan_departments,
    plan_memberships,
    plan_users,
    rounds_of,
)


def department(did: str, pid: str = "1", name: str = "") -> dict:
    return {"did": did, "pid": pid, "name": name or f"部门{did}", "order": 0}


def user(uid: str, *, leader: str | None = "", account: str = "") -> dict:
    return {"uid": uid, "account": account or uid, "account_key": account or uid, "leader": leader}


def by_second(rows) -> list[list[str]]:
    return [
        sorted(f"{row.update_type} {row.key}" for row in rows if row.later == second)
        for second in sorted({row.later for row in rows})
    ]


class TestDepartments:
    def test_new_parents_come_a_second_before_their_children(self):
        rows = plan_departments(
            [department("3", "2"), department("2", "9"), department("9")],
            removed=(),
            known={},
            parents={"1": "0"},
        )
        assert by_second(rows) == [["dept_add 9"], ["dept_add 2"], ["dept_add 3"]]

    def test_a_department_that_only_changes_its_name_holds_up_nobody(self):
        known = {"2": department("2")}
        rows = plan_departments(
            [department("2", name="neu"), department("3", "2")], removed=(), known=known, parents={"2": "1"}
        )
        assert by_second(rows) == [["dept_add 3", "dept_update 2"]]

    def test_a_department_moves_below_one_whose_parent_has_moved_away_before(self):
        known = {"5": department("5"), "6": department("6", "5")}
        rows = plan_departments(
            [department("5", "7"), department("6")],
            removed=(), known=known, parents={"5": "1", "6": "5", "7": "6"},
        )  # fmt: skip
        assert by_second(rows) == [["dept_update 6"], ["dept_update 5"]]

    def test_who_has_the_name_of_another_one_steps_aside_first(self):
        known = {"2": department("2", name="A"), "3": department("3", name="B")}
        rows = plan_departments(
            [department("2", name="B"), department("3", name="A")], removed=(), known=known, parents={}
        )
        assert [[(row.key, row.content["name"], row.is_last) for row in rows if row.later == 0],
                [(row.key, row.content["name"], row.is_last) for row in rows if row.later == 1]] == [
            [("2", "A (2)", False), ("3", "B (3)", False)],
            [("2", "B", True), ("3", "A", True)],
        ]  # fmt: skip

    def test_children_are_removed_before_their_parents(self):
        known = {did: department(did) for did in ("2", "3", "4")}
        rows = plan_departments(
            [], removed=["2", "3", "4"], known=known, parents={"2": "1", "3": "2", "4": "3", "1": "0"}
        )
        assert by_second(rows) == [["dept_del 4"], ["dept_del 3"], ["dept_del 2"]]


class TestUsers:
    def test_a_known_leader_needs_no_order(self):
        rows = plan_users([user("a", leader="boss")], removed=(), known={})
        assert by_second(rows) == [["user_add a"]]

    def test_new_people_who_lead_each_other_come_first_without_and_then_with_their_leaders(self):
        rows = plan_users([user("a", leader="b"), user("b", leader="a")], removed=(), known={})
        assert by_second(rows) == [["user_add a", "user_add b"], ["user_update a", "user_update b"]]
        assert [row.content["leader"] for row in rows if row.later == 0] == ["", ""]
        assert [row.is_last for row in rows] == [False, True, False, True]

    def test_an_account_is_given_up_before_another_one_takes_it(self):
        known = {"a": user("a", account="x"), "b": user("b", account="y")}
        rows = plan_users([user("a", account="y"), user("b", account="x")], removed=(), known=known)
        assert by_second(rows) == [["user_update a", "user_update b"]] * 2
        assert [row.content["account"] for row in rows] == ["x-a~", "y-b~", "y", "x"]

    def test_a_number_or_address_is_given_up_before_another_one_takes_it(self):
        def with_contacts(uid, key):
            contacts = {"phone": f"cipher of {key}", "email": key, "phone_key": key, "email_key": key}
            return {**user(uid), **(contacts if key else dict.fromkeys(contacts, ""))}

        known = {
            "a": with_contacts("a", "x"),
            "gone": with_contacts("gone", "y"),
            "c": with_contacts("c", "z"),
        }
        saved = [with_contacts("a", "y"), with_contacts("b", "x"), with_contacts("c", "z")]
        rows = plan_users(saved, removed=["gone"], known=known)
        assert by_second(rows) == [
            ["user_update a", "user_update gone"],
            ["user_add b", "user_del gone", "user_update a", "user_update c"],
        ]
        assert [(row.content["phone"], row.content["email"]) for row in rows if row.later == 0] == [
            ("", "")
        ] * 2
        assert rows[0].content["account"] == "a"

    def test_who_holds_a_number_back_takes_it_from_nobody(self):
        known = {"a": {**user("a"), "phone": "c", "phone_key": "x"}}
        held = {**user("b"), "phone": "", "phone_key": "x"}
        assert len(plan_users([held], removed=(), known=known)) == 1

    def test_a_leader_goes_after_those_who_were_led(self):
        known = {"a": user("a", leader="boss"), "boss": user("boss")}
        rows = plan_users([user("a")], removed=["boss"], known=known)
        assert by_second(rows) == [["user_update a"], ["user_del boss"]]


class TestMemberships:
    def test_one_row_replaces_all_and_names_the_main_department(self):
        places = [
            {"uid": "a", "did": "2", "order": 5, "main": 0},
            {"uid": "a", "did": "3", "order": 7, "main": 1},
        ]
        [row] = plan_memberships({"a": places})
        assert (row.update_type, row.content["did"], row.content["main"]) == ("user_dept_move", "3", 1)
        assert json.loads(row.content["dids"]) == [{"did": "3", "order": 7}, {"did": "2", "order": 5}]

    def test_more_departments_than_the_column_holds_are_added_after(self):
        places = [
            {"uid": "a", "did": str(10**8 + n), "order": 10**9, "main": int(n == 0)} for n in range(200)
        ]
        first, *rest = plan_memberships({"a": places})
        assert len(first.content["dids"]) <= 5000
        assert len(json.loads(first.content["dids"])) + len(rest) == 200
        assert {row.update_type for row in rest} == {"user_dept_add"}
        assert [row.is_last for row in (first, *rest)] == [False] * len(rest) + [True]


class TestRounds:
    @pytest.mark.parametrize("people, rounds", [(1, 1), (900, 1), (901, 2), (2000, 3)])
    def test_memberships_go_with_their_people(self, people: int, rounds: int):
        slots = [
            Slot(kind, number, f"u{number}", "user_dept_move", 0)
            for kind in ("users", "memberships")
            for number in range(people)
        ]
        found = rounds_of(slots)
        assert max(found.values()) == rounds - 1
        assert all(found["users", number] == found["memberships", number] for number in range(people))

    def test_no_round_has_more_rows_of_a_table_than_wps_reads(self):
        slots = [Slot("departments", number, str(number), "dept_add", number % 3) for number in range(3000)]
        sizes = [list(rounds_of(slots).values()).count(number) for number in range(4)]
        assert sizes == [MOST_ROWS, MOST_ROWS, MOST_ROWS, 300]

    def test_departments_go_when_everybody_has_left_them(self):
        slots = [
            Slot("departments", 0, "2", "dept_del", 0),
            Slot("users", 0, "a", "user_update", 0),
            Slot("memberships", 0, "a", "user_dept_move", 0),
        ]
        assert rounds_of(slots) == {("users", 0): 0, ("memberships", 0): 0, ("departments", 0): 1}

    def test_a_kind_is_never_seen_before_the_one_it_needs(self):
        slots = [
            Slot("departments", 0, "2", "dept_add", 0),
            Slot("departments", 1, "3", "dept_add", 4),
            Slot("users", 0, "a", "user_add", 0),
            Slot("users", 1, "a", "user_update", 1),
            Slot("memberships", 0, "a", "user_dept_move", 0),
        ]
        assert offsets_of(slots) == {
            ("departments", 0): 0, ("departments", 1): 1,
            ("users", 0): 1, ("users", 1): 2, ("memberships", 0): 2,
        }  # fmt: skip
