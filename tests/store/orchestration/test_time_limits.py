"""A task that runs out of time is interrupted anywhere, like a step that fails."""

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout

from nancalacc.saga.state import SagaStatus, StepStatus
from toy_saga import NAMES, Toy, check_ended


@pytest.mark.parametrize("point", ["fetch:written", "middle:before", "middle:written", "publish:call"])
def test_a_step_that_runs_out_of_time_has_failed_and_its_retry_completes(saga: Toy, point: str) -> None:
    left = [AirflowTaskTimeout("Timeout")]

    def hook(reached: str, context: Any) -> None:
        if reached == point and left:
            raise left.pop()

    saga.services.hook = hook
    step = point.partition(":")[0]
    with pytest.raises(AirflowTaskTimeout):
        saga.run_until("finish")
    record = saga.steps[step]
    assert record.status is StepStatus.FAILED
    assert record.error_message == "AirflowTaskTimeout (the task's log has the details)"
    assert saga.saga.status is SagaStatus.IN_PROGRESS

    for name in NAMES[NAMES.index(step) :]:
        saga.run(name)
    assert saga.conclude().status is SagaStatus.COMPLETED
    assert saga.steps[step].attempt == 2
    check_ended(saga)


@pytest.mark.parametrize(
    "point, status",
    [("middle:written", SagaStatus.COMPENSATED), ("publish:intended", SagaStatus.COMPLETED)],
)
def test_a_saga_whose_last_attempt_ran_out_of_time_is_ended(
    saga: Toy, point: str, status: SagaStatus
) -> None:
    def hook(reached: str, context: Any) -> None:
        if reached == point:
            raise AirflowTaskTimeout("Timeout")

    saga.services.hook = hook
    with pytest.raises(AirflowTaskTimeout):
        saga.run_until("finish")
    saga.services.hook = lambda reached, context: None
    assert saga.conclude().status is status
    check_ended(saga)
