"""The trigger that looks into the inbox, and the commands about it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from nancalacc.errors import ConfigurationError
from nancalacc.orchestration.events_cli import chosen
from nancalacc.orchestration.triggers import EventsTrigger
from nancalacc.sandbox.postgres import free_port
from nancalacc.store.database import Database
from nancalacc.sync.inbox import Company, InboxEvent, store

INCLUDE = Path(__file__).parents[3] / "include"


@pytest.fixture
def database(database_url):
    with Database(database_url) as opened:
        yield opened


def put(database, event_id: str) -> None:
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id)"
                " VALUES ('a', 'p', 'c') ON CONFLICT DO NOTHING"
            )
        )
        event = InboxEvent(event_id, "user_add_org", object_ids=("u1",))
        store(connection, [event], companies=[Company("dingtalk_a", "wps_a")])


def trigger(*, seconds: float) -> EventsTrigger:
    return EventsTrigger([["dingtalk_a", "wps_a", "a", "p"]], until=time.time() + seconds, poll_seconds=0.05)


async def first(waiting: EventsTrigger) -> dict:
    async for event in waiting.run():
        return event.payload
    raise AssertionError("it ended without an event")


async def test_the_trigger_fires_when_there_are_events(database, database_url, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_NANCALACC_DB", database_url)
    put(database, "1")
    assert await first(trigger(seconds=30)) == {"due": True}


async def test_the_trigger_ends_when_its_time_is_over(database_url, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_NANCALACC_DB", database_url)
    assert await first(trigger(seconds=0.3)) == {"due": False}


async def test_the_trigger_outlives_a_database_that_is_away(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_NANCALACC_DB", f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    assert await first(trigger(seconds=1.5)) == {"due": False}


def test_the_trigger_can_be_made_again_from_what_airflow_stores():
    path, values = trigger(seconds=5).serialize()
    assert path == "nancalacc.orchestration.triggers.EventsTrigger"
    assert EventsTrigger(**values).serialize() == (path, values)


def command(database_url: str, home: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(INCLUDE),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_NANCALACC_DB": database_url,
        "COLUMNS": "200",
        "LOGNAME": "operator",
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "nancalacc", "events", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_commands_list_show_retry_and_drop(database, database_url, tmp_path):
    for event_id in ("1", "2", "3"):
        put(database, event_id)
    with database.transaction() as connection:
        connection.execute(
            text("UPDATE dingtalk_events SET status = 'dead', error = 'because' WHERE event_id <> '3'")
        )
    listed = command(database_url, tmp_path, "list", "--status", "dead")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("because") == 2
    assert "2 of 2" in listed.stdout
    assert "because" in command(database_url, tmp_path, "show", "1").stdout
    why = ("--reason", "Rights were given")
    assert command(database_url, tmp_path, "retry", "1", *why).stdout.strip() == "Event 1 is queued again"
    assert command(database_url, tmp_path, "drop", "--all").stdout.strip() == "Event 2 is dropped"
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT status FROM dingtalk_events ORDER BY id"))
        assert list(rows.scalars()) == ["pending", "done", "pending"]
        retried, dropped, untouched = connection.execute(
            text("SELECT actions FROM dingtalk_events ORDER BY id")
        ).scalars()
    assert [(each["action"], each["reason"], each["error"]) for each in (*retried, *dropped)] == [
        ("retry", "Rights were given", "because"),
        ("drop", "python -m nancalacc events drop", "because"),
    ]
    assert {each["user"] for each in (*retried, *dropped)} == {"operator"}
    assert untouched == []
    assert "Rights were given" in command(database_url, tmp_path, "show", "1").stdout
    unknown = command(database_url, tmp_path, "retry", "77")
    assert unknown.returncode == 1
    assert "There is no event 77" in unknown.stderr
    wrong = command(database_url, tmp_path, "list", "--status", "broken")
    assert wrong.returncode == 1
    assert "pending, claimed, done, dead" in wrong.stderr


def test_all_dead_events_can_be_dropped_and_those_that_can_be_read_tried_again(database):
    for event_id in ("1", "2", "3"):
        put(database, event_id)
    with database.transaction() as connection:
        connection.execute(text("UPDATE dingtalk_events SET status = 'dead' WHERE event_id <> '3'"))
        connection.execute(text("UPDATE dingtalk_events SET error = 'Unreadable: x' WHERE event_id = '2'"))
        assert chosen(connection, [], all_dead=True, unreadable=False) == [1]
        assert chosen(connection, [], all_dead=True, unreadable=True) == [1, 2]
        assert chosen(connection, [7], all_dead=False, unreadable=False) == [7]
        with pytest.raises(ConfigurationError, match="--all"):
            chosen(connection, [7], all_dead=True, unreadable=True)
