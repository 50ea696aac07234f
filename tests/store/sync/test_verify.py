"""Reading WPS back after a sync: the verdict, the differences one by one, and what it costs."""

from dataclasses import replace

import pytest

from nancalacc.errors import DatabaseError
from nancalacc.orchestration.incident_messages import message_of
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.directory import ROOT_DID, DirectoryDepartment
from nancalacc.sandbox.organisation import Placement, User
from nancalacc.sandbox.snapshot import Thresholds
from nancalacc.store import incidents
from nancalacc.sync.verdicts import Verdict
from nancalacc.sync.verify import Look, Subject, finish, look

COPIES = ("directory_departments", "directory_users", "directory_memberships")


def see(sync, run=None, *, seconds: float = 30, end: bool = True, **options) -> Look:
    """A look by `verify_wps` of a run, or without one by `reconcile`."""
    dag, run_id = ("full_sync", run.saga.run_id) if run else ("reconcile", "reconcile_1")
    subject = Subject(
        sync.company.wps.conn_id, dag, run_id, transaction_id=run.transaction_id if run else None
    )
    services = sync.services(run_id, sync.services("", None).run.start)
    found = look(sync.database, services, subject, seconds=seconds, **options)
    if end:
        finish(sync.database, found)
    return found


def differences(sync) -> list[tuple]:
    return [
        tuple(row)
        for row in sync.rows(
            "SELECT kind, key, did, what, fields FROM verification_differences ORDER BY kind, key, did"
        )
    ]


@pytest.fixture(autouse=True)
def reads_without_limit(sync):
    sync.company.change("wps", reads_per_second=0)


class TestVerdict:
    def test_a_sync_that_arrived_is_verified(self, sync):
        run = sync.complete()
        found = see(sync, run)
        assert (found.verdict, found.differences.number) == (Verdict.VERIFIED, 0)
        [row] = sync.rows("SELECT * FROM verifications")
        assert (row.verdict, row.transaction_id, row.task_id) == (
            "verified",
            run.transaction_id,
            run.saga.task_id,
        )
        assert (row.looks, row.counts) == (1, {})
        assert row.ended_at is not None
        assert [data["verdict"] for kind, data in run.events if kind == "verification"] == ["verified"]

    def test_many_pages_and_deep_trees_are_read_to_the_end(self, sync, organisation, sandbox):
        for number in range(130):
            organisation.add_user(User(userid=f"x{number}", name="n", placements=(Placement(110),)))
        for number in range(60):
            organisation.add_department(f"d{number}", parent_id=200, dept_id=1000 + number)
        parent = 1059
        for number in range(10):
            organisation.add_department(f"deep{number}", parent_id=parent, dept_id=2000 + number)
            parent = 2000 + number
        run = sync.complete()
        sandbox.calls.clear()
        assert see(sync, run).verdict is Verdict.VERIFIED
        counts = sandbox.calls.counts()
        assert counts["/openapi/v7/users"] == 4
        assert all(sync.value(f"SELECT count(*) FROM {table}") == 0 for table in COPIES)

    def test_a_job_that_has_not_run_yet_is_pending_and_a_later_look_verifies_it(self, sync, sandbox):
        rules = sandbox.consumer.rules
        sandbox.consumer.set_rules(replace(rules, paused=True))
        run = sync.start()
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        first = see(sync, run, end=False)
        assert first.verdict is Verdict.PENDING
        assert "looks again" in first.message
        sandbox.consumer.set_rules(rules)
        assert sandbox.consumer.wait_idle()
        second = see(sync, run, verification_id=first.verification_id)
        assert second.verdict is Verdict.VERIFIED
        assert [tuple(row) for row in sync.rows("SELECT verdict, looks FROM verifications")] == [
            ("verified", 2)
        ]
        assert differences(sync) == []

    def test_a_job_that_never_came_is_drift_when_its_time_is_over(self, sync, sandbox):
        sandbox.consumer.set_rules(replace(sandbox.consumer.rules, full_sync_enabled=False))
        run = sync.start()
        run.steps()
        run.settle()
        sync.settings = replace(sync.settings, repeat_seconds=0)
        found = see(sync, run)
        assert found.verdict is Verdict.DRIFTED
        assert found.differences.missing == {"departments": 4, "users": 31}

    def test_a_job_that_the_thresholds_stopped_is_recognised(self, sync, sandbox, organisation):
        sync.complete()
        sandbox.consumer.set_rules(replace(sandbox.consumer.rules, thresholds=Thresholds(users=1)))
        for number in range(2, 7):
            organisation.remove_user(f"u{number:02d}")
        organisation.add_user(User(userid="new", name="新人", placements=(Placement(100),)))
        run = sync.complete()
        # 5 users are below WPS's default; their memberships are not.
        assert see(sync, run).verdict is Verdict.PENDING
        found = see(sync, run, patience=0)
        assert found.verdict is Verdict.STOPPED
        assert found.differences.extra["users"] == 5
        assert "WPS console" in found.message

    def test_a_newer_sync_supersedes_the_verification_of_an_older_one(self, sync):
        old = sync.complete()
        sync.complete()
        assert see(sync, old).verdict is Verdict.SUPERSEDED

    def test_a_dry_run_is_not_taken_for_the_newest_sync(self, sync):
        run = sync.complete()
        dry = sync.start(dry_run=True)
        dry.steps()
        dry.settle()
        assert see(sync).verdict is Verdict.VERIFIED
        assert see(sync, run).verdict is Verdict.VERIFIED

    def test_nothing_is_concluded_while_a_newer_sync_is_on_its_way(self, sync, sandbox, organisation):
        run = sync.complete()
        sandbox.directory.users.pop("u07")
        other = sync.start()
        other.steps(to="notify_wps")
        # Its own task id is the newest accepted one, but known state does not follow it yet.
        assert see(sync, run).verdict is Verdict.SUPERSEDED
        assert see(sync).verdict is Verdict.UNVERIFIABLE

    def test_before_the_first_sync_there_is_nothing_to_compare_with(self, sync):
        found = see(sync)
        assert found.verdict is Verdict.UNVERIFIABLE
        assert "full sync" in found.message


class TestDifferences:
    def test_every_kind_of_drift_is_listed_with_the_object(self, sync, sandbox):
        run = sync.complete()
        directory = sandbox.directory
        directory.users.pop("u07")
        directory.put_user(replace(directory.user("u08"), account="other", nick_name="别名"))
        directory.put_user(replace(directory.user("u00"), memberships={"100": 0, "110": 0}))
        directory.put_user(replace(directory.user("u01"), id="900", uid="stranger"))
        directory.put_department(replace(directory.department("200"), name="别的部门"))
        directory.put_department(replace(directory.department("110"), pid="200"))
        directory.put_department(DirectoryDepartment("901", "777", "多余", ROOT_DID))
        sync.settings = replace(sync.settings, repeat_seconds=0)
        found = see(sync, run)
        assert found.verdict is Verdict.DRIFTED
        assert differences(sync) == [
            ("departments", "110", None, "changed", "parent"),
            ("departments", "200", None, "changed", "name"),
            ("departments", "777", None, "extra", None),
            ("memberships", "u00", "110", "extra", None),
            ("memberships", "u00", "200", "missing", None),
            ("users", "stranger", None, "extra", None),
            ("users", "u07", None, "missing", None),
            ("users", "u08", None, "changed", "account,name"),
        ]
        assert found.differences.as_data() == {
            "missing": {"memberships": 1, "users": 1},
            "extra": {"departments": 1, "memberships": 1, "users": 1},
            "changed": {"departments": 2, "users": 1},
        }

    def test_what_wps_made_itself_is_not_drift(self, sync, sandbox):
        run = sync.complete()
        directory = sandbox.directory
        directory.put_user(replace(directory.user("u01"), id="900", uid=""))
        directory.put_department(DirectoryDepartment("901", "", "WPS 自建", ROOT_DID))
        assert see(sync, run).verdict is Verdict.VERIFIED

    def test_neither_log_nor_tables_hold_names_or_accounts(self, sync, sandbox, caplog):
        run = sync.complete()
        directory = sandbox.directory
        directory.put_user(replace(directory.user("u08"), account="secret-account", nick_name="某人"))
        sync.settings = replace(sync.settings, repeat_seconds=0)
        with caplog.at_level("INFO"):
            found = see(sync, run)
        texts = [caplog.text, found.message, str(run.events), str(sync.rows("SELECT * FROM verifications"))]
        assert not any(word in text for word in ("secret-account", "某人") for text in texts)
        assert "users u08: changed (account,name)" in caplog.text


class TestUnreadable:
    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "html"},
            {"kind": "html", "status": 404},
            {"kind": "http", "status": 502},
            {"kind": "gateway", "status": 403, "code": "400000403"},
            {"kind": "drop"},
            {"kind": "truncate"},
        ],
        ids=lambda fault: " ".join(map(str, fault.values())),
    )
    @pytest.mark.parametrize("path", ["/v7/depts/root", "/v7/users"])
    def test_a_wps_without_these_reads_costs_a_call_or_two_and_is_no_failure(
        self, sync, sandbox, fault, path
    ):
        run = sync.complete()
        sandbox.faults.add(**fault, path=path, times=None)
        sandbox.calls.clear()
        found = see(sync, run)
        assert found.verdict is Verdict.UNVERIFIABLE
        assert "cannot be read" in found.message
        # aiohttp itself repeats a call whose connection was dropped.
        assert sandbox.calls.counts()[f"/openapi{path}"] <= (2 if fault["kind"] == "drop" else 1)
        assert differences(sync) == []
        assert run.status is SagaStatus.COMPLETED

    def test_a_refused_token_is_renewed_once(self, sync, sandbox):
        run = sync.complete()
        sandbox.faults.add("gateway", path="/v7/depts/root", status=401, times=None)
        sandbox.calls.clear()
        assert see(sync, run).verdict is Verdict.UNVERIFIABLE
        assert sandbox.calls.counts()["/openapi/v7/depts/root"] == 2

    def test_pages_that_do_not_end_are_no_drift(self, sync, sandbox, organisation):
        for number in range(60):
            organisation.add_user(User(userid=f"x{number}", name="n", placements=(Placement(110),)))
        run = sync.complete()
        sandbox.faults.add("repeat_cursor", path="/v7/users", times=None)
        found = see(sync, run)
        assert found.verdict is Verdict.UNVERIFIABLE
        assert differences(sync) == []

    def test_departments_in_a_ring_end_the_reading(self, sync, sandbox):
        run = sync.complete()
        directory = sandbox.directory
        # 110 below 100, and shown once more below 200.
        twin = DirectoryDepartment(directory.department("110").id, "twin", "双", "200")
        directory.put_department(twin)
        found = see(sync, run)
        assert found.verdict is Verdict.UNVERIFIABLE
        assert "ring" in found.message

    def test_a_wrong_connection_is_explained(self, sync):
        run = sync.complete()
        sync.company.change("wps", signature="none")
        assert "signature" in see(sync, run).message

    def test_a_reading_that_cannot_end_in_time_is_not_begun(self, sync, sandbox):
        run = sync.complete()
        sync.company.change("wps", reads_per_second=0.5)
        sandbox.calls.clear()
        found = see(sync, run, seconds=5)
        assert found.verdict is Verdict.UNVERIFIABLE
        assert "NANCALACC_VERIFY_SECONDS" in found.message
        assert sandbox.calls.counts() == {}

    def test_without_the_database_it_says_so(self, sync):
        run = sync.complete()
        sync.execute("ALTER TABLE verifications RENAME TO gone")
        with pytest.raises(Exception, match="db upgrade") as caught:
            see(sync, run)
        assert not isinstance(caught.value, DatabaseError)


class TestTold:
    def test_people_are_told_of_drift_once_while_it_lasts(self, sync, sandbox):
        def told() -> int:
            with sync.database.transaction() as connection:
                return incidents.find(connection)

        run = sync.complete()
        sync.settings = replace(sync.settings, repeat_seconds=0)
        see(sync, run)
        assert told() == 0
        gone = sandbox.directory.users.pop("u07")
        see(sync)
        assert (told(), told()) == (1, 0)
        see(sync)
        assert told() == 0
        sandbox.directory.put_user(gone)
        see(sync)
        sandbox.directory.users.pop("u07")
        see(sync)
        assert told() == 1
        with sync.database.transaction() as connection:
            incident = incidents.take(connection)
        message = message_of(incident, console="https://airflow.example.com/x")
        assert "differs from what it was given" in message.title
        assert "1 users missing in WPS" in message.text


class TestLeftovers:
    def test_a_look_deletes_what_one_that_died_long_ago_left_behind(self, sync):
        run = sync.complete()
        see(sync, run, end=False)
        assert sync.value("SELECT count(*) FROM directory_users") > 0
        sync.execute("UPDATE verifications SET started_at = started_at - interval '2 days'")
        see(sync, run)
        assert sync.value("SELECT count(*) FROM directory_users") == 0
