"""What can be asked about sagas without changing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nancalacc.errors import IllegalTransitionError
from nancalacc.saga.records import EventRecord, SagaRecord, StepRecord
from nancalacc.saga.state import SagaStatus
from nancalacc.saga.storage import Storage


class SagaReader:
    """Reads sagas, their steps and their events from a store."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def exists(self, transaction_id: str) -> bool:
        """True when there is such a saga."""
        return self._storage.get(transaction_id) is not None

    def get(self, transaction_id: str) -> tuple[SagaRecord, tuple[StepRecord, ...]]:
        """A saga and its steps in order; raises IllegalTransitionError when there is no such saga."""
        found = self._storage.get(transaction_id)
        if found is None:
            raise IllegalTransitionError(f"There is no saga {transaction_id}")
        return found

    def list(
        self,
        *,
        statuses: Sequence[SagaStatus] = (),
        definition: str | None = None,
        third_company_id: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[SagaRecord, ...]:
        """Sagas, newest first."""
        return self._storage.list(
            statuses=statuses,
            definition=definition,
            third_company_id=third_company_id,
            limit=limit,
            offset=offset,
        )

    def events(self, transaction_id: str, *, after: int = 0, limit: int = 1000) -> tuple[EventRecord, ...]:
        """Events of a saga in the order in which they were written."""
        return self._storage.events(transaction_id, after=after, limit=limit)

    def statistics(self) -> dict[str, dict[str, int]]:
        """How many sagas of each definition have each status."""
        counts: dict[str, dict[str, int]] = {}
        for (definition, status), count in self._storage.count_by_status().items():
            counts.setdefault(definition, {})[status.value] = count
        return counts

    def health(self) -> dict[str, Any]:
        """Whether the store answers, and how many sagas are open; raises DatabaseError otherwise."""
        open_ = [status for status in SagaStatus if not status.ended]
        counts = self._storage.count_by_status()
        return {
            "database": "ok",
            "open": sum(count for (_, status), count in counts.items() if status in open_),
        }
