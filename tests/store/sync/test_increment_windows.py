"""The seconds of published rows against a WPS whose windows end all the time [wps 5.3]."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from nancalacc.store.database import Database
from nancalacc.sync import increments, planned_rows
from nancalacc.sync.planning import DEPARTMENTS, MEMBERSHIPS, USERS, Increment

BATCHES, AT_ONCE = 200, 40
ZONE = "Asia/Shanghai"


def rows_of(number: int) -> dict[str, list[Increment]]:
    """A department, one below it, and a person there: rows of which each needs the one before."""
    upper, lower, uid = str(10_000 + number), str(20_000 + number), f"w{number}"
    person = {
        "uid": uid, "account": uid, "nick_name": uid, "def_did": lower, "def_did_order": 0,
        "leader": "", "employment_status": "active", "email": "", "title": "", "work_place": "",
        "employer": "", "phone": "", "telephone": "",
    }  # fmt: skip
    place = {"uid": uid, "did": lower, "order": 1, "main": 1, "dids": f'[{{"did":"{lower}","order":1}}]'}
    return {
        DEPARTMENTS: [
            Increment(DEPARTMENTS, lower, "dept_add", department(lower, upper), later=1),
            Increment(DEPARTMENTS, upper, "dept_add", department(upper, "1")),
        ],
        USERS: [Increment(USERS, uid, "user_add", person)],
        MEMBERSHIPS: [Increment(MEMBERSHIPS, uid, "user_dept_move", place)],
    }


def department(did: str, pid: str) -> dict[str, Any]:
    return {"did": did, "pid": pid, "name": f"部门{did}", "order": 0}


@pytest.mark.slow
def test_beside_two_hundred_batches_no_row_is_missed_and_none_comes_too_early(sync):
    """Rows committed in time are stamped once: one that WPS has missed would stay open for ever."""
    sync.complete()
    consumer = sync.sandbox.consumer
    consumer.set_rules(replace(consumer.rules, increment_every=0.1))

    def publish(number: int) -> list[Any]:
        saga, chance = f"saga-{number}", random.Random(number)
        time.sleep(chance.random())
        with database.transaction() as connection:
            for kind, rows in rows_of(number).items():
                planned_rows.plan(connection, kind, rows, transaction_id=saga)
            assert planned_rows.schedule(connection, transaction_id=saga) == 1
        began = time.monotonic()
        with database.transaction() as connection:
            increments.publish_round(
                connection,
                transaction_id=saga,
                number=0,
                third_company_id="sandbox",
                platform_id="dingtalk",
                zone=ZONE,
            )
            # A commit that takes its time.
            connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": chance.random() / 2})
        while time.monotonic() - began >= increments.AHEAD_SECONDS:
            # This machine stood still, which is what stamping anew is for.
            began = time.monotonic()
            with database.transaction() as connection:
                increments.stamp(connection, transaction_id=saga, number=0, zone=ZONE)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with database.transaction() as connection:
                if not increments.is_open(connection, transaction_id=saga, number=0):
                    break
            time.sleep(0.2)
        with database.transaction() as connection:
            return increments.verdicts(connection, transaction_id=saga, number=0)

    with (
        Database(sync.database._url.render_as_string(hide_password=False), pool_size=AT_ONCE) as database,
        ThreadPoolExecutor(AT_ONCE) as executor,
    ):
        found = [verdict for batch in executor.map(publish, range(BATCHES)) for verdict in batch]

    assert [verdict for verdict in found if verdict.status != 1] == []
    assert len(found) == 4 * BATCHES
    windows = [run for run in list(consumer.runs) if run.applied]
    assert len(windows) > 5
