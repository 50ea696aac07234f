"""The schema of the nancalacc database: bring it up to date, and refuse to work with another one."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from nancalacc.errors import SchemaError
from nancalacc.store.database import Database

VERSION_TABLE = "nancalacc_alembic_version"
UPGRADE_LOCK = 0x6E616E63
"""Key of the advisory lock that lets one upgrade run at a time ("nanc")."""
REMEDY = "run `python -m nancalacc db upgrade`"


def alembic_config() -> Config:
    """Alembic's configuration; there is no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def expected_revision() -> str:
    """The revision this version of the code needs."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if head is None:
        raise SchemaError("The package holds no migrations: it is not installed completely")
    return head


def current_revision(connection: Connection) -> str | None:
    """The revision of the database, None for an empty one."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


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
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if current in known:
        raise SchemaError(f"The nancalacc database is at revision {current}, {expected} is needed: {REMEDY}")
    raise SchemaError(
        f"The nancalacc database is at revision {current}, which this version ({expected}) does not know:"
        " install the version that made it"
    )
