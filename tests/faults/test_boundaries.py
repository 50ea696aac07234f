"""Processes killed at every boundary of every definition: the system ends right, without a person."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from faults.sync_subject import REFUSED, sync_world
from faults.toy_subject import ToyWorld, toy_setup
from nancalacc.faultkit.clock import install_clock
from nancalacc.faultkit.kit import FaultKit
from nancalacc.faultkit.report import Report
from nancalacc.faultkit.subject import FORWARD, back_from
from nancalacc.saga.definition import SagaDefinition
from nancalacc.sync.full import FULL_SYNC
from nancalacc.sync.incremental import INCREMENTAL_SYNC

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def toy_kit(toy_url: str) -> Iterator[FaultKit]:
    world = ToyWorld(toy_url)
    with FaultKit(toy_url, toy_setup(toy_url), world, preload=["faults.toy_subject"]) as kit:
        yield kit
    world.close()


@contextmanager
def sync_kit(url: str, definition: SagaDefinition) -> Iterator[FaultKit]:
    install_clock(url)
    with (
        sync_world(url, definition) as world,
        FaultKit(url, world.setup, world, preload=["faults.sync_subject"]) as kit,
    ):
        yield kit


def tell(capsys: pytest.CaptureFixture[str], name: str, report: Report) -> None:
    with capsys.disabled():
        print(f"\n{name}\n{report}")


def test_the_toy_saga_ends_right(toy_kit, capsys):
    report = toy_kit.kill_everywhere(FORWARD, back_from("publish"))
    tell(capsys, "toy", report)
    assert not report.wrong


@pytest.mark.parametrize(
    "definition, scenarios",
    [
        (FULL_SYNC, (FORWARD, back_from("notify_wps"), REFUSED)),
        (INCREMENTAL_SYNC, (FORWARD, back_from("notify_wps"))),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_sync_ends_right(database_url, definition, scenarios, capsys):
    with sync_kit(database_url, definition) as kit:
        report = kit.kill_everywhere(*scenarios, alternately=True)
    tell(capsys, definition.name, report)
    assert not report.wrong
