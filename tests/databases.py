"""Databases lent to tests: each finds a migrated, empty one, which costs little to make empty again."""

import uuid

import psycopg
from psycopg import sql

from nancalacc.sandbox.postgres import Postgres

SHAPE = """
    SELECT md5(string_agg(part, ',' ORDER BY part)) FROM (
        SELECT format('%s %s %s', oid, relname, relnatts) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT format('%s %s', oid, prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT format('%s %s', oid, tgenabled) FROM pg_trigger
        UNION ALL SELECT format('%s %s', oid, conname) FROM pg_constraint
        UNION ALL SELECT setconfig::text FROM pg_db_role_setting
        UNION ALL SELECT nspname FROM pg_namespace
    ) AS parts (part)
"""
"""Changes whenever a test has left the tables other than it found them."""
END_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'nancalacc_alembic_version'
"""
SEQUENCES = """
    SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence
    JOIN pg_class ON pg_class.oid = seqrelid WHERE relnamespace = 'public'::regnamespace
"""


class Databases:
    """Copies of a template that are used again after a test, unless it changed their tables.

    Deleting the few rows of a test takes a hundredth of the time of a new copy.
    """

    def __init__(self, postgres: Postgres, *, template: str) -> None:
        self._postgres = postgres
        self._template = template
        self._free: list[str] = []
        self._shapes: dict[str, str] = {}

    def take(self) -> str:
        """The name of a migrated, empty database that nobody else uses."""
        if self._free:
            return self._free.pop()
        name = f"nancalacc_{uuid.uuid4().hex[:12]}"
        self._postgres.create_database(name, template=self._template)
        with self._connect(name) as connection:
            self._shapes[name] = self._shape(connection)
        return name

    def give_back(self, name: str) -> None:
        """End whoever is connected, and make the database empty, or drop it if its tables have changed."""
        with self._connect(name) as connection:
            connection.execute(END_SESSIONS)
            is_usable = self._shape(connection) == self._shapes[name]
            if is_usable:
                connection.execute("SET session_replication_role = replica")
                for (table,) in connection.execute(TABLES).fetchall():
                    connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
                connection.execute(SEQUENCES)
        if is_usable:
            self._free.append(name)
        else:
            self._postgres.drop_database(name)

    def _connect(self, name: str) -> psycopg.Connection:
        return psycopg.connect(self._postgres.url(name), autocommit=True)

    def _shape(self, connection: psycopg.Connection) -> str:
        [shape] = connection.execute(SHAPE).fetchone() or [""]
        try:
            version = connection.execute("SELECT version_num FROM nancalacc_alembic_version").fetchall()
        except psycopg.errors.UndefinedTable:
            version = []
        return f"{shape} {version}"
