"""What a run may be given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nancalacc.errors import RefusedError


def require_known(params: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise RefusedError for a parameter that is none of the known ones: Airflow itself takes any."""
    for key in params:
        if key not in known:
            raise RefusedError(f"Unknown parameter {key!r}: this DAG has {', '.join(known)}")
