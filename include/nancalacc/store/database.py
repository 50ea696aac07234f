"""Connections to the nancalacc database, their time-outs, and errors without data in them."""

from __future__ import annotations

import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, TracebackType
from typing import Any, Self

import psycopg
from sqlalchemy import URL, Connection, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from nancalacc.errors import ConfigurationError, DatabaseError, SchemaError, StatementRefusedError

CONNECT_SECONDS = 10
SESSION_SETTINGS = {
    "timezone": "UTC",
    # What is read after waiting for a row lock must be what was committed meanwhile.
    "default_transaction_isolation": r"read\ committed",
    "lock_timeout": "30s",
    "statement_timeout": "15min",
    # Shorter than lock_timeout: a suspended process loses its transaction before the one that
    # waits for it gives up.
    "idle_in_transaction_session_timeout": "20s",
}
REFUSALS = frozenset({"22", "23", "42", "44", "P0"})
"""Classes of SQLSTATE that say the statement or its data are wrong: trying again cannot help."""
MISSING_TABLE = ("42P01", "42703")
"""SQLSTATE of undefined_table and undefined_column."""
QUOTE_VALUES = (psycopg.DataError, psycopg.errors.RaiseException)
"""Errors whose messages may quote values."""

SET_NAME = text("SELECT set_config('application_name', :name, true)")
HAS_WRITTEN = text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")


def database_url(url: str) -> URL:
    """Any PostgreSQL URL as one for psycopg 3; raises ConfigurationError for anything else."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("The URL of the nancalacc database cannot be read") from None
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError("The nancalacc database must be PostgreSQL (postgresql://...)")
    return parsed.set(drivername="postgresql+psycopg")


class Database:
    """A small pool of connections; `transaction` is the only way to use one.

    `settings` are PostgreSQL's, beside or instead of those of SESSION_SETTINGS.
    Raises DatabaseError (never SQLAlchemy's or psycopg's own, whose texts may hold row data).
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 4,
        application_name: str = "nancalacc",
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        chosen = {**SESSION_SETTINGS, **settings}
        options = " ".join(f"-c {name}={value}" for name, value in chosen.items())
        self._url = database_url(url)
        self._engine = create_engine(
            self._url,
            poolclass=QueuePool,
            pool_size=pool_size,
            max_overflow=4,
            hide_parameters=True,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "options": options,
                "application_name": application_name,
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
                "tcp_user_timeout": 60_000,
            },
        )
        event.listen(self._engine, "checkout", _refuse_ended_session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def where(self) -> str:
        """Host, port and database, for messages."""
        return f"{self._url.host}:{self._url.port or 5432}/{self._url.database}"

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, name: str = "") -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back when it raises.

        `name` is the session's name as long as it lasts, for `terminate` (63 bytes at most).
        """
        try:
            with self._engine.connect() as connection, connection.begin():
                if name:
                    connection.execute(SET_NAME, {"name": name})
                yield connection
        except (SQLAlchemyError, psycopg.Error) as error:
            raise self._translated(error) from None

    def has_written(self, connection: Connection) -> bool:
        """True when the transaction has changed or locked a row so far."""
        return bool(connection.execute(HAS_WRITTEN).scalar_one())

    def terminate(self, name_prefix: str, *, but: str = "") -> int:
        """End every other session whose name begins so (an overtaken attempt's), except `but`.

        Returns how many were told to end.
        """
        with self.transaction() as connection:
            return len(
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE starts_with(application_name, :prefix) AND application_name <> :but"
                        " AND pid <> pg_backend_pid() AND datname = current_database()"
                    ),
                    {"prefix": name_prefix, "but": but},
                ).all()
            )

    def _translated(
        self, error: SQLAlchemyError | psycopg.Error
    ) -> DatabaseError | StatementRefusedError | SchemaError:
        """The same error without statement, parameters and row data."""
        original = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(original, psycopg.Error):
            return DatabaseError(f"Database {self.where}: {type(error).__name__}")
        state = original.sqlstate or ""
        message = original.diag.message_primary or (str(original).strip() or type(original).__name__)
        message = message.splitlines()[0]
        if isinstance(original, QUOTE_VALUES):
            column = original.diag.column_name
            message = type(original).__name__ + (f" in column {column}" if column else "")
        if state in MISSING_TABLE:
            return SchemaError(f"Database {self.where}: {message}; run `python -m nancalacc db upgrade`")
        kind = StatementRefusedError if state[:2] in REFUSALS else DatabaseError
        return kind(f"Database {self.where}: {message}{f' (SQLSTATE {state})' if state else ''}")


def _refuse_ended_session(session: Any, record: object, proxy: object) -> None:
    """Have the pool replace a session that the server has ended while it was idle.

    The server says goodbye on the socket, so that an idle one with something to read is of no
    more use; asking for it this way costs no round trip.
    """
    if not session.closed:
        socket = select.poll()
        socket.register(session.pgconn.socket, select.POLLIN)
        if not socket.poll(0):
            return
    raise DisconnectionError
