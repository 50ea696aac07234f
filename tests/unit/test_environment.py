"""Environment variables and extras of connections: read strictly, refused by name."""

import json

import pytest

from nancalacc.config import ConnectionInfo, DingTalkSettings, Settings, WpsSettings
from nancalacc.environment import log_level
from nancalacc.errors import ConfigurationError

WPS_EXTRA = {
    "third_company_id": "t",
    "platform_id": "p",
    "company_id": "c",
    "phone_salt_secret": "0123456789abcdef",
}


def dingtalk(*, host: str = "https://dingtalk.test", **extra: object) -> DingTalkSettings:
    return DingTalkSettings.of(ConnectionInfo("d", host=host, login="key", password="secret", extra=extra))


def wps(**extra: object) -> WpsSettings:
    return WpsSettings.of(
        ConnectionInfo("w", host="https://wps.test", login="id", password="secret", extra=WPS_EXTRA | extra)
    )


@pytest.mark.parametrize("value, seconds", [("", 0), ("0", 0), ("900", 900), ("none", None), ("OFF", None)])
def test_the_wait_for_wps_is_a_number_of_seconds_or_none(monkeypatch, value, seconds):
    monkeypatch.setenv("NANCALACC_VERIFY_SECONDS", value)
    assert Settings.from_env().verify_seconds == seconds


@pytest.mark.parametrize(
    "name, value",
    [
        ("NANCALACC_VERIFY_SECONDS", "-1"),
        ("NANCALACC_VERIFY_SECONDS", "nan"),
        ("NANCALACC_VERIFY_SECONDS", "soon"),
        ("NANCALACC_HEARTBEAT_SECONDS", "-5"),
        ("NANCALACC_HEARTBEAT_SECONDS", "0"),
        ("NANCALACC_STALE_SECONDS", "nan"),
        ("NANCALACC_RETRY_DELAY_SECONDS", "inf"),
        ("NANCALACC_LOCK_WAIT_SECONDS", "-1"),
        ("NANCALACC_BATCH_SIZE", "0"),
        ("NANCALACC_BATCH_SIZE", "1.5"),
        ("NANCALACC_SCHEDULE_TIMEZONE", "Mars/X"),
        ("NANCALACC_SCHEDULE_TIMEZONE", "America"),
        ("NANCALACC_COMPANIES", "only-one"),
        ("NANCALACC_COMPANIES", "a:b:c"),
        ("NANCALACC_COMPANIES", "a:b,"),
        ("NANCALACC_COMPANIES", "a:two words"),
        ("NANCALACC_COMPANIES", "a:b,c:d,e:d"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_variables_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_env()


def test_a_step_must_not_count_as_dead_between_two_signs_of_life(monkeypatch):
    monkeypatch.setenv("NANCALACC_HEARTBEAT_SECONDS", "20")
    with pytest.raises(ConfigurationError, match="NANCALACC_STALE_SECONDS"):
        Settings.from_env()
    monkeypatch.setenv("NANCALACC_STALE_SECONDS", "60")
    assert Settings.from_env().stale_seconds == 60


@pytest.mark.parametrize("value", ["none", "OFF"])
def test_a_schedule_is_switched_off_by_a_word_and_empty_is_the_default(monkeypatch, value):
    monkeypatch.setenv("NANCALACC_RECOVERY_SCHEDULE", value)
    monkeypatch.setenv("NANCALACC_RECONCILE_SCHEDULE", "")
    settings = Settings.from_env()
    assert settings.recovery_schedule is None
    assert settings.reconcile_schedule == Settings().reconcile_schedule


def test_blanks_around_connection_ids_do_not_matter(monkeypatch):
    monkeypatch.setenv("NANCALACC_COMPANIES", " a : b , c:d")
    assert Settings.from_env().companies == (("a", "b"), ("c", "d"))


@pytest.mark.parametrize("value", ["-5", "nan", "inf", "0"])
def test_an_approval_takes_a_second_at_least_and_ends_some_time(monkeypatch, value):
    monkeypatch.setenv("NANCALACC_APPROVAL_SECONDS", value)
    with pytest.raises(ConfigurationError, match="NANCALACC_APPROVAL_SECONDS"):
        wps()


@pytest.mark.parametrize("value", ["foo", "5"])
def test_an_unknown_log_level_is_refused(monkeypatch, value):
    monkeypatch.setenv("LOG_LEVEL", value)
    with pytest.raises(ConfigurationError, match="LOG_LEVEL must be one of DEBUG"):
        log_level()


@pytest.mark.parametrize(
    "extra",
    [
        {"root_dept_id": "inf"},
        {"root_dept_id": 1.7},
        {"root_dept_id": 0},
        {"calls_per_second": "nan"},
        {"calls_per_second": -1},
        {"api_host": "ftp://x"},
        {"api_host": "https://"},
        {"user_details": "perhaps"},
    ],
    ids=json.dumps,
)
def test_a_wrong_extra_of_dingtalk_is_refused_by_its_name(extra):
    [name] = extra
    with pytest.raises(ConfigurationError, match=f"'d'.*'{name}'"):
        dingtalk(**extra)


@pytest.mark.parametrize(
    "extra", [{"approval_seconds": "inf"}, {"timezone": "America"}, {"timezone": "Mars/X"}], ids=json.dumps
)
def test_a_wrong_extra_of_wps_is_refused_by_its_name(extra):
    [name] = extra
    with pytest.raises(ConfigurationError, match=f"'w'.*'{name}'"):
        wps(**extra)


@pytest.mark.parametrize("host", ["https://", "a b", "ftp://x", "https://x:y"])
def test_a_host_that_is_no_url_is_refused(host):
    with pytest.raises(ConfigurationError, match="'d': host "):
        dingtalk(host=host)


@pytest.mark.parametrize(
    "host, port, schema, url",
    [
        ("https://x.test/", None, "", "https://x.test"),
        ("x.test", None, "", "https://x.test"),
        ("x.test", 8080, "http", "http://x.test:8080"),
        ("http://x.test:1/base/", 8080, "", "http://x.test:1/base"),
    ],
)
def test_a_base_url_may_come_in_parts(host, port, schema, url):
    assert ConnectionInfo("d", host=host, port=port, schema=schema).base_url == url


def test_what_an_extra_has_besides_is_told():
    connection = ConnectionInfo("d", extra={"calls_per_secnd": 5, "root_dept_id": 1, "timeout": 3})
    assert connection.unknown_extra(DingTalkSettings) == ["calls_per_secnd", "timeout"]


def test_callbacks_name_the_app_as_owner_unless_said_otherwise():
    assert dingtalk().callback_owner_key == "key"
    assert dingtalk(callback_owner_key="ding-corp").callback_owner_key == "ding-corp"
