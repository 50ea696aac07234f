"""How long a full sync waits for WPS: seconds, or not at all."""

import pytest

from nancalacc.config import Settings
from nancalacc.errors import ConfigurationError


@pytest.mark.parametrize("value, seconds", [("", 0), ("0", 0), ("900", 900), ("none", None), ("OFF", None)])
def test_the_wait_is_a_number_of_seconds_or_none(monkeypatch, value, seconds):
    monkeypatch.setenv("NANCALACC_VERIFY_SECONDS", value)
    assert Settings.from_env().verify_seconds == seconds


@pytest.mark.parametrize("value", ["-1", "nan", "soon"])
def test_anything_else_is_refused_by_name(monkeypatch, value):
    monkeypatch.setenv("NANCALACC_VERIFY_SECONDS", value)
    with pytest.raises(ConfigurationError, match="NANCALACC_VERIFY_SECONDS"):
        Settings.from_env()
