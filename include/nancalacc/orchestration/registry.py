"""Which saga a DAG runs, and what its actions need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nancalacc.errors import ConfigurationError
from nancalacc.saga.definition import SagaDefinition

if TYPE_CHECKING:
    from nancalacc.saga.records import SagaRecord
    from nancalacc.sync.services import SyncServices

NAMES = ("full_sync", "incremental_sync", "undo_sync")
"""Names of the definitions, without importing them (the plugin is loaded into every process)."""
GATED = frozenset({"incremental_sync"})
"""Those whose runs begin with a task that may find nothing to do: a saga exists from its first step on."""

IMPATIENT: Mapping[str, Any] = MappingProxyType(
    {"lock_wait_seconds": 0, "busy_wait_seconds": 0, "confirm_seconds": 10, "renotify_seconds": 3}
)
"""Settings of who finishes what is open, which comes again anyway.

It waits for nobody, but long enough to have WPS see again what it has missed.
"""


def definition_of(dag_id: str) -> SagaDefinition:
    """The definition that a DAG runs; its DAGs are `<definition>` and `<definition>__<connection>`."""
    from nancalacc.sync.full import FULL_SYNC
    from nancalacc.sync.incremental import INCREMENTAL_SYNC
    from nancalacc.sync.undo import UNDO_SYNC

    for definition in (FULL_SYNC, INCREMENTAL_SYNC, UNDO_SYNC):
        if dag_id == definition.name or dag_id.startswith(f"{definition.name}__"):
            return definition
    raise ConfigurationError(f"DAG {dag_id!r} runs no saga of this package")


def sync_services_of(context: Any) -> SyncServices:
    """What the actions of a sync need in the task with this context."""
    from nancalacc.orchestration.hooks import sync_services

    run = context["dag_run"]
    return sync_services(run_id=run.run_id, start=run.start_date or run.run_after)


def outcome_services_of(context: Any) -> SyncServices:
    """The same for the task that finishes what is open: what it cannot finish at once is left to recovery."""
    return _impatient(sync_services_of(context))


def recovery_services_of(saga: SagaRecord) -> SyncServices:
    """What the actions of a saga need whose run is over: the same, but they do not wait for anybody.

    Who waits in a recovery keeps the other sagas waiting; it comes again anyway.
    """
    from nancalacc.orchestration.hooks import sync_services

    start = saga.start_time or saga.created_at or datetime.now(tz=UTC)
    services = sync_services(run_id=saga.run_id or "", start=start.replace(tzinfo=UTC))
    return _impatient(services)


def _impatient(services: SyncServices) -> SyncServices:
    return replace(services, settings=replace(services.settings, **IMPATIENT))
