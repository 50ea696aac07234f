"""What every step of an incremental sync knows: the names of the steps, the company, the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nancalacc.config import DingTalkSettings, Settings, WpsSettings
from nancalacc.errors import RefusedError
from nancalacc.saga.context import StepContext
from nancalacc.saga.params import require_known
from nancalacc.sync.claims import RetryRules, Tenant
from nancalacc.sync.services import SyncServices

NAME = "incremental_sync"
CLAIM, FETCH = "claim_events", "fetch_changes"
SAVE_DEPARTMENTS, SAVE_USERS, SAVE_RELATIONS = "save_departments", "save_users", "save_relations"
NOTIFY, CONFIRM, UPDATE_STATUS = "notify_wps", "confirm_increments", "update_event_status"
LARGEST_BATCH = 10_000
READING_SECONDS = 300.0
"""How long reading a batch from DingTalk should take at most; nobody else's events come meanwhile."""


@dataclass(frozen=True, slots=True)
class BatchParams:
    """What a run may be given; without connections it serves the company that has waited longest."""

    batch_size: int | None = None
    dingtalk_conn_id: str | None = None
    wps_conn_id: str | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> BatchParams:
        """Check the parameters of a run; raises RefusedError naming the one that is wrong."""
        require_known(params, [field.name for field in fields(cls)])
        size = params.get("batch_size")
        if size is not None and (
            not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST_BATCH
        ):
            raise RefusedError(
                f"Parameter 'batch_size' must be null or a number from 1 to {LARGEST_BATCH}, not {size!r}"
            )
        for key in ("dingtalk_conn_id", "wps_conn_id"):
            value = params.get(key)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise RefusedError(f"Parameter {key!r} must be null or the id of a connection, not {value!r}")
        if (params.get("dingtalk_conn_id") is None) != (params.get("wps_conn_id") is None):
            raise RefusedError("Parameters 'dingtalk_conn_id' and 'wps_conn_id' belong together: name both")
        return cls(**params)

    def size(self, settings: Settings, *, calls_per_second: float) -> int:
        """How many events to take at most; `calls_per_second` 0 means no limit.

        What a batch costs besides reading is the same for few events and for many: when more wait
        than a usual batch holds, as many are taken as can be read in a reasonable time.
        """
        if self.batch_size is not None:
            return self.batch_size
        readable = READING_SECONDS * calls_per_second if calls_per_second else LARGEST_BATCH
        return max(settings.batch_size, min(settings.backlog_batch_size, int(readable), LARGEST_BATCH))

    def pairs(self, companies: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """The pairs of connection ids among which to choose: the one that was named, or all."""
        if self.dingtalk_conn_id is None or self.wps_conn_id is None:
            return companies
        return ((self.dingtalk_conn_id, self.wps_conn_id),)


@dataclass(frozen=True, slots=True)
class Batch:
    """The company whose events this saga has claimed."""

    dingtalk: DingTalkSettings
    wps: WpsSettings
    events: int

    @classmethod
    def of(cls, ctx: StepContext) -> Batch | None:
        """The batch that was claimed, None when there was nothing to claim.

        Raises ConfigurationError when a connection has become unusable.
        """
        claimed = ctx.action_data(CLAIM)
        if not claimed["events"]:
            return None
        services: SyncServices = ctx.services
        return cls(
            dingtalk=services.dingtalk_settings(claimed["dingtalk_conn_id"]),
            wps=services.wps_settings(claimed["wps_conn_id"]),
            events=claimed["events"],
        )

    @property
    def tenant(self) -> Tenant:
        """The company by its ids."""
        return Tenant(
            self.dingtalk.conn_id, self.wps.conn_id, self.wps.third_company_id, self.wps.platform_id
        )


def retry_rules(services: SyncServices) -> RetryRules:
    """How events are tried again, as this installation is configured."""
    settings = services.settings
    return RetryRules(attempts=settings.event_attempts, first_pause=settings.event_pause_seconds)
