"""Random organisations and changes: a plan says exactly what WPS then changes."""

from collections import Counter
from typing import Any

import pytest

from nancalacc.errors import GuardError
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.directory import ROOT_DID, Directory, DirectoryUser
from nancalacc.sandbox.organisation import Organisation
from nancalacc.sync.company import PLAN
from nancalacc.sync.full import FULL_SYNC
from random_organisations import RandomOrganisation, random_organisation

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
            user.phone, bool(user.telephone),
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


def states_of(directory: Directory) -> dict[str, dict[Any, tuple[Any, ...]]]:
    return {kind: states(directory) for kind, states in STATES.items()}


def stopped_by_limits(sync: Any) -> bool:
    """Sync without the word that many may go: it is published, or stopped and undone."""
    run, stopped = sync.start(), ""
    try:
        run.steps()
    except GuardError as error:
        stopped = str(error)
        sync.coordinator.fail(run.transaction_id, step=PLAN, error=stopped)
    assert run.settle() is (SagaStatus.COMPENSATED if stopped else SagaStatus.COMPLETED)
    assert not stopped or "allow_mass_delete = true" in stopped
    sync.sandbox.consumer.run_now()
    return bool(stopped)


@pytest.fixture
def organisation(seed: int) -> Organisation:
    return random_organisation(seed)


@pytest.mark.parametrize("seed", range(1, 9))
def test_the_counts_of_a_plan_are_what_wps_then_applies(sync, organisation, seed: int):
    directory = sync.sandbox.directory
    changing = RandomOrganisation(organisation, seed=seed)
    for number in range(ROUNDS):
        if number:
            for _ in range(CHANGES):
                changing.change()
        before = states_of(directory)

        tables = {table: sync.rows(f"SELECT t::text FROM {table} t ORDER BY 1") for table in TABLES}
        dry = sync.start(dry_run=True)
        sync.coordinator.check(FULL_SYNC, dry.transaction_id, PLAN, services=dry.services, params=dry.params)
        dry.steps()
        assert dry.settle() is SagaStatus.COMPLETED
        untouched = {table: sync.rows(f"SELECT t::text FROM {table} t ORDER BY 1") for table in TABLES[:-1]}
        assert untouched == {table: tables[table] for table in untouched}
        assert states_of(directory) == before

        runs = 2
        if stopped_by_limits(sync):
            assert states_of(directory) == before
            sync.complete(allow_mass_delete=True)
            runs = 3
        assert sync.sandbox.consumer.wait_idle()
        planned = sync.rows(f"SELECT hash, counts FROM sync_plans ORDER BY created_at DESC LIMIT {runs}")
        assert planned == [planned[0]] * runs
        after = states_of(directory)
        for kind in STATES:
            counts = Counter(planned[0].counts[kind])
            assert counts.pop("known") == len(before[kind])
            assert counts == applied(before[kind], after[kind], kind), (number, kind)
