"""
# Incremental sync: DingTalk's events → WPS 365

A run waits for events in the inbox, takes a batch of one company, reads the present state of what
the events name, and brings it to WPS. Until `notify_wps` nothing is visible to WPS, and a failure gives
the events back; from `notify_wps` on the saga only goes forward: `confirm_increments` waits for WPS's
word on every row.

Runs follow each other without end. One that finds nothing to do for five minutes ends skipped, so that
runs that were triggered or cleared by a person get their turn.

| Trigger with config | |
|---|---|
| `batch_size` | at most so many events in this run |
| `dingtalk_conn_id`, `wps_conn_id` | only the events of this pair of connections |

**An event that cannot be applied** is tried again after growing pauses and then given up:
`python -m nancalacc events list --status dead` names it and the reason, `events retry` queues it again.
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
from nancalacc.orchestration.saga_tasks import retry_arguments, saga_tasks  # noqa: E402
from nancalacc.orchestration.sensors import EventsSensor  # noqa: E402
from nancalacc.sync.batch import LARGEST_BATCH  # noqa: E402
from nancalacc.sync.incremental import INCREMENTAL_SYNC  # noqa: E402

SETTINGS = Settings.from_env()
RETRY_DELAY = timedelta(seconds=SETTINGS.retry_delay_seconds)

with DAG(
    dag_id=INCREMENTAL_SYNC.name,
    dag_display_name="Incremental sync",
    description="Brings what DingTalk's events name to WPS 365, in batches, each a saga",
    doc_md=__doc__,
    schedule="@continuous",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags={"saga", "nancalacc"},
    default_args={"owner": "nancalacc"},
    params={
        "batch_size": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=LARGEST_BATCH,
            title="Batch size",
            description=(
                f"At most so many events in this run. Empty: {SETTINGS.batch_size}, and up to"
                f" {SETTINGS.backlog_batch_size} when more are waiting."
            ),
        ),
        "dingtalk_conn_id": Param(
            None,
            type=["null", "string"],
            minLength=1,
            title="DingTalk connection",
            description="Only events of this connection. Empty: the company that has waited longest.",
        ),
        "wps_conn_id": Param(
            None,
            type=["null", "string"],
            minLength=1,
            title="WPS connection",
            description="The connection of the same company's WPS tenant. Empty: as above.",
        ),
    },
) as dag:
    saga_tasks(
        INCREMENTAL_SYNC,
        services=sync_services_of,
        outcome_services=outcome_services_of,
        retry_delay=RETRY_DELAY,
        gate=EventsSensor(
            task_id="wait_for_events",
            retries=10,
            execution_timeout=timedelta(minutes=5),
            **retry_arguments(RETRY_DELAY),
        ),
    )

if __name__ == "__main__":
    dag.test()
