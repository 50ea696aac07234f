"""Which saga a DAG runs, and what its actions need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nancalacc.errors import ConfigurationError
from nancalacc.saga.definition import SagaDefinition

if TYPE_CHECKING:
    from nancalacc.sync.services import SyncServices

NAMES = ("full_sync",)
"""Names of the definitions, without importing them (the plugin is loaded into every process)."""


def definition_of(dag_id: str) -> SagaDefinition:
    """The definition that a DAG runs; its DAGs are `<definition>` and `<definition>__<connection>`."""
    from nancalacc.sync.full import FULL_SYNC

    for definition in (FULL_SYNC,):
        if dag_id == definition.name or dag_id.startswith(f"{definition.name}__"):
            return definition
    raise ConfigurationError(f"DAG {dag_id!r} runs no saga of this package")


def sync_services_of(context: Any) -> SyncServices:
    """What the actions of a sync need in the task with this context."""
    from nancalacc.orchestration.hooks import sync_services

    run = context["dag_run"]
    return sync_services(run_id=run.run_id, start=run.start_date or run.run_after)
