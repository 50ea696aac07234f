"""Publishing a batch and following it until WPS has dealt with every row of it.

A round is published by one short transaction. The next follows when WPS has dealt with the last,
so that it never has more rows before it than it reads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from nancalacc.clients.dingtalk_errors import masked
from nancalacc.errors import BusyError, TransientError, UnknownOutcomeError
from nancalacc.saga.context import StepContext
from nancalacc.saga.state import EventType
from nancalacc.sync import increments, known_changes
from nancalacc.sync.asking import ask
from nancalacc.sync.batch import FETCH, Batch
from nancalacc.sync.fetch_changes import fail
from nancalacc.sync.increments import Verdict
from nancalacc.sync.planning import KINDS
from nancalacc.sync.services import SyncServices
from nancalacc.sync.staging import Fetch

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
AFTER_THE_SECOND = 0.05
"""The clocks of two processes are read one after the other."""
ROW_IS_GONE = "Its row was deleted before WPS had dealt with it"


@dataclass(slots=True)
class Tally:
    """What a step did: rounds, rows, calls of WPS, and what WPS said."""

    rounds: int = 0
    rows: int = 0
    calls: int = 0
    applied: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    stamped_again: int = 0

    def as_data(self) -> dict[str, Any]:
        """The counts for action_data."""
        return {
            "rounds": self.rounds,
            "rows": self.rows,
            "calls": self.calls,
            "applied": dict(self.applied),
            "refused": dict(self.refused),
            "stamped_again": self.stamped_again,
        }


class Publication:
    """One batch on its way to WPS, in one attempt of a step."""

    def __init__(self, ctx: StepContext, batch: Batch) -> None:
        self.tally = Tally()
        self._ctx = ctx
        self._batch = batch
        self._services: SyncServices = ctx.services
        self._saga = ctx.saga.transaction_id
        self._zone = batch.wps.timezone

    def begin(self) -> bool:
        """Publish the first round, intending to; False when there is nothing to publish."""
        with self._ctx.transaction() as connection:
            number = increments.next_round(connection, transaction_id=self._saga)
        if number is None:
            return False
        with self._ctx.transaction(intend=True) as connection:
            self._publish(connection, number)
        self._notify(number)
        return True

    def follow(self) -> None:
        """Wait for WPS's word on every row, publishing the rounds that are left.

        Raises TransientError when WPS leaves rows alone for too long.
        """
        fetch = self._ctx.action_data(FETCH)
        while True:
            with self._ctx.transaction() as connection:
                number = increments.next_round(connection, transaction_id=self._saga)
                if number is None:
                    return
                if number > 0:
                    self._publish(connection, number)
            if number > 0:
                self._notify(number)
            self._follow_round(number, fetch)

    def _publish(self, connection: Connection, number: int) -> None:
        self.tally.rows += increments.publish_round(
            connection,
            transaction_id=self._saga,
            number=number,
            third_company_id=self._batch.wps.third_company_id,
            platform_id=self._batch.wps.platform_id,
            zone=self._zone,
        )
        self.tally.rounds += 1

    def _notify(self, number: int) -> None:
        self._wait_for_window(number)
        self.tally.calls += asyncio.run(self._call())

    def _follow_round(self, number: int, fetch: Mapping[str, Any]) -> None:
        """Settle the rows of a round as WPS deals with them; tell WPS again of what it leaves alone."""
        settings = self._services.settings
        quiet_since = told_at = time.monotonic()
        while True:
            with self._ctx.transaction() as connection:
                found = increments.verdicts(connection, transaction_id=self._saga, number=number)
                settled = [each for each in found if each.status != 0]
                self._report(self._settle(connection, settled, fetch))
            if len(settled) == len(found):
                return
            now = time.monotonic()
            if settled:
                quiet_since = told_at = now
            if now - quiet_since >= settings.confirm_seconds:
                raise TransientError(
                    f"WPS has accepted the sync, but left {len(found) - len(settled)} rows of the increment"
                    f" tables alone for {now - quiet_since:.0f} s: look in the WPS console whether its"
                    " increments run. They are told to WPS again with the next try"
                )
            if now - told_at >= settings.renotify_seconds:
                self._tell_again(number)
                told_at = time.monotonic()
            self._services.sleep(settings.poll_seconds)
            self._ctx.check()

    def _tell_again(self, number: int) -> None:
        """Stamp open rows anew, since WPS may have missed them, and ask once more.

        While WPS is still at it, it says so, and there is nothing to do but to wait.
        """
        with self._ctx.transaction() as connection:
            self.tally.stamped_again += increments.stamp(
                connection, transaction_id=self._saga, number=number, zone=self._zone
            )
        self._wait_for_window(number)
        try:
            asyncio.run(self._call_once())
        except (BusyError, UnknownOutcomeError) as error:
            log.info("Saga %s: %s", self._saga, error)

    def _settle(
        self, connection: Connection, settled: list[Verdict], fetch: Mapping[str, Any]
    ) -> list[Verdict]:
        """Take over into known state what WPS has applied, and note why it refused the rest.

        Returns the words that decide about an object.
        """
        if not settled:
            return []
        company = self._batch.wps.third_company_id
        removals = increments.removals(connection, transaction_id=self._saga)
        for kind in KINDS:
            done = [each for each in settled if each.kind == kind and each.is_last and each.status == 1]
            gone = [each.key for each in done if (kind, each.key) in removals]
            kept = [each.key for each in done if (kind, each.key) not in removals]
            if gone:
                known_changes.forget(connection, kind, gone, third_company_id=company)
            if kept:
                known_changes.save(
                    connection,
                    kind,
                    kept,
                    fetch=Fetch.recorded(self._saga, fetch),
                    third_company_id=company,
                    managers_read=bool(fetch["managers_read"]),
                )
        needless = increments.needless(connection, transaction_id=self._saga)
        decisive = [
            each
            for each in settled
            if each.is_last and (each.status == 1 or (each.kind, each.key) not in needless)
        ]
        for each in decisive:
            if each.status != 1:
                fail(
                    connection,
                    transaction_id=self._saga,
                    kind="users" if each.kind == "memberships" else each.kind,
                    key=each.key,
                    reason=_reason(each),
                )
        increments.settle(connection, settled, transaction_id=self._saga)
        return decisive

    def _report(self, decisive: list[Verdict]) -> None:
        for each in decisive:
            if each.status == 1:
                self.tally.applied[each.kind] += 1
                continue
            self.tally.refused[each.kind] += 1
            reason = _reason(each)
            self._ctx.event(EventType.RECORD_REJECTED, {"id": each.key, "kind": each.kind, "reason": reason})
            log.warning("Saga %s: %s %s: %s", self._saga, each.kind, each.key, reason)
        self._ctx.report(self.tally.as_data())

    def _wait_for_window(self, number: int) -> None:
        while True:
            with self._ctx.transaction() as connection:
                seconds = increments.seconds_to_wait(
                    connection, transaction_id=self._saga, number=number, zone=self._zone
                )
            if seconds <= 0:
                return
            self._services.sleep(seconds + AFTER_THE_SECOND)
            self._ctx.check()

    async def _call(self) -> int:
        async with self._services.wps(self._batch.wps.conn_id) as client:
            return await ask(
                self._ctx,
                client.increment_sync,
                first_pause=FIRST_PAUSE_SECONDS,
                longest_pause=LONGEST_PAUSE_SECONDS,
            )

    async def _call_once(self) -> None:
        async with self._services.wps(self._batch.wps.conn_id) as client:
            await client.increment_sync()
            self.tally.calls += 1


def _reason(verdict: Verdict) -> str:
    if verdict.status is None:
        return ROW_IS_GONE
    return f"WPS refused it: {masked(verdict.message) or 'without a reason'}"
