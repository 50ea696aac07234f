"""Random organisations and changes: a plan says exactly what WPS then changes."""

from collections import Counter
from typing import Any

import pytest

from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.directory import ROOT_DID, Directory, DirectoryUser
from nancalacc.sync.company import PLAN
from nancalacc.sync.full import FULL_SYNC
from store.sync.test_sync_incremental_random import RandomOrganisation

ROUNDS, CHANGES = 4, 25
TABLES = ("tb_company_cfg", "tb_las_department", "tb_las_user", "tb_las_department_user", "task",
          "known_departments", "known_users", "known_memberships", "company_locks")  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def department_states(directory: Directory) -> dict[Any, tuple[Any, ...]]:
    return {
        each.did: (each.pid, each.name, each.order)
        for each in directory.departments.values()
        if each.did != ROOT_DID
    }


def user_states(directory: Directory) -> dict[Any, tuple[Any, ...]]:
    def state(user: DirectoryUser) -> tuple[Any, ...]:
        return (
            user.main, user.employment_status, user.account, user.nick_name, user.memberships[user.main],
            user.avatar, user.email, user.title, user.work_place, user.leader, user.employer,
        )  # fmt: skip

    return {each.uid: state(each) for each in directory.users.values()}


def membership_states(directory: Directory) -> dict[Any, tuple[Any, ...]]:
    return {
        (user.uid, did): (order, did == user.main)
        for user in directory.users.values()
        for did, order in user.memberships.items()
    }


STATES = {"departments": department_states, "users": user_states, "memberships": membership_states}


def applied(before: dict[Any, tuple[Any, ...]], after: dict[Any, tuple[Any, ...]], kind: str) -> Counter[str]:
    """What became of one kind of object in WPS's directory."""
    found = Counter(added=len(after.keys() - before.keys()), removed=len(before.keys() - after.keys()))
    for key in before.keys() & after.keys():
        old, new = before[key], after[key]
        found["changed"] += old != new
        found["moved"] += kind != "memberships" and old[0] != new[0]
        found["disabled"] += kind == "users" and old[1] == "active" and new[1] != "active"
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_counts_of_a_plan_are_what_wps_then_applies(sync, seed: int):
    directory = sync.sandbox.directory
    changing = RandomOrganisation(sync.sandbox.organisation, seed=seed)
    for number in range(ROUNDS):
        if number:
            for _ in range(CHANGES):
                changing.change()
        before = {kind: states(directory) for kind, states in STATES.items()}

        tables = {table: sync.rows(f"SELECT t::text FROM {table} t ORDER BY 1") for table in TABLES}
        dry = sync.start(dry_run=True)
        sync.coordinator.check(FULL_SYNC, dry.transaction_id, PLAN, services=dry.services, params=dry.params)
        dry.steps()
        assert dry.settle() is SagaStatus.COMPLETED
        untouched = {table: sync.rows(f"SELECT t::text FROM {table} t ORDER BY 1") for table in TABLES[:-1]}
        assert untouched == {table: tables[table] for table in untouched}
        assert {kind: states(directory) for kind, states in STATES.items()} == before

        run = sync.complete(allow_mass_delete=True)
        [planned, again] = sync.rows("SELECT hash, counts FROM sync_plans ORDER BY created_at DESC LIMIT 2")
        assert planned == again
        for kind, states in STATES.items():
            counts = Counter(planned.counts[kind])
            assert counts.pop("known") == len(before[kind])
            assert counts == applied(before[kind], states(directory), kind), (run.saga.task_id, kind)
