"""Publishing a batch and following it until WPS has dealt with every row of it.

A round is published by one short transaction. The next follows when WPS has dealt with the last,
so that it never has more rows before it than it reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from sqlalchemy import Connection

from nancalacc.clients.dingtalk_errors import masked
from nancalacc.errors import BusyError, ConfigurationError, UnknownOutcomeError
from nancalacc.saga.context import StepContext
from nancalacc.saga.state import EventType, PivotState
from nancalacc.saga.waiting import Wait
from nancalacc.sync import claims, increments, known_changes, planned_rows, touched
from nancalacc.sync.asking import ask
from nancalacc.sync.batch import FETCH, Batch
from nancalacc.sync.increments import Verdict
from nancalacc.sync.planning import KINDS
from nancalacc.sync.services import SyncServices
from nancalacc.sync.staging import Fetch

log = logging.getLogger(__name__)

SHORTEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5, 10.0
AFTER_THE_SECOND = 0.05
"""The clocks of two processes are read one after the other."""
PATIENCE_SECONDS = 2.0
"""WPS is often done within this; only then is the step laid down, which takes about as long."""
ROW_IS_GONE = "Its row was deleted before WPS had dealt with it"


@dataclass(slots=True)
class Tally:
    """What a step did: rounds, rows, calls of WPS, and what WPS said.

    `quiet_seconds`: how long WPS has dealt with no row of the round that is open; `told_again`: how often
    it has agreed to begin once more since.
    """

    rounds: int = 0
    rows: int = 0
    calls: int = 0
    applied: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    stamped_again: int = 0
    quiet_seconds: float = 0
    told_again: int = 0

    def as_data(self) -> dict[str, Any]:
        """The counts for action_data."""
        return {
            "rounds": self.rounds,
            "rows": self.rows,
            "calls": self.calls,
            "applied": dict(self.applied),
            "refused": dict(self.refused),
            "stamped_again": self.stamped_again,
            "quiet_seconds": self.quiet_seconds,
            "told_again": self.told_again,
        }

    @classmethod
    def of(cls, data: Mapping[str, Any] | None) -> Self:
        """The counts so far of an attempt that goes on; none of one that begins."""
        if not data:
            return cls()
        counts = {"applied": Counter(data["applied"]), "refused": Counter(data["refused"])}
        return cls(**{**data, **counts})


class Publication:
    """One batch on its way to WPS, in one attempt of a step."""

    def __init__(self, ctx: StepContext, batch: Batch) -> None:
        self.tally = Tally.of(ctx.so_far)
        self._ctx = ctx
        self._batch = batch
        self._services: SyncServices = ctx.services
        self._saga = ctx.saga.transaction_id
        self._zone = batch.wps.timezone

    def begin(self) -> bool:
        """Publish the first round, intending to; False when there is nothing to publish.

        Raises ConfigurationError before, when WPS does not read the platform of the connection (any more).
        """
        with self._ctx.transaction() as connection:
            number = increments.next_round(connection, transaction_id=self._saga)
        if number is None:
            return False
        with self._ctx.transaction(intend=True) as connection:
            # Once it may be published, the saga only goes forward.
            if self._ctx.record.pivot_state is not PivotState.INTENDED:
                self._require_platform(connection)
            self._publish(connection, number)
        self._notify(number)
        return True

    def follow(self) -> Wait | None:
        """Take WPS's word on every row, and publish the rounds that are left.

        Returns what to wait for while rows are open, None when none is. Raises BusyError when WPS
        leaves rows alone for too long.
        """
        fetch = self._ctx.action_data(FETCH)
        goes_on = self._ctx.so_far is not None
        while True:
            with self._ctx.transaction() as connection:
                number = increments.next_round(connection, transaction_id=self._saga)
                if number is None:
                    return None
                is_new = number > 0 and not goes_on
                if is_new:
                    self._publish(connection, number)
            if is_new:
                self._notify(number)
            wait = self._follow_round(number, fetch, goes_on=goes_on)
            if wait is not None:
                return wait
            goes_on = False

    def _require_platform(self, connection: Connection) -> None:
        if not claims.is_configured(connection, self._batch.tenant):
            wps = self._batch.wps
            raise ConfigurationError(
                f"tb_company_cfg does not name platform_id {wps.platform_id!r} for {wps.third_company_id!r},"
                " and rows of a foreign platform may stall WPS: nothing is published. Put back extra"
                f" 'platform_id' of connection {wps.conn_id!r}, or run a full sync: the events wait for it"
            )

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
        """Have WPS read the round, unless it has by itself: then a refusal would be no reason to stop."""
        self._wait_for_window(number)
        with self._ctx.transaction() as connection:
            is_open = increments.is_open(connection, transaction_id=self._saga, number=number)
        if is_open:
            self.tally.calls += asyncio.run(self._call())

    def _follow_round(self, number: int, fetch: Mapping[str, Any], *, goes_on: bool) -> Wait | None:
        """Settle the rows of a round as WPS deals with them; returns what to wait for if some are left.

        `goes_on`: the round was waited for. If in vain, WPS is told again of what it leaves alone.
        """
        settings = self._services.settings
        settled, left = self._settle_round(number, fetch)
        if left and goes_on and not settled:
            if self.tally.quiet_seconds >= settings.confirm_seconds:
                # No retry of the task: other companies' batches wait for this run to end.
                raise BusyError(
                    f"WPS has accepted the sync, but left {left} rows of the increment tables alone for"
                    f" {self.tally.quiet_seconds:.0f} s: look in the WPS console whether its increments run."
                    " They are told to WPS again with the next try, by saga_recovery if not before"
                )
            self._tell_again(number)
        patience, pause = PATIENCE_SECONDS, max(settings.poll_seconds, SHORTEST_PAUSE_SECONDS)
        while left and patience > 0:
            self._services.sleep(pause)
            patience -= pause
            self._ctx.check()
            _, left = self._settle_round(number, fetch)
        if not left:
            return None
        # Longer each time: a WPS that begins late must not find every run's rows stamped anew.
        longest = settings.renotify_seconds * 2 ** max(0, self.tally.told_again - 1)
        seconds = min(longest, settings.confirm_seconds - self.tally.quiet_seconds)
        self.tally.quiet_seconds += seconds
        return Wait(
            condition={"transaction_id": self._saga, "round": number},
            seconds=seconds,
            data=self.tally.as_data(),
            poll_seconds=pause,
        )

    def _settle_round(self, number: int, fetch: Mapping[str, Any]) -> tuple[int, int]:
        """Settle what WPS has dealt with; returns how many rows that were, and how many are left."""
        with self._ctx.transaction() as connection:
            found = increments.verdicts(connection, transaction_id=self._saga, number=number)
            settled = [each for each in found if each.status != 0]
            decisive = self._settle(connection, settled, fetch)
        if settled:
            self.tally.quiet_seconds = self.tally.told_again = 0
        self._report(decisive)
        return len(settled), len(found) - len(settled)

    def _tell_again(self, number: int) -> None:
        """Ask once more; when WPS has begun anew since and left the rows alone, stamp them anew before.

        Only then has it missed them: a stamp that is new to a run that begins late is missed by that.
        While WPS is still at it, it says so, and there is nothing to do but to wait.
        """
        if self.tally.told_again:
            with self._ctx.transaction() as connection:
                self.tally.stamped_again += increments.stamp(
                    connection, transaction_id=self._saga, number=number, zone=self._zone
                )
            self._wait_for_window(number)
        try:
            asyncio.run(self._call_once())
        except (BusyError, UnknownOutcomeError) as error:
            log.info("Saga %s: %s", self._saga, error)
        else:
            self.tally.told_again += 1

    def _settle(
        self, connection: Connection, settled: list[Verdict], fetch: Mapping[str, Any]
    ) -> list[Verdict]:
        """Take over into known state what WPS has applied, and note why it refused the rest.

        Returns the words that decide about an object.
        """
        if not settled:
            return []
        company = self._batch.wps.third_company_id
        removals = planned_rows.removals(connection, transaction_id=self._saga)
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
        needless = planned_rows.needless(connection, transaction_id=self._saga)
        decisive = [
            each
            for each in settled
            if each.is_last and (each.status == 1 or (each.kind, each.key) not in needless)
        ]
        for each in decisive:
            if each.status != 1:
                touched.fail(
                    connection,
                    transaction_id=self._saga,
                    kind="users" if each.kind == "memberships" else each.kind,
                    key=each.key,
                    reason=_reason(each),
                )
        increments.settle(connection, settled, transaction_id=self._saga, zone=self._zone)
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


def is_dealt_with(connection: Connection, condition: Mapping[str, Any]) -> bool:
    """Whether WPS has dealt with every row of the round that the condition names."""
    return not increments.is_open(
        connection, transaction_id=condition["transaction_id"], number=condition["round"]
    )


def _reason(verdict: Verdict) -> str:
    if verdict.status is None:
        return ROW_IS_GONE
    return f"WPS refused it: {masked(verdict.message) or 'without a reason'}"
