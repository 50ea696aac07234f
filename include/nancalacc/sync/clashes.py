"""Values that two objects of a fetch have and WPS can have only once: who keeps them, who is held back.

All of it works on staging, inside the transaction that resolves a fetch, in SQL. Of equal mobile
numbers and e-mail addresses who has it in WPS already keeps it, otherwise the lowest userid; the others
get none. A former value is not carried over for them: it may be somebody else's by now.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, TextClause, text

from nancalacc.sync.conflicts import Kind
from nancalacc.sync.findings import Findings, Reason

ELSEWHERE = """
    SELECT w.value_key, min(o.uid) AS uid
    FROM wanting w JOIN known_users o ON o.third_company_id = :company AND o.{key} = w.value_key
    WHERE coalesce(o.{value}, '') <> ''
        AND NOT EXISTS (
            SELECT FROM staged_users s
            WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
                AND s.uid = o.uid AND s.rejected IS NULL
        )
        AND NOT EXISTS (
            SELECT FROM staged_changes c
            WHERE c.transaction_id = :transaction_id AND c.kind = 'users' AND c.key = o.uid
                AND c.action = 'remove'
        )
    GROUP BY w.value_key
"""
"""Who has it in WPS and could not be read together with a batch."""
NOWHERE = "SELECT NULL::text AS value_key, NULL::text AS uid WHERE false"

HOLD_BACK = """
    WITH wanting AS (
        SELECT s.uid, coalesce(s.{key}, k.{key}) AS value_key, s.{value} IS NOT NULL AS was_read,
            k.{key} IS NOT DISTINCT FROM coalesce(s.{key}, k.{key})
                AND coalesce(k.{value}, '') <> '' AS has_it
        FROM staged_users s
        LEFT JOIN known_users k ON k.third_company_id = :company AND k.uid = s.uid
        WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
            AND s.rejected IS NULL AND coalesce(s.{key}, k.{key}, '') <> ''
    ), elsewhere AS ({elsewhere}), clashing AS (
        SELECT value_key FROM wanting GROUP BY value_key HAVING count(*) > 1
        UNION SELECT value_key FROM elsewhere
    ), kept AS (
        SELECT w.uid, coalesce(e.uid, first_value(w.uid) OVER (
            PARTITION BY w.value_key ORDER BY w.has_it DESC, w.was_read DESC, w.uid COLLATE "C"
        )) AS keeper
        FROM wanting w
        JOIN clashing c ON c.value_key = w.value_key
        LEFT JOIN elsewhere e ON e.value_key = w.value_key
    ), held AS (
        UPDATE staged_users s SET {value} = ''
        FROM kept
        WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
            AND s.uid = kept.uid AND kept.keeper <> kept.uid
        RETURNING s.uid, kept.keeper
    ), noted AS (
        INSERT INTO staged_conflicts (transaction_id, epoch, attempt, kind, key, other, reason)
        SELECT :transaction_id, :epoch, :attempt, CAST(:kind AS text), uid, keeper,
            'has the ' || CAST(:named AS text) || ' of ' || keeper || ': it is left empty in WPS'
        FROM held
    )
    SELECT count(*), (array_agg(uid ORDER BY uid COLLATE "C"))[1:20] FROM held
"""

CONTACTS = (
    (Kind.MOBILE, "phone", "phone_key", "mobile number", Reason.MOBILE_NOT_DISTINCT),
    (Kind.EMAIL, "email", "email_key", "e-mail address", Reason.EMAIL_NOT_DISTINCT),
)


def _hold_back(value: str, key: str, *, elsewhere: str) -> TextClause:
    names = {"value": value, "key": key}
    return text(HOLD_BACK.format(**names, elsewhere=elsewhere.format(**names)))


HOLD_BACK_OF_ALL = {kind: _hold_back(value, key, elsewhere=NOWHERE) for kind, value, key, _, _ in CONTACTS}
HOLD_BACK_OF_BATCH = {
    kind: _hold_back(value, key, elsewhere=ELSEWHERE) for kind, value, key, _, _ in CONTACTS
}

SAME_USERIDS = text("""
    INSERT INTO staged_conflicts (transaction_id, epoch, attempt, kind, key, other, reason)
    SELECT s.transaction_id, s.epoch, s.attempt, 'userid', s.uid, min(o.uid),
        'has the userid of ' || min(o.uid) || ' but for case and accents: the record is not written'
    FROM staged_users s
    JOIN staged_users o ON (o.transaction_id, o.epoch, o.attempt) = (s.transaction_id, s.epoch, s.attempt)
        AND o.uid_key = s.uid_key AND o.rejected IS NULL
    WHERE (s.transaction_id, s.epoch, s.attempt) = (:transaction_id, :epoch, :attempt)
        AND s.rejected LIKE :reason
    GROUP BY s.transaction_id, s.epoch, s.attempt, s.uid
    ON CONFLICT DO NOTHING
""")

SAME_NAMES = text("""
    INSERT INTO staged_conflicts (transaction_id, epoch, attempt, kind, key, other, reason)
    SELECT :transaction_id, :epoch, :attempt, 'name', did, keeper,
        'has the name of department ' || keeper || ' beside it: its id is added'
    FROM (
        SELECT did, first_value(did) OVER (
            PARTITION BY pid, name_key ORDER BY length(did), did COLLATE "C"
        ) AS keeper
        FROM staged_departments
        WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND rejected IS NULL
    ) named
    WHERE keeper <> did
    ON CONFLICT DO NOTHING
""")

SAME_ACCOUNTS = text("""
    INSERT INTO staged_conflicts (transaction_id, epoch, attempt, kind, key, other, reason)
    SELECT :transaction_id, :epoch, :attempt, 'account', uid, first, ''
    FROM (
        SELECT uid, count(*) OVER wanted AS number, min(uid) OVER wanted AS first
        FROM staged_users
        WHERE (transaction_id, epoch, attempt) = (:transaction_id, :epoch, :attempt) AND rejected IS NULL
        WINDOW wanted AS (PARTITION BY account_key)
    ) grouped
    WHERE number > 1
    ON CONFLICT DO NOTHING
""")
"""Everybody who wants an account that somebody else wants; `other` says for now who belongs together."""

KEEPERS_OF_ACCOUNTS = text("""
    WITH wanting AS (
        SELECT c.key AS uid, c.other AS first, first_value(c.key) OVER (
            PARTITION BY c.other
            ORDER BY right(s.account, length(s.uid) + 1) = '-' || s.uid, c.key COLLATE "C"
        ) AS keeper, right(s.account, length(s.uid) + 1) = '-' || s.uid AS has_suffix
        FROM staged_conflicts c
        JOIN staged_users s ON (s.transaction_id, s.epoch, s.attempt) = (c.transaction_id, c.epoch, c.attempt)
            AND s.uid = c.key AND s.rejected IS NULL
        WHERE (c.transaction_id, c.epoch, c.attempt) = (:transaction_id, :epoch, :attempt)
            AND c.kind = 'account'
    ), gone AS (
        DELETE FROM staged_conflicts c USING wanting w
        WHERE (c.transaction_id, c.epoch, c.attempt) = (:transaction_id, :epoch, :attempt)
            AND c.kind = 'account' AND c.key = w.uid AND w.uid = w.keeper
    )
    UPDATE staged_conflicts c
    SET other = w.keeper, reason = 'has the account of ' || w.keeper || ': the userid is added'
    FROM wanting w
    WHERE (c.transaction_id, c.epoch, c.attempt) = (:transaction_id, :epoch, :attempt)
        AND c.kind = 'account' AND c.key = w.uid AND w.uid <> w.keeper
""")


def hold_back_contacts(
    connection: Connection, key: dict[str, Any], *, of_batch: bool, findings: Findings
) -> None:
    """Leave one person each mobile number and e-mail address; `of_batch`: not everybody is staged."""
    for kind, _, _, named, reason in CONTACTS:
        statement = (HOLD_BACK_OF_BATCH if of_batch else HOLD_BACK_OF_ALL)[kind]
        number, examples = connection.execute(statement, key | {"kind": kind.value, "named": named}).one()
        findings.add_many(reason, examples or (), number=number)


def note_userids(connection: Connection, key: dict[str, Any]) -> None:
    """Stage the conflicts of userids that were rejected."""
    connection.execute(SAME_USERIDS, key | {"reason": f"{Reason.USERID_NOT_DISTINCT.value}%"})


def note_names(connection: Connection, key: dict[str, Any]) -> None:
    """Stage the conflicts of names, before they are told apart."""
    connection.execute(SAME_NAMES, key)


def note_accounts(connection: Connection, key: dict[str, Any]) -> None:
    """Stage the conflicts of accounts, before they are told apart."""
    connection.execute(SAME_ACCOUNTS, key)


def name_keepers_of_accounts(connection: Connection, key: dict[str, Any]) -> None:
    """Say of the conflicts of accounts, once they are told apart, who keeps each."""
    connection.execute(KEEPERS_OF_ACCOUNTS, key)
