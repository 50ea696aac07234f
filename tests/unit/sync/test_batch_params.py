"""How many events a batch takes."""

import pytest

from nancalacc.config import Settings
from nancalacc.sync.batch import LARGEST_BATCH, BatchParams


@pytest.mark.parametrize(
    "calls_per_second, size",
    [(0, 5000), (100, 5000), (15, 4500), (5, 1500), (1, 500), (0.01, 500)],
)
def test_of_a_backlog_it_takes_what_can_be_read_in_five_minutes(calls_per_second: float, size: int) -> None:
    assert BatchParams().size(Settings(), calls_per_second=calls_per_second) == size


def test_a_run_that_names_a_size_takes_no_more() -> None:
    assert BatchParams(batch_size=3).size(Settings(), calls_per_second=0) == 3


def test_it_takes_no_more_than_a_process_should_hold() -> None:
    settings = Settings(backlog_batch_size=10**6)
    assert BatchParams().size(settings, calls_per_second=0) == LARGEST_BATCH


def test_who_sets_only_the_usual_size_means_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANCALACC_BATCH_SIZE", "50")
    assert BatchParams().size(Settings.from_env(), calls_per_second=0) == 50
    monkeypatch.setenv("NANCALACC_BACKLOG_BATCH_SIZE", "200")
    assert BatchParams().size(Settings.from_env(), calls_per_second=0) == 200
