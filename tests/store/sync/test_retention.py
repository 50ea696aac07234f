"""Maintenance: what goes, and above all what stays."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from nancalacc.config import Retention
from nancalacc.orchestration.maintenance import maintain
from nancalacc.saga.definition import step_id_of
from nancalacc.store.database import Database
from nancalacc.store.statistics import table_sizes
from nancalacc.store.tables import staged_users
from nancalacc.sync import retention

COMPANY = "company-1"
ENDED = ("completed", "compensated", "cancelled")
OPEN = ("pending", "in_progress", "failed", "compensating")


class Tables:
    def __init__(self, url: str) -> None:
        self.database = Database(url)

    def execute(self, statement: str, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(text(statement), values)

    def values(self, statement: str, **values: Any) -> list[Any]:
        with self.database.transaction() as connection:
            return list(connection.execute(text(statement), values).scalars())

    def saga(
        self,
        name: str,
        *,
        status: str = "completed",
        days: float = 1000,
        task_id: str | None = None,
        company: str = COMPANY,
        dag_id: str | None = "full_sync",
        dry_run: bool = False,
    ) -> str:
        """A saga that ended (or began) so many days ago, with two steps and three events."""
        values = {"name": name, "status": status, "days": days, "task_id": task_id, "company": company}
        self.execute(
            "INSERT INTO saga_transactions (transaction_id, name, definition, status, dag_id, run_id,"
            " task_id, third_company_id, params, end_time, created_at) VALUES (:name, :name, 'full_sync',"
            " :status, :dag_id, :name, :task_id, :company,"
            " jsonb_build_object('dry_run', CAST(:dry_run AS boolean)),"
            " CASE WHEN :ended THEN timezone('utc', now()) - make_interval(secs => 86400 * :days) END,"
            " timezone('utc', now()) - make_interval(secs => 86400 * :days))",
            **values,
            dag_id=dag_id,
            dry_run=dry_run,
            ended=status in ENDED,
        )
        for position, step in enumerate(("first", "second"), start=1):
            self.execute(
                "INSERT INTO saga_steps (step_id, transaction_id, step_name, position)"
                " VALUES (:step_id, :name, :step, :position)",
                step_id=step_id_of(name, step),
                name=name,
                step=step,
                position=position,
            )
        for event in ("step_started", "step_completed", "saga_failed"):
            self.execute(
                "INSERT INTO saga_events (transaction_id, step_id, event_type, created_at) VALUES"
                " (:name, :step_id, :event, timezone('utc', now()) - make_interval(secs => 86400 * :days))",
                name=name,
                step_id=step_id_of(name, "first"),
                event=event,
                days=days,
            )
        return name

    def snapshot(self, task_id: str, *, company: str = COMPANY, published: bool = True) -> None:
        """A snapshot of three rows, and its root row."""
        names = "task_id, third_company_id, platform_id"
        for table, columns, row in (
            ("tb_las_department", "did, pid, name", "'1', '0', 'x'"),
            ("tb_las_user", "uid, account, nick_name", "'u', 'u', 'u'"),
            ("tb_las_department_user", "uid, did", "'u', '1'"),
            *([("tb_las_department", "did, pid, name", "'0', '-1', 'x'")] if published else []),
        ):
            self.execute(
                f"INSERT INTO {table} ({names}, {columns}) VALUES (:task_id, :company, :company, {row})",
                task_id=task_id,
                company=company,
            )

    def snapshots(self, *, company: str = COMPANY) -> list[str]:
        return self.values(
            "SELECT DISTINCT task_id FROM (SELECT task_id, third_company_id FROM tb_las_department UNION"
            " SELECT task_id, third_company_id FROM tb_las_user UNION"
            " SELECT task_id, third_company_id FROM tb_las_department_user) AS t"
            " WHERE third_company_id = :company ORDER BY task_id",
            company=company,
        )

    def sagas(self) -> list[str]:
        return self.values("SELECT transaction_id FROM saga_transactions ORDER BY transaction_id")

    def maintain(self, **options: Any) -> dict[str, int]:
        removed = maintain(self.database, Retention(), **options)
        return {name: count for name, count in removed.items() if count}


@pytest.fixture
def tables(database_url: str) -> Iterator[Tables]:
    found = Tables(database_url)
    yield found
    found.database.close()


def task_ids(*hours: int) -> list[str]:
    return [f"20260101{hour:02d}0000" for hour in hours]


def test_an_empty_database_needs_no_maintenance(tables: Tables) -> None:
    assert tables.maintain() == {}


# Snapshots


def test_the_newest_three_published_snapshots_of_each_company_stay(tables: Tables) -> None:
    for task_id in task_ids(1, 2, 3, 4, 5):
        tables.snapshot(task_id)
    for task_id in task_ids(1, 2):
        tables.snapshot(task_id, company="company-2")
    assert tables.maintain() == {"snapshot rows": 8}
    assert tables.snapshots() == task_ids(3, 4, 5)
    assert tables.snapshots(company="company-2") == task_ids(1, 2)


def test_what_was_never_published_neither_counts_nor_outlives_the_kept_ones(tables: Tables) -> None:
    for hour in range(1, 7):
        tables.snapshot(task_ids(hour)[0], published=hour in {1, 3, 5})
    assert tables.maintain() == {}
    tables.snapshot(task_ids(7)[0])
    assert tables.maintain() == {"snapshot rows": 7}
    assert tables.snapshots() == task_ids(3, 4, 5, 6, 7)


@pytest.mark.parametrize("status", OPEN)
def test_the_snapshot_of_an_open_saga_stays_whatever_its_age(tables: Tables, status: str) -> None:
    for task_id in task_ids(1, 2, 3, 4, 5):
        tables.snapshot(task_id)
    tables.saga("open", status=status, task_id=task_ids(1)[0])
    assert tables.maintain() == {"snapshot rows": 4}
    assert tables.snapshots() == task_ids(1, 3, 4, 5)


def test_the_root_row_of_an_old_snapshot_goes_first(tables: Tables) -> None:
    for task_id in task_ids(1, 2, 3, 4):
        tables.snapshot(task_id)
    with tables.database.transaction() as connection:
        assert retention.snapshots(connection, keep=3, limit=1) == 1
    left = tables.values("SELECT pid FROM tb_las_department WHERE task_id = :task_id", task_id=task_ids(1)[0])
    assert left == ["0"]


# Staging


def stage(tables: Tables, transaction_id: str, rows: int = 1) -> None:
    for table, columns, values in (
        ("staged_departments", "did", "'1'"),
        ("staged_users", "uid, uid_key", "'u', 'u'"),
        ("staged_memberships", "uid, did, main", "'u', '1', 1"),
    ):
        tables.execute(
            f"INSERT INTO {table} (transaction_id, epoch, attempt, {columns})"
            f" SELECT :id, 1, 1, {values} FROM generate_series(1, :rows)",
            id=transaction_id,
            rows=rows,
        )


def test_staging_of_ended_and_vanished_sagas_goes_and_that_of_open_ones_stays(tables: Tables) -> None:
    for status in (*ENDED, *OPEN):
        stage(tables, tables.saga(status, status=status, days=2))
    stage(tables, tables.saga("fresh", days=0.5))
    stage(tables, "vanished")
    tables.maintain()
    for table in ("staged_departments", "staged_users", "staged_memberships"):
        assert set(tables.values(f"SELECT transaction_id FROM {table}")) == {*OPEN, "fresh"}


PLANNED = ("sync_plans", "plan_changes", "plan_subtrees", "plan_decisions")


def plan(tables: Tables, transaction_id: str) -> None:
    key, values = "transaction_id, epoch, attempt", ":id, 1, 1"
    for table, columns, row in (
        (
            "sync_plans",
            f"{key}, third_company_id, hash, counts, examples",
            f"{values}, 'c', 'h', '{{}}', '[]'",
        ),
        (
            "plan_changes",
            f"{key}, position, kind, action, fields, is_moved, is_disabled, subtree, digest",
            f"{values}, 1, 'users', 'added', '{{}}', false, false, '', ''",
        ),
        ("plan_subtrees", f"{key}, did, counts", f"{values}, '1', '{{}}'"),
        ("plan_decisions", "transaction_id, plan_hash, is_approved", ":id, 'h', true"),
    ):
        tables.execute(f"INSERT INTO {table} ({columns}) VALUES ({row})", id=transaction_id)


def test_plans_go_after_a_month_and_what_was_decided_about_them_with_the_sagas(tables: Tables) -> None:
    for name, days in (("fresh", 20), ("old", 40), ("ancient", 400)):
        plan(tables, tables.saga(name, days=days))
    for status in OPEN:
        plan(tables, tables.saga(status, status=status, days=400))
    plan(tables, "vanished")
    tables.maintain()
    kept = {name: {"fresh", *OPEN} for name in PLANNED}
    kept["plan_decisions"] |= {"old"}
    for table in PLANNED:
        assert set(tables.values(f"SELECT transaction_id FROM {table}")) == kept[table], table


# Events and sagas


def test_old_events_of_ended_sagas_go_but_not_that_a_step_was_completed(tables: Tables) -> None:
    for status in (*ENDED, *OPEN):
        tables.saga(status, status=status, days=100)
    tables.saga("fresh", days=80)
    tables.saga("foreign", days=100, dag_id=None)
    assert tables.maintain() == {"saga events": 6}
    kept = dict.fromkeys((*OPEN, "fresh", "foreign"), 3) | dict.fromkeys(ENDED, 1)
    for name, number in kept.items():
        found = tables.values("SELECT event_type FROM saga_events WHERE transaction_id = :name", name=name)
        assert len(found) == number
        assert "step_completed" in found


def test_old_sagas_go_with_their_steps_and_events_and_open_ones_stay(tables: Tables) -> None:
    for status in (*ENDED, *OPEN):
        tables.saga(status, status=status, days=400)
    tables.saga("fresh", days=300)
    tables.saga("foreign", days=400, dag_id=None)
    tables.maintain()
    assert tables.sagas() == sorted([*OPEN, "fresh", "foreign"])
    assert set(tables.values("SELECT transaction_id FROM saga_steps")) == set(tables.sagas())
    assert set(tables.values("SELECT transaction_id FROM saga_events")) == set(tables.sagas())


def test_the_newest_published_task_id_of_each_company_is_still_known(tables: Tables) -> None:
    for hour in (1, 2, 3):
        tables.saga(f"a{hour}", task_id=task_ids(hour)[0])
    tables.saga("dry", task_id=task_ids(4)[0], dry_run=True)
    tables.saga("undone", task_id=task_ids(5)[0], status="compensated")
    tables.saga("b1", task_id=task_ids(1)[0], company="company-2")
    tables.maintain()
    assert tables.sagas() == ["a3", "b1", "dry"]


@pytest.mark.parametrize("column", ["holder", "waiting"])
def test_a_saga_that_a_lock_names_stays(tables: Tables, column: str) -> None:
    tables.saga("locked", status="compensated")
    tables.execute(f"INSERT INTO company_locks (third_company_id, {column}) VALUES ('c', 'locked')")
    tables.maintain()
    assert tables.sagas() == ["locked"]


def test_a_saga_that_is_opened_again_at_the_same_moment_stays(tables: Tables) -> None:
    tables.saga("opened", status="compensated")
    tables.saga("old", status="compensated")
    with tables.database.transaction() as person:
        person.execute(
            text("SELECT 1 FROM saga_transactions WHERE transaction_id = 'opened' FOR NO KEY UPDATE")
        )
        tables.maintain()
        person.execute(
            text("UPDATE saga_transactions SET status = 'in_progress' WHERE transaction_id = 'opened'")
        )
    assert tables.sagas() == ["opened"]


# Inbox


def event(
    tables: Tables, name: str, *, status: str = "done", days: float = 100, saga: str | None = None
) -> None:
    tables.execute(
        "INSERT INTO dingtalk_events (dingtalk_conn_id, wps_conn_id, event_id, event_type, status,"
        " transaction_id, received_at) VALUES ('d', 'w', :name, 't', :status, :saga,"
        " timezone('utc', now()) - make_interval(secs => 86400 * :days))",
        name=name,
        status=status,
        saga=saga,
        days=days,
    )


def test_of_the_inbox_only_what_was_dealt_with_long_ago_goes(tables: Tables) -> None:
    for status in ("pending", "claimed", "done", "dead"):
        event(tables, status, status=status)
    event(tables, "fresh", days=20)
    event(tables, "late", days=100)
    tables.execute("UPDATE dingtalk_events SET handled_at = timezone('utc', now()) WHERE event_id = 'late'")
    event(tables, "again", days=100)
    tables.execute("UPDATE dingtalk_events SET repeat_at = timezone('utc', now()) WHERE event_id = 'again'")
    assert tables.maintain() == {"inbox events": 1}
    kept = tables.values("SELECT event_id FROM dingtalk_events ORDER BY 1")
    assert kept == ["again", "claimed", "dead", "fresh", "late", "pending"]


def test_a_batch_whose_events_are_not_dealt_with_stays(tables: Tables) -> None:
    tables.saga("batch", status="compensated")
    event(tables, "pending", status="pending", saga="batch")
    tables.maintain()
    assert tables.sagas() == ["batch"]


def test_what_people_were_told_goes_after_its_events_and_not_while_its_saga_is_open(tables: Tables) -> None:
    tables.saga("ended", days=10)
    tables.saga("open", status="compensating", days=10)
    for key, saga, days in (("old", "ended", 98), ("new", "ended", 96), ("of open", "open", 200)):
        tables.execute(
            "INSERT INTO incidents (key, kind, transaction_id, facts, sent_at)"
            " VALUES (:key, 'rollback', :saga, '{}', timezone('utc', now()) - make_interval(days => :days))",
            key=key,
            saga=saga,
            days=days,
        )
    tables.execute("INSERT INTO incidents (key, kind, facts) VALUES ('unsent', 'dead_events', '{}')")
    assert tables.maintain()["incidents"] == 1
    assert tables.values("SELECT key FROM incidents ORDER BY key") == ["new", "of open", "unsent"]


# Bounds


def test_old_verifications_go_with_their_differences_but_each_companys_newest_stays(tables: Tables) -> None:
    for number, (company, days) in enumerate([("a", 200), ("a", 100), ("b", 300), ("c", 91), ("c", 1)], 1):
        tables.execute(
            "INSERT INTO verifications (third_company_id, dag_id, run_id, verdict, started_at)"
            " VALUES (:company, 'reconcile', 'r', 'drifted',"
            " timezone('utc', now()) - make_interval(secs => 86400 * :days))",
            company=company,
            days=days,
        )
        tables.execute(
            "INSERT INTO verification_differences (verification_id, kind, key, what)"
            " VALUES (:number, 'users', 'u1', 'missing')",
            number=number,
        )
    maintain(tables.database, Retention())
    assert tables.values("SELECT id FROM verifications ORDER BY id") == [2, 3, 5]
    assert tables.values("SELECT verification_id FROM verification_differences ORDER BY 1") == [2, 3, 5]


def test_much_goes_in_many_small_transactions(tables: Tables) -> None:
    stage(tables, tables.saga("ended", days=2), rows=25)
    deleted = []
    while True:
        with tables.database.transaction() as connection:
            deleted.append(retention.staging(connection, table=staged_users, days=1, limit=10))
        if not deleted[-1]:
            break
    assert deleted == [10, 10, 5, 0]


def test_what_there_is_no_time_for_is_left_to_the_next_night(tables: Tables) -> None:
    tables.saga("old", status="compensated")
    assert tables.maintain(seconds=0) == {}
    assert tables.sagas() == ["old"]
    assert tables.maintain()["sagas"] == 1


def test_sizes_of_all_tables_are_shown_with_the_largest_first(tables: Tables) -> None:
    stage(tables, "x", rows=5000)
    with tables.database.transaction() as connection:
        sizes = table_sizes(connection)
    by_name = {each.name: each for each in sizes}
    assert by_name["staged_users"].rows == 5000
    assert by_name["saga_transactions"].rows == 0
    assert by_name["staged_users"].size > by_name["task"].size > 0
    assert [each.size for each in sizes] == sorted((each.size for each in sizes), reverse=True)
