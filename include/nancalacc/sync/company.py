"""What every step of a full sync knows: the two sides, the snapshot, the names of the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from nancalacc.config import DingTalkSettings, WpsSettings
from nancalacc.errors import GuardError
from nancalacc.saga.checkpoint import Looking
from nancalacc.saga.context import CompensationContext, StepContext
from nancalacc.sync.params import FullSyncParams, params_of
from nancalacc.sync.publish import Snapshot
from nancalacc.sync.services import SyncServices

VALIDATE, FETCH = "validate_task", "fetch_dingtalk_data"
SAVE_COMPANY, SAVE_DEPARTMENTS = "save_company_config", "save_departments"
SAVE_USERS, SAVE_RELATIONS = "save_users", "save_relations"
NOTIFY, UPDATE_STATUS = "notify_wps", "update_task_status"
FETCH_LIMIT = timedelta(hours=3)
"""How long one attempt to read the organisation may take."""
PLAN = "plan_changes"
"""The checkpoint between the fetch and the saves."""
SAVES: Mapping[str, str] = MappingProxyType(
    {"departments": SAVE_DEPARTMENTS, "users": SAVE_USERS, "memberships": SAVE_RELATIONS}
)
"""The step that saves each kind of rows."""
DRY_RUN: Mapping[str, bool] = MappingProxyType({"dry_run": True})
"""The action_data of a step that has nothing to do in a dry run."""


@dataclass(frozen=True, slots=True)
class Company:
    """Both sides of a sync, as the parameters of the saga name them."""

    params: FullSyncParams
    dingtalk: DingTalkSettings
    wps: WpsSettings

    @classmethod
    def of(cls, ctx: StepContext | CompensationContext | Looking) -> Company:
        """Read parameters and both connections; raises RefusedError or ConfigurationError."""
        services: SyncServices = ctx.services
        params = params_of(ctx.saga.definition, ctx.saga.params)
        return cls(
            params=params,
            dingtalk=services.dingtalk_settings(params.dingtalk_conn_id),
            wps=services.wps_settings(params.wps_conn_id),
        )

    def snapshot(self, ctx: StepContext) -> Snapshot:
        """The rows that this saga writes; raises GuardError before it has a task id."""
        if ctx.saga.task_id is None:
            raise GuardError(f"The saga has no task id: clear {VALIDATE} with its downstream tasks")
        return Snapshot(
            task_id=ctx.saga.task_id,
            third_company_id=self.wps.third_company_id,
            platform_id=self.wps.platform_id,
        )
