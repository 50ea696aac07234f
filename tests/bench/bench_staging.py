"""Staging and saving an organisation, against raw COPY and SQLAlchemy's batched inserts [design 9].

100 000 people, 5 000 departments, 120 000 memberships, mapped already. Ours is everything
between the mapped rows and the saved ones: batches into staging, contradictions, distinct names
and userids, counts, the difference to known state, and the three saves side by side as their
tasks are. All go to the same durable PostgreSQL, in turn, into empty tables.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from psycopg import sql
from sqlalchemy import insert, text

from bench.targets import at_least, at_most
from nancalacc.config import AccountSource
from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.database import Database
from nancalacc.store.migrate import upgrade
from nancalacc.sync import known, publish, resolve, staging
from nancalacc.sync.findings import Findings
from nancalacc.sync.mapping import DepartmentRow, MembershipRow, PersonRow
from nancalacc.sync.phones import encrypt_phone
from nancalacc.sync.publish import Snapshot
from nancalacc.sync.reading import BATCH_ROWS
from nancalacc.sync.staging import Batch, Fetch

pytestmark = [pytest.mark.bench, pytest.mark.slow]

PEOPLE, DEPARTMENTS, MEMBERSHIPS = 100_000, 5_000, 120_000
ROUNDS = 3
TIMES_RAW_COPY = 2.0
TIMES_FASTER_THAN_INSERTS = 2.0
SNAPSHOT = Snapshot(task_id="20240101000000", third_company_id="company", platform_id="dingtalk")
"""The rows every way of writing ends with."""
T = TypeVar("T")
EVERYTHING = (*staging.TABLES.values(), *publish.FINAL.values())


def departments() -> Iterator[DepartmentRow]:
    for number in range(DEPARTMENTS):
        did, pid = (
            ("1", "0")
            if number == 0
            else (str(1000 + number), str(1000 + number // 8) if number > 7 else "1")
        )
        yield DepartmentRow(did, pid, f"部门 {number}", f"部门 {number}", order=number)


def people() -> Iterator[PersonRow]:
    phone = encrypt_phone("13800000000", uid="u", salt="s")
    for number in range(PEOPLE):
        uid = f"user{number:06d}"
        yield PersonRow(
            uid=uid,
            uid_key=uid,
            account=uid,
            account_key=uid,
            nick_name=f"员工{number}",
            def_did=str(1001 + number % (DEPARTMENTS - 1)),
            def_did_order=number,
            avatar="",
            email=f"{uid}@example.com",
            title="工程师",
            work_place="北京",
            leader=f"user{number % 1000:06d}",
            employer=f"{number:06d}",
            employment_status="active",
            phone=phone,
            telephone="",
            phone_key=f"{number:032x}",
            email_key=f"{number + PEOPLE:032x}",
            departments=2 if number % 5 == 0 else 1,
        )


def memberships() -> Iterator[MembershipRow]:
    for number in range(PEOPLE):
        uid, home = f"user{number:06d}", number % (DEPARTMENTS - 1)
        yield MembershipRow(uid, str(1001 + home), order=number, main=True, leader=False)
        if number % 5 == 0:
            yield MembershipRow(
                uid, str(1001 + (home + 1) % (DEPARTMENTS - 1)), order=1, main=False, leader=False
            )


def slices(rows: Sequence[T]) -> Iterator[list[T]]:
    for start in range(0, len(rows), BATCH_ROWS):
        yield list(rows[start : start + BATCH_ROWS])


class Organisation:
    def __init__(self) -> None:
        self.departments = list(departments())
        self.people = list(people())
        self.memberships = list(memberships())
        assert len(self.memberships) == MEMBERSHIPS
        self.final = list(self.rows())
        self.values = {
            kind: [dict(zip(columns, row, strict=True)) for row in rows] for kind, columns, rows in self.final
        }

    def rows(self) -> Iterator[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """Kind, columns and rows of the final tables."""
        fixed = (SNAPSHOT.task_id, SNAPSHOT.third_company_id, SNAPSHOT.platform_id, 1)
        names = ("task_id", "third_company_id", "platform_id", "check_type")
        yield (
            "departments",
            (*names, "did", "pid", "name", "order"),
            [(*fixed, row.did, row.pid, row.name, row.order) for row in self.departments],
        )
        columns = ("uid", "account", "nick_name", "def_did", "def_did_order", "avatar", "email", "title",
                   "work_place", "leader", "employer", "employment_status", "phone", "telephone")  # fmt: skip
        yield (
            "users",
            (*names, *columns),
            [(*fixed, *(getattr(row, column) for column in columns)) for row in self.people],
        )
        yield (
            "memberships",
            (*names, "uid", "did", "order", "main"),
            [(*fixed, row.uid, row.did, row.order, int(row.main)) for row in self.memberships],
        )


def batches(organisation: Organisation) -> Iterator[Batch]:
    places = slices(organisation.memberships)
    for rows in slices(organisation.departments):
        yield Batch(departments=rows)
    for users in slices(organisation.people):
        yield Batch(users=users, memberships=next(places, []))
    for rest in places:
        yield Batch(memberships=rest)


def stage_and_save(database: Database, organisation: Organisation) -> None:
    fetch = Fetch("bench", epoch=1, attempt=1)
    company = SNAPSHOT.third_company_id
    for batch in batches(organisation):
        with database.transaction() as connection:
            staging.copy(connection, batch, fetch=fetch)
    with database.transaction() as connection:
        staging.prefer_hash_joins(connection)
        assert staging.contradictions(connection, fetch=fetch, limit=1) == []
        resolve.resolve(
            connection,
            fetch=fetch,
            third_company_id=company,
            account_source=AccountSource.USERID,
            managers_read=True,
            findings=Findings(),
        )
        expected = staging.count(connection, fetch=fetch).as_data()
        for kind in expected:
            known.difference(connection, kind, fetch=fetch, third_company_id=company, managers_read=True)

    def save(kind: str) -> int:
        with database.transaction() as connection:
            staging.prefer_hash_joins(connection)
            staging.require(connection, kind, fetch=fetch, expected=expected[kind])
            return publish.save(connection, kind, fetch=fetch, snapshot=SNAPSHOT, managers_read=True)

    with ThreadPoolExecutor(3) as pool:
        assert dict(zip(expected, pool.map(save, expected), strict=True)) == expected


def raw_copy(database: Database, organisation: Organisation) -> None:
    with database.transaction() as connection:
        for kind, columns, rows in organisation.final:
            statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
                sql.Identifier(publish.FINAL[kind].name), sql.SQL(", ").join(map(sql.Identifier, columns))
            )
            driver = connection.connection.driver_connection
            with driver.cursor() as cursor, cursor.copy(statement) as copying:
                for row in rows:
                    copying.write_row(row)


def batched_inserts(database: Database, organisation: Organisation) -> None:
    with database.transaction() as connection:
        for kind, values in organisation.values.items():
            connection.execute(insert(publish.FINAL[kind]), values)


def test_staging_and_saving_against_raw_copy_and_inserts() -> None:
    organisation = Organisation()
    ways = (raw_copy, stage_and_save, batched_inserts)
    seconds: dict[str, list[float]] = {way.__name__: [] for way in ways}
    with Postgres() as postgres:
        url = postgres.create_database("bench")
        upgrade(url)
        with Database(url) as database:
            for _ in range(ROUNDS):
                for way in ways:
                    with database.transaction() as connection:
                        tables = ", ".join(table.name for table in EVERYTHING)
                        connection.execute(text(f"TRUNCATE {tables}"))
                    before = time.perf_counter()
                    way(database, organisation)
                    seconds[way.__name__].append(time.perf_counter() - before)
    raw, ours, inserts = (statistics.median(seconds[way.__name__]) for way in ways)
    slower, faster = ours / raw, inserts / ours
    print(
        f"\nstage + save {PEOPLE} people, {DEPARTMENTS} departments, {MEMBERSHIPS} memberships: {ours:.2f} s;"
        f" raw COPY {raw:.2f} s (ours is {slower:.2f} times that; {at_most(slower, TIMES_RAW_COPY)});"
        f" batched inserts {inserts:.2f} s (ours is {faster:.2f} times faster;"
        f" {at_least(faster, TIMES_FASTER_THAN_INSERTS)})"
    )
