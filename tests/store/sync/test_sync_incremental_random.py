"""Many changes in any order, told of once, twice or late: in the end WPS is as DingTalk."""

from dataclasses import replace

import pytest

from nancalacc.config import AccountSource
from random_organisations import RandomOrganisation
from store.sync.batches import Batches

CHANGES, BATCHES = 500, 3

CONFLICTS = "SELECT kind, key, other FROM conflicts ORDER BY kind, key"
CONTACTS = "SELECT uid, phone <> '' AS has_phone, phone_key, email, email_key FROM known_users ORDER BY uid"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    "seed, source, root",
    [(1, AccountSource.USERID, 1), (2, AccountSource.JOB_NUMBER, 1), (3, AccountSource.USERID, 100)],
)
def test_a_random_sequence_ends_equal(sync, seed: int, source: AccountSource, root: int):
    sync.company.change("wps", account_source=source.value)
    sync.company.change("dingtalk", root_dept_id=root)
    sync.complete()
    batches = Batches(sync)
    consumer = sync.sandbox.consumer
    strict = replace(consumer.rules.readings, unique_contacts=True)
    consumer.set_rules(replace(consumer.rules, readings=strict))
    told: list[tuple[str, tuple[int | str, ...]]] = []
    sync.sandbox.organisation.observer = lambda kind, data: told.append(
        (kind, tuple(data.get("userId", data.get("deptId", ()))))
    )
    changing = RandomOrganisation(sync.sandbox.organisation, seed=seed, kept=frozenset({100}))
    late: list[tuple[str, str, tuple[int | str, ...]]] = []
    for part in range(BATCHES):
        for _ in range(CHANGES // BATCHES):
            changing.change()
        events = [(f"{part}-{number}", *event) for number, event in enumerate(told)] + late
        told.clear()
        changing.random.shuffle(events)
        late = [] if part == BATCHES - 1 else events[: len(events) // 10]
        for event_id, kind, ids in events[len(late) :]:
            batches.event(kind, *ids, event_id=event_id)
            if changing.random.random() < 0.1:
                assert not batches.event(kind, *ids, event_id=event_id)
            if changing.random.random() < 0.1:
                batches.event(kind, *ids, event_id=f"{event_id}-again")
        batches.drain()

    assert batches.count("dead") == 0
    assert sync.sandbox.consumer.wait_idle()
    comparison = sync.sandbox.compare(root_dept_id=root, accounts=source is AccountSource.USERID)
    assert comparison.differences == ()
    told_of = sync.rows(CONFLICTS)
    contacts = sync.rows(CONTACTS)
    assert {row.kind for row in told_of} >= {"mobile", "email"}
    again = sync.complete(dry_run=True)
    for kind, counts in again.records["update_task_status"].action_data["difference"].items():
        assert (kind, counts["added"], counts["changed"], counts["removed"]) == (kind, 0, 0, 0)
    sync.complete()
    assert sync.rows(CONTACTS) == contacts
    assert sync.rows(CONFLICTS) == told_of
