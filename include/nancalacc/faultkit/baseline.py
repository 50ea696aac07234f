"""Puts a database back to how it was, faster than a new one could be made."""

from __future__ import annotations

import psycopg
from psycopg import sql

SCHEMA = "faultkit_baseline"
RESET_SECONDS = 10
COLUMNS = """
SELECT c.relname, array_agg(a.attname ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
  AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
GROUP BY c.relname ORDER BY c.relname
"""


class Baseline:
    """A copy of every row of every table in schema `public`, kept in the database itself.

    The user must be a superuser, because foreign keys are not looked at while rows are put back.
    """

    def __init__(self, url: str) -> None:
        self._url = url.replace("+psycopg", "", 1)
        self._restore = sql.Composed([])

    def keep(self) -> None:
        """Take the present rows as those to go back to."""
        statements: list[sql.Composable] = [sql.SQL("SET LOCAL session_replication_role = replica")]
        with psycopg.connect(self._url) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            connection.execute(f"CREATE SCHEMA {SCHEMA}")
            for table, columns in connection.execute(COLUMNS).fetchall():
                names = {
                    "mine": sql.Identifier("public", table),
                    "kept": sql.Identifier(SCHEMA, table),
                    "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
                }
                connection.execute(
                    sql.SQL("CREATE TABLE {kept} AS SELECT {columns} FROM {mine}").format(**names)
                )
                statements += [
                    sql.SQL("DELETE FROM {mine}").format(**names),
                    sql.SQL(
                        "INSERT INTO {mine} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {kept}"
                    ).format(**names),
                ]
        self._restore = sql.SQL("; ").join(statements)

    def restore(self) -> None:
        """Go back to the rows that were kept; sequences go on."""
        with psycopg.connect(self._url, options=f"-c lock_timeout={RESET_SECONDS}s") as connection:
            connection.execute(self._restore)
