"""The inbox on a real database."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

from nancalacc.store.database import Database
from nancalacc.store.tables import EventStatus, dingtalk_events
from nancalacc.sync.inbox import Company, InboxEvent, read_frame, store

A, B = Company("dingtalk_a", "wps_a"), Company("dingtalk_b", "wps_b")


def event(event_id: str = "e1", **changes) -> InboxEvent:
    return InboxEvent(
        **{"event_id": event_id, "event_type": "user_add_org", "object_ids": ("u1",), "corp_id": "c"}
        | changes
    )


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


def put(database: Database, *events: InboxEvent, companies=(A,)) -> set[InboxEvent]:
    with database.transaction() as connection:
        return store(connection, events, companies=companies)


def rows(database: Database) -> list:
    with database.transaction() as connection:
        return list(connection.execute(select(dingtalk_events).order_by(dingtalk_events.c.id)))


def test_an_event_waits_with_everything_a_batch_needs(database):
    born = datetime(2026, 11, 22, 20, 0, 0, 123000, tzinfo=UTC)

    assert put(database, event(object_ids=("u1", "研发"), born_at=born)) == {
        event(object_ids=("u1", "研发"), born_at=born)
    }

    (row,) = rows(database)
    assert (row.dingtalk_conn_id, row.wps_conn_id, row.event_id) == ("dingtalk_a", "wps_a", "e1")
    assert (row.event_type, row.corp_id, row.object_ids) == ("user_add_org", "c", ["u1", "研发"])
    assert (row.status, row.attempts, row.transaction_id, row.error) == ("pending", 0, None, None)
    assert row.born_at == born.replace(tzinfo=None)
    assert row.next_attempt_at is not None
    assert abs((datetime.now(UTC).replace(tzinfo=None) - row.received_at).total_seconds()) < 60


def test_storing_again_changes_nothing(database):
    put(database, event())
    before = rows(database)

    assert put(database, event(object_ids=("u2",)), event("e2")) == {event("e2")}
    assert rows(database)[:1] == before


def test_a_repetition_in_one_delivery_is_stored_once(database):
    assert put(database, event(), event(), event()) == {event()}
    assert len(rows(database)) == 1


def test_nothing_to_store_is_no_error(database):
    assert put(database) == set()
    assert put(database, event(), companies=()) == set()


def test_each_company_has_its_own(database):
    put(database, event(), companies=(A,))

    assert put(database, event(), companies=(A, B, B)) == {event()}
    assert [row.dingtalk_conn_id for row in rows(database)] == ["dingtalk_a", "dingtalk_b"]
    assert put(database, event(), companies=(A, B)) == set()


def test_unreadable_and_other_events_are_kept_but_do_not_wait(database):
    dead = read_frame({"eventType": "user_add_org", "eventId": "bad"}, '{"userId": ["a\\u0000"]}')
    recorded = read_frame({"eventType": "org_change", "eventId": "other"}, "")
    put(database, dead, recorded)

    assert {(row.event_id, row.status, row.error) for row in rows(database)} == {
        ("bad", EventStatus.DEAD, "Unreadable: none of its 1 entries is a userid"),
        ("other", EventStatus.DONE, None),
    }


def test_writers_of_the_same_events_do_not_block_each_other(database_url):
    """In opposite orders this ends in a deadlock every few rounds."""
    events = [event(f"e{number}") for number in range(300)]
    found: list[int] = []

    def write(mine: list[InboxEvent]) -> None:
        with Database(database_url) as database:
            for start in range(0, len(mine), 50):
                found.append(len(put(database, *mine[start : start + 50])))

    threads = [threading.Thread(target=write, args=[mine]) for mine in (events, events[::-1], events)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(found) == len(events)
    with Database(database_url) as database, database.transaction() as connection:
        assert connection.execute(select(func.count()).select_from(dingtalk_events)).scalar_one() == 300
