"""Which company's events come first, and how they come back."""

import pytest
from sqlalchemy import text

from nancalacc.store import locks
from nancalacc.store.database import Database
from nancalacc.sync.claims import RetryRules, Tenant, claim, due_tenants, free_abandoned, halve
from nancalacc.sync.inbox import Company, InboxEvent, store

NAME = "incremental_sync"
A, B = Tenant("dingtalk_a", "wps_a", "a", "p"), Tenant("dingtalk_b", "wps_b", "b", "p")


@pytest.fixture
def database(database_url):
    with Database(database_url) as opened:
        yield opened


def put(database, tenant: Tenant, *event_ids: str) -> None:
    company = Company(tenant.dingtalk_conn_id, tenant.wps_conn_id)
    with database.transaction() as connection:
        store(
            connection,
            [InboxEvent(event_id, "user_add_org", object_ids=("u1",)) for event_id in event_ids],
            companies=[company],
        )


def configure(database, *tenants: Tenant) -> None:
    for tenant in tenants:
        run(
            database,
            "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id) VALUES (:id, 'p', :id)",
            id=tenant.third_company_id,
        )


def run(database, sql: str, **values) -> None:
    with database.transaction() as connection:
        connection.execute(text(sql), values)


def saga(database, transaction_id: str, tenant: Tenant, *, status: str = "in_progress") -> None:
    run(
        database,
        "INSERT INTO saga_transactions (transaction_id, name, definition, third_company_id, status)"
        " VALUES (:id, :id, 'incremental_sync', :company, :status)",
        id=transaction_id, company=tenant.third_company_id, status=status,
    )  # fmt: skip


def due(database) -> list[Tenant]:
    with database.transaction() as connection:
        return due_tenants(connection, [A, B], definition=NAME)


def test_companies_take_turns_however_many_events_one_has(database):
    configure(database, A, B)
    put(database, A, *(str(number) for number in range(50)))
    put(database, B, "late")
    assert due(database) == [A, B]
    saga(database, "1", A, status="completed")
    assert due(database) == [B, A]
    saga(database, "2", B, status="completed")
    assert due(database) == [A, B]


def test_events_wait_for_their_time_the_lock_and_the_first_full_sync(database):
    put(database, A, "1")
    assert due(database) == []
    configure(database, A)
    assert due(database) == [A]
    saga(database, "holder", A)
    with database.transaction() as connection:
        locks.acquire(connection, third_company_id="a", transaction_id="holder")
    assert due(database) == []
    run(database, "UPDATE saga_transactions SET status = 'completed'")
    assert due(database) == [A]
    run(database, "UPDATE dingtalk_events SET next_attempt_at = next_attempt_at + interval '1 minute'")
    assert due(database) == []


@pytest.mark.parametrize(
    "platform_ids, known", [("other", False), ("pp", False), ("p,other", True), ("other, p", True)]
)
def test_events_wait_for_a_full_sync_while_wps_does_not_read_their_platform(database, platform_ids, known):
    configure(database, A)
    put(database, A, "1")
    run(database, "UPDATE tb_company_cfg SET platform_ids = :ids", ids=platform_ids)
    assert due(database) == ([A] if known else [])


def test_events_that_were_done_come_again_at_their_second_time(database):
    configure(database, A)
    put(database, A, "1")
    run(database, "UPDATE dingtalk_events SET status = 'done', repeat_at = received_at")
    assert due(database) == [A]
    with database.transaction() as connection:
        assert claim(connection, A, transaction_id="x", size=5) == 1
    assert due(database) == []


def test_only_events_of_sagas_that_are_over_are_freed(database):
    put(database, A, "1", "2", "3")
    saga(database, "open", A)
    saga(database, "over", A, status="completed")
    for event_id, transaction_id in (("1", "open"), ("2", "over"), ("3", "gone")):
        run(
            database,
            "UPDATE dingtalk_events SET status = 'claimed', transaction_id = :saga WHERE event_id = :id",
            id=event_id, saga=transaction_id,
        )  # fmt: skip
    with database.transaction() as connection:
        assert free_abandoned(connection) == 2
        rows = connection.execute(text("SELECT event_id FROM dingtalk_events WHERE status = 'claimed'"))
        assert list(rows.scalars()) == ["1"]


def test_a_batch_is_no_larger_than_it_may_be_however_the_database_goes_about_it(database):
    put(database, A, *(str(number) for number in range(5)))
    with database.transaction() as connection:
        for way in ("hashagg", "hashjoin", "material", "memoize", "mergejoin", "sort"):
            connection.execute(text(f"SET LOCAL enable_{way} = off"))
        assert claim(connection, A, transaction_id="1", size=2) == 2


def test_two_batches_at_once_share_no_event(database):
    put(database, A, *(str(number) for number in range(4)))
    with database.transaction() as one, database.transaction() as other:
        assert claim(one, A, transaction_id="1", size=2) == 2
        assert claim(other, A, transaction_id="2", size=4) == 2


def test_a_batch_of_a_backlog_that_fails_comes_back_in_parts_of_the_usual_size(database):
    put(database, A, *(str(number) for number in range(20)))
    with database.transaction() as connection:
        assert claim(connection, A, transaction_id="1", size=20) == 20
        halve(connection, transaction_id="1", rules=RetryRules(2, 1), error="unknown", largest=6)
        assert claim(connection, A, transaction_id="2", size=20) == 6
        halve(connection, transaction_id="2", rules=RetryRules(2, 1), error="unknown", largest=6)
        limits = connection.execute(text("SELECT DISTINCT batch_limit FROM dingtalk_events"))
        assert sorted(limits.scalars()) == [3, 6]
