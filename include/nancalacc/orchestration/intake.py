"""Puts events into the inbox as they come, many in one transaction.

A commit takes about as long for two hundred events as for one. So whatever arrives while one
transaction is being written goes into the next one together, without waiting for company.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nancalacc.store.database import Database
from nancalacc.sync.inbox import Company, InboxEvent, store

LARGEST_GROUP = 200


@dataclass(frozen=True, slots=True)
class _Delivery:
    event: InboxEvent
    companies: tuple[Company, ...]
    stored: asyncio.Future[bool]


class Intake:
    """Stores the events of one event loop; `run` must be running for `put` to return."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: asyncio.Queue[_Delivery] = asyncio.Queue()

    async def put(self, event: InboxEvent, *, companies: Iterable[Company]) -> bool:
        """Return, once it is committed, whether the event was new; raises what the database raises."""
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(_Delivery(event, tuple(companies), stored))
        return await stored

    async def run(self) -> None:
        """Write what comes until cancelled."""
        while True:
            group = [await self._waiting.get()]
            while len(group) < LARGEST_GROUP and not self._waiting.empty():
                group.append(self._waiting.get_nowait())
            await self._write(group)

    async def _write(self, group: Sequence[_Delivery]) -> None:
        try:
            new = await asyncio.to_thread(self._commit, group)
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait; others go on being served
            for delivery in group:
                if not delivery.stored.done():
                    delivery.stored.set_exception(error)
            return
        for delivery in group:
            if not delivery.stored.done():
                delivery.stored.set_result(delivery.event in new)

    def _commit(self, group: Sequence[_Delivery]) -> set[InboxEvent]:
        by_companies: dict[tuple[Company, ...], list[InboxEvent]] = defaultdict(list)
        for delivery in group:
            by_companies[delivery.companies].append(delivery.event)
        new: set[InboxEvent] = set()
        with self._database.transaction() as connection:
            for companies, events in sorted(by_companies.items(), key=lambda item: repr(item[0])):
                new |= store(connection, events, companies=companies)
        return new
