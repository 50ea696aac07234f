import pytest

from nancalacc.sync.phones import decrypt_phone, encrypt_phone, number_key

NUMBER = "+85261234567"
ENCRYPTED = encrypt_phone(NUMBER, uid="u1", salt="salt")


def test_who_has_the_salt_can_decrypt_the_number_of_a_row():
    assert decrypt_phone(ENCRYPTED, uid="u1", salt="salt") == NUMBER


@pytest.mark.parametrize(
    "value, uid, salt",
    [
        (ENCRYPTED, "u2", "salt"),
        (ENCRYPTED, "u1", "former"),
        (ENCRYPTED[:-4], "u1", "salt"),
        (ENCRYPTED[:8], "u1", "salt"),
        ("", "u1", "salt"),
        ("no base64", "u1", "salt"),
        ("19900000001", "u1", "salt"),
        ("号码", "u1", "salt"),
    ],
    ids=["of another", "another salt", "cut", "short", "empty", "no base64", "plain", "no ASCII"],
)
def test_anything_else_is_no_number(value: str, uid: str, salt: str):
    assert decrypt_phone(value, uid=uid, salt=salt) is None


@pytest.mark.parametrize(
    "one, other", [("13800000000", "138 0000-0000"), ("+8613800000000", "13800000000"), ("", "-")]
)
def test_a_number_written_otherwise_is_the_same(one: str, other: str):
    assert number_key(one, salt="s", company="c") == number_key(other, salt="s", company="c")


def test_its_key_tells_it_from_others_of_the_company_alone():
    keys = {
        number_key(number, salt=salt, company=company)
        for number, salt, company in [
            ("13800000000", "s", "c"), ("13800000001", "s", "c"), ("+13800000000", "s", "c"),
            ("13800000000", "other", "c"), ("13800000000", "s", "other"),
        ]
    }  # fmt: skip
    assert len(keys) == 5
