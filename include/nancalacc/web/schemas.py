"""What the API takes and answers."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from nancalacc.saga.state import PivotState, SagaStatus, StepStatus
from nancalacc.store.tables import EventStatus


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_utc)]
"""A time of the saga tables: UTC without zone there, with zone here."""
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
Seconds = float


class Model(BaseModel):
    """Base of all: fields come from attributes of records and rows."""

    model_config = ConfigDict(from_attributes=True)


class Action(StrEnum):
    """What a person may do to a saga."""

    RETRY = "retry"
    SKIP = "skip"
    CANCEL = "cancel"
    RECOVER = "recover"
    UNDO = "undo"


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Saga(Model):
    """A saga as a list shows it. `steps_by_status`: how many of its steps have which status."""

    transaction_id: str
    name: str
    definition: str
    status: SagaStatus
    epoch: int
    progress: int
    current_step: str | None
    failed_step: str | None
    error_message: str | None
    dag_id: str | None
    run_id: str | None
    third_company_id: str | None
    task_id: str | None
    start_time: Moment | None
    end_time: Moment | None
    created_at: Moment | None
    updated_at: Moment | None
    recovery_tries: int
    recovery_at: Moment | None
    recovery_error: str | None
    steps_by_status: dict[str, int] = Field(default_factory=dict)


class Sagas(BaseModel):
    """A page of sagas; `next_cursor` asks for the next one. `counts`: by status, of all pages."""

    items: list[Saga]
    next_cursor: str | None
    counts: dict[str, int]


class Step(Model):
    """A step. `action_data` is what it reported: counts, never people's data."""

    name: str
    position: int
    kind: str | None = None
    status: StepStatus
    epoch: int
    attempt: int
    retry_count: int
    max_retries: int
    action_data: dict[str, Any] | None
    error_message: str | None
    pivot_state: PivotState | None
    heartbeat_age: Seconds | None
    worker: str | None
    start_time: Moment | None
    end_time: Moment | None
    log_url: str | None = None


class Steps(BaseModel):
    """The steps of a saga in their order."""

    items: list[Step]


class Event(Model):
    """An event of a saga, in the order of `id`."""

    id: int
    event_type: str
    step: str | None
    event_data: dict[str, Any] | None
    created_at: Moment


class Events(BaseModel):
    """Events from the one after `after`; `next_after` asks for what comes then."""

    items: list[Event]
    next_after: int | None


class Possible(BaseModel):
    """Whether an action is possible now; `reason` says why not. `steps`: what it may be done to."""

    action: Action
    allowed: bool
    reason: str | None = None
    steps: list[str] = Field(default_factory=list)


class Links(BaseModel):
    """Paths below Airflow's base URL."""

    run: str | None
    dag: str | None


class SagaDetail(Saga):
    """A saga with everything a person looks at."""

    params: dict[str, Any]
    goal: str | None
    past_pivot: bool
    steps: list[Step]
    events: list[Event]
    links: Links
    actions: list[Possible]
    now: Moment


class StepFigures(Model):
    """A step over a time: how often it ran, and its durations in seconds."""

    definition: str
    step_name: str
    count: int
    failed: int
    retries: int
    p50: Seconds | None
    p95: Seconds | None


class FailureReason(Model):
    """A message and how many sagas failed with it."""

    definition: str
    failed_step: str | None
    reason: str
    count: int
    last_at: Moment


class Statistics(BaseModel):
    """Figures of the last `days`. `compensation_rate`: compensated of all that ended, None without any."""

    days: int
    counts: dict[str, dict[str, int]]
    compensation_rate: float | None
    steps: list[StepFigures]
    reasons: list[FailureReason]
    oldest_uncompensated: Saga | None


class InboxFigures(Model):
    """How full the inbox is; `lag_seconds`: the age of the oldest event that is not dealt with."""

    pending: int
    claimed: int
    dead: int
    oldest_pending_at: Moment | None
    lag_seconds: Seconds | None
    last_received_at: Moment | None


class Listener(BaseModel):
    """Whether somebody listens for the events of a connection; `seen_at` None: nobody ever did."""

    dingtalk_conn_id: str
    is_connected: bool
    seen_at: Moment | None
    started_at: Moment | None


class HealthDetails(BaseModel):
    """Whether things are as they should be; `problems` are sentences for the person on call.

    `last_full_syncs`: the last completed one of each company, the newest first.
    """

    database: str
    schema_revision: str | None
    schema_expected: str
    open_sagas: int
    oldest_open: Saga | None
    last_full_sync: Saga | None
    last_full_syncs: list[Saga]
    listeners: list[Listener]
    inbox: InboxFigures
    problems: list[str]
    now: Moment


class EventAction(Model):
    """What somebody did about an event when it was dead; `error`: of what it had died."""

    action: Literal["retry", "drop"]
    user: str
    reason: str
    request_id: str | None
    error: str | None
    at: Moment


class InboxEvent(Model):
    """An event of DingTalk: its type, its objects' ids, its fate, and what people did about it."""

    id: int
    dingtalk_conn_id: str
    wps_conn_id: str
    event_id: str
    event_type: str
    object_ids: list[Any]
    status: EventStatus
    attempts: int
    error: str | None
    transaction_id: str | None
    born_at: Moment | None
    received_at: Moment
    next_attempt_at: Moment
    handled_at: Moment | None
    actions: list[EventAction]


class InboxPage(BaseModel):
    """A page of the inbox; `counts`: all events by status."""

    items: list[InboxEvent]
    next_cursor: str | None
    counts: dict[str, int]


class TaskRecord(Model):
    """A record of the shared table `task`; times are local to the company's zone, as WPS has them."""

    id: int
    title: str
    status: str
    progress: int | None
    start_date: datetime | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    estimated_time: int | None
    actual_time: int | None


class TaskRecords(BaseModel):
    """A page of records of `task`."""

    items: list[TaskRecord]
    next_cursor: str | None


class Person(BaseModel):
    """Who is signed in, the DAGs they may change or start, and whether they may decide about dead events."""

    name: str
    editable_dags: list[str]
    full_sync_dags: list[str]
    decides_events: bool


class ActionRequest(BaseModel):
    """A request to act. The same `request_id` again has no further effect and the same answer."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
    request_id: UUID | None = None


class RetryRequest(ActionRequest):
    """Run the saga again, from `step` on; without it from the step that failed."""

    step: str | None = Field(default=None, max_length=64)


class SkipRequest(ActionRequest):
    """Count a step as done."""

    step: str = Field(max_length=64)


class FullSyncRequest(ActionRequest):
    """Start a full sync."""

    dag_id: str = Field(default="full_sync", max_length=250)
    dry_run: bool = False
    allow_mass_delete: bool = False


class ActionResult(BaseModel):
    """What was done. `changed` is False for a repetition."""

    transaction_id: str | None
    message: str
    changed: bool = True


class InboxActionResult(BaseModel):
    """An event as it is after the action. `changed` is False for a repetition."""

    event: InboxEvent
    changed: bool = True
