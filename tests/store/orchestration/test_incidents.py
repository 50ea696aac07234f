"""Who is told what: every incident once, whoever finds it, and whatever dies on the way."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from nancalacc.clients.transport import AnswerLostError
from nancalacc.config import Settings
from nancalacc.errors import (
    CallRefusedError,
    ConfigurationError,
    IncompleteAnswerError,
    RateLimitedError,
    TransientError,
    UnknownOutcomeError,
)
from nancalacc.orchestration import incidents as telling
from nancalacc.orchestration.checks import check_notifier
from nancalacc.orchestration.incident_messages import REPETITION, Message
from nancalacc.orchestration.incidents import MOST_MESSAGES, tell, tell_incidents
from nancalacc.orchestration.notifiers import DingTalkRobotNotifier, notifier_class
from nancalacc.orchestration.recovery import Environment, Recovery
from nancalacc.saga.state import SagaStatus
from nancalacc.sandbox.organisation import Organisation
from nancalacc.sandbox.server import Sandbox, running_sandbox
from nancalacc.store import incidents
from nancalacc.sync import dead_events
from toy_saga import TOY, Toy, together

PHONE = "13900000001"


class Group:
    """Whoever reads the messages; `answer` may raise, before or after the message is written."""

    def __init__(self) -> None:
        self.read: list[Message] = []
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def __call__(self, message: Message) -> None:
        self.before()
        self.read.append(message)
        self.after()


@pytest.fixture
def group() -> Group:
    return Group()


@pytest.fixture(autouse=True)
def nothing_told(toy_url: str, toy_database: Any) -> None:
    with toy_database.transaction() as connection:
        connection.execute(text("TRUNCATE incidents, dingtalk_events"))


def told(saga: Toy, group: Group) -> int:
    return tell(
        saga.database,
        deliver=group,
        address=lambda incident: f"https://airflow.example/console/?saga={incident.transaction_id}",
    )


def execute(saga: Toy, statement: str, **values: Any) -> None:
    with saga.database.transaction() as connection:
        connection.execute(text(statement), values)


def be_due(saga: Toy) -> None:
    execute(saga, "UPDATE incidents SET next_try_at = timezone('utc', now()) - interval '1 second'")


def undo(saga: Toy, *, step: str = "right", error: str = "the table is locked") -> None:
    """Run as far as `step`, which fails for good, and undo what was done."""

    def hook(point: str, context: Any) -> None:
        if point == f"{step}:before":
            raise CallRefusedError(error)

    saga.services.hook = hook
    with pytest.raises(CallRefusedError):
        saga.run_until(step)
    saga.fail(step, error)
    saga.services.hook = lambda point, context: None
    assert saga.conclude().status is SagaStatus.COMPENSATED


def get_stuck(saga: Toy, *, tries: int = 2) -> None:
    """Leave a saga whose compensation fails, and that recovery has tried in vain."""

    def hook(point: str, context: Any) -> None:
        if point == "middle:undo":
            raise TransientError("the database refuses")

    saga.services.hook = lambda point, context: _fail_at("right:before", point)
    with pytest.raises(CallRefusedError):
        saga.run_until("right")
    saga.fail("right", "broken")
    saga.services.hook = hook
    recovery = Recovery(
        saga.coordinator,
        saga.database,
        Environment(
            is_live=lambda _: False, definition_of=lambda _: TOY, services_of=lambda _: saga.services
        ),
        stale_seconds=30,
    )
    for _ in range(tries):
        recovery.recover_one(saga.id)


def _fail_at(wanted: str, point: str) -> None:
    if point == wanted:
        raise CallRefusedError("broken")


def dead_event(saga: Toy, name: str, *, error: str = "60011: no access") -> int:
    with saga.database.transaction() as connection:
        found: int = connection.execute(
            text(
                "INSERT INTO dingtalk_events (dingtalk_conn_id, wps_conn_id, event_id, event_type, status,"
                " error) VALUES ('d', 'w', :name, 'user_modify_org', 'dead', :error) RETURNING id"
            ),
            {"name": name, "error": error},
        ).scalar_one()
    return found


def test_a_rollback_is_told_with_saga_step_reason_what_was_undone_and_where_to_look(
    saga: Toy, group: Group
) -> None:
    undo(saga)
    assert told(saga, group) == 1
    [message] = group.read
    assert message.title == "nancalacc: toy was undone, right failed"
    for part in (
        saga.id,
        "company-1",
        "the table is locked",
        "**Undone:** middle, left, fetch, validate",
        "Nothing was published",
        f"https://airflow.example/console/?saga={saga.id}",
    ):
        assert part in message.text, message.text


def test_a_rollback_is_told_once_by_however_many_passes_at_once(saga: Toy, group: Group) -> None:
    undo(saga)
    together(*[lambda: told(saga, group)] * 6)
    for _ in range(3):
        be_due(saga)
        assert told(saga, group) == 0
    assert len(group.read) == 1


def test_a_saga_opened_again_before_anybody_was_told_is_still_told_of(saga: Toy, group: Group) -> None:
    undo(saga, error="the first reason")
    saga.run_until("finish")
    assert saga.conclude().status is SagaStatus.COMPLETED
    assert told(saga, group) == 1
    assert "the first reason" in group.read[0].text


def test_every_rollback_of_a_saga_is_an_incident_of_its_own(saga: Toy, group: Group) -> None:
    undo(saga, error="the first reason")
    undo(saga, error="the second reason")
    assert told(saga, group) == 2
    assert ["first" in message.text for message in group.read] == [True, False]


def another_saga(another: Callable[..., Toy], name: str, *, step: str = "right") -> Toy:
    saga = another(run_id=name)
    undo(saga, step=step)
    return saga


def test_the_same_sync_undone_again_and_again_is_one_incident_until_one_completes(
    saga: Toy, group: Group, another: Callable[..., Toy]
) -> None:
    for number in range(4):
        last = another_saga(another, f"batch-{number}")
        assert told(saga, group) == (number == 0)
    another_saga(another, "elsewhere", step="middle")
    assert told(saga, group) == 1, "another step is another incident"
    undo(last, error="a person has tried it")
    assert told(saga, group) == 0, "the first one goes on"
    done = another(run_id="good")
    done.run_until("finish")
    assert done.conclude().status is SagaStatus.COMPLETED
    assert told(saga, group) == 0, "what was part of it is not told later"
    another_saga(another, "batch-9")
    assert told(saga, group) == 1


def test_an_incident_that_goes_on_for_hours_is_told_again(
    saga: Toy, group: Group, another: Callable[..., Toy]
) -> None:
    another_saga(another, "batch-1")
    assert told(saga, group) == 1
    execute(saga, "UPDATE incidents SET created_at = created_at - interval '7 hours'")
    another_saga(another, "batch-2")
    another_saga(another, "batch-3")
    assert told(saga, group) == 1


def test_what_a_person_cancels_is_no_incident(saga: Toy, group: Group) -> None:
    saga.run_until("middle")
    assert saga.cancel().status is SagaStatus.CANCELLED
    assert told(saga, group) == 0


def test_a_saga_that_recovery_undoes_is_told_like_any_other(saga: Toy, group: Group) -> None:
    get_stuck(saga, tries=0)
    saga.services.hook = lambda point, context: None
    assert saga.conclude().status is SagaStatus.COMPENSATED
    assert told(saga, group) == 1


def test_a_saga_that_cannot_be_undone_is_told_once_however_often_it_is_tried(saga: Toy, group: Group) -> None:
    get_stuck(saga, tries=1)
    assert told(saga, group) == 0, "what one recovery cannot finish, the next one often can"
    get_stuck_more(saga)
    assert told(saga, group) == 1
    get_stuck_more(saga)
    assert told(saga, group) == 0
    [message] = group.read
    assert message.title == "nancalacc: toy does not get on, right failed"
    assert "the database refuses" in message.text
    assert "tried 2 times" in message.text
    assert "Nothing was published" in message.text


def get_stuck_more(saga: Toy) -> None:
    execute(
        saga,
        "UPDATE saga_transactions SET recovery_tries = recovery_tries + 1,"
        " recovery_error = 'the database refuses' WHERE transaction_id = :id",
        id=saga.id,
    )


def test_a_saga_that_goes_back_in_silence_is_told_although_nobody_tries_it(saga: Toy, group: Group) -> None:
    get_stuck(saga, tries=0)
    saga.settle()
    assert told(saga, group) == 0
    execute(saga, "UPDATE saga_transactions SET updated_at = updated_at - interval '1 hour'")
    assert told(saga, group) == 1
    assert "compensating" in group.read[0].text


def test_a_compensation_that_fails_again_and_again_is_told_while_its_run_still_tries(
    saga: Toy, group: Group
) -> None:
    get_stuck(saga, tries=0)
    saga.settle()
    for tried in range(4):
        assert told(saga, group) == (tried == 3)
        with pytest.raises(TransientError):
            saga.compensate("middle")
    assert "the database refuses" in group.read[0].text
    assert told(saga, group) == 0


def test_dead_events_are_told_together_and_each_once(saga: Toy, group: Group) -> None:
    first, _ = dead_event(saga, "e1"), dead_event(saga, "e2")
    dead_event(saga, "e3", error="Unreadable: it is not JSON")
    assert told(saga, group) == 1
    assert told(saga, group) == 0
    [message] = group.read
    assert message.title == "nancalacc: 3 events of DingTalk given up"
    assert "user_modify_org (3)" in message.text
    assert "**Why** (2): 60011: no access" in message.text
    dead_event(saga, "e4")
    assert told(saga, group) == 0, "further ones wait for each other"
    some_time_passes(saga)
    assert told(saga, group) == 1
    assert group.read[-1].title == "nancalacc: 1 event of DingTalk given up"
    with saga.database.transaction() as connection:
        decision = dead_events.Decision(user="ann", reason="Rights were given")
        dead_events.retry(connection, first, decision=decision)
    assert told(saga, group) == 0
    execute(saga, "UPDATE dingtalk_events SET status = 'dead', error = 'again' WHERE id = :id", id=first)
    some_time_passes(saga)
    assert told(saga, group) == 1, "given up a second time is news"


def some_time_passes(saga: Toy) -> None:
    execute(saga, "UPDATE incidents SET created_at = created_at - interval '1 hour'")


def test_two_passes_at_once_tell_of_an_event_once(saga: Toy, group: Group) -> None:
    for number in range(40):
        dead_event(saga, f"e{number}")
    together(*[lambda: told(saga, group)] * 5)
    counts = [int(message.title.split()[1]) for message in group.read]
    assert sum(counts) == 40


def test_what_is_refused_is_tried_again_after_growing_pauses_and_arrives_once(
    saga: Toy, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise CallRefusedError("sign not match")

    undo(saga)
    group.before = refuse
    pauses = []
    for _ in range(3):
        assert told(saga, group) == 0
        assert told(saga, group) == 0, "not before the pause is over"
        [row] = saga.query(
            "SELECT extract(epoch FROM next_try_at - timezone('utc', clock_timestamp())) AS pause, error"
            " FROM incidents"
        )
        pauses.append(round(float(row.pause) / 60))
        assert row.error == "sign not match"
        be_due(saga)
    assert pauses == [1, 2, 4]
    assert "sign not match" in caplog.text
    with saga.database.transaction() as connection:
        assert incidents.unsent(connection) == (1, "sign not match")
    group.before = lambda: None
    assert told(saga, group) == 1
    assert REPETITION not in group.read[0].text
    with saga.database.transaction() as connection:
        assert incidents.unsent(connection) == (0, None)


@pytest.mark.parametrize("error", [UnknownOutcomeError, AnswerLostError, IncompleteAnswerError, TimeoutError])
def test_a_message_whose_answer_was_lost_is_repeated_once_and_says_so(
    saga: Toy, group: Group, error: type[Exception]
) -> None:
    def lose() -> None:
        raise error("no answer")

    undo(saga)
    group.after = lose
    for _ in range(5):
        told(saga, group)
        be_due(saga)
    assert [REPETITION in message.text for message in group.read] == [False, True]


DYING = """
import os, sys
from nancalacc.orchestration.incidents import tell
from nancalacc.store.database import Database

def deliver(message):
    if sys.argv[2] == "after":
        print("SENT", flush=True)
    os.kill(os.getpid(), 9)

tell(Database(sys.argv[1]), deliver=deliver, address=lambda incident: "")
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_sender_that_dies_leaves_the_message_to_the_next_one_when_its_time_is_over(
    saga: Toy, toy_url: str, group: Group, moment: str
) -> None:
    undo(saga)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DYING, toy_url, moment],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(telling.__file__).parents[2]), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == -9, done.stderr
    assert ("SENT" in done.stdout) is (moment == "after")
    assert told(saga, group) == 0, "it may still be at it"
    be_due(saga)
    assert told(saga, group) == 1
    assert REPETITION in group.read[0].text
    be_due(saga)
    assert told(saga, group) == 0


def test_a_robot_that_is_told_too_much_gets_the_rest_later(saga: Toy, group: Group) -> None:
    for number in range(MOST_MESSAGES + 5):
        dead_event(saga, f"e{number}")
        with saga.database.transaction() as connection:
            incidents.find(connection)
        some_time_passes(saga)
    assert told(saga, group) == MOST_MESSAGES

    def limit() -> None:
        raise RateLimitedError("too many")

    group.before = limit
    assert told(saga, group) == 0
    [row] = saga.query("SELECT count(*) AS waiting FROM incidents WHERE tries = 0")
    assert row.waiting == 4, "the others were not even tried"
    group.before = lambda: None
    be_due(saga)
    assert told(saga, group) == 5


def test_text_of_others_makes_no_links_and_no_endless_messages(saga: Toy, group: Group) -> None:
    undo(saga, error="[click](http://elsewhere.example)\n\n# big " + "x" * 2000)
    told(saga, group)
    assert "](http://elsewhere" not in group.read[0].text
    assert "\n# big" not in group.read[0].text
    assert len(group.read[0].text) < 1500


def test_an_error_that_is_not_ours_is_not_quoted(saga: Toy, group: Group) -> None:
    def hook(point: str, context: Any) -> None:
        if point == "right:before":
            raise ValueError(f"the phone number {PHONE}")

    saga.services.hook = hook
    with pytest.raises(ValueError, match=PHONE):
        saga.run_until("right")
    saga.services.hook = lambda point, context: None
    saga.conclude()
    told(saga, group)
    assert PHONE not in group.read[0].text
    assert "ValueError" in group.read[0].text


@pytest.fixture
def robot() -> Iterator[Sandbox]:
    with running_sandbox(organisation=Organisation()) as sandbox:
        yield sandbox


@pytest.fixture
def configured(robot: Sandbox, toy_url: str, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The environment of a process of Airflow that is to write to the robot."""
    connection = robot.robot_connection
    values = {
        "conn_type": "http",
        "host": connection.host,
        "password": connection.password,
        "extra": connection.extra,
    }
    monkeypatch.setenv("AIRFLOW_CONN_ALARM", json.dumps(values))
    monkeypatch.setenv("AIRFLOW_CONN_NANCALACC_DB", toy_url)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/air")
    monkeypatch.setenv("NANCALACC_NOTIFY_CONN_ID", "alarm")
    return robot


def test_the_built_in_notifier_writes_into_the_group_of_a_robot(saga: Toy, configured: Sandbox) -> None:
    undo(saga)
    dead_event(saga, "e1")
    tell_incidents()
    rollback, events = configured.robot.messages
    console = "https://airflow.example/air/plugin/nancalacc/air/nancalacc/console/"
    assert f"({console}?saga={saga.id})" in rollback["text"]
    assert f"({console}?view=inbox&inbox=dead)" in events["text"]
    tell_incidents()
    assert len(configured.robot.messages) == 2


def test_any_dag_may_use_the_notifier_with_templates(configured: Sandbox) -> None:
    notifier = DingTalkRobotNotifier(
        conn_id="alarm", title="{{ run_id }} failed", text="Look at {{ run_id }}: {{ title }}"
    )
    notifier({"run_id": "r1"})
    [message] = configured.robot.messages
    assert message["title"] == "r1 failed"
    assert message["text"].startswith("Look at r1")


def test_nobody_is_told_when_nobody_wants_to_be(
    saga: Toy, configured: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NANCALACC_NOTIFY_CONN_ID")
    undo(saga)
    tell_incidents()
    assert configured.robot.messages == []
    assert saga.query("SELECT 1 FROM incidents") == []


def test_braces_in_an_error_are_no_template(saga: Toy, configured: Sandbox) -> None:
    undo(saga, error="{{ 7 * 6 }} {{ conn.nancalacc_db.password }}")
    tell_incidents()
    assert "{{ 7 * 6 }}" in configured.robot.messages[0]["text"]


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("NANCALACC_NOTIFY_CONN_ID", "nowhere", "'nowhere' is not defined"),
        ("NANCALACC_NOTIFIER", "nancalacc.config.Settings", "must be the import path"),
        ("NANCALACC_NOTIFIER", "no.such.Notifier", "must be the import path"),
        ("NANCALACC_NOTIFIER", "word", "must be the import path"),
        ("AIRFLOW_CONN_NANCALACC_DB", "postgresql://nobody:x@127.0.0.1:1/nothing", "Nobody is told"),
    ],
)
def test_a_wrong_configuration_is_logged_and_fails_nothing(
    saga: Toy,
    configured: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: str,
    said: str,
) -> None:
    undo(saga)
    monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING, logger=telling.__name__):
        tell_incidents()
    assert said in caplog.text
    assert configured.robot.messages == []


def test_another_notifier_can_be_named(
    saga: Toy, configured: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk import BaseNotifier

    sent: list[tuple[str, str]] = []

    class Pigeon(BaseNotifier):
        def __init__(self, *, conn_id: str, title: str, text: str) -> None:
            super().__init__()
            sent.append((conn_id, title))

        def notify(self, context: Any) -> None:
            pass

    monkeypatch.setattr(telling, "Pigeon", Pigeon, raising=False)
    monkeypatch.setenv("NANCALACC_NOTIFIER", f"{telling.__name__}.Pigeon")
    undo(saga)
    tell_incidents()
    assert sent == [("alarm", "nancalacc: toy was undone, right failed")]
    assert configured.robot.messages == []


def test_the_default_notifier_exists() -> None:
    assert notifier_class(Settings().notifier).__name__ == "DingTalkRobotNotifier"


def test_the_check_of_connections_tells_of_the_notifier_without_a_message(
    configured: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_notifier(Settings.from_env()) == f"{configured.url}, signed; no message was sent"
    assert configured.robot.messages == []
    monkeypatch.setenv("AIRFLOW_CONN_ALARM", '{"conn_type": "http", "host": "http://x"}')
    with pytest.raises(ConfigurationError, match="access token as its password"):
        check_notifier(Settings.from_env())
    monkeypatch.setenv("NANCALACC_NOTIFIER", "no.such.Notifier")
    with pytest.raises(ConfigurationError, match="NANCALACC_NOTIFIER"):
        check_notifier(Settings.from_env())
