"""What can happen to a process that lives on: its database goes, or does not do what it was told."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import NoReturn

import psycopg

from nancalacc.errors import DatabaseError

END_MILLISECONDS = 5000
RECOVERY_SECONDS, POLL_SECONDS = 60.0, 0.05
OURS = "application_name LIKE 'nancalacc%' AND datname = current_database()"


def cut(url: str) -> None:
    """End every session of our processes, and wait until they are gone."""
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute(
            f"SELECT pg_terminate_backend(pid, {END_MILLISECONDS}) FROM pg_stat_activity"  # noqa: S608
            f" WHERE {OURS}"
        )


def expire(url: str) -> None:
    """End the sessions of our processes that have left a transaction open.

    As the server does by itself, a while later: idle_in_transaction_session_timeout.
    """
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute(
            f"SELECT pg_terminate_backend(pid, {END_MILLISECONDS}) FROM pg_stat_activity"  # noqa: S608
            f" WHERE {OURS} AND state LIKE 'idle in transaction%'"
        )


def crash(url: str) -> None:
    """Have a server on this machine end all its sessions and recover, as after a power cut.

    Returns when it accepts connections again. Commits that were not waited for may be lost.
    """
    plain = url.replace("+psycopg", "", 1)
    with psycopg.connect(plain, autocommit=True) as victim, psycopg.connect(plain) as witness:
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        with suppress(psycopg.OperationalError):
            witness.execute("SELECT pg_sleep(%s)", [RECOVERY_SECONDS])
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            psycopg.connect(plain).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return


def lose() -> NoReturn:
    """The statement or commit that is under way ends with an error: behind a commit, its answer is lost."""
    raise DatabaseError("The fault kit has lost the answer")
