"""Prunes what is over, in many short transactions, and tells what went [design 5]."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from nancalacc.config import Retention
from nancalacc.store.database import Database
from nancalacc.sync.retention import prunings

log = logging.getLogger(__name__)

LONGEST_RUN_SECONDS = 1800.0
"""What is left then goes the next night."""


def maintain(
    database: Database,
    retention: Retention,
    *,
    clock: Callable[[], float] = time.monotonic,
    seconds: float = LONGEST_RUN_SECONDS,
) -> dict[str, int]:
    """Prune everything; returns how many rows of each kind went. Raises DatabaseError."""
    deadline = clock() + seconds
    removed = {}
    for name, prune in prunings(retention).items():
        removed[name] = 0
        while clock() < deadline:
            with database.transaction() as connection:
                deleted = prune(connection)
            removed[name] += deleted
            if not deleted:
                log.info("%s: %s removed", name, removed[name])
                break
        else:
            log.warning(
                "%s: %s removed, and no time left for the rest: it goes next time", name, removed[name]
            )
    return removed


def run_maintenance() -> None:
    """What the task of `saga_maintenance` does."""
    from nancalacc.config import Settings
    from nancalacc.orchestration.hooks import open_database

    with open_database() as database:
        maintain(database, Settings.from_env().retention)
