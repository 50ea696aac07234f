"""Undoing a sync beyond a limit, where a person is asked: yes, no, and nobody there."""

from typing import Any

import pytest

from nancalacc.errors import GuardError
from nancalacc.limits import DEFAULTS
from nancalacc.saga.checkpoint import Answer, Question
from nancalacc.saga.report import explain
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.organisation import Placement, User
from nancalacc.sync.company import FETCH, PLAN
from nancalacc.sync.undo import UNDO_SYNC
from store.sync.test_undo import Undo, content, known_state

pytestmark = pytest.mark.slow

YES = Answer(is_approved=True, by="ann", reason="They were added by mistake")
NO = Answer(is_approved=False, by="ann", reason="They are needed")
NOBODY = Answer(is_approved=False, by=None)


def check(undo: Undo) -> Question | None:
    return undo.sync.coordinator.check(
        UNDO_SYNC, undo.transaction_id, PLAN, services=undo.services, params=undo.params
    )


def decide(undo: Undo, question: Question, answer: Answer) -> None:
    undo.sync.coordinator.decide(
        UNDO_SYNC, undo.transaction_id, PLAN, key=question.key, answer=answer, services=undo.services
    )


def events(undo: Undo, kind: str) -> list[Any]:
    found = undo.sync.coordinator.events(undo.transaction_id)
    return [each.event_data for each in found if each.event_type == kind]


@pytest.fixture
def asking(sync, organisation) -> Undo:
    """An undo of a sync that added three people, of which two may go without a word."""
    unlimited = dict.fromkeys(DEFAULTS, "none")
    sync.company.change("dingtalk", user_details=False)
    sync.company.change("wps", limits=unlimited)
    sync.complete()
    for number in range(3):
        organisation.add_user(User(userid=f"x{number}", name=f"误{number}", placements=(Placement(110),)))
    wrong = sync.complete()
    sync.company.change("wps", limits=unlimited | {"users_removed": "2 100% 0"}, approval=True)
    return Undo(sync, wrong.transaction_id)


def test_the_request_shows_the_plan_of_the_undo(asking):
    question = check(asking)
    assert "3 of 34 users would be removed, the limit is 2" in question.body.replace("\\", "")
    assert "误0" in question.body
    [plan] = asking.sync.rows("SELECT * FROM sync_plans WHERE transaction_id = :id", id=asking.transaction_id)
    assert question.key == plan.hash
    assert [each["hash"] for each in events(asking, "approval_requested")] == [plan.hash]
    assert asking.outcome["restored"] == {"users": 3}


def test_approved_it_is_published(asking, sandbox):
    question = check(asking)
    decide(asking, question, YES)
    assert check(asking) is None
    asking.complete()
    assert not {"x0", "x1", "x2"} & set(sandbox.directory.users)
    assert len(sandbox.directory.users) == asking.sync.value("SELECT count(*) FROM known_users") == 31
    [approved] = events(asking, "approved")
    assert (approved["hash"], approved["user"], approved["reason"]) == (question.key, "ann", YES.reason)
    assert asking.records["notify_wps"].action_data["plan"] == question.key


@pytest.mark.parametrize(
    "answer, message",
    [(NO, "ann rejected plan .*: They are needed"), (NOBODY, "Nobody decided about plan .* in time")],
    ids=["rejected", "timed out"],
)
def test_not_approved_it_is_compensated_and_nothing_has_changed(asking, sandbox, answer, message):
    before, known = content(sandbox.directory), known_state(asking.sync)
    question = check(asking)
    with pytest.raises(GuardError, match=message) as refused:
        decide(asking, question, answer)
    asking.sync.coordinator.fail(asking.transaction_id, step=PLAN, error=str(refused.value))
    assert asking.settle() is SagaStatus.COMPENSATED

    assert (content(sandbox.directory), known_state(asking.sync)) == (before, known)
    for table in ("staged_users", "tb_las_user", "company_locks"):
        column = {"tb_las_user": "task_id", "company_locks": "holder"}.get(table, "transaction_id")
        saga = asking.sync.coordinator.get(asking.transaction_id)[0]
        gone = saga.task_id if column == "task_id" else asking.transaction_id
        assert not asking.sync.rows(f"SELECT 1 FROM {table} WHERE {column} = :gone", gone=gone)
    [rejected] = events(asking, "rejected")
    assert (rejected["user"], rejected["reason"]) == (answer.by, answer.reason)
    explained = " ".join(explain(UNDO_SYNC, *asking.sync.coordinator.get(asking.transaction_id)))
    assert "checkpoint plan_changes failed" in explained
    # Who clears the task is asked again about the same plan, and may say yes now.
    again = check(asking)
    assert again.key == question.key
    decide(asking, again, YES)
    asking.complete()
    assert sandbox.directory.user("x0") is None


def test_without_an_answer_no_step_gets_past_it(asking, sandbox):
    assert check(asking) is not None
    with pytest.raises(GuardError, match=r"nobody has approved plan .* clear plan_changes"):
        asking.steps()
    assert asking.records[FETCH].status.value == "completed"
    assert sandbox.directory.user("x0") is not None


def test_what_was_approved_for_one_undo_is_not_for_another(asking):
    decide(asking, check(asking), YES)
    asking.sync.coordinator.cancel(
        UNDO_SYNC, asking.transaction_id, services=asking.services, reason="enough"
    )
    other = Undo(asking.sync, asking.params["transaction_id"])
    assert check(other) is not None
