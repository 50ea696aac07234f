"""How a copy of WPS's directory differs from known state, which is what WPS has been given.

Compared in SQL are ids, the tree, names, accounts and memberships: the API does not show the rest to
everybody [wps 4].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from nancalacc.sync.staging import prefer_hash_joins

KEPT = 10_000
"""Differences of one kind that are stored one by one; all are counted."""


@dataclass(frozen=True, slots=True)
class Differences:
    """How many objects of each kind are missing in WPS, there although they should not be, or otherwise."""

    missing: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """All of them."""
        return sum(sum(each.values()) for each in (self.missing, self.extra, self.changed))

    def as_data(self) -> dict[str, dict[str, int]]:
        """The counts by kind, without zeros."""
        names = ("missing", "extra", "changed")
        return {name: dict(getattr(self, name)) for name in names if getattr(self, name)}

    def __str__(self) -> str:
        """For messages."""
        words = {"missing": "missing in WPS", "extra": "only in WPS", "changed": "different"}
        parts = [
            f"{number} {kind} {words[name]}"
            for name, counts in self.as_data().items()
            for kind, number in counts.items()
        ]
        return ", ".join(parts) or "no difference"


def compare(connection: Connection, *, verification_id: int, third_company_id: str) -> Differences:
    """Hold the copy against known state: store the differences one by one and count them."""
    values = {"id": verification_id, "company": third_company_id, "most": KEPT}
    prefer_hash_joins(connection)
    connection.execute(text("DELETE FROM verification_differences WHERE verification_id = :id"), values)
    counts: dict[str, dict[str, int]] = {"missing": {}, "extra": {}, "changed": {}}
    for kind, query in FOUND.items():
        for row in connection.execute(text(f"{SHOWN}, {query} {RECORDED}"), values | {"kind": kind}):
            counts[row.what][kind] = row.number
    return Differences(**counts)


def examples(connection: Connection, *, verification_id: int, limit: int) -> Sequence[Mapping[str, Any]]:
    """The first stored differences: kind, key, did of a membership, what, fields."""
    rows: Iterable[Any] = connection.execute(
        text(
            "SELECT kind, key, did, what, fields FROM verification_differences"
            " WHERE verification_id = :id ORDER BY id LIMIT :limit"
        ),
        {"id": verification_id, "limit": limit},
    )
    return [dict(row._mapping) for row in rows]


SHOWN = """
    WITH shown_departments AS (
        SELECT DISTINCT ON (d.did) d.did, d.name, d.name_key, p.did AS pid
        FROM directory_departments d
        JOIN directory_departments p ON p.verification_id = :id AND p.wps_id = d.parent_wps_id
        WHERE d.verification_id = :id AND d.did IS NOT NULL
        ORDER BY d.did, d.wps_id
    ), shown_users AS (
        SELECT DISTINCT ON (uid) uid, wps_id, account_key, nick_name, has_places
        FROM directory_users WHERE verification_id = :id AND uid IS NOT NULL
        ORDER BY uid, wps_id
    ), shown_memberships AS (
        SELECT DISTINCT u.uid, d.did
        FROM directory_memberships m
        JOIN directory_users u ON u.verification_id = :id AND u.wps_id = m.wps_id
        JOIN directory_departments d ON d.verification_id = :id AND d.wps_id = m.wps_dept_id
        WHERE m.verification_id = :id
    )
"""
FOUND: Mapping[str, str] = {
    "departments": """
        compared AS (
            SELECT coalesce(k.did, s.did) AS key, CAST(NULL AS varchar) AS did,
                k.did IS NOT NULL AS is_known, s.did IS NOT NULL AS is_shown,
                concat_ws(',',
                    CASE WHEN s.pid IS DISTINCT FROM k.pid THEN 'parent' END,
                    CASE WHEN btrim(s.name) <> btrim(k.name)
                        AND s.name_key IS DISTINCT FROM k.name_key THEN 'name' END) AS fields
            FROM (SELECT * FROM known_departments WHERE third_company_id = :company) k
            FULL JOIN shown_departments s ON s.did = k.did
        )
    """,
    "users": """
        compared AS (
            SELECT coalesce(k.uid, s.uid) AS key, CAST(NULL AS varchar) AS did,
                k.uid IS NOT NULL AS is_known, s.uid IS NOT NULL AS is_shown,
                concat_ws(',',
                    CASE WHEN s.account_key <> k.account_key THEN 'account' END,
                    CASE WHEN btrim(s.nick_name) <> btrim(k.nick_name) THEN 'name' END) AS fields
            FROM (SELECT * FROM known_users WHERE third_company_id = :company) k
            FULL JOIN shown_users s ON s.uid = k.uid
        )
    """,
    "memberships": """
        expected AS (
            SELECT m.uid, m.did FROM known_memberships m
            JOIN shown_users u ON u.uid = m.uid AND u.has_places
            JOIN shown_departments d ON d.did = m.did
            WHERE m.third_company_id = :company
        ), shown AS (
            SELECT s.uid, s.did FROM shown_memberships s
            JOIN known_users u ON u.third_company_id = :company AND u.uid = s.uid
            JOIN known_departments d ON d.third_company_id = :company AND d.did = s.did
        ), compared AS (
            SELECT coalesce(e.uid, s.uid) AS key, coalesce(e.did, s.did) AS did,
                e.uid IS NOT NULL AS is_known, s.uid IS NOT NULL AS is_shown, '' AS fields
            FROM expected e FULL JOIN shown s ON s.uid = e.uid AND s.did = e.did
        )
    """,
}
"""Memberships only of people and departments that both sides have: the others are listed themselves. Not
those in WPS's own root, where it puts whom it likes."""
RECORDED = """, found AS MATERIALIZED (
        SELECT key, did, CASE WHEN is_shown AND is_known THEN fields END AS fields,
            CASE WHEN NOT is_shown THEN 'missing' WHEN NOT is_known THEN 'extra' ELSE 'changed' END AS what
        FROM compared WHERE NOT is_shown OR NOT is_known OR fields <> ''
    ), kept AS (
        INSERT INTO verification_differences (verification_id, kind, key, did, what, fields)
        SELECT :id, :kind, key, did, what, nullif(fields, '') FROM found ORDER BY key, did LIMIT :most
    )
    SELECT what, count(*) AS number FROM found GROUP BY what
"""
