"""A DAG of the benchmarks: the graph of `incremental_sync` with tasks that do nothing."""

import sys
from pathlib import Path

from airflow.sdk import DAG, TaskGroup, TriggerRule, task

INCLUDE = str(Path(__file__).resolve().parents[3] / "include")
if INCLUDE not in sys.path:
    sys.path.insert(0, INCLUDE)

from nancalacc.sync.incremental import INCREMENTAL_SYNC  # noqa: E402

with DAG("empty_incremental_sync", schedule=None):

    @task.branch(task_id="settle_saga", trigger_rule=TriggerRule.ALL_DONE, do_xcom_push=False)
    def settle() -> list[str]:
        return []

    def nothing(**_context: object) -> None:
        return None

    gate = task(task_id="wait_for_events", do_xcom_push=False)(nothing)()
    steps = {step.name: task(task_id=step.name, do_xcom_push=False)(nothing)() for step in INCREMENTAL_SYNC}
    for step in INCREMENTAL_SYNC:
        for predecessor in step.depends_on:
            steps[predecessor] >> steps[step.name]
    gate >> steps[INCREMENTAL_SYNC.steps[0].name]
    settled = settle()
    outcome = task(task_id="saga_outcome", trigger_rule=TriggerRule.ALL_DONE, do_xcom_push=False)(nothing)()
    list(steps.values()) >> settled
    [*steps.values(), settled] >> outcome
    previous = settled
    with TaskGroup("compensation"):
        for step in reversed(INCREMENTAL_SYNC.steps):
            undo = task(
                task_id=step.name,
                trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
                do_xcom_push=False,
            )(nothing)()
            settled >> undo
            if previous is not settled:
                previous >> undo
            previous = undo
    previous >> outcome
