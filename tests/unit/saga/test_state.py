import pytest

from nancalacc.saga.execution import current_step_of, progress_of
from nancalacc.saga.records import StepRecord
from nancalacc.saga.state import SAGA_TRANSITIONS, STEP_TRANSITIONS, EventType, SagaStatus, StepStatus


def test_the_statuses_of_a_saga_are_those_of_the_shared_tables() -> None:
    assert {each.value for each in SagaStatus} == {
        "pending", "in_progress", "completed", "failed", "compensating", "compensated", "cancelled",
    }  # fmt: skip


def test_the_statuses_of_a_step_are_those_of_the_shared_tables() -> None:
    assert {each.value for each in StepStatus} == {
        "pending", "in_progress", "completed", "failed", "compensating", "compensated", "skipped",
    }  # fmt: skip


def test_the_event_types_include_those_of_the_shared_tables() -> None:
    assert {each.value for each in EventType} >= {
        "saga_started", "step_started", "step_completed", "step_failed", "step_retried", "step_skipped",
        "compensation_started", "compensation_completed", "saga_completed", "saga_failed", "saga_cancelled",
    }  # fmt: skip


@pytest.mark.parametrize("table", [SAGA_TRANSITIONS, STEP_TRANSITIONS], ids=["saga", "step"])
def test_every_status_has_transitions_and_is_reachable_from_pending(table: dict) -> None:
    statuses = set(type(next(iter(table))))
    assert set(table) == statuses
    reached, frontier = set(), {status for status in statuses if status.value == "pending"}
    while frontier:
        reached |= frontier
        frontier = {after for status in frontier for after in table[status]} - reached
    assert reached == statuses


@pytest.mark.parametrize(
    "before, after",
    [
        (SagaStatus.COMPLETED, SagaStatus.COMPENSATING),
        (SagaStatus.COMPENSATED, SagaStatus.COMPENSATING),
        (SagaStatus.COMPENSATING, SagaStatus.IN_PROGRESS),
        (SagaStatus.COMPENSATING, SagaStatus.COMPLETED),
        (SagaStatus.PENDING, SagaStatus.COMPLETED),
    ],
)
def test_a_saga_never_goes(before: SagaStatus, after: SagaStatus) -> None:
    assert after not in SAGA_TRANSITIONS[before]


def test_only_completed_compensated_and_cancelled_sagas_have_ended() -> None:
    assert {status.value for status in SagaStatus if status.ended} == {
        "completed",
        "compensated",
        "cancelled",
    }


def records(*statuses: str) -> dict[str, StepRecord]:
    return {
        f"step_{position}": StepRecord(
            f"id:{position}", f"step_{position}", position, StepStatus(status), epoch=1, attempt=1
        )
        for position, status in enumerate(statuses, start=1)
    }


@pytest.mark.parametrize(
    "statuses, percent",
    [
        (["pending"] * 8, 0),
        (["completed"] + ["pending"] * 7, 12),
        (["completed", "skipped", "failed", "in_progress"], 50),
        (["completed"] * 7 + ["in_progress"], 87),
        (["completed", "skipped"], 100),
        (["compensated", "compensating", "completed", "failed"], 25),
    ],
)
def test_progress_is_the_share_of_completed_and_skipped_steps(statuses: list[str], percent: int) -> None:
    assert progress_of(records(*statuses)) == percent


@pytest.mark.parametrize(
    "statuses, current",
    [
        (["completed", "in_progress", "in_progress", "pending"], "step_2"),
        (["completed", "failed", "pending", "in_progress"], "step_4"),
        (["completed", "failed"], None),
    ],
)
def test_the_current_step_is_the_one_in_progress_with_the_lowest_position(
    statuses: list[str], current: str | None
) -> None:
    assert current_step_of(records(*statuses)) == current
