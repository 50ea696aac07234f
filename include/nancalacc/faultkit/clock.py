"""A clock for a whole database that a test may move: nobody waits, and it can jump."""

from __future__ import annotations

import time

import psycopg
from psycopg import sql

SCHEMA = "faultkit_clock"
INSTALL = f"""
DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;
CREATE SCHEMA {SCHEMA};
CREATE SEQUENCE {SCHEMA}.milliseconds MINVALUE {-(10**12)} START 0;
CREATE FUNCTION {SCHEMA}.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  $$ SELECT pg_catalog.clock_timestamp()
       + (SELECT last_value FROM {SCHEMA}.milliseconds) * interval '1 millisecond' $$;
CREATE FUNCTION {SCHEMA}.now() RETURNS timestamptz LANGUAGE sql STABLE AS
  $$ SELECT pg_catalog.now() + (SELECT last_value FROM {SCHEMA}.milliseconds) * interval '1 millisecond' $$;
"""  # noqa: S608 - names of ours
REAL_SECONDS = 0.002
"""How long a wait really takes: others are to get a turn."""


def install_clock(url: str) -> None:
    """Let every session that is opened from now on read clock_timestamp() and now() from this clock."""
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute(INSTALL.encode())
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET search_path = {}, pg_catalog, public").format(
                sql.Identifier(connection.info.dbname), sql.Identifier(SCHEMA)
            )
        )


class Clock:
    """The clock of a database in which it was installed; the position outlives transactions."""

    def __init__(self, url: str) -> None:
        self._url = url.replace("+psycopg", "", 1)

    def move(self, seconds: float) -> None:
        """Go forward, or back."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(
                f"SELECT setval('{SCHEMA}.milliseconds', last_value + %s)"  # noqa: S608
                f" FROM {SCHEMA}.milliseconds",
                [round(seconds * 1000)],
            )

    def sleep(self, seconds: float) -> None:
        """Wait so long by this clock."""
        self.move(seconds)
        time.sleep(REAL_SECONDS)
