"""The parameters of a full sync, checked strictly: Airflow itself accepts unknown keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from nancalacc.config import DINGTALK_CONN_ID, WPS_CONN_ID
from nancalacc.errors import RefusedError
from nancalacc.saga.params import require_known

UNDO_SYNC = "undo_sync"
TASK_ID_FORMAT = "%Y%m%d%H%M%S"
"""yyyyMMddHHmmss [wps 3.1]."""


@dataclass(frozen=True, slots=True)
class FullSyncParams:
    """What a run may be given."""

    task_name: str | None = None
    dingtalk_conn_id: str = DINGTALK_CONN_ID
    wps_conn_id: str = WPS_CONN_ID
    dry_run: bool = False
    allow_mass_delete: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> FullSyncParams:
        """Check the parameters of a run; raises RefusedError naming the one that is wrong."""
        require_known(params, [field.name for field in fields(cls)])
        for key in ("dry_run", "allow_mass_delete"):
            if not isinstance(params.get(key, False), bool):
                raise RefusedError(f"Parameter {key!r} must be true or false, not {params[key]!r}")
        for key in ("dingtalk_conn_id", "wps_conn_id"):
            value = params.get(key, "default")
            if not isinstance(value, str) or not value.strip():
                raise RefusedError(f"Parameter {key!r} must be the id of a connection, not {value!r}")
        name = params.get("task_name")
        if name is not None and not is_task_id(name):
            raise RefusedError(
                "Parameter 'task_name' must be null or an existing date and time as yyyyMMddHHmmss"
                f" (14 digits), not {name!r}"
            )
        return cls(**params)


@dataclass(frozen=True, slots=True)
class UndoParams(FullSyncParams):
    """What a run that undoes a sync may be given; `transaction_id` names the saga of that sync."""

    transaction_id: str | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> UndoParams:
        """Check the parameters of a run; raises RefusedError naming the one that is wrong."""
        found = super(UndoParams, cls).of(params)
        assert isinstance(found, cls)  # noqa: S101 - the base class builds what it is called on
        if not isinstance(found.transaction_id, str) or not found.transaction_id.strip():
            raise RefusedError(
                "Parameter 'transaction_id' must name the saga of the sync to undo, as saga_transactions and"
                f" the console do, not {found.transaction_id!r}"
            )
        return found


def params_of(definition: str, params: Mapping[str, Any]) -> FullSyncParams:
    """The checked parameters of a saga of this definition; raises RefusedError."""
    return (UndoParams if definition == UNDO_SYNC else FullSyncParams).of(params)


def is_task_id(value: object) -> bool:
    """True for 14 digits that are a real date and time."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{14}", value):
        return False
    try:
        datetime.strptime(value, TASK_ID_FORMAT)  # noqa: DTZ007 - a local time without zone by contract
    except ValueError:
        return False
    return True
