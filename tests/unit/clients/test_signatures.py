"""Signatures of calls to WPS, by the vectors of the contract [wps 2]."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from nancalacc.clients.signatures import http_date, signature_headers
from nancalacc.config import Signature

DATE = "Mon, 02 Jan 2006 15:04:05 GMT"


def sign(kind, method, uri, body=None, content_type="application/json"):
    return signature_headers(
        kind,
        client_id="AK123456",
        client_secret="sk098765",
        method=method,
        uri=uri,
        content_type=content_type,
        date=DATE,
        body=body,
    )


@pytest.mark.parametrize(
    "method, uri, body, expected",
    [
        (
            "GET",
            "/v7/test?key=value",
            None,
            "ce8df66877175e5198c8ea1362ffddf82e4941c6f25a4ca205a1ad09d0faaf03",
        ),
        (
            "GET",
            "/v7/test?key=value",
            b"",
            "ce8df66877175e5198c8ea1362ffddf82e4941c6f25a4ca205a1ad09d0faaf03",
        ),
        (
            "POST",
            "/v7/test",
            b'{"key":"value"}',
            "3c6ee93104280cc27c775700746c8715c71bcd12c9fcc9f3425c7f8889f6dbc5",
        ),
    ],
)
def test_kso1_signs_as_the_published_vectors(method, uri, body, expected):
    assert sign(Signature.KSO1, method, uri, body) == {
        "X-Kso-Date": DATE,
        "X-Kso-Authorization": f"KSO-1 AK123456:{expected}",
    }


@pytest.mark.parametrize(
    "method, uri, body, expected",
    [
        ("GET", "/v7/depts/root", None, "9eb5c3fec34c1848aa7b0fa2309215b061dab9037496f646d72ad768c40e9a18"),
        (
            "POST",
            "/v7/test",
            b'{"key":"value"}',
            "1cf5004f4b4ca80c055f0af4f18d8121feb20ebbef4dd455b6255bf91d77aa01",
        ),
    ],
)
def test_wps4_signs_as_the_published_vectors(method, uri, body, expected):
    assert sign(Signature.WPS4, method, uri, body) == {
        "Wps-Docs-Date": DATE,
        "Wps-Docs-Authorization": f"WPS-4 AK123456:{expected}",
    }


@pytest.mark.parametrize(
    "content_type, covered",
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("application/x-www-form-urlencoded", True),
        ("application/octet-stream", False),
    ],
)
def test_wps4_covers_the_body_only_of_json_and_forms(content_type, covered):
    one, other = (sign(Signature.WPS4, "POST", "/v7/x", body, content_type) for body in (b"one", b"other"))
    assert (one != other) is covered


def test_no_signature_adds_no_headers():
    assert sign(Signature.NONE, "GET", "/v7/depts/root") == {}


def test_dates_are_in_gmt_whatever_the_zone():
    shanghai = timezone(timedelta(hours=8))
    assert http_date(datetime(2006, 1, 2, 23, 4, 5, tzinfo=shanghai)) == DATE
    assert http_date(datetime(2006, 1, 2, 15, 4, 5, tzinfo=UTC)) == DATE
