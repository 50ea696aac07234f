"""Rules that need the whole snapshot: what must be distinct is made so, what cannot be is rejected.

All of it works on staging, inside one transaction, in SQL; only the rows that clash come
into this process, a thousand at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, exists, func, select, text

from nancalacc.config import AccountSource
from nancalacc.errors import GuardError
from nancalacc.store.tables import known_users, staged_users
from nancalacc.sync import clashes
from nancalacc.sync.findings import Findings, Reason
from nancalacc.sync.mapping import fold, suffixed
from nancalacc.sync.staging import Fetch

SLICE = 1000
MOST_SLICES = 1000
LONGEST_SUFFIX = 100
FEW_OF = 20
"""Up to one of so many people with a manager is taken for few, not for a permission."""

SAME_USERIDS = text("""
    WITH alike AS (
        SELECT s.uid, s.uid_key, k.uid IS NOT NULL AS is_known
        FROM staged_users s
        JOIN (
            SELECT uid_key FROM staged_users
            WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND rejected IS NULL
            GROUP BY uid_key HAVING count(*) > 1
        ) twice ON twice.uid_key = s.uid_key
        LEFT JOIN known_users k ON k.third_company_id = :company AND k.uid = s.uid
        WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
            AND s.rejected IS NULL
    ), kept AS (
        SELECT uid, first_value(uid) OVER (
            PARTITION BY uid_key ORDER BY is_known DESC, uid COLLATE "C"
        ) AS keeper
        FROM alike
    ), gone AS (
        UPDATE staged_users s
        SET rejected = CAST(:reason AS text) || ': equals ' || kept.keeper || ' without case and accents'
        FROM kept
        WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
            AND s.uid = kept.uid AND kept.keeper <> kept.uid
        RETURNING s.uid
    )
    SELECT count(*) FROM gone
""")

MEMBERSHIPS_OF_REJECTED = text("""
    UPDATE staged_memberships m SET rejected = u.rejected
    FROM staged_users u
    WHERE (m.transaction_id, m.epoch, m.attempt) = (:transaction_id, :epoch, :attempt)
        AND (u.transaction_id, u.epoch, u.attempt) = (:transaction_id, :epoch, :attempt)
        AND u.uid = m.uid AND u.rejected IS NOT NULL AND m.rejected IS NULL
""")

NAMES_NOT_READ = text("""
    UPDATE staged_departments s SET name = coalesce(k.name, s.did), name_key = coalesce(k.name_key, s.did)
    FROM staged_departments unread
    LEFT JOIN known_departments k ON k.third_company_id = :company AND k.did = unread.did
    WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
        AND (unread.transaction_id, unread.epoch, unread.attempt) = (:transaction_id, :epoch, :attempt)
        AND unread.did = s.did AND unread.name IS NULL
""")

SAME_NAMES = text("""
    SELECT did, name FROM (
        SELECT did, name,
            row_number() OVER (PARTITION BY pid, name_key ORDER BY length(did), did COLLATE "C") AS place
        FROM staged_departments
        WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND rejected IS NULL
    ) ranked
    WHERE place > 1 ORDER BY length(did), did COLLATE "C" LIMIT :slice
""")

RENAME_DEPARTMENTS = text("""
    UPDATE staged_departments s SET name = new.name, name_key = new.name_key
    FROM unnest(CAST(:keys AS text[]), CAST(:values AS text[]), CAST(:folded AS text[]))
        AS new (did, name, name_key)
    WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND s.did = new.did
""")

ACCOUNTS_NOT_READ = text("""
    UPDATE staged_users s SET account = k.account, account_key = k.account_key
    FROM known_users k
    WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
        AND s.account IS NULL AND k.third_company_id = :company AND k.uid = s.uid
""")

ACCOUNTS_OF_NEW_PEOPLE = text("""
    UPDATE staged_users SET account = uid, account_key = uid_key
    WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt)
        AND account IS NULL AND rejected IS NULL
""")

ACCOUNTS_WITH_SUFFIX = text("""
    UPDATE staged_users s SET account = k.account, account_key = k.account_key
    FROM known_users k
    WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
        AND k.third_company_id = :company AND k.uid = s.uid AND k.account = s.account || '-' || s.uid
""")

SAME_ACCOUNTS = text("""
    SELECT uid, account FROM (
        SELECT s.uid, s.account, row_number() OVER (
            PARTITION BY s.account_key
            ORDER BY k.account_key IS NOT DISTINCT FROM s.account_key DESC, s.uid COLLATE "C"
        ) AS place
        FROM staged_users s
        JOIN (
            SELECT account_key FROM staged_users
            WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND rejected IS NULL
            GROUP BY account_key HAVING count(*) > 1
        ) twice ON twice.account_key = s.account_key
        LEFT JOIN known_users k ON k.third_company_id = :company AND k.uid = s.uid
        WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
            AND s.rejected IS NULL
    ) ranked
    WHERE place > 1 ORDER BY uid COLLATE "C" LIMIT :slice
""")

CHANGE_ACCOUNTS = text("""
    UPDATE staged_users s SET account = new.account, account_key = new.account_key
    FROM unnest(CAST(:keys AS text[]), CAST(:values AS text[]), CAST(:folded AS text[]))
        AS new (uid, account, account_key)
    WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND s.uid = new.uid
""")

UNKNOWN_LEADERS = text("""
    WITH lost AS (
        SELECT s.uid
        FROM staged_users s
        LEFT JOIN known_users k
            ON s.leader IS NULL AND NOT :managers_read AND k.third_company_id = :company AND k.uid = s.uid
        LEFT JOIN staged_users l
            ON (l.transaction_id, l.epoch, l.attempt) = (:transaction_id, :epoch, :attempt)
            AND l.rejected IS NULL AND l.uid = coalesce(s.leader, k.leader)
        WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
            AND s.rejected IS NULL AND coalesce(s.leader, k.leader, '') <> '' AND l.uid IS NULL
    ), emptied AS (
        UPDATE staged_users s SET leader = '' FROM lost
        WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
            AND s.uid = lost.uid
        RETURNING s.uid
    )
    SELECT count(*), (array_agg(uid ORDER BY uid COLLATE "C"))[1:20] FROM emptied
""")

REJECTED = text("""
    SELECT coalesce(nullif(uid, ''), '?') AS uid, rejected FROM staged_users
    WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND rejected IS NOT NULL
    ORDER BY uid COLLATE "C" LIMIT :slice
""")

REASONS = text("""
    SELECT split_part(rejected, ':', 1) AS reason, count(*) AS number FROM staged_users
    WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND rejected IS NOT NULL
    GROUP BY 1 ORDER BY 1
""")


def resolve(
    connection: Connection,
    *,
    fetch: Fetch,
    third_company_id: str,
    account_source: AccountSource,
    managers_read: bool,
    findings: Findings,
) -> None:
    """Apply all rules to what was staged; `findings` gets what was altered.

    `managers_read`: whether managers could be read (`managers_were_read`); who has none then has none.
    """
    key = fetch.key() | {"company": third_company_id}
    reject_same_userids(connection, key)
    distinct_names(connection, key, findings=findings)
    if account_source is not AccountSource.USERID:
        # Userids are distinct by now, so as accounts they are too.
        distinct_accounts(connection, key, findings=findings)
    clashes.hold_back_contacts(connection, key, of_batch=False, findings=findings)
    empty_unknown_leaders(connection, key, managers_read=managers_read, findings=findings)


def managers_were_read(
    connection: Connection, *, fetch: Fetch, third_company_id: str, all_asked: bool
) -> bool:
    """True when at least one person's manager was read, or when nobody can be expected to have one.

    `manager_userid` is absent both for who has none and for an app that may not see it [dt 2.7];
    one that is there tells the two apart. A permission that is lost takes everybody's: where WPS has
    hardly any and everybody was asked about (`all_asked`), the last ones are gone.
    """
    users, known = staged_users, known_users
    found = select(exists().where(fetch.accepted(users), users.c.leader.is_not(None)))
    if connection.execute(found).scalar_one():
        return True
    if not all_asked:
        return False
    people = select(func.count()).select_from(users).where(fetch.accepted(users))
    managed = select(func.count()).where(
        known.c.third_company_id == third_company_id, func.coalesce(known.c.leader, "") != ""
    )
    most = connection.execute(people).scalar_one() // FEW_OF
    return bool(connection.execute(managed).scalar_one() <= max(1, most))


def reject_same_userids(connection: Connection, key: dict[str, Any]) -> None:
    """Reject userids that equal another one without case and accents [wps 9.8].

    Who is known to WPS stays, otherwise the first in order of the userid.
    """
    values = key | {"reason": Reason.USERID_NOT_DISTINCT.value}
    if connection.execute(SAME_USERIDS, values).scalar_one():
        connection.execute(MEMBERSHIPS_OF_REJECTED, key)
        clashes.note_userids(connection, key)


def distinct_names(connection: Connection, key: dict[str, Any], *, findings: Findings) -> None:
    """Tell siblings of equal name apart [wps 9.4].

    The lowest id keeps the name, the others get their id added. A name that was not read stays
    as WPS has it; a new department's is its id.
    """
    connection.execute(NAMES_NOT_READ, key)
    clashes.note_names(connection, key)
    for rows in _slices(connection, SAME_NAMES, key):
        changed = [(did, suffixed(name, f" ({did})")) for did, name in rows]
        findings.add_many(Reason.NAME_NOT_DISTINCT, (did for did, _ in rows), number=len(rows))
        _change(connection, RENAME_DEPARTMENTS, changed, key=key)
        clashes.note_names(connection, key)


def distinct_accounts(connection: Connection, key: dict[str, Any], *, findings: Findings) -> None:
    """Give everybody an account of their own, the one they have if possible.

    An account that was not read stays as WPS has it; who is new gets the userid. Of equal ones
    who is known to have it keeps it, otherwise the lowest userid; the others get the userid added,
    and keep that form later even if the other person leaves: a login does not change by itself.
    """
    connection.execute(ACCOUNTS_NOT_READ, key)
    connection.execute(ACCOUNTS_OF_NEW_PEOPLE, key)
    clashes.note_accounts(connection, key)
    connection.execute(ACCOUNTS_WITH_SUFFIX, key)
    for rows in _slices(connection, SAME_ACCOUNTS, key):
        changed = [(uid, suffixed(account, account_suffix(uid))) for uid, account in rows]
        findings.add_many(Reason.ACCOUNT_NOT_DISTINCT, (uid for uid, _ in rows), number=len(rows))
        _change(connection, CHANGE_ACCOUNTS, changed, key=key)
    clashes.name_keepers_of_accounts(connection, key)


def account_suffix(uid: str) -> str:
    """What makes an account distinct: the userid, or a hash of a very long one."""
    return f"-{uid if len(uid) <= LONGEST_SUFFIX else sha256(uid.encode()).hexdigest()[:16]}"


def empty_unknown_leaders(
    connection: Connection, key: dict[str, Any], *, managers_read: bool, findings: Findings
) -> None:
    """Leave out managers, read or carried over, who are not among the people [wps 9.7]."""
    number, examples = connection.execute(UNKNOWN_LEADERS, key | {"managers_read": managers_read}).one()
    findings.add_many(Reason.LEADER_UNKNOWN, examples or (), number=number)


def rejected_people(connection: Connection, *, fetch: Fetch, limit: int) -> list[tuple[str, str]]:
    """The first rejected people: userid and reason."""
    rows = connection.execute(REJECTED, fetch.key() | {"slice": limit})
    return [(row.uid, row.rejected) for row in rows]


def rejections_by_reason(connection: Connection, *, fetch: Fetch) -> dict[str, int]:
    """How many people were rejected for which reason."""
    return {row.reason: row.number for row in connection.execute(REASONS, fetch.key())}


def _slices(connection: Connection, statement: Any, key: dict[str, Any]) -> Iterable[list[tuple[str, str]]]:
    """Clashing rows, a slice at a time, until none is left (a new name may clash again)."""
    for _ in range(MOST_SLICES):
        rows = [(row[0], row[1]) for row in connection.execute(statement, key | {"slice": SLICE})]
        if not rows:
            return
        yield rows
    raise GuardError(
        f"More than {SLICE * MOST_SLICES} names or accounts are equal: nothing can tell them apart"
    )


def _change(
    connection: Connection, statement: Any, changed: list[tuple[str, str]], *, key: dict[str, Any]
) -> None:
    connection.execute(
        statement,
        key
        | {
            "keys": [each for each, _ in changed],
            "values": [value for _, value in changed],
            "folded": [fold(value) for _, value in changed],
        },
    )
