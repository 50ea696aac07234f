"""What a bench says about its figures."""

import pytest

from bench.targets import at_least, at_most


@pytest.mark.parametrize(
    "said, expected",
    [
        (at_most(1.4, 1.5), "target: at most 1.5, met"),
        (at_most(1.5, 1.5), "target: at most 1.5, met"),
        (at_most(1.6, 1.5, " s"), "target: at most 1.5 s, missed"),
        (at_least(2100.0, 2000), "target: at least 2,000, met"),
        (at_least(2000, 2000), "target: at least 2,000, met"),
        (at_least(89.9, 90.0, " %"), "target: at least 90 %, missed"),
    ],
)
def test_a_figure_that_is_its_target_or_better_has_met_it(said: str, expected: str):
    assert said == expected
