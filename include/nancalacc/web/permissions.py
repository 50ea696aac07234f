"""Which of Airflow's permissions each action needs; what is offered and what is enforced ask here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from fastapi import Request

from nancalacc.web import airflow_links
from nancalacc.web.access import Access, BaseUser
from nancalacc.web.schemas import Action


class Permission(NamedTuple):
    """What Airflow is asked: may this method be used on such things of this DAG?"""

    method: ResourceMethod
    entity: DagAccessEntity
    dag_id: str

    @property
    def refusal(self) -> str:
        """What somebody is told who has it not."""
        return f"You may not do this to {self.dag_id} in Airflow"


OF_OWN_DAG: Mapping[Action, tuple[ResourceMethod, DagAccessEntity]] = {
    Action.RETRY: ("PUT", DagAccessEntity.TASK_INSTANCE),
    Action.SKIP: ("PUT", DagAccessEntity.TASK_INSTANCE),
    Action.CANCEL: ("PUT", DagAccessEntity.RUN),
}
STARTED: Mapping[Action, str] = {
    Action.RECOVER: airflow_links.RECOVERY,
    Action.UNDO: airflow_links.UNDO_SYNC,
}
"""Actions that start a run of another DAG than the saga's own."""
DECIDE_EVENTS = Permission("PUT", DagAccessEntity.RUN, airflow_links.INCREMENTAL_SYNC)
"""Having a dead event of DingTalk tried again, or giving it up."""


def of_saga(action: Action, *, dag_id: str) -> Permission:
    """What an action on a saga of this DAG needs."""
    if action in STARTED:
        return start_of(STARTED[action])
    return Permission(*OF_OWN_DAG[action], dag_id)


def start_of(dag_id: str) -> Permission:
    """What starting a run of a DAG needs."""
    return Permission("POST", DagAccessEntity.RUN, dag_id)


def sight_of(dag_id: str) -> Permission:
    """What seeing the sagas of a DAG needs."""
    return Permission("GET", DagAccessEntity.RUN, dag_id)


def granted(
    access: Access, request: Request, user: BaseUser, wanted: Collection[Permission]
) -> frozenset[Permission]:
    """Those of the permissions that the person has; asks Airflow's database, so not for the event loop."""
    return frozenset(
        each
        for each in set(wanted)
        if access.may(request, user, method=each.method, entity=each.entity, dag_id=each.dag_id)
    )
