"""The schema of the nancalacc database: bring it up to date, and refuse to work with another one."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from nancalacc.errors import SchemaError
from nancalacc.store.database import Database

VERSION_TABLE = "nancalacc_alembic_version"
UPGRADE_LOCK = 0x6E616E63
"""Key of the advisory lock that lets one upgrade run at a time ("nanc")."""
HAS_VERSIONS = text(f"SELECT to_regclass('{VERSION_TABLE}') IS NOT NULL")
MIGRATIONS = Path(__file__).parent / "migrations"
REMEDY = "run `python -m nancalacc db upgrade`"


def alembic_config() -> Config:
    """Alembic's configuration; there is no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def expected_revision() -> str:
    """The revision this version of the code needs."""
    return max(_revisions())


def current_revision(connection: Connection) -> str | None:
    """The revision of the database, None for an empty one."""
    if not connection.execute(HAS_VERSIONS).scalar_one():
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608


def upgrade(url: str) -> str:
    """Bring the database to the newest revision and return it.

    Does nothing when it is there already. Of two processes that upgrade at once one waits
    for the other. A failed migration leaves the schema as it was.
    """
    config = alembic_config()
    with Database(url) as database, database.transaction() as connection:
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return expected_revision()


def require_current(connection: Connection) -> None:
    """Raise SchemaError, saying what to do, unless the schema is the one this version needs."""
    expected = expected_revision()
    current = current_revision(connection)
    if current == expected:
        return
    if current is None:
        raise SchemaError(f"The nancalacc database has no tables yet: {REMEDY}")
    if current in _revisions():
        raise SchemaError(f"The nancalacc database is at revision {current}, {expected} is needed: {REMEDY}")
    raise SchemaError(
        f"The nancalacc database is at revision {current}, which this version ({expected}) does not know:"
        " install the version that made it"
    )


def _revisions() -> frozenset[str]:
    """The revisions this version knows, by the names of their files.

    Every task asks for them: Alembic would import all migrations and write to the task's log.
    """
    found = frozenset(path.name.partition("_")[0] for path in MIGRATIONS.glob("versions/[0-9]*_*.py"))
    if not found:
        raise SchemaError("The package holds no migrations: it is not installed completely")
    return found
