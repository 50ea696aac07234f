"""Asking WPS to begin: how long a busy one is asked again."""

import asyncio
from types import SimpleNamespace

import pytest

from nancalacc.config import Settings
from nancalacc.errors import BusyError
from nancalacc.sync.asking import ask


@pytest.mark.parametrize("answer_seconds", [0, 29])
def test_a_busy_wps_is_given_up_before_fifteen_minutes_however_slowly_it_answers(answer_seconds: int):
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def call() -> None:
        sleep(answer_seconds)
        raise BusyError("WPS is at work on an earlier sync")

    context = SimpleNamespace(
        services=SimpleNamespace(settings=Settings(), sleep=sleep),
        saga=SimpleNamespace(transaction_id="saga-1"),
        check=lambda: None,
    )
    with pytest.raises(BusyError):
        asyncio.run(ask(context, call, longest_pause=60, clock=lambda: now))
    assert 600 <= now < 15 * 60
