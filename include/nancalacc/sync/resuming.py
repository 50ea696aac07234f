"""How a fetch goes on from what an earlier attempt of the same epoch has proven.

Rows belong to one attempt, so what is proven is taken over under the new one's key, in one
transaction, and everything else is deleted. That the pages are of different ages is nothing new:
those of one long reading are, too, and are held against each other in the same way. A compensated
fetch has deleted its rows, and a new epoch reads everything anew.
"""

from __future__ import annotations

import hmac
import json
from datetime import timedelta
from hashlib import sha256

from sqlalchemy import Connection, text

from nancalacc import __version__
from nancalacc.config import DingTalkSettings, WpsSettings
from nancalacc.sync import staging
from nancalacc.sync.company import FETCH_LIMIT
from nancalacc.sync.evidence import MEMBERS
from nancalacc.sync.staging import Fetch

TREE = ("staged_departments", "staged_conflicts")
"""What the tree is made of."""
EVERYTHING = (*TREE, *(table for table, _ in MEMBERS), "staged_evidence")

FORMER = text("""
    SELECT attempt FROM staged_evidence
    WHERE transaction_id = :transaction_id AND epoch = :epoch AND attempt < :attempt AND settings = :settings
    GROUP BY attempt
    HAVING max(greatest(listed_at, proven_at)) > timezone('utc', clock_timestamp()) - :pause
    ORDER BY attempt DESC LIMIT 1
""")
OF_OTHERS = (
    "DELETE FROM {table} WHERE transaction_id = :transaction_id AND (epoch, attempt) <> (:epoch, :former)"
)
TOO_OLD = """
    UPDATE staged_evidence SET {column} = NULL
    WHERE transaction_id = :transaction_id AND {column} < timezone('utc', clock_timestamp()) - :oldest
"""
NO_TREE = """
    DELETE FROM {table} WHERE transaction_id = :transaction_id AND NOT EXISTS (
        SELECT FROM staged_evidence WHERE transaction_id = :transaction_id AND listed_at IS NOT NULL)
"""
NOT_PROVEN = """
    DELETE FROM {table} s WHERE transaction_id = :transaction_id AND NOT EXISTS (
        SELECT FROM staged_evidence e
        WHERE e.transaction_id = :transaction_id AND e.proven_at IS NOT NULL AND e.did = s.{did})
"""
PERSON_NOT_PROVEN = """
    DELETE FROM staged_users s USING (
        SELECT u.uid, u.def_did, CASE WHEN u.rejected IS NULL AND u.departments <> 0
            THEN (array_agg(m.did ORDER BY m.did = '1', length(m.did), m.did COLLATE "C"))[1] END AS page
        FROM staged_users u
        LEFT JOIN staged_memberships m ON m.transaction_id = :transaction_id AND m.uid = u.uid
        WHERE u.transaction_id = :transaction_id
        GROUP BY u.uid, u.def_did, u.rejected, u.departments
    ) given
    WHERE s.transaction_id = :transaction_id AND s.uid = given.uid AND s.def_did = given.def_did
        AND NOT EXISTS (
            SELECT FROM staged_evidence e
            WHERE e.transaction_id = :transaction_id AND e.proven_at IS NOT NULL
                AND e.did = coalesce(given.page, s.def_did))
"""
"""A person is given by the page of the smallest department, which need not be the main one."""
NO_EVIDENCE = """
    DELETE FROM staged_evidence
    WHERE transaction_id = :transaction_id AND listed_at IS NULL AND proven_at IS NULL
"""
OURS_NOW = "UPDATE {table} SET attempt = :attempt WHERE transaction_id = :transaction_id"
TAKE_OVER = tuple(
    map(
        text,
        (
            *(OF_OTHERS.format(table=table) for table in EVERYTHING),
            *(TOO_OLD.format(column=column) for column in ("listed_at", "proven_at")),
            *(NO_TREE.format(table=table) for table in TREE),
            PERSON_NOT_PROVEN,
            NOT_PROVEN.format(table="staged_memberships", did="did"),
            NO_EVIDENCE,
            *(OURS_NOW.format(table=table) for table in EVERYTHING),
        ),
    )
)
"""Afterwards there is one attempt's, this one's: only what is proven, and of one reading's age."""


def settings_of(dingtalk: DingTalkSettings, wps: WpsSettings) -> str:
    """Tells apart settings under which the same answers would be read or mapped otherwise."""
    used = (
        __version__,
        dingtalk.base_url,
        dingtalk.app_key,
        dingtalk.root_dept_id,
        dingtalk.user_details,
        wps.third_company_id,
        wps.account_source.value,
    )
    return hmac.new(wps.phone_salt_secret.encode(), json.dumps(used).encode(), sha256).hexdigest()


def take_over(connection: Connection, *, fetch: Fetch, settings: str, seconds: float) -> int | None:
    """Make what an earlier attempt of this epoch has proven this attempt's; delete everything else.

    Returns that attempt; None when there is none, when it gave its last sign more than `seconds` ago,
    or when it read with other settings, because somebody has corrected a connection since.
    """
    values = fetch.key() | {"pause": timedelta(seconds=seconds), "settings": settings}
    former: int | None = connection.execute(FORMER, values).scalar_one_or_none() if seconds > 0 else None
    if former is None:
        staging.delete_all(connection, transaction_id=fetch.transaction_id)
        return None
    staging.prefer_hash_joins(connection)
    for statement in TAKE_OVER:
        connection.execute(statement, values | {"former": former, "oldest": FETCH_LIMIT})
    return former
