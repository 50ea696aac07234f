"""A DAG of the tests: a full sync that waits for WPS, as an installation may be configured."""

import sys
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param

INCLUDE = str(Path(__file__).resolve().parents[3] / "include")
if INCLUDE not in sys.path:
    sys.path.insert(0, INCLUDE)

from nancalacc.orchestration.registry import outcome_services_of, sync_services_of  # noqa: E402
from nancalacc.orchestration.saga_tasks import saga_tasks  # noqa: E402
from nancalacc.orchestration.verification import VerifyWps  # noqa: E402
from nancalacc.sync.full import FULL_SYNC  # noqa: E402

with DAG("full_sync__patient", schedule=None, params={"dry_run": Param(False, type="boolean")}):
    saga_tasks(
        FULL_SYNC,
        services=sync_services_of,
        outcome_services=outcome_services_of,
        retry_delay=timedelta(seconds=0.2),
        check=VerifyWps(task_id="verify_wps", services=sync_services_of, seconds=120),
    )
