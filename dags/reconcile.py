"""
# Reconcile: does WPS have what it was given?

Reads WPS's directory back, for each company, and compares it with what the syncs have given to WPS:
departments, people, memberships; ids, tree, names, accounts. The verdict, the counts and the
differences are on the console's page of the newest full sync, in the tables `verifications` and
`verification_differences`, and in the log. A difference does not fail the run.

| Trigger with config | |
|---|---|
| `wps_conn_id` | this company only |
| `repair` | queue what differs: `incremental_sync` reads those objects anew and brings them to WPS |

What is only in WPS is removed by a repair only if this company once published it and DingTalk does not
have it; and never more than a full sync may remove without `allow_mass_delete`.
"""

import sys
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, Param, task

INCLUDE = str(Path(__file__).resolve().parents[1] / "include")
if INCLUDE not in sys.path:
    sys.path.insert(0, INCLUDE)

from nancalacc.config import Settings  # noqa: E402
from nancalacc.orchestration.registry import sync_services_of  # noqa: E402
from nancalacc.orchestration.saga_tasks import retry_arguments  # noqa: E402
from nancalacc.orchestration.schedules import timetable  # noqa: E402

SETTINGS = Settings.from_env()

with DAG(
    dag_id="reconcile",
    dag_display_name="Reconcile",
    description="Compares WPS's directory with what it was given, and repairs it if asked to",
    doc_md=__doc__,
    schedule=timetable(
        SETTINGS.reconcile_schedule, variable="NANCALACC_RECONCILE_SCHEDULE", settings=SETTINGS
    ),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags={"saga", "nancalacc"},
    default_args={"owner": "nancalacc"},
    params={
        "wps_conn_id": Param(
            None,
            type=["null", "string"],
            minLength=1,
            title="WPS connection",
            description="Only the company of this connection. Empty: all companies.",
        ),
        "repair": Param(
            False,
            type="boolean",
            title="Repair",
            description="Queue what differs, so that incremental_sync reads it anew and brings it to WPS.",
        ),
    },
) as dag:
    for dingtalk, wps in SETTINGS.companies:

        @task(
            task_id=f"compare__{wps}",
            retries=3,
            execution_timeout=timedelta(hours=1),
            **retry_arguments(timedelta(seconds=SETTINGS.retry_delay_seconds)),
        )
        def compare(dingtalk=dingtalk, wps=wps, **context):
            from nancalacc.orchestration.verification import reconcile

            reconcile(context, services=sync_services_of, dingtalk_conn_id=dingtalk, wps_conn_id=wps)

        compare()

if __name__ == "__main__":
    dag.test()
