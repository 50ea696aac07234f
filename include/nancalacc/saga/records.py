"""What the tables say about a saga, its steps and its events, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from nancalacc.saga.state import PivotState, SagaStatus, StepStatus


class Clock(Enum):
    """A moment that only the database can tell."""

    NOW = "now"


NOW = Clock.NOW
"""Stands for the database's present time where a column is set."""


@dataclass(frozen=True, slots=True)
class SagaRecord:
    """A row of saga_transactions; times are UTC without zone.

    `recovery_tries`: how often its recovery was begun in this epoch; `recovery_at`: not again
    before then; `recovery_error`: why the last try did not finish it.
    """

    transaction_id: str
    name: str
    definition: str
    status: SagaStatus
    epoch: int
    progress: int
    current_step: str | None = None
    failed_step: str | None = None
    error_message: str | None = None
    goal: str | None = None
    dag_id: str | None = None
    run_id: str | None = None
    third_company_id: str | None = None
    task_id: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    start_time: datetime | None = None
    end_time: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    recovery_tries: int = 0
    recovery_at: datetime | None = None
    recovery_error: str | None = None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A row of saga_steps; `heartbeat_age` is in seconds, by the database's clock."""

    step_id: str
    name: str
    position: int
    status: StepStatus
    epoch: int
    attempt: int
    action_data: Mapping[str, Any] | None = None
    compensate_data: Mapping[str, Any] | None = None
    error_message: str | None = None
    pivot_state: PivotState | None = None
    retry_count: int = 0
    max_retries: int = 3
    worker: str | None = None
    heartbeat_age: float | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A row of saga_events."""

    id: int
    event_type: str
    step_id: str | None
    event_data: Mapping[str, Any] | None
    created_at: datetime
