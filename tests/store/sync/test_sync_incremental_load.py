"""Many events at once, and many companies: everything applied, nobody held up."""

import random
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from nancalacc.config import ConnectionInfo, DingTalkSettings, WpsSettings
from nancalacc.errors import ConfigurationError, TransientError
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.organisation import Placement, User
from nancalacc.sandbox.postgres import free_port
from nancalacc.sync.inbox import Company, InboxEvent, store
from store.sync.batches import Batches, BatchRun

pytestmark = pytest.mark.slow

EVENTS, BATCH = 10_000, 2_000
DEPARTMENTS, PEOPLE = 200, 600


def put(batches: Batches, events: list[tuple[str, str]]) -> None:
    rows = [
        InboxEvent(f"burst-{number}", event_type, object_ids=(object_id,), born_at=datetime.now(tz=UTC))
        for number, (event_type, object_id) in enumerate(events)
    ]
    with batches.sync.database.transaction() as connection:
        assert len(store(connection, rows, companies=[batches.company])) == len(rows)


@pytest.mark.timeout(400)
def test_a_burst_of_ten_thousand_events_is_applied_in_order_by_few_calls_and_flat_memory(sync):
    sync.complete()
    batches = Batches(sync)
    organisation, chance = sync.sandbox.organisation, random.Random(7)
    told: list[tuple[str, str]] = []
    # Chains of departments whose ids fall as they go down: the order of ids would be the wrong one.
    for number in range(DEPARTMENTS):
        dept_id = 50_000 - number
        parent = 100 if number % 4 == 0 else dept_id + 1
        organisation.add_department(f"部门{number}", dept_id=dept_id, parent_id=parent)
        told.append(("org_dept_create", str(dept_id)))
    for number in range(PEOPLE):
        manager = f"p{number - 1}" if number % 3 else None
        place = Placement(50_000 - number % DEPARTMENTS, number)
        organisation.add_user(User(f"p{number}", f"人{number}", (place,), manager_userid=manager))
        told.append(("user_add_org", f"p{number}"))
    for number in range(30):
        organisation.remove_user(f"u{number:02d}")
        told.append(("user_leave_org", f"u{number:02d}"))
    chance.shuffle(told)
    told += [("user_modify_org", f"p{chance.randrange(PEOPLE)}") for _ in range(EVENTS - len(told))]
    put(batches, told)

    runs: list[BatchRun] = []
    peaks: list[int] = []
    """What each batch needed more than was there before."""
    tracemalloc.start()
    try:
        while batches.count("pending"):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            runs.append(batches.run(batch_size=BATCH))
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()

    assert len(runs) == EVENTS // BATCH
    assert batches.count("done") == EVENTS
    assert batches.difference() == ()
    steps = [run.records[name].action_data for run in runs for name in ("notify_wps", "confirm_increments")]
    # Rows in a wrong order would have been refused.
    assert all(step["refused"] == {} for step in steps)
    assert sum(step["calls"] for step in steps) <= len(runs) + 2
    # Beside the batches it holds the sandbox, which is not to be measured.
    assert peaks[-1] <= 1.3 * max(peaks[:2])


class Companies:
    """Several companies beside each other; their connections are what a test makes of them."""

    def __init__(self, batches: Batches, *names: str) -> None:
        self.sync, self.batches, self.names = batches.sync, batches, names
        self.settings = replace(
            self.sync.settings, companies=tuple((f"dingtalk_{name}", f"wps_{name}") for name in names)
        )
        self.dingtalk: dict[str, ConnectionInfo] = {}
        self.wps: dict[str, ConnectionInfo] = {}
        for name in names:
            self.dingtalk[f"dingtalk_{name}"] = replace(
                self.sync.company.dingtalk, conn_id=f"dingtalk_{name}"
            )
            wps = self.sync.company.wps
            extra: Mapping[str, Any] = wps.extra | {"third_company_id": name, "company_id": f"{name}-wps"}
            self.wps[f"wps_{name}"] = replace(wps, conn_id=f"wps_{name}", extra=extra)
            self.sync.execute(
                "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id)"
                " VALUES (:name, 'dingtalk', :wps)",
                name=name, wps=f"{name}-wps",
            )  # fmt: skip

    def event(self, name: str, uid: str) -> None:
        self.batches.event("user_modify_org", uid, company=Company(f"dingtalk_{name}", f"wps_{name}"))

    def start(self) -> BatchRun:
        run = self.batches.start()
        run.services = replace(
            run.services,
            settings=self.settings,
            dingtalk_settings=lambda conn_id: DingTalkSettings.of(_found(self.dingtalk, conn_id)),
            wps_settings=lambda conn_id: WpsSettings.of(_found(self.wps, conn_id)),
            dingtalk=lambda conn_id: self.sync.dingtalk_at(_found(self.dingtalk, conn_id)),
            wps=lambda conn_id: self.sync.wps_at(_found(self.wps, conn_id)),
        )
        return run

    def next(self) -> tuple[str | None, SagaStatus]:
        """Run the next batch; returns whose it was, and how it ended."""
        run = self.start()
        try:
            run.steps()
        except TransientError as error:
            failed = next(name for name, step in run.records.items() if step.error_message)
            return run.saga.third_company_id, run.fail(failed, error)
        if not run.records["claim_events"].action_data["events"]:
            return None, run.settle()
        return run.saga.third_company_id, run.settle()

    def has(self, name: str, uid: str) -> bool:
        return uid in self.sync.sandbox.consumer.directory(name).users


def _found(connections: dict[str, ConnectionInfo], conn_id: str) -> ConnectionInfo:
    if conn_id not in connections:
        raise ConfigurationError(f"Connection {conn_id!r} is not defined")
    return connections[conn_id]


def test_one_company_that_fails_or_is_not_configured_does_not_hold_up_the_others(sync):
    companies = Companies(Batches(sync), "first", "away", "wrong")
    nowhere = f"http://127.0.0.1:{free_port()}"
    away = companies.dingtalk["dingtalk_away"]
    companies.dingtalk["dingtalk_away"] = replace(
        away, host=nowhere, extra={**away.extra, "api_host": nowhere}
    )
    del companies.wps["wps_wrong"]
    for name in ("away", "wrong", "first"):
        companies.event(name, "u01")

    ended = [companies.next()]
    companies.event("first", "u02")
    ended.append(companies.next())
    assert sorted(ended) == [("away", SagaStatus.COMPENSATED), ("first", SagaStatus.COMPLETED)]
    # However often the one fails, the other waits for one batch at most.
    for number in range(3, 6):
        uid = f"u{number:02d}"
        companies.event("first", uid)
        names = [companies.next()[0]]
        if names == ["away"]:
            names.append(companies.next()[0])
        assert names[-1] == "first"
        assert companies.has("first", uid)

    # What was waiting comes by itself when the connections are right.
    companies.dingtalk["dingtalk_away"] = away
    companies.wps["wps_wrong"] = replace(
        companies.wps["wps_first"],
        conn_id="wps_wrong",
        extra={**companies.wps["wps_first"].extra, "third_company_id": "wrong", "company_id": "wrong-wps"},
    )
    sync.execute("UPDATE dingtalk_events SET next_attempt_at = received_at")
    assert {companies.next(), companies.next()} == {
        ("away", SagaStatus.COMPLETED),
        ("wrong", SagaStatus.COMPLETED),
    }
    assert companies.next() == (None, SagaStatus.COMPLETED)
    assert companies.has("away", "u01")
    assert companies.has("wrong", "u01")
    assert sync.value("SELECT count(*) FROM dingtalk_events WHERE status <> 'done'") == 0
