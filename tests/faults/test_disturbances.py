"""The database goes, forgets, or refuses; DingTalk and WPS are away: retries bring the saga to its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from faults.sync_subject import DINGTALK_AWAY, WPS_AWAY, sync_kit
from faults.toy_subject import toy_kit
from nancalacc.faultkit.boundaries import Kind
from nancalacc.faultkit.clock import Clock, install_clock
from nancalacc.faultkit.disturbances import crash, cut, lose
from nancalacc.faultkit.kit import FaultKit
from nancalacc.faultkit.subject import FORWARD, back_from
from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.database import Database
from nancalacc.store.migrate import upgrade
from nancalacc.sync.company import NOTIFY
from nancalacc.sync.full import FULL_SYNC
from nancalacc.sync.incremental import INCREMENTAL_SYNC
from toy_saga import create_tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCENARIOS = [FORWARD, back_from("publish")]
SYNCS = [FULL_SYNC, INCREMENTAL_SYNC]
SYNC_BACK = back_from(NOTIFY)
HOUR = 3600.0


@contextmanager
def own_server() -> Iterator[str]:
    """The URL of a database on a server of its own, which must not forget what it has said is on disk."""
    with Postgres() as server:
        url = server.create_database("crashing")
        upgrade(url)
        yield url


@pytest.fixture
def toys(toy_url: str) -> Iterator[FaultKit]:
    with toy_kit(toy_url) as kit:
        yield kit


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_connections_cut_anywhere_are_made_again(toys, toy_url, scenario, record_property):
    report = toys.disturb_everywhere(partial(cut, toy_url), scenario=scenario, every=2)
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_statements_that_fail_and_commits_whose_answer_is_lost_are_made_up_for(
    toys, scenario, record_property
):
    report = toys.disturb_everywhere(lose, scenario=scenario)
    record_property("figures", str(report))
    assert not report.wrong


def test_a_process_suspended_anywhere_cannot_write_when_it_wakes_up(toys, record_property):
    report = toys.suspend_everywhere() + toys.suspend_everywhere(SCENARIOS[1], every=4)
    record_property("figures", str(report))
    assert not report.wrong


def test_a_server_that_crashes_anywhere_is_waited_for(record_property):
    with own_server() as url:
        with Database(url) as database, database.transaction() as connection:
            create_tables(connection)
        with toy_kit(url) as kit:
            report = kit.disturb_everywhere(partial(crash, url), kinds=[Kind.COMMIT], every=7)
            report += kit.disturb_everywhere(
                partial(crash, url), scenario=SCENARIOS[1], kinds=[Kind.COMMIT], every=15
            )
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_clock_that_jumps_anywhere_changes_nothing(toy_url, seconds, record_property):
    install_clock(toy_url)
    with toy_kit(toy_url) as kit:
        jump = partial(Clock(toy_url).move, seconds)
        report = kit.disturb_everywhere(jump, every=3)
        report += kit.disturb_everywhere(jump, scenario=SCENARIOS[1], every=8)
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.parametrize("definition", SYNCS, ids=lambda each: each.name)
def test_a_sync_makes_up_for_commits_that_fail_and_answers_that_are_lost(
    database_url, definition, record_property
):
    with sync_kit(database_url, definition) as kit:
        report = kit.disturb_everywhere(lose, kinds=[Kind.COMMIT], every=2)
        report += kit.disturb_everywhere(partial(cut, database_url), kinds=[Kind.CALL], every=3)
        report += kit.disturb_everywhere(lose, scenario=SYNC_BACK, kinds=[Kind.COMMIT], every=9)
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.parametrize("definition", SYNCS, ids=lambda each: each.name)
def test_a_process_of_a_sync_that_was_suspended_cannot_write_when_it_wakes_up(
    database_url, definition, record_property
):
    with sync_kit(database_url, definition) as kit:
        report = kit.suspend_everywhere(every=17) + kit.suspend_everywhere(SYNC_BACK, every=41)
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.parametrize(
    "definition, seconds",
    # Not back for events: they would be due an hour later.
    [(FULL_SYNC, HOUR), (FULL_SYNC, -HOUR), (INCREMENTAL_SYNC, HOUR)],
    ids=["full forward", "full back", "incremental forward"],
)
def test_a_clock_that_jumps_does_not_change_what_comes_of_a_sync(
    database_url, definition, seconds, record_property
):
    with sync_kit(database_url, definition) as kit:
        jump = partial(Clock(database_url).move, seconds)
        report = kit.disturb_everywhere(jump, every=23)
        report += kit.disturb_everywhere(jump, scenario=SYNC_BACK, every=23)
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.parametrize("definition", SYNCS, ids=lambda each: each.name)
def test_a_sync_waits_for_a_server_that_crashes(definition, record_property):
    with own_server() as url, sync_kit(url, definition) as kit:
        report = kit.disturb_everywhere(partial(crash, url), kinds=[Kind.COMMIT], every=29)
        report += kit.disturb_everywhere(
            partial(crash, url), scenario=SYNC_BACK, kinds=[Kind.COMMIT], every=61
        )
    record_property("figures", str(report))
    assert not report.wrong


@pytest.mark.parametrize("definition", SYNCS, ids=lambda each: each.name)
@pytest.mark.parametrize("scenario", [DINGTALK_AWAY, WPS_AWAY], ids=str)
def test_a_sync_survives_that_the_other_side_is_away_for_minutes(database_url, definition, scenario):
    with sync_kit(database_url, definition) as kit:
        assert kit.endure(scenario) == []
