"""Asking WPS to begin until it has accepted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from nancalacc.errors import BusyError, CallRefusedError, NancalaccError, UnknownOutcomeError
from nancalacc.saga.context import StepContext
from nancalacc.saga.state import PivotState
from nancalacc.sync.services import SyncServices

log = logging.getLogger(__name__)

UNKNOWN_TRIES = 3
NOT_UNDONE = (
    "WPS may have taken up an earlier call, or read the rows by itself: nothing is undone. Remove the cause;"
    " saga_recovery asks again by itself, and so does clearing this task"
)


async def ask(
    ctx: StepContext,
    call: Callable[[], Awaitable[None]],
    *,
    longest_pause: float,
    first_pause: float = 2.0,
    on_refusal: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Repeat a call, which must be safe to repeat, until it is accepted; returns how often it was made.

    Raises BusyError after `busy_wait_seconds`, calls included, and UnknownOutcomeError after three
    such answers (try again later: it may have begun), and what tells a refusal. `on_refusal` is called
    when the very first call was refused or never sent: then WPS has begun nothing. A busy WPS may
    have put the call in line [wps 9.6], so that a refusal after it proves as little as after a lost answer.
    """
    services: SyncServices = ctx.services
    calls = unknown = 0
    waited, pause = 0.0, first_pause
    while True:
        ctx.check()
        calls += 1
        began = clock()
        try:
            await call()
            return calls
        except BusyError:
            waited += clock() - began
            if waited >= services.settings.busy_wait_seconds:
                raise
        except UnknownOutcomeError:
            unknown += 1
            if unknown >= UNKNOWN_TRIES:
                raise
        except NancalaccError as error:
            if calls == 1:
                on_refusal()
            is_open = calls > 1 or ctx.record.pivot_state is PivotState.INTENDED
            if is_open and isinstance(error, CallRefusedError):
                raise CallRefusedError(f"{error}. {NOT_UNDONE}", code=error.code) from error
            raise
        log.warning(
            "Saga %s: WPS is busy or did not answer; asking again in %.1f s", ctx.saga.transaction_id, pause
        )
        await asyncio.to_thread(services.sleep, pause)
        waited += pause
        pause = min(pause * 2, longest_pause)
