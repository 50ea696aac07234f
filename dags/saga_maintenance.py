"""
# Saga maintenance

Removes what is over, in short transactions: snapshots beyond the newest kept ones, staging of ended
sagas, old events, ended sagas, events of DingTalk that were dealt with. The environment says how long
each is kept (`NANCALACC_KEEP_*`). Whatever an open saga, a compensation, a cleared run, or the
comparison with the last published state may need stays.

The log says how much was removed; `python -m nancalacc db stats` shows what is left.
"""

import sys
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, task

INCLUDE = str(Path(__file__).resolve().parents[1] / "include")
if INCLUDE not in sys.path:
    sys.path.insert(0, INCLUDE)

from nancalacc.config import Settings  # noqa: E402
from nancalacc.orchestration.saga_tasks import retry_arguments  # noqa: E402
from nancalacc.orchestration.schedules import timetable  # noqa: E402

SETTINGS = Settings.from_env()

with DAG(
    dag_id="saga_maintenance",
    dag_display_name="Saga maintenance",
    description="Removes snapshots, sagas, events and staging that are no longer needed",
    doc_md=__doc__,
    schedule=timetable(
        SETTINGS.maintenance_schedule, variable="NANCALACC_MAINTENANCE_SCHEDULE", settings=SETTINGS
    ),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags={"saga", "nancalacc"},
    default_args={"owner": "nancalacc"},
) as dag:

    @task(
        retries=3,
        execution_timeout=timedelta(hours=2),
        **retry_arguments(timedelta(seconds=SETTINGS.retry_delay_seconds)),
    )
    def prune():
        from nancalacc.orchestration.maintenance import run_maintenance

        run_maintenance()

    prune()

if __name__ == "__main__":
    dag.test()
