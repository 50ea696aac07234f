"""
# Full sync: DingTalk → WPS 365

Copies the whole organisation — departments, users, memberships — from DingTalk to WPS. Every
task is a step of one saga: until `notify_wps` nothing is visible to WPS, and a failure is undone
in reverse by the tasks of the group `compensation`; from `notify_wps` on the saga only goes forward.
`verify_wps` reads WPS's directory back and says whether it has arrived; it never fails the run.
`plan_changes` is no step but a checkpoint: it writes down what will change, and stops the run, or
asks a person, when that is more than the limits allow.

| Trigger with config | |
|---|---|
| `dry_run` | reads everything and ends with the plan; writes nothing for WPS |
| `allow_mass_delete` | publishes although the plan is beyond a limit |
| `task_name` | a fixed task id (yyyyMMddHHmmss) instead of the start of the run |
| `dingtalk_conn_id`, `wps_conn_id` | another pair of connections |

**After a failure** open `saga_outcome`: its log says which step failed, why, what was undone, and
which task to clear. Clearing the failed task together with its downstream tasks runs the saga again.
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
from nancalacc.orchestration.schedules import timetable  # noqa: E402
from nancalacc.orchestration.verification import verify_wps  # noqa: E402
from nancalacc.sync.full import FULL_SYNC  # noqa: E402

SETTINGS = Settings.from_env()
RETRY_DELAY = timedelta(seconds=SETTINGS.retry_delay_seconds)

for number, (dingtalk, wps) in enumerate(SETTINGS.companies):
    with DAG(
        # The first pair keeps the plain name; any pair can be named when a run is triggered.
        dag_id=FULL_SYNC.name if number == 0 else f"{FULL_SYNC.name}__{wps}",
        dag_display_name="Full sync" if number == 0 else f"Full sync ({wps})",
        description="Copies the whole organisation from DingTalk to WPS 365, as a saga",
        doc_md=__doc__,
        schedule=timetable(
            SETTINGS.full_sync_schedule, variable="NANCALACC_FULL_SYNC_SCHEDULE", settings=SETTINGS
        ),
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=16,
        tags={"saga", "nancalacc"},
        default_args={"owner": "nancalacc"},
        params={
            "task_name": Param(
                None,
                type=["null", "string"],
                pattern=r"^\d{14}$",
                title="Task name",
                description=(
                    "Task id under which WPS gets the snapshot, yyyyMMddHHmmss, later than the last one."
                    " Empty: the start of the run."
                ),
            ),
            "dingtalk_conn_id": Param(
                dingtalk,
                type="string",
                minLength=1,
                title="DingTalk connection",
                description="Id of the Airflow connection (type HTTP) of the DingTalk app.",
            ),
            "wps_conn_id": Param(
                wps,
                type="string",
                minLength=1,
                title="WPS connection",
                description="Id of the Airflow connection (type HTTP) of the WPS tenant.",
            ),
            "dry_run": Param(
                False,
                type="boolean",
                title="Dry run",
                description="Read everything and show the plan, but publish nothing.",
            ),
            "allow_mass_delete": Param(
                False,
                type="boolean",
                title="Allow mass delete",
                description=(
                    "Publish although the plan takes away more than the limits allow, or DingTalk's scope is"
                    " narrower than at the last completed sync."
                ),
            ),
        },
    ) as dag:
        saga_tasks(
            FULL_SYNC,
            services=sync_services_of,
            outcome_services=outcome_services_of,
            retry_delay=RETRY_DELAY,
            check=verify_wps(services=sync_services_of, settings=SETTINGS),
        )
    globals()[dag.dag_id] = dag

if __name__ == "__main__":
    globals()[FULL_SYNC.name].test()
