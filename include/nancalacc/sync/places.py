"""Which of a person's departments is the main one, once all pages are staged.

A membership is staged with the page that lists it, a person with one page, or with every one where
neither the page nor the person's record says which departments there are.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from nancalacc.sync.staging import Fetch

OF_FETCH = "({0}.transaction_id, {0}.epoch, {0}.attempt) = (:transaction_id, :epoch, :attempt)"
SETTLE = tuple(
    text(statement.format(of_s=OF_FETCH.format("s"), of_m=OF_FETCH.format("m")))
    for statement in (
        # As WPS has it where the departments were not read; otherwise the smallest, the root last.
        """
        WITH unsaid AS (
            SELECT s.uid, s.def_did, dense_rank() OVER (
                PARTITION BY s.uid
                ORDER BY s.departments = 0, s.def_did = '1', k.def_did IS NOT NULL DESC,
                    length(s.def_did), s.def_did COLLATE "C"
            ) AS place
            FROM staged_users s
            LEFT JOIN known_users k
                ON k.third_company_id = :company AND k.uid = s.uid AND k.def_did = s.def_did
            WHERE {of_s} AND s.rejected IS NULL AND s.uid IN (
                SELECT s.uid FROM staged_users s WHERE {of_s} AND s.rejected IS NULL AND s.departments = 0
            )
        )
        DELETE FROM staged_users s USING unsaid
        WHERE {of_s} AND s.uid = unsaid.uid AND s.def_did = unsaid.def_did AND unsaid.place > 1
        """,
        """
        UPDATE staged_users s SET departments = listed.number
        FROM (
            SELECT m.uid, count(DISTINCT m.did) AS number FROM staged_memberships m
            WHERE {of_m} AND m.rejected IS NULL GROUP BY m.uid
        ) listed
        WHERE {of_s} AND s.rejected IS NULL AND s.departments = 0 AND listed.uid = s.uid
        """,
        """
        UPDATE staged_memberships m SET main = CAST(m.did = s.def_did AS integer)
        FROM staged_users s
        WHERE {of_m} AND {of_s} AND s.uid = m.uid AND s.rejected IS NULL AND m.rejected IS NULL
            AND m.main <> CAST(m.did = s.def_did AS integer)
        """,
        """
        UPDATE staged_users s SET def_did_order = m."order"
        FROM staged_memberships m
        WHERE {of_m} AND {of_s} AND m.uid = s.uid AND m.did = s.def_did AND s.rejected IS NULL
            AND s.def_did_order IS NULL AND m."order" IS NOT NULL
        """,
    )
)


def settle(connection: Connection, *, fetch: Fetch, third_company_id: str) -> None:
    """Leave one row of each person, and let the memberships have the main department it names."""
    values: dict[str, Any] = fetch.key() | {"company": third_company_id}
    for statement in SETTLE:
        connection.execute(statement, values)
