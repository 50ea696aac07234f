"""The state before a sync, from snapshots and increments, and what may be brought back to it.

An object is a department, or a person with all their memberships. It has three states: before the
undone sync, as that sync published it, and known, which is what WPS has now. It goes back only if it is
still as published. Where that would break what holds for every organisation (parents exist, no rings,
names and accounts are distinct), the objects that break it stay as they are: all of known state
together is in order, so there is always a way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, text

from nancalacc.errors import GuardError, RefusedError
from nancalacc.saga.state import SagaStatus
from nancalacc.store.undo_sql import (
    ANALYZE,
    BEFORE,
    CLASHES,
    COMPARE,
    CREATE,
    EXAMPLES,
    FILL,
    FORGET_PHONE_KEYS,
    KEEP_LEFT,
    LEFT,
    MISSING_KEYS,
    NEEDS,
    RESTORED,
    STAGE,
    STORE_KEYS,
    STORE_PHONE_KEYS,
    UNTOLD_PHONES,
)
from nancalacc.sync import publish
from nancalacc.sync.mapping import fold
from nancalacc.sync.phones import decrypt_phone, number_key
from nancalacc.sync.publish import INCREMENTS, SNAPSHOT_SAGAS, Snapshot
from nancalacc.sync.staging import Fetch

SLICE = 1000
MOST_ROUNDS = 1000
NAMED = 20
REASONS: Mapping[str, str] = {
    "changed_since": "changed since",
    "needed": "departments that something which stays is in",
    "parent_gone": "departments whose parent is gone",
    "department_gone": "people whose department is gone",
    "ring": "departments that would form a ring",
    "name_taken": "departments whose name a sibling has now",
    "account_taken": "people whose account somebody else has now",
    "email_taken": "people whose e-mail address somebody else has now",
    "mobile_taken": "people whose mobile number somebody else has now",
}
"""Why an object that the undone sync changed stays as it is."""

SAGA = text("""
    SELECT t.status, t.definition, t.third_company_id, t.task_id,
        coalesce(t.params->>'dry_run', 'false') = 'true' AS is_dry,
        u.action_data->'difference' AS difference
    FROM saga_transactions t
    LEFT JOIN saga_steps u ON u.transaction_id = t.transaction_id AND u.step_name = 'update_task_status'
    WHERE t.transaction_id = :id
""")
ROOTS = text("""
    SELECT task_id FROM tb_las_department
    WHERE third_company_id = :company AND platform_id = :platform AND pid = '-1' AND task_id <= :task_id
    ORDER BY task_id DESC LIMIT 2
""")
PUBLISHED_ROWS = text("""
    SELECT u.action_data->'rows' FROM saga_transactions t
    JOIN saga_steps u ON u.transaction_id = t.transaction_id AND u.step_name = 'update_task_status'
    WHERE t.third_company_id = :company AND t.task_id = :task_id
""")
PREDECESSOR = text("""
    SELECT max(task_id) FROM saga_transactions
    WHERE third_company_id = :company AND definition = ANY(:definitions) AND status = 'completed'
        AND coalesce(params->>'dry_run', 'false') <> 'true' AND task_id < :task_id
""")
MARKS = text("""
    SELECT s.action_data->'increments' FROM saga_transactions t
    JOIN saga_steps s ON s.transaction_id = t.transaction_id AND s.step_name = 'validate_task'
    WHERE t.third_company_id = :company AND t.task_id = :task_id
""")


@dataclass(frozen=True, slots=True)
class Undone:
    """A sync that is undone: its snapshot, the one before it, and how far the increments were at both.

    `base` is None for the first sync of a company: before it there was nothing.
    """

    transaction_id: str
    snapshot: Snapshot
    base: str | None
    marks: Mapping[str, int]
    base_marks: Mapping[str, int]

    @property
    def task_id(self) -> str:
        """The task id of the undone sync."""
        return self.snapshot.task_id

    @property
    def is_first(self) -> bool:
        """Whether nothing was there before."""
        return self.base is None

    def as_data(self) -> dict[str, str | None]:
        """For action_data."""
        return {"of": self.transaction_id, "task_id": self.task_id, "before": self.base}


def find(connection: Connection, transaction_id: str, *, third_company_id: str, platform_id: str) -> Undone:
    """The sync of a saga, if it can be undone; raises RefusedError with the reason otherwise."""
    saga = connection.execute(SAGA, {"id": transaction_id}).one_or_none()
    if saga is None:
        raise RefusedError(f"There is no saga {transaction_id}: name one as the console shows it")
    if saga.definition not in SNAPSHOT_SAGAS:
        raise RefusedError(
            f"Saga {transaction_id} is one of {saga.definition}: only {' and '.join(SNAPSHOT_SAGAS)} can be"
            " undone. To take back what events brought, change DingTalk"
        )
    if saga.third_company_id != third_company_id:
        raise RefusedError(
            f"Saga {transaction_id} is of company {saga.third_company_id}, not {third_company_id}: start the"
            " run with the connections of that company"
        )
    if saga.status != SagaStatus.COMPLETED.value or saga.task_id is None:
        raise RefusedError(
            f"Saga {transaction_id} is {saga.status}: only a completed one can be undone (an open one can be"
            " cancelled as long as it has not published)"
        )
    if saga.is_dry:
        raise RefusedError(f"Saga {transaction_id} was a dry run: it published nothing")
    snapshot = Snapshot(saga.task_id, third_company_id, platform_id)
    values = {"company": third_company_id, "platform": platform_id, "task_id": saga.task_id}
    roots = list(connection.execute(ROOTS, values).scalars())
    if not roots or roots[0] != saga.task_id:
        raise RefusedError(_gone(f"The snapshot {saga.task_id} that it published"))
    base = roots[1] if len(roots) > 1 else None
    for task_id in roots:
        _require_whole(connection, Snapshot(task_id, third_company_id, platform_id))
    predecessor: str | None = connection.execute(
        PREDECESSOR, values | {"definitions": list(SNAPSHOT_SAGAS)}
    ).scalar_one()
    was_empty = not any(each.get("known") for each in (saga.difference or {"": {"known": 1}}).values())
    if (base or "") < (predecessor or "") or (base is None and not was_empty):
        raise RefusedError(_gone("The snapshot before it"))
    marks = _marks(connection, saga.task_id, third_company_id=third_company_id)
    base_marks = marks if base is None else _marks(connection, base, third_company_id=third_company_id)
    return Undone(transaction_id, snapshot, base, marks, base_marks)


def stage(
    connection: Connection, undone: Undone, *, fetch: Fetch, phone_salt: str
) -> tuple[dict[str, int], dict[str, int]]:
    """Stage what WPS is to have, and list what is left alone.

    Returns how many objects go back, by kind, and how many do not, by reason. The working tables are
    temporary; of an organisation comes into this process, in slices, what must be folded or decrypted.
    """
    values: dict[str, Any] = {
        "company": undone.snapshot.third_company_id,
        "task_id": undone.task_id,
        "base": undone.base or "",
        **{f"to_{kind}": mark for kind, mark in undone.marks.items()},
        **{f"from_{kind}": mark for kind, mark in undone.base_marks.items()},
        **fetch.key(),
    }
    for statement in (*CREATE, *BEFORE, *FILL):
        connection.execute(statement, values)
    # Of a snapshot that maintenance removes the root row goes first: now it was read whole.
    roots = connection.execute(
        ROOTS,
        {"company": values["company"], "task_id": undone.task_id, "platform": undone.snapshot.platform_id},
    ).scalars()
    if list(roots) != [task_id for task_id in (undone.task_id, undone.base) if task_id]:
        raise RefusedError(_gone("A snapshot that was being read"))
    _tell_phones(connection, salt=phone_salt, company=undone.snapshot.third_company_id)
    connection.execute(COMPARE)
    connection.execute(ANALYZE)
    _fill_keys(connection)
    _settle(connection)
    for statement in (*STAGE, *KEEP_LEFT):
        connection.execute(statement, values)
    restored = {row.kind: row.number for row in connection.execute(RESTORED)}
    left = {row.reason: row.number for row in connection.execute(LEFT)}
    return restored, left


def examples(connection: Connection, *, transaction_id: str) -> list[dict[str, str]]:
    """The first objects that are left alone: kind, key, reason."""
    rows = connection.execute(EXAMPLES, {"id": transaction_id, "limit": NAMED})
    return [dict(row._mapping) for row in rows]


def _require_whole(connection: Connection, snapshot: Snapshot) -> None:
    """Raise RefusedError when a snapshot lacks rows that were published, as far as that is recorded."""
    values = {"company": snapshot.third_company_id, "task_id": snapshot.task_id}
    published: Mapping[str, int] | None = connection.execute(PUBLISHED_ROWS, values).scalar()
    if published and publish.count_rows(connection, snapshot=snapshot).as_data() != published:
        raise RefusedError(
            f"Snapshot {snapshot.task_id} no longer has the rows that were published: somebody else changed"
            " the tables, so nothing can be brought back from it"
        )


def _marks(connection: Connection, task_id: str, *, third_company_id: str) -> Mapping[str, int]:
    """The greatest ids of the increment tables when the sync of this task id began."""
    values = {"company": third_company_id, "task_id": task_id}
    recorded: Mapping[str, int] | None = connection.execute(MARKS, values).scalar()
    if recorded:
        return recorded
    # Published in an earlier epoch, or by an earlier version: by the clock, in seconds.
    return {
        kind: connection.execute(
            text(
                f"SELECT coalesce(max(id), 0) FROM {table.name} WHERE ctime <= coalesce("  # noqa: S608
                "(SELECT start_date FROM task WHERE title = :task_id),"
                " CAST(to_timestamp(:task_id, 'YYYYMMDDHH24MISS') AS timestamp))"
            ),
            values,
        ).scalar_one()
        for kind, table in INCREMENTS.items()
    }


def _tell_phones(connection: Connection, *, salt: str, company: str) -> None:
    """Give everybody's numbers in each state the keys by which they are compared."""

    # What is known is often what was published, to the last character.
    @lru_cache(maxsize=8)
    def key(number: str | None, uid: str) -> str | None:
        plain = decrypt_phone(number, uid=uid, salt=salt) if number else ""
        return None if plain is None else number_key(plain, salt=salt, company=company)

    last = {"uid": "", "source": ""}
    while rows := connection.execute(UNTOLD_PHONES, last | {"slice": SLICE}).all():
        connection.execute(
            STORE_PHONE_KEYS,
            {
                "sources": [row.source for row in rows],
                "uids": [row.uid for row in rows],
                "phones": [key(row.phone, row.uid) for row in rows],
                "telephones": [key(row.telephone, row.uid) for row in rows],
            },
        )
        last = {"uid": rows[-1].uid, "source": rows[-1].source}
    connection.execute(FORGET_PHONE_KEYS)


def _fill_keys(connection: Connection) -> None:
    """Give what goes back the keys by which names, ids and accounts are compared."""
    for find_rows, store_keys in zip(MISSING_KEYS, STORE_KEYS, strict=True):
        while rows := connection.execute(find_rows, {"slice": SLICE}).all():
            connection.execute(store_keys, [_keys(*row) for row in rows])


def _keys(key: str, *values: str) -> dict[str, str]:
    return {"id": key, **{f"key_{number}": fold(value) for number, value in enumerate(values)}}


def _settle(connection: Connection) -> None:
    """Leave objects alone until what is wanted is in order."""
    for _ in range(MOST_ROUNDS):
        if any(connection.execute(rule).rowcount for rule in NEEDS):
            continue
        if not any(connection.execute(rule).rowcount for rule in CLASHES):
            return
    raise GuardError(
        "The departments before this sync and those of today do not fit together: nothing is undone"
    )


def _gone(what: str) -> str:
    return (
        f"{what} is gone: saga_maintenance keeps only the newest ones (NANCALACC_KEEP_SNAPSHOTS). The sync"
        " cannot be undone; change DingTalk and sync again"
    )
