"""
# Saga recovery

Finishes sagas whose run has ended or is gone — marked as failed or successful by hand, timed out,
deleted, killed — from the tables alone: forward when they have published or may have, otherwise back,
step by step in reverse. A saga that cannot be finished is tried again after growing pauses (one minute
to one hour), without end: `recovery_tries`, `recovery_at` and `recovery_error` in `saga_transactions`
say how often, when again, and why not. Sagas of runs that go on are never touched.

| Trigger with config | |
|---|---|
| `transaction_id` | this saga only, now, whenever its next try would be |

The log has a group for each saga. The task fails when the database is away, or when the one saga that
was asked for could not be finished.
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
from nancalacc.orchestration.saga_tasks import retry_arguments  # noqa: E402
from nancalacc.orchestration.schedules import timetable  # noqa: E402

SETTINGS = Settings.from_env()

with DAG(
    dag_id="saga_recovery",
    dag_display_name="Saga recovery",
    description="Finishes sagas whose run has ended or is gone",
    doc_md=__doc__,
    schedule=timetable(SETTINGS.recovery_schedule, variable="NANCALACC_RECOVERY_SCHEDULE", settings=SETTINGS),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    # A person must not wait for the scheduled one; two at once do no harm.
    max_active_runs=4,
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
            description="The one saga to recover, as saga_transactions names it. Empty: all that are due.",
        ),
    },
) as dag:

    @task(
        retries=3,
        execution_timeout=timedelta(hours=1),
        **retry_arguments(timedelta(seconds=SETTINGS.retry_delay_seconds)),
    )
    def recover_sagas(**context):
        from nancalacc.orchestration.recovery import recover_sagas as recover

        recover(context)

    recover_sagas()

if __name__ == "__main__":
    dag.test()
