"""What proves a fetch complete, and how the next attempt goes on from it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from nancalacc.errors import (
    GuardError,
    IncompleteAnswerError,
    OrganisationChangedError,
    TransientError,
)
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.organisation import Organisation, Placement, User
from nancalacc.sync import reading, settling

FETCH = "fetch_dingtalk_data"
DEPARTMENTS, PEOPLE_EACH = 30, 3
LAST = 1000 + DEPARTMENTS - 1


def many_departments() -> Organisation:
    organisation = Organisation(name="公司")
    for number in range(DEPARTMENTS):
        organisation.add_department(f"部门{number}", dept_id=1000 + number)
        for person in range(PEOPLE_EACH):
            organisation.add_user(
                User(
                    userid=f"u{number:02d}.{person}",
                    name="x" * 300 if person == 0 else "员工",
                    placements=(Placement(1000 + number, person),),
                    mobile=f"199{number:04d}{person:04d}",
                )
            )
    return organisation


@pytest.fixture
def organisation() -> Organisation:
    return many_departments()


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is written down often."""
    monkeypatch.setattr(reading, "DETAILS_AT_ONCE", PEOPLE_EACH)


@pytest.fixture
def calls(sandbox) -> Iterator:
    def since_last() -> Counter[str]:
        found = Counter({path.rpartition("v2/")[2]: n for path, n in sandbox.calls.counts().items()})
        sandbox.calls.clear()
        return found

    return since_last


def interrupted(sync, run, *, dept_id=LAST, fault="http", **details) -> None:
    """Run up to a fetch that fails at one department."""
    sync.sandbox.faults.add(
        fault, path="user/list", body={"dept_id": dept_id}, times=None, **({"status": 500} | details)
    )
    run.step("validate_task")
    with pytest.raises(TransientError):
        run.step(FETCH)
    sync.sandbox.faults.clear()


def proven(sync) -> set[int]:
    return {row[0] for row in sync.rows("SELECT dept_id FROM staged_evidence WHERE proven_at IS NOT NULL")}


def finish(sync, run) -> dict:
    run.steps()
    assert run.settle() is SagaStatus.COMPLETED
    sync.sandbox.consumer.run_now()
    assert sync.sandbox.consumer.wait_idle()
    assert sync.sandbox.compare().differences == ()
    return run.records[FETCH].action_data


class TestResuming:
    def test_a_retry_makes_only_the_calls_that_are_left(self, sync, sandbox, calls):
        run = sync.start()
        interrupted(sync, run)
        done = proven(sync)
        assert len(done) >= DEPARTMENTS * 0.6
        assert LAST not in done
        calls()

        run.step(FETCH)

        left = DEPARTMENTS + 1 - len(done)
        assert calls() == {
            "user/list": left,
            "user/get": PEOPLE_EACH * len({*range(1000, 1000 + DEPARTMENTS)} - done),
            "/auth/scopes": 1,
            "/v1.0/oauth2/accessToken": 1,
        }
        data = finish(sync, run)
        assert data["evidence"]["resumed_from_attempt"] == 1
        assert data["evidence"]["departments"] == DEPARTMENTS + 1
        assert data["evidence"]["members"] == DEPARTMENTS * PEOPLE_EACH
        assert data["adjusted"]["reasons"] == {"value_cut": DEPARTMENTS}

    @pytest.mark.slow
    def test_whose_main_department_is_not_the_first_listed_is_neither_lost_nor_read_twice(
        self, sync, organisation, monkeypatch
    ):
        monkeypatch.setattr(settling, "MOST_CONTRADICTIONS", 0)
        for number in range(1, DEPARTMENTS):
            here, before = Placement(1000 + number, 1), Placement(1000 + number - 1, 2)
            organisation.move_user(f"u{number:02d}.0", placements=[here, before])
        run = sync.start()
        interrupted(sync, run, dept_id=LAST - 1)
        done = proven(sync)
        assert LAST - 2 in done
        assert LAST - 1 not in done
        data = finish(sync, run)
        assert data["evidence"]["resumed_from_attempt"] == 1
        assert data["adjusted"]["reasons"] == {"value_cut": DEPARTMENTS}

    def test_a_killed_process_leaves_what_it_has_proven(self, sync, calls, monkeypatch):
        """Nothing of the end of the attempt is run, as after SIGKILL."""
        run = sync.start()
        monkeypatch.setattr(type(sync.coordinator), "_failed", lambda *_: None)
        sync.sandbox.faults.add("http", path="user/list", body={"dept_id": LAST}, times=None, status=500)
        run.step("validate_task")
        with pytest.raises(TransientError):
            run.step(FETCH)
        monkeypatch.undo()
        monkeypatch.setattr(reading, "DETAILS_AT_ONCE", PEOPLE_EACH)
        assert run.records[FETCH].status.value == "in_progress"
        sync.execute("UPDATE saga_steps SET heartbeat_at = heartbeat_at - interval '1 hour'")
        sync.sandbox.faults.clear()
        done = proven(sync)
        calls()
        run.step(FETCH)
        found = calls()
        assert found["user/list"] == DEPARTMENTS + 1 - len(done)
        assert found["department/get"] == found["department/listsub"] == 0
        finish(sync, run)

    def test_it_goes_on_from_attempt_to_attempt(self, sync, calls):
        run = sync.start()
        interrupted(sync, run)
        sync.sandbox.faults.add("http", path="user/get", times=None, status=500)
        with pytest.raises(TransientError):
            run.step(FETCH)
        sync.sandbox.faults.clear()
        done = proven(sync)
        calls()
        run.step(FETCH)
        assert calls()["user/list"] == DEPARTMENTS + 1 - len(done)
        finish(sync, run)

    def test_when_all_pages_were_read_only_the_rest_is_done(self, sync, calls):
        run = sync.start()
        run.step("validate_task")
        sync.sandbox.faults.add("http", path="auth/scopes", times=None, status=500)
        with pytest.raises(TransientError):
            run.step(FETCH)
        sync.sandbox.faults.clear()
        calls()
        run.step(FETCH)
        assert set(calls()) == {"/auth/scopes", "/v1.0/oauth2/accessToken"}
        assert sync.value("SELECT count(DISTINCT attempt) FROM staged_users") == 1
        finish(sync, run)

    def test_after_too_long_a_pause_everything_is_read_again(self, sync, calls):
        run = sync.start()
        interrupted(sync, run)
        sync.execute(
            "UPDATE staged_evidence SET listed_at = listed_at - interval '16 minutes',"
            " proven_at = proven_at - interval '16 minutes'"
        )
        calls()
        run.step(FETCH)
        found = calls()
        assert found["user/list"] == found["department/get"] == DEPARTMENTS + 1
        assert finish(sync, run)["evidence"]["resumed_from_attempt"] is None

    def test_what_is_older_than_any_reading_is_read_again(self, sync, calls):
        run = sync.start()
        interrupted(sync, run)
        sync.execute("UPDATE staged_evidence SET listed_at = listed_at - interval '4 hours'")
        sync.execute(
            "UPDATE staged_evidence SET proven_at = proven_at - interval '4 hours' WHERE dept_id < 1010"
        )
        done = {each for each in proven(sync) if each >= 1010}
        calls()
        run.step(FETCH)
        found = calls()
        assert found["department/get"] == DEPARTMENTS + 1
        assert found["user/list"] == DEPARTMENTS + 1 - len(done)
        finish(sync, run)

    @pytest.mark.parametrize(
        "side, changed", [("dingtalk", {"root_dept_id": 1000}), ("wps", {"phone_salt_secret": "other"})]
    )
    def test_after_a_corrected_connection_everything_is_read_again(self, sync, calls, side, changed):
        run = sync.start()
        interrupted(sync, run)
        sync.company.change(side, **changed)
        calls()
        run.step(FETCH)
        assert calls()["department/listsub"] == (1 if "root_dept_id" in changed else DEPARTMENTS + 1)
        assert run.records[FETCH].action_data["evidence"]["resumed_from_attempt"] is None

    def test_it_can_be_switched_off(self, sync, calls):
        sync.settings = replace(sync.settings, resume_seconds=0)
        run = sync.start()
        interrupted(sync, run)
        calls()
        run.step(FETCH)
        assert calls()["user/list"] == DEPARTMENTS + 1

    def test_after_compensation_everything_is_read_again(self, sync, calls):
        run = sync.start()
        interrupted(sync, run)
        sync.coordinator.fail(run.transaction_id, step=FETCH, error="x")
        assert run.settle() is SagaStatus.COMPENSATED
        assert sync.value("SELECT count(*) FROM staged_evidence") == 0
        calls()
        finish(sync, run)
        assert calls()["user/list"] == DEPARTMENTS + 1

    def test_a_cleared_completed_run_reads_everything_again(self, sync, calls, organisation):
        run = sync.complete()
        organisation.remove_user("u03.1")
        calls()
        finish(sync, run)
        assert calls()["user/list"] == DEPARTMENTS + 1


class TestChangesBetweenAttempts:
    """Taken-over pages are older than the new ones; contradictions are those of one reading."""

    def test_who_moved_from_a_proven_department_to_one_that_was_left(self, sync, organisation):
        run = sync.start()
        interrupted(sync, run)
        assert 1000 in proven(sync)
        organisation.move_user("u00.1", placements=[Placement(LAST, 9)])
        data = finish(sync, run)
        assert data["adjusted"]["reasons"]["moved_while_reading"] == 1

    def test_who_moved_from_one_that_was_left_to_a_proven_one(self, sync, organisation):
        sync.complete()
        run = sync.start()
        interrupted(sync, run)
        organisation.move_user(f"u{DEPARTMENTS - 1}.1", placements=[Placement(1000, 9)])
        organisation.add_user(User(userid="neu", name="新", placements=(Placement(1000, 5),)))
        organisation.remove_user("u00.2")
        data = finish(sync, run)
        assert data["adjusted"]["reasons"]["moved_while_reading"] == 2
        assert data["adjusted"]["reasons"]["left_while_reading"] == 1

    def test_who_left_a_proven_department_is_what_one_reading_would_have(self, sync, organisation):
        run = sync.start()
        interrupted(sync, run)
        organisation.remove_user("u00.1")
        run.steps()
        assert run.settle() is SagaStatus.COMPLETED
        sync.complete()
        assert sync.sandbox.compare().differences == ()

    def test_a_department_removed_while_it_waited_is_explained_and_the_tree_read_again(
        self, sync, organisation, calls
    ):
        sync.complete()
        run = sync.start()
        interrupted(sync, run)
        for person in range(PEOPLE_EACH):
            organisation.move_user(f"u{DEPARTMENTS - 1}.{person}", placements=[Placement(1000, 9)])
        organisation.remove_department(LAST)
        with pytest.raises(OrganisationChangedError, match=f"Department {LAST} was removed"):
            run.step(FETCH)
        calls()
        run.step(FETCH)
        assert calls()["department/get"] >= DEPARTMENTS
        finish(sync, run)

    def test_people_of_a_proven_department_that_is_gone_are_not_taken_over(self, sync, organisation):
        run = sync.start()
        interrupted(sync, run)
        for person in range(PEOPLE_EACH):
            organisation.move_user(f"u00.{person}", placements=[Placement(LAST, 9)])
            organisation.move_user(f"u{DEPARTMENTS - 1}.{person}", placements=[Placement(1001, 9)])
        organisation.remove_department(1000)
        sync.execute("UPDATE staged_evidence SET listed_at = NULL")
        finish(sync, run)
        assert sync.value("SELECT count(*) FROM staged_evidence WHERE dept_id = 1000") == 0

    def test_a_department_added_meanwhile_is_found(self, sync, organisation):
        sync.complete()
        run = sync.start()
        interrupted(sync, run)
        organisation.add_department("新", dept_id=3000, parent_id=1001)
        organisation.move_user(f"u{DEPARTMENTS - 1}.1", placements=[Placement(3000, 1)])
        with pytest.raises(OrganisationChangedError, match="department 3000"):
            run.step(FETCH)
        finish(sync, run)


class TestWhatIsShownToBeWrong:
    def test_a_lost_page_is_not_taken_over(self, sync, sandbox, calls):
        sync.complete()
        run = sync.start()
        run.step("validate_task")
        sandbox.faults.add("empty", path="user/list", body={"dept_id": 1003}, times=None)
        with pytest.raises(IncompleteAnswerError, match="still in DingTalk"):
            run.step(FETCH)
        sandbox.faults.clear()
        calls()
        assert finish(sync, run)["evidence"]["resumed_from_attempt"] is None
        assert calls()["user/list"] == DEPARTMENTS + 1

    def test_a_page_that_was_lost_once_is_read_again_with_who_is_new_on_it(self, sync, sandbox, organisation):
        sync.complete()
        organisation.add_user(User(userid="neu", name="新", placements=(Placement(1003, 5),)))
        run = sync.start()
        sandbox.faults.add("empty", path="user/list", body={"dept_id": 1003}, times=1)
        data = finish(sync, run)
        assert data["adjusted"]["reasons"]["moved_while_reading"] == PEOPLE_EACH + 1

    def test_a_page_lost_once_in_the_first_sync_is_found_by_the_count(self, sync, sandbox):
        sandbox.faults.add("empty", path="user/list", body={"dept_id": 1003}, times=1)
        data = finish(sync, sync.start())
        assert data["adjusted"]["reasons"]["moved_while_reading"] == PEOPLE_EACH
        assert data["evidence"]["counts"]["short"] == 0

    def test_everybody_missing_is_asked_about_however_many_they_are(
        self, sync, sandbox, organisation, monkeypatch
    ):
        monkeypatch.setattr("nancalacc.sync.settling.AT_A_TIME", 10)
        sync.complete()
        for number in range(8):
            for person in range(PEOPLE_EACH):
                organisation.remove_user(f"u{number:02d}.{person}")
        sandbox.faults.add("empty", path="user/list", body={"dept_id": LAST}, times=None)
        sync.start(allow_mass_delete=True).fails(IncompleteAnswerError, match=r"u29\.\d' is in WPS and still")


class TestScope:
    def narrow(self, sandbox, *authed, **rules):
        sandbox.dingtalk.rules = replace(sandbox.dingtalk.rules, authed_dept=authed or (1,), **rules)

    def test_a_scope_narrower_than_the_last_ones_stops_even_if_it_holds_the_root(self, sync, sandbox):
        sync.company.change("dingtalk", root_dept_id=1003)
        sync.complete()
        self.narrow(sandbox, 1003)
        run = sync.start()
        run.fails(GuardError, match=r"departments \[1\] are not in its scope any more.*allow_mass_delete")
        assert run.status is SagaStatus.COMPENSATED
        sync.complete(allow_mass_delete=True)
        sync.complete()

    def test_one_that_is_wider_or_covers_the_same_is_fine(self, sync, sandbox):
        sync.company.change("dingtalk", root_dept_id=1003)
        self.narrow(sandbox, 1003, 1004)
        sync.complete()
        self.narrow(sandbox, 1003, 1004, 1005)
        sync.complete()
        self.narrow(sandbox, 1)
        sync.complete()

    def test_a_department_that_does_not_exist_any_more_is_no_narrowing(self, sync, sandbox, organisation):
        organisation.add_department("空", dept_id=3000)
        sync.company.change("dingtalk", root_dept_id=1003)
        self.narrow(sandbox, 1003, 3000)
        sync.complete()
        organisation.remove_department(3000)
        self.narrow(sandbox, 1003)
        sync.complete()

    def test_one_narrowed_while_the_pages_were_read_stops_too(self, sync, sandbox):
        sync.company.change("dingtalk", root_dept_id=1003)
        sync.complete()
        run = sync.start()
        run.step("validate_task")
        self.narrow(sandbox, 1003)
        with pytest.raises(GuardError, match="not in its scope any more"):
            run.step(FETCH)

    def test_omitted_permissions_remove_nothing_and_are_explained(self, sync, sandbox):
        sync.complete()
        self.narrow(sandbox, omitted=frozenset({"mobile"}))
        run = sync.complete()
        warnings = run.records[FETCH].action_data["evidence"]["warnings"]
        assert ["phone" in each for each in warnings] == [True, False]
        assert "mobile" in warnings[1]
        assert [data["message"] for kind, data in run.events if kind == "warning"][:2] == warnings
        sandbox.dingtalk.rules = sandbox.options.dingtalk
        assert sandbox.compare().differences == ()


class TestCounts:
    def counts(self, run):
        return run.records[FETCH].action_data["evidence"]["counts"]

    def test_counts_that_agree_are_evidence(self, sync):
        assert self.counts(sync.complete()) == {
            "reported": DEPARTMENTS + 1,
            "equal": DEPARTMENTS + 1,
            "short": 0,
            "examples": [],
        }

    def test_without_counts_a_sync_goes_on(self, sync, sandbox):
        sandbox.dingtalk.rules = replace(sandbox.dingtalk.rules, omitted=frozenset({"member_count"}))
        assert self.counts(sync.complete())["reported"] == 0

    @pytest.mark.parametrize("reading_of_it", ["everybody below", "more than the app may see"])
    def test_whatever_they_count_they_stop_nothing(
        self, sync, sandbox, monkeypatch, organisation, reading_of_it
    ):
        true_answer = sandbox.dingtalk._department_get
        below = reading_of_it == "everybody below"

        def answer(values):
            found = true_answer(values)
            scope = organisation.subtree(found["dept_id"])
            everybody = sum(len(organisation.members(each)) for each in scope)
            return found | {"member_count": everybody if below else everybody + 1}

        path = "/topapi/v2/department/get"
        monkeypatch.setattr(sandbox.dingtalk, "_apis", {**sandbox.dingtalk._apis, path: answer})
        run = sync.complete()
        assert self.counts(run)["short"] == (0 if below else DEPARTMENTS + 1)
        warnings = run.records[FETCH].action_data["evidence"]["warnings"]
        assert ["more members than it listed" in each for each in warnings] == ([] if below else [True])


def test_no_department_goes_unproven(sync):
    """Should the client ever leave one out, the fetch stops."""
    run = sync.start()
    run.step("validate_task")
    sync.execute(
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.dept_id = 1003 THEN NEW.proven_at := NULL; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER forget BEFORE UPDATE ON staged_evidence FOR EACH ROW EXECUTE FUNCTION forget()"
    )
    with pytest.raises(IncompleteAnswerError, match="departments 1003 were not read to their end"):
        run.step(FETCH)
