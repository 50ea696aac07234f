import unicodedata
from base64 import b64decode
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from nancalacc.config import AccountSource
from nancalacc.sync.findings import Reason
from nancalacc.sync.mapping import (
    Mapper,
    departments_of,
    flag,
    fold,
    parent_of,
    suffixed,
    text,
    whole,
)
from nancalacc.sync.phones import encrypt_phone

SALT = "test-salt"
MAPPER = Mapper(root_dept_id=1, account_source=AccountSource.USERID, phone_salt=SALT)
BELOW_100 = Mapper(root_dept_id=100, account_source=AccountSource.USERID, phone_salt=SALT)


def person(*, mapper: Mapper = MAPPER, dept_ids=(5,), order=None, **record):
    return mapper.person({"userid": "U1", **record}, dept_ids=dept_ids, order=order)


def decrypt(value: str, *, uid: str) -> str:
    raw = b64decode(value)
    key = sha256((uid + SALT).encode()).hexdigest()[:32].encode()
    return AESGCM(key).decrypt(raw[:12], raw[12:], None).decode()


class TestPhone:
    def test_matches_the_vector_of_the_contract(self):
        value = encrypt_phone("13800000000", uid="user001", salt=SALT, iv=bytes(range(12)))
        assert value == "AAECAwQFBgcICQoLvgwH4fnKLG5FdKzXlWj573YZc4B5QoEpkVlk"

    def test_two_encryptions_of_one_number_differ(self):
        assert encrypt_phone("1", uid="u", salt=SALT) != encrypt_phone("1", uid="u", salt=SALT)

    def test_empty_stays_empty_and_absent_stays_unread(self):
        assert person(mobile="").phone == ""
        assert person().phone is None

    @pytest.mark.parametrize(
        "mobile, state_code, expected",
        [
            ("13800000000", None, "13800000000"),
            ("13800000000", "86", "13800000000"),
            ("13800000000", "+86", "13800000000"),
            ("61234567", "852", "+85261234567"),
            ("+85261234567", "852", "+85261234567"),
        ],
    )
    def test_only_foreign_numbers_get_their_country_code(self, mobile, state_code, expected):
        row = person(mobile=mobile, state_code=state_code)
        assert decrypt(row.phone, uid="U1") == expected

    def test_telephone_is_encrypted_with_the_same_uid(self):
        assert decrypt(person(telephone="8001").telephone, uid="U1") == "8001"

    @given(st.text(alphabet="0123456789+- 转#", max_size=300))
    def test_always_fits_the_column(self, plain):
        row = person(telephone=plain)
        assert len(row.telephone) <= 200

    def test_numbers_and_addresses_are_not_in_the_repr(self):
        row = person(mobile="13800000000", email="a@example.com", mapper=MAPPER)
        assert "13800000000" not in repr(row)
        assert "a@example.com" not in repr(row)
        assert SALT not in repr(MAPPER)


class TestPerson:
    def test_a_field_that_was_not_sent_is_not_read(self):
        row = person()
        unread = (
            row.nick_name, row.email, row.title, row.work_place, row.leader, row.employer,
            row.employment_status, row.telephone, row.avatar, row.def_did_order,
        )  # fmt: skip
        assert set(unread) == {None}

    @pytest.mark.parametrize(
        "field, column",
        [
            ("name", "nick_name"),
            ("email", "email"),
            ("title", "title"),
            ("work_place", "work_place"),
            ("job_number", "employer"),
            ("manager_userid", "leader"),
            ("avatar", "avatar"),
        ],
    )
    def test_fields_go_to_their_columns(self, field, column):
        assert getattr(person(**{field: "值"}), column) == "值"

    @pytest.mark.parametrize(
        "active, status",
        [(True, "active"), (False, "notactive"), ("false", "notactive"), (None, None), ("?", None)],
    )
    def test_employment_status_follows_active(self, active, status):
        assert person(active=active).employment_status == status

    def test_numbers_sent_in_place_of_text_become_text(self):
        assert person(job_number=7).employer == "7"

    @pytest.mark.parametrize("name", ["", "   ", "\x00"])
    def test_an_empty_name_becomes_the_userid(self, name):
        row = person(name=name)
        assert row.nick_name == "U1"
        assert (Reason.NAME_MISSING, "U1") in row.notes

    def test_long_texts_are_cut_and_reported(self):
        row = person(name="很" * 300)
        assert row.nick_name == "很" * 255
        assert row.notes == ((Reason.VALUE_CUT, "U1"),)

    def test_a_long_address_is_dropped_because_half_of_it_is_useless(self):
        row = person(email="a" * 70 + "@example.com")
        assert row.email == ""
        assert row.notes == ((Reason.VALUE_DROPPED, "U1"),)

    @pytest.mark.parametrize("record", [{}, {"userid": ""}, {"userid": None}])
    def test_without_userid_it_is_rejected(self, record):
        row = MAPPER.person(record, dept_ids=(5,), order=None)
        assert row.rejected == "no_userid"

    def test_with_a_userid_beyond_the_column_it_is_rejected(self):
        row = MAPPER.person({"userid": "u" * 256}, dept_ids=(5,), order=None)
        assert row.rejected.startswith("userid_too_long")

    @pytest.mark.parametrize(
        "order, expected", [(2**31, 2**31 - 1), (-(2**40), -(2**31)), (176351209512, 2**31 - 1), (5, 5)]
    )
    def test_orders_beyond_32_bit_are_clamped(self, order, expected):
        row = person(order=order)
        assert row.def_did_order == expected
        assert bool(row.notes) == (order != expected)

    @pytest.mark.parametrize(
        "dept_ids, def_did", [((5, 7), "5"), ((1, 7), "7"), ((1,), "1"), ((7, 1, 5), "7")]
    )
    def test_the_first_department_that_is_not_the_root_is_the_main_one(self, dept_ids, def_did):
        assert person(dept_ids=dept_ids).def_did == def_did

    @pytest.mark.parametrize(
        "source, record, account",
        [
            (AccountSource.USERID, {}, "U1"),
            (AccountSource.JOB_NUMBER, {"job_number": "007"}, "007"),
            (AccountSource.JOB_NUMBER, {"job_number": " "}, "U1"),
            (AccountSource.JOB_NUMBER, {}, None),
            (AccountSource.EMAIL, {"email": "a@example.com"}, "a@example.com"),
            (AccountSource.MOBILE, {"mobile": "61", "state_code": "852"}, "+85261"),
        ],
    )
    def test_account_comes_from_its_source_or_the_userid(self, source, record, account):
        mapper = Mapper(root_dept_id=1, account_source=source, phone_salt=SALT)
        row = person(mapper=mapper, **record)
        assert row.account == account
        assert row.account_key == (None if account is None else fold(account))


class TestMemberships:
    RECORD = {  # noqa: RUF012
        "userid": "U1",
        "dept_id_list": [1, 100, 5],
        "dept_order_list": [{"dept_id": 100, "order": "7"}, {"dept_id": 5, "order": 2**40}, "?"],
        "leader_in_dept": [{"dept_id": 100, "leader": True}],
    }

    def test_user_get_gives_order_and_leader_of_each_department(self):
        rows = list(MAPPER.memberships(self.RECORD, dept_ids=(1, 100, 5)))
        assert [(row.did, row.order, row.main, row.leader) for row in rows] == [
            ("1", None, False, None),
            ("100", 7, True, True),
            ("5", 2**31 - 1, False, None),
        ]

    def test_the_root_of_the_sync_is_did_1(self):
        rows = list(BELOW_100.memberships(self.RECORD, dept_ids=(100,)))
        assert [(row.did, row.main) for row in rows] == [("1", True)]

    def test_departments_outside_the_snapshot_are_counted_and_left_out(self):
        assert departments_of(self.RECORD, within={100, 5}) == ((100, 5), 1)

    def test_repeated_and_textual_ids_count_once(self):
        assert departments_of({"dept_id_list": ["5", 5, 7]}, within={5, 7}) == ((5, 7), 0)

    def test_an_absent_list_is_not_an_empty_one(self):
        assert departments_of({}, within={5}) == (None, 0)
        assert departments_of({"dept_id_list": []}, within={5}) == ((), 0)


@pytest.mark.parametrize(
    "stated, parent", [(7, 7), ("7", 7), (None, None), (0, None), ("0", None), (-1, None), ("x", None)]
)
def test_no_parent_is_stated_in_several_ways(stated, parent):
    assert parent_of({"parent_id": stated}) == parent


def test_the_order_of_departments_counts_only_where_people_are_read_singly():
    assert MAPPER.in_order([7, 5]) == (7, 5)
    assert replace(MAPPER, user_details=False).in_order([7, 5]) == (5, 7)


class TestDepartment:
    @pytest.mark.parametrize(
        "record, did, pid",
        [
            ({"dept_id": 1}, "1", "0"),
            ({"dept_id": 100, "parent_id": 1}, "100", "1"),
            ({"dept_id": "100", "parent_id": "7"}, "100", "7"),
        ],
    )
    def test_ids_become_texts_and_the_root_hangs_below_the_root_row(self, record, did, pid):
        row = MAPPER.department({"name": "n", **record})
        assert (row.did, row.pid) == (did, pid)

    def test_another_root_takes_the_place_of_department_1(self):
        assert BELOW_100.department({"dept_id": 100, "parent_id": 7, "name": "n"}).did == "1"
        assert BELOW_100.department({"dept_id": 101, "parent_id": 100, "name": "n"}).pid == "1"

    def test_an_empty_name_becomes_the_id(self):
        row = MAPPER.department({"dept_id": 7, "parent_id": 1, "name": " "})
        assert (row.name, row.notes) == ("7", ((Reason.NAME_MISSING, "7"),))

    def test_an_order_beyond_32_bit_is_clamped(self):
        assert (
            MAPPER.department({"dept_id": 7, "parent_id": 1, "name": "n", "order": 2**40}).order == 2**31 - 1
        )

    def test_an_absent_order_was_not_read(self):
        assert MAPPER.department({"dept_id": 7, "parent_id": 1, "name": "n"}).order is None


class TestValues:
    @pytest.mark.parametrize(
        "value, expected",
        [
            ("a\x00b", "ab"),
            ("\ud83d\ude80", "🚀"),
            ("x\ud800", "x\ufffd"),
            (None, None),
            (True, None),
            ([], None),
        ],
    )
    def test_text_is_what_postgresql_can_hold(self, value, expected):
        assert text(value) == expected

    @given(st.text(alphabet=st.characters(), max_size=50))
    def test_text_can_always_be_encoded(self, value):
        assert "\x00" not in text(value)
        text(value).encode()

    @pytest.mark.parametrize(
        "value, expected", [("5", 5), (5, 5), (5.0, 5), (True, None), ("x", None), (float("inf"), None)]
    )
    def test_whole_numbers_may_come_as_text(self, value, expected):
        assert whole(value) == expected

    @pytest.mark.parametrize("value, expected", [(True, True), ("FALSE", False), (1, None), (None, None)])
    def test_flags_may_come_as_text(self, value, expected):
        assert flag(value) is expected


class TestFold:
    @pytest.mark.parametrize(
        "one, other",
        [
            ("ABC", "abc"),
            ("Ünïcödé", "unicode"),
            ("ＡＢＣ", "abc"),
            ("Straße", "STRASSE"),
            ("a\u200bb", "ab"),
        ],
    )
    def test_case_width_and_accents_do_not_count(self, one, other):
        assert fold(one) == fold(other)

    @pytest.mark.parametrize("one, other", [("a", "b"), ("张", "章"), ("a b", "ab"), ("u1", "u10")])
    def test_different_texts_stay_different(self, one, other):
        assert fold(one) != fold(other)

    @given(st.text(max_size=300))
    def test_folding_twice_changes_nothing_and_fits_the_column(self, value):
        assert fold(fold(value)) == fold(value)
        assert len(fold(value)) <= 255

    @given(st.text(alphabet="abcÀé張ß", min_size=1))
    def test_upper_case_is_equal(self, value):
        assert fold(value.upper()) == fold(value)

    @given(st.text(max_size=60))
    def test_composed_and_decomposed_are_equal(self, value):
        assert fold(unicodedata.normalize("NFC", value)) == fold(unicodedata.normalize("NFD", value))

    def test_long_texts_that_differ_at_the_end_stay_different(self):
        assert fold("x" * 300) != fold("x" * 299 + "y")

    @given(st.text(max_size=300), st.text(max_size=100))
    def test_a_suffix_always_fits_and_stays(self, value, suffix):
        assert suffixed(value, suffix).endswith(suffix)
        assert len(suffixed(value, suffix)) <= 255
