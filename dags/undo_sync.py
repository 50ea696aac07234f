"""
# Undo a sync

Brings WPS back to the state before a full sync (or before an earlier undo), as a saga of its own, with
its own task id, plan, limits and approval. The former state comes from the snapshots that
`saga_maintenance` keeps; DingTalk is not asked: `fetch_dingtalk_data` reads the snapshots instead.

| Trigger with config | |
|---|---|
| `transaction_id` | the saga of the sync to undo, as the console shows it |
| `dry_run` | plans, and publishes nothing |
| `allow_mass_delete` | publishes although the plan is beyond the limits; needed to undo a first sync |
| `task_name`, `dingtalk_conn_id`, `wps_conn_id` | as for a full sync |

What was changed after that sync is left alone and listed, with the reason, on the saga's page in the console.
**The next full sync brings the state of DingTalk again**: remove the cause before it runs.
"""

import sys
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, Param

INCLUDE = str(Path(__file__).resolve().parents[1] / "include")
if INCLUDE not in sys.path:
    sys.path.insert(0, INCLUDE)

from nancalacc.config import Settings  # noqa: E402
from nancalacc.orchestration.registry import outcome_services_of, sync_services_of  # noqa: E402
from nancalacc.orchestration.saga_tasks import saga_tasks  # noqa: E402
from nancalacc.orchestration.verification import verify_wps  # noqa: E402
from nancalacc.sync.undo import UNDO_SYNC  # noqa: E402

SETTINGS = Settings.from_env()
DINGTALK, WPS = SETTINGS.companies[0]
RETRY_DELAY = timedelta(seconds=SETTINGS.retry_delay_seconds)

with DAG(
    dag_id=UNDO_SYNC.name,
    dag_display_name="Undo a sync",
    description="Brings WPS back to the state before a sync, as a saga of its own",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=16,
    is_paused_upon_creation=False,
    tags={"saga", "nancalacc"},
    default_args={"owner": "nancalacc"},
    params={
        "transaction_id": Param(
            None,
            type=["null", "string"],
            minLength=1,
            maxLength=64,
            title="Transaction id",
            description="The saga of the sync to undo, as the console and saga_transactions name it.",
        ),
        "task_name": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{14}$",
            title="Task name",
            description=(
                "Task id under which WPS gets the former state, yyyyMMddHHmmss, later than the last one."
                " Empty: the start of the run."
            ),
        ),
        "dingtalk_conn_id": Param(
            DINGTALK,
            type="string",
            minLength=1,
            title="DingTalk connection",
            description="The DingTalk connection of the same company.",
        ),
        "wps_conn_id": Param(
            WPS,
            type="string",
            minLength=1,
            title="WPS connection",
            description="The WPS connection of the company whose sync is undone.",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Plan what would change, but publish nothing.",
        ),
        "allow_mass_delete": Param(
            False,
            type="boolean",
            title="Allow mass delete",
            description="Publish although the plan is beyond the limits; needed to undo a first sync.",
        ),
    },
) as dag:
    saga_tasks(
        UNDO_SYNC,
        services=sync_services_of,
        outcome_services=outcome_services_of,
        retry_delay=RETRY_DELAY,
        check=verify_wps(services=sync_services_of, settings=SETTINGS),
    )

if __name__ == "__main__":
    dag.test()
