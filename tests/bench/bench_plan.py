"""Planning a full sync of 200 000 people against 200 000 known ones: time, and memory of the process.

Started as a program (`python bench_plan.py URL`) this file is the process that plans, and prints
what that took.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from bench.targets import at_most
from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.database import Database
from nancalacc.store.migrate import upgrade
from nancalacc.sync import plan, publish, staging
from nancalacc.sync.publish import Snapshot
from nancalacc.sync.staging import Fetch

pytestmark = [pytest.mark.bench, pytest.mark.slow]

SIZES = (10_000, 200_000)
SECONDS = 10.0
TIMES_MEMORY = 1.3
FETCH = Fetch("bench", epoch=1, attempt=1)
SNAPSHOT = Snapshot(task_id="20240101000000", third_company_id="company", platform_id="dingtalk")
STAGED = "'bench', 1, 1"
KNOWN = "'company', '20230101000000'"

DEPARTMENTS = """
    INSERT INTO {table} ({key}, did, pid, name, "order")
    SELECT {values}, CASE n WHEN 0 THEN '1' ELSE (1000 + n)::text END,
        CASE WHEN n = 0 THEN '0' WHEN n < 8 THEN '1' ELSE (1000 + n / 8)::text END,
        '部门 ' || n || {suffix}, n
    FROM generate_series(0, :departments - 1) AS n
"""
USERS = """
    INSERT INTO {table} ({key}, uid, uid_key, account, account_key, nick_name, def_did, def_did_order,
        avatar, email, title, work_place, leader, employer, employment_status, phone, telephone, phone_key)
    SELECT {values}, uid, uid, uid, uid, '员工' || n, (1001 + {home} % (:departments - 1))::text, n,
        'https://example.com/' || n, uid || '@example.com', '工程师' || {suffix}, '北京',
        'user' || to_char(n % 1000, 'FM000000'), n::text, 'active', md5('{table}' || n), '',
        md5('key' || n || {suffix})
    FROM (SELECT n, 'user' || to_char(n, 'FM000000') AS uid FROM generate_series({first}, {last} - 1) AS n) x
"""
MEMBERSHIPS = """
    INSERT INTO {table} ({key}, uid, did, "order", main)
    SELECT {values}, 'user' || to_char(n, 'FM000000'), (1001 + ({home} + more) % (:departments - 1))::text,
        n, 1 - more
    FROM generate_series({first}, {last} - 1) AS n, generate_series(0, 1) AS more
    WHERE more = 0 OR n % 5 = 0
"""


@dataclass(frozen=True, slots=True)
class Planned:
    """What planning took, and how many rows it wrote."""

    seconds: float
    again_seconds: float
    peak_mib: float
    rows: int


def fill(database: Database, *, people: int, known: bool, changed: str) -> None:
    """Staging, and known state if wanted; `changed`: nothing, some (a tenth) or every object."""
    departments = people // 20
    every = {"nothing": 10**9, "some": 10, "every": 1}[changed]
    gone = 0 if changed == "nothing" else people // 1000
    parts = {
        "suffix": f"CASE WHEN n % {every} = 0 THEN 'x' ELSE '' END",
        "home": f"(n + CASE WHEN n % {every} = 0 THEN 1 ELSE 0 END)",
        "first": gone,
        "last": people + gone,
        "key": "transaction_id, epoch, attempt",
        "values": STAGED,
    }
    old = {
        "suffix": "''",
        "home": "n",
        "first": 0,
        "last": people,
        "key": "third_company_id, task_id",
        "values": KNOWN,
    }
    sides = [("staged", parts)] + ([("known", old)] if known else [])
    with database.transaction() as connection:
        for prefix, values in sides:
            for kind, statement in (
                ("departments", DEPARTMENTS),
                ("users", USERS),
                ("memberships", MEMBERSHIPS),
            ):
                connection.execute(
                    text(statement.format(table=f"{prefix}_{kind}", **values)), {"departments": departments}
                )


def in_a_process(url: str) -> Planned:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / part) for part in ("include", "tests")),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, url],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Planned(**json.loads(done.stdout.strip().splitlines()[-1]))


def make_plan(url: str) -> Planned:
    """Plan, save the staged rows, and plan those once more as `notify_wps` does."""
    from bench.tasks import mib

    with Database(url) as database:
        before = time.perf_counter()
        with database.transaction() as connection:
            made = plan.make(connection, fetch=FETCH, third_company_id="company", managers_read=True)
        seconds = time.perf_counter() - before
        with database.transaction() as connection:
            staging.prefer_hash_joins(connection)
            for kind in staging.TABLES:
                publish.save(connection, kind, fetch=FETCH, snapshot=SNAPSHOT, managers_read=True)
        before = time.perf_counter()
        with database.transaction() as connection:
            assert plan.hash_of_snapshot(connection, snapshot=SNAPSHOT, fetch=FETCH) == made.hash
        again = time.perf_counter() - before
        rows = sum(counts[action] for counts in made.counts.values() for action in plan.ACTIONS)
        return Planned(seconds, again, mib(), rows)


@pytest.mark.parametrize(
    "known, changed", [(True, "nothing"), (True, "some"), (True, "every"), (False, "every")]
)
def test_a_plan_of_many_people(known: bool, changed: str) -> None:
    found = {}
    with Postgres() as postgres:
        for people in SIZES:
            url = postgres.create_database(f"plan_{people}")
            upgrade(url)
            with Database(url) as database:
                fill(database, people=people, known=known, changed=changed)
            found[people] = in_a_process(url)
    few, many = (found[people] for people in SIZES)
    growth = many.peak_mib / few.peak_mib
    against = f"{SIZES[1]} known" if known else "none known"
    # There is no target for a first sync.
    target = f" ({at_most(many.seconds, SECONDS, ' s')})" if known else ""
    print(
        f"\nplan of {SIZES[1]} people against {against}, {changed} changed: {many.seconds:.1f} s"
        f"{target} for {many.rows} changes, checked again before publication in"
        f" {many.again_seconds:.1f} s; peak memory {few.peak_mib:.0f} MiB with {SIZES[0]} people,"
        f" {many.peak_mib:.0f} MiB with {SIZES[1]}, {growth:.2f} times ({at_most(growth, TIMES_MEMORY)})"
    )


if __name__ == "__main__":
    print(json.dumps(asdict(make_plan(sys.argv[1]))))
