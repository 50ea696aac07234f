"""Every row of [dt 4], and every way in which an answer is none."""

import json

import pytest

from nancalacc.clients.dingtalk_errors import (
    BLOCK_SECONDS,
    AddressBlockedError,
    Call,
    TokenRefusedError,
    cause_of,
    masked,
    read_answer,
)
from nancalacc.clients.transport import Response
from nancalacc.errors import (
    CallRefusedError,
    ConfigurationError,
    IncompleteAnswerError,
    ObjectError,
    ObjectNotFoundError,
    RateLimitedError,
    TransientError,
)

CALL = Call(conn_id="dingtalk_hq", path="topapi/v2/user/get", subject="user 'u1'")
TOKEN_CALL = Call(conn_id="dingtalk_hq", path="v1.0/oauth2/accessToken")
NO_PERMISSION = "Forbidden.AccessDenied.AccessTokenPermissionDenied"

OLD_CODES = [
    (TransientError, ["-1", "400001", "123456"]),
    (CallRefusedError, ["22", "404", "40000", "41001", "40035", "40078", "90020"]),
    (TokenRefusedError, ["40001", "40014", "42001"]),
    (ConfigurationError, ["33001", "40089", "40096", "43007", "60011", "60020", "70001", "400043"]),
    (ObjectError, ["33012", "40003", "40009", "400002", "50002", "50004", "60004", "60120"]),
    (ObjectNotFoundError, ["60003", "60111", "60121"]),
    (RateLimitedError, ["45009", "90002", *map(str, range(90003, 90015)), "90017", "90018", "90019"]),
    (AddressBlockedError, ["90001"]),
]
NEW_CODES = [
    (TokenRefusedError, 400, "InvalidAuthentication"),
    (CallRefusedError, 400, "AuthenticationFailed.MissingParameter"),
    (ConfigurationError, 400, "invalidClientIdOrSecret"),
    (ConfigurationError, 403, NO_PERMISSION),
    (ConfigurationError, 403, "Forbidden.AccessDenied.IpNotInWhiteList"),
    (RateLimitedError, 403, "Forbidden.AccessDenied.QpsLimitForApi"),
    (RateLimitedError, 403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"),
    (RateLimitedError, 403, "Forbidden.AccessDenied.QpmLimitForAppkeyAndApi"),
    (RateLimitedError, 403, "Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi"),
    (CallRefusedError, 403, "Forbidden.AccessDenied.ApiCountLimitForOrg"),
    (RateLimitedError, 400, "qps.exceed.limit"),
    (RateLimitedError, 400, "request.overlimit"),
    (TransientError, 500, "systemError"),
    (TransientError, 400, "somethingNew"),
]


def answer(payload, *, status=200, headers=None) -> Response:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Response(status=status, headers=headers or {}, body=body)


def error_of(payload, *, status=200, headers=None, call=CALL) -> Exception:
    with pytest.raises(Exception) as caught:
        read_answer(answer(payload, status=status, headers=headers), call=call)
    return caught.value


def wrapped(code: str) -> dict:
    return {"errcode": 88, "errmsg": f"ding talk error[subcode={code},submsg=x]", "sub_code": code}


@pytest.mark.parametrize("errcode", [0, "0"])
def test_success_is_errcode_zero(errcode):
    payload = {"errcode": errcode, "errmsg": "ok", "result": [1]}

    assert read_answer(answer(payload), call=CALL) == payload


def test_success_of_the_new_family_has_no_code():
    assert read_answer(answer({"accessToken": "t"}), call=TOKEN_CALL) == {"accessToken": "t"}


@pytest.mark.parametrize("kind, code", [(kind, code) for kind, codes in OLD_CODES for code in codes])
@pytest.mark.parametrize("shape", ["number", "text", "wrapped", "in the message"])
def test_a_code_of_the_old_family_means_the_same_in_every_shape(kind, code, shape):
    payload = {
        "number": {"errcode": int(code), "errmsg": "m"},
        "text": {"errcode": code, "errmsg": "m"},
        "wrapped": wrapped(code),
        "in the message": {key: value for key, value in wrapped(code).items() if key != "sub_code"},
    }[shape]

    error = error_of(payload)

    assert type(error) is kind
    assert "topapi/v2/user/get" in str(error)
    assert "dingtalk_hq" in str(error)
    assert "u1" in str(error)
    assert kind is AddressBlockedError or f"code {code}" in str(error)
    if isinstance(error, ObjectError | CallRefusedError):
        assert error.code == code


@pytest.mark.parametrize("kind, status, code", NEW_CODES)
def test_a_code_of_the_new_family(kind, status, code):
    error = error_of({"code": code, "message": "m", "requestid": "r1"}, status=status, call=TOKEN_CALL)

    assert type(error) is kind
    assert code in str(error)
    assert "r1" in str(error)


@pytest.mark.parametrize(
    "payload, cause",
    [
        ({"errcode": 88, "sub_code": "60011", "errmsg": "x[subcode=90018,y"}, "60011"),
        ({"errcode": 88, "sub_code": "", "errmsg": "x[subcode=90018,submsg=y]"}, "90018"),
        ({"errcode": 88, "errmsg": "x[subcode=90018]"}, "90018"),
        ({"errcode": 88, "errmsg": "x"}, "88"),
        ({"errcode": 0, "sub_code": "60011"}, "0"),
        ({"errcode": " 0 "}, "0"),
        ({"code": "InvalidAuthentication"}, "InvalidAuthentication"),
        ({"errcode": None}, ""),
        ({"errcode": False}, ""),
        ({}, ""),
    ],
)
def test_the_real_cause_is_the_first_that_exists(payload, cause):
    assert cause_of(payload) == cause


@pytest.mark.parametrize(
    "kind, status, body",
    [
        (AddressBlockedError, 200, b"<html>blocked</html>"),
        (AddressBlockedError, 200, b"\n <!DOCTYPE html><html></html>"),
        (AddressBlockedError, 403, b"<html>blocked</html>"),
        (AddressBlockedError, 200, {"status": 1111, "wait": 5, "source": "x5", "punish": "deny"}),
        (AddressBlockedError, 403, {"status": 1111, "punish": "deny"}),
        (TransientError, 502, b"<html>Bad Gateway</html>"),
        (TransientError, 500, b""),
        (TransientError, 503, {}),
        (TransientError, 500, {"errcode": 88}),
        (TransientError, 500, b"[]"),
        (TransientError, 400, b"<html>Bad Request</html>"),
        (ConfigurationError, 404, b"<html>Not Found</html>"),
        (ConfigurationError, 404, {"detail": "Not Found"}),
        (ConfigurationError, 302, b""),
        (ConfigurationError, 407, b"<html>log in</html>"),
        (RateLimitedError, 429, b"slow down"),
        (RateLimitedError, 429, {}),
        (IncompleteAnswerError, 200, b""),
        (IncompleteAnswerError, 200, b'{"errcode":0,"result":{"has_m'),
        (IncompleteAnswerError, 200, b"\xff\xfe\x00"),
        (IncompleteAnswerError, 200, b"[1]"),
        (IncompleteAnswerError, 200, b"null"),
        (IncompleteAnswerError, 200, {"result": {}}),
    ],
)
def test_an_answer_that_is_none(kind, status, body):
    assert type(error_of(body, status=status)) is kind


def test_a_success_code_with_a_failed_status_is_no_success():
    assert isinstance(error_of({"errcode": 0, "result": []}, status=500), TransientError)


def test_a_blocked_address_waits_five_minutes():
    assert error_of(b"<html>").retry_after == BLOCK_SECONDS == 300


@pytest.mark.parametrize(
    "header, seconds", [("7", 7), ("0.5", 1), ("soon", 1), ("nan", 1), ("-3", 1), (None, 1)]
)
def test_a_pause_that_is_asked_for_is_kept(header, seconds):
    headers = {} if header is None else {"retry-after": header}

    assert error_of(wrapped("90018"), headers=headers).retry_after == seconds
    assert error_of({}, status=429, headers=headers).retry_after == seconds


@pytest.mark.parametrize(
    "code, remedy",
    [
        ("60011", "developer console"),
        ("60020", "whitelist"),
        ("40089", "connection to the app's key and secret"),
        ("50002", "scope"),
        ("90018", "calls_per_second"),
    ],
)
def test_the_message_says_what_to_do(code, remedy):
    assert remedy in str(error_of(wrapped(code)))


def test_the_missing_permission_is_named():
    message = "应用尚未开通所需的权限：[qyapi_get_department_member]"

    assert "qyapi_get_department_member" in str(error_of({"errcode": 60011, "errmsg": message}))


@pytest.mark.parametrize(
    "secret", ["13800000001", "+86-13800000001", "someone@example.com", "0f3ac1d2e4b5a6978877665544332211"]
)
def test_messages_of_the_other_side_are_masked(secret):
    assert secret not in masked(f"bad value {secret} given")
    assert secret not in str(error_of({"errcode": 987, "errmsg": f"bad value {secret} given"}))


def test_a_long_message_is_cut():
    assert len(masked("很" * 1000)) == 300
