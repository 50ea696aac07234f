"""A DAG of the benchmarks: the graph of `full_sync` with tasks that do nothing."""

import sys
from pathlib import Path

from airflow.sdk import DAG, TaskGroup, TriggerRule, task

INCLUDE = str(Path(__file__).resolve().parents[3] / "include")
if INCLUDE not in sys.path:
    sys.path.insert(0, INCLUDE)

from nancalacc.sync.full import FULL_SYNC  # noqa: E402

with DAG("empty_full_sync", schedule=None):

    @task.branch(task_id="settle_saga", trigger_rule=TriggerRule.ALL_DONE, do_xcom_push=False)
    def settle() -> list[str]:
        return []

    def nothing(**_context: object) -> None:
        return None

    steps = {step.name: task(task_id=step.name, do_xcom_push=False)(nothing)() for step in FULL_SYNC}
    for step in FULL_SYNC:
        for predecessor in step.depends_on:
            steps[predecessor] >> steps[step.name]
    looks = []
    for checkpoint in FULL_SYNC.checkpoints:
        look = task(task_id=checkpoint.name, do_xcom_push=False)(nothing)()
        [steps[name] for name in checkpoint.after] >> look >> [steps[name] for name in checkpoint.before]
        looks.append(look)
    settled = settle()
    outcome = task(task_id="saga_outcome", trigger_rule=TriggerRule.ALL_DONE, do_xcom_push=False)(nothing)()
    verify = task(task_id="verify_wps", do_xcom_push=False)(nothing)()
    steps[FULL_SYNC.steps[-1].name] >> verify >> outcome
    [*steps.values(), *looks] >> settled
    [*steps.values(), *looks, settled] >> outcome
    previous = settled
    with TaskGroup("compensation"):
        for step in reversed(FULL_SYNC.steps):
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
