"""What people decided about a dead event stays with it, whatever becomes of the event."""

import pytest
from sqlalchemy import Row, text

from nancalacc.store.database import Database
from nancalacc.sync import dead_events
from nancalacc.sync.claims import RetryRules, Tenant, claim, halve
from nancalacc.sync.dead_events import Decision
from nancalacc.sync.inbox import Company, InboxEvent, store

TENANT = Tenant("dingtalk_a", "wps_a", "a", "p")
FIRST = Decision(user="ann", reason="Rights were given", request_id="r1")


@pytest.fixture
def database(database_url):
    with Database(database_url) as opened:
        yield opened


def event(database) -> Row:
    with database.transaction() as connection:
        return connection.execute(text("SELECT * FROM dingtalk_events")).one()


def dies(database, error: str) -> int:
    """A batch takes the event, fails, and the event has no attempt left; returns the event's id."""
    with database.transaction() as connection:
        assert claim(connection, TENANT, transaction_id=error, size=5) == 1
        halve(connection, transaction_id=error, rules=RetryRules(1, 1), error=error, largest=5)
    assert event(database).status == "dead"
    return event(database).id


def test_who_decided_and_why_is_still_there_when_the_event_fails_again(database):
    with database.transaction() as connection:
        store(
            connection,
            [InboxEvent("1", "user_add_org", object_ids=("u1",))],
            companies=[Company(TENANT.dingtalk_conn_id, TENANT.wps_conn_id)],
        )
    event_id = dies(database, "60011: no access")
    with database.transaction() as connection:
        row, is_news = dead_events.retry(connection, event_id, decision=FIRST)
    assert (row.status, row.error, is_news) == ("pending", "60011: no access", True)
    dies(database, "50002: still none")
    assert event(database).error == "50002: still none"
    with database.transaction() as connection:
        row, is_news = dead_events.retry(connection, event_id, decision=FIRST)
    assert (row.status, is_news) == ("dead", False), "the same request has its effect once"
    with database.transaction() as connection:
        dead_events.drop(connection, event_id, decision=Decision(user="bob", reason="Never mind"))
    first, second = event(database).actions
    assert first.pop("at") < second.pop("at")
    assert first == {
        "action": "retry",
        "user": "ann",
        "reason": "Rights were given",
        "request_id": "r1",
        "error": "60011: no access",
    }
    assert second == {
        "action": "drop",
        "user": "bob",
        "reason": "Never mind",
        "request_id": None,
        "error": "50002: still none",
    }
