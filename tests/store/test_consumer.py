"""The sandbox's stand-in for WPS's sync component, on a real database."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import aiohttp
import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import sql

from nancalacc.config import Signature
from nancalacc.errors import BusyError, ConfigurationError
from nancalacc.sandbox.consumer import Consumer, ConsumerRules, ErrorStrategy, JobState
from nancalacc.sandbox.increments import DEPARTMENTS, MEMBERSHIPS, USERS, Readings
from nancalacc.sandbox.organisation import Organisation
from nancalacc.sandbox.rows import decrypt
from nancalacc.sandbox.server import Sandbox, SandboxOptions
from nancalacc.sandbox.snapshot import Thresholds
from nancalacc.sandbox.wps import WpsRules

COMPANY, PLATFORM, SALT = "sandbox", "dingtalk", "test-salt"
ZONE = "Asia/Shanghai"
TASK = "20261122120000"


def encrypted(plain: str, *, uid: str, salt: str = SALT) -> str:
    key = hashlib.sha256(f"{uid}{salt}".encode()).hexdigest()[:32].encode()
    iv = bytes(range(12))
    return base64.b64encode(iv + AESGCM(key).encrypt(iv, plain.encode(), None)).decode()


class Tables:
    """Writes rows the way a sync does, with defaults for all that a test does not care about."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def insert(self, table: str, **values) -> int:
        values = {"third_company_id": COMPANY, "platform_id": PLATFORM} | values
        if table == "tb_company_cfg":
            del values["platform_id"]
        query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join([sql.Placeholder()] * len(values)),
        )
        row = self.connection.execute(query, list(values.values())).fetchone()
        assert row is not None
        return row[0]

    def tenant(self, **values) -> None:
        self.insert("tb_company_cfg", **{"platform_ids": PLATFORM, "company_id": "wps"} | values)

    def department(self, did: str, pid: str, **values) -> None:
        row = {"did": did, "pid": pid, "name": f"D{did}", "task_id": TASK, "check_type": 1}
        self.insert("tb_las_department", **row | values)

    def user(self, uid: str, **values) -> None:
        row = {"uid": uid, "account": uid, "nick_name": f"N{uid}", "task_id": TASK, "check_type": 1}
        self.insert("tb_las_user", **row | {"def_did": "-1", "employment_status": "active"} | values)

    def member(self, uid: str, did: str, **values) -> None:
        row = {"uid": uid, "did": did, "order": 0, "main": 0, "task_id": TASK, "check_type": 1}
        self.insert("tb_las_department_user", **row | values)

    def snapshot(self, *, task_id: str = TASK, users: int = 3) -> None:
        """Root, '1' below it, '10' and '20' below that; users u0.. in '10', u0 in '20', too."""
        self.department("0", "-1", name="公司", task_id=task_id)
        self.department("1", "0", name="总部", task_id=task_id)
        self.department("10", "1", name="研发", order=5, task_id=task_id)
        self.department("20", "1", name="市场", order=9, task_id=task_id)
        for number in range(users):
            self.user(f"u{number}", def_did="10", task_id=task_id)
            self.member(f"u{number}", "10", order=number, main=1, task_id=task_id)
        self.member("u0", "20", order=7, task_id=task_id)

    def increment(self, table: str, update_type: str, *, ago: float = 5, **values) -> int:
        """A committed row with a sync_time `ago` seconds in the past, in the company's local time."""
        moment = datetime.now(ZoneInfo(ZONE)).replace(tzinfo=None) - timedelta(seconds=ago)
        return self.insert(table, update_type=update_type, sync_time=moment, **values)

    def dept(self, update_type: str, did: str, *, ago: float = 5, **values) -> int:
        row = {"did": did, "name": f"D{did}", "pid": "-1"}
        return self.increment(DEPARTMENTS, update_type, ago=ago, **row | values)

    def person(self, update_type: str, uid: str, *, ago: float = 5, **values) -> int:
        row = {"uid": uid, "account": uid, "nick_name": f"N{uid}", "employment_status": "active"}
        return self.increment(USERS, update_type, ago=ago, **row | values)

    def place(self, update_type: str, uid: str, did: str, *, ago: float = 5, **values) -> int:
        return self.increment(MEMBERSHIPS, update_type, ago=ago, uid=uid, did=did, **values)

    def verdict(self, table: str, row_id: int) -> tuple[int, str | None]:
        query = sql.SQL("SELECT status, msg FROM {} WHERE id = %s").format(sql.Identifier(table))
        row = self.connection.execute(query, [row_id]).fetchone()
        assert row is not None
        return row


@pytest.fixture
def tables(database_url: str) -> Iterator[Tables]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"SET TIME ZONE '{ZONE}'")
        yield Tables(connection)


@pytest.fixture
def consumer(database_url: str, tables: Tables) -> Consumer:
    """A component that runs only when the test says so."""
    tables.tenant()
    return Consumer(
        database_url=database_url,
        third_company_id=COMPANY,
        salt=SALT,
        rules=ConsumerRules(paused=True, timezone=ZONE),
    )


def run_full(consumer: Consumer, *, task_id: str = TASK):
    job = consumer.full_sync(COMPANY, task_id=task_id, collect_cost=1000)
    consumer.run_now()
    assert job is not None
    return job


def set_rules(consumer: Consumer, **changes) -> None:
    consumer.set_rules(ConsumerRules(**{"paused": True, "timezone": ZONE} | changes))


@pytest.fixture
def filled(consumer: Consumer, tables: Tables) -> Consumer:
    """The directory after a first full job."""
    tables.snapshot()
    assert run_full(consumer).state is JobState.DONE
    return consumer


def test_decrypts_the_published_vector():
    value = "AAECAwQFBgcICQoLvgwH4fnKLG5FdKzXlWj573YZc4B5QoEpkVlk"

    assert decrypt(value, uid="user001", salt="test-salt") == "13800000000"


class TestFullJob:
    def test_builds_the_directory_from_the_rows_of_its_task(self, consumer, tables):
        tables.snapshot()
        tables.user("phoned", phone=encrypted("13800000000", uid="phoned"), leader="u0", title="T")
        tables.member("phoned", "1", main=1)

        job = run_full(consumer)

        directory = consumer.directory()
        assert (job.state, job.result.failures) == (JobState.DONE, [])
        assert job.result.applied == {"departments": 3, "users": 4, "memberships": 5}
        assert directory.root.name == "公司"
        assert [found.did for found in directory.children("1")] == ["20", "10"]
        assert directory.user("u0").memberships == {"10": 0, "20": 7}
        assert directory.user("u0").main == "10"
        assert (directory.user("phoned").phone, directory.user("phoned").leader) == ("13800000000", "u0")
        assert directory.path(directory.department("10")) == "公司/总部/研发"

    def test_ignores_rows_of_other_tasks_companies_and_platforms_and_unselected_ones(self, consumer, tables):
        tables.snapshot()
        tables.user("other-task", task_id="20261122120001")
        tables.user("other-company", third_company_id="other")
        tables.user("other-platform", platform_id="other")
        tables.user("unselected", check_type=0)

        run_full(consumer)

        assert set(consumer.directory().users) == {"u0", "u1", "u2"}

    @pytest.mark.parametrize(
        "roots, message",
        [([], "采集表根部门不存在"), (["0", "00"], "存在多个根部门")],
    )
    def test_without_exactly_one_root_row_the_job_fails_and_changes_nothing(
        self, filled, tables, roots, message
    ):
        before = dict(filled.directory().users)
        for did in roots:
            tables.department(did, "-1", task_id="20261122130000")
        tables.user("new", task_id="20261122130000")

        job = run_full(filled, task_id="20261122130000")

        assert (job.state, job.message) == (JobState.FAILED, message)
        assert filled.directory().users == before

    def test_equal_sibling_names_fail_with_everything_below(self, consumer, tables):
        tables.snapshot()
        tables.department("30", "1", name="研发", order=1)
        tables.department("31", "30", name="below")
        tables.user("lost", def_did="-1")
        tables.member("lost", "31", main=1)

        job = run_full(consumer)

        assert set(consumer.directory().departments) == {"0", "1", "10", "20"}
        assert consumer.directory().user("lost").memberships == {"0": 0}
        assert job.result.failures == [
            "department 30: 同级部门名称重复",
            "department 31: 上级部门不存在或失败",
            "membership lost in 31: 部门不存在",
        ]

    def test_equal_sibling_names_can_be_renamed_instead(self, consumer, tables):
        set_rules(consumer, rename_duplicates=True)
        tables.snapshot()
        tables.department("30", "1", name="研发", order=1)

        assert run_full(consumer).result.failures == []
        assert consumer.directory().department("30").name == "研发(30)"

    @pytest.mark.parametrize(
        "values, reason",
        [
            ({"phone": encrypted("13800000000", uid="somebody-else")}, "解密失败"),
            ({"phone": "13800000000"}, "解密失败"),
            ({"telephone": encrypted("1", uid="bad", salt="wrong")}, "解密失败"),
            ({"account": "U0"}, "登录名重复"),
            ({"leader": "nobody"}, "上级用户不存在"),
            ({"def_did": "999"}, "默认部门不存在"),
            ({"employment_status": "aktiv"}, "employment_status非法"),
            ({"gender": "x"}, "gender非法"),
            ({"custom_fields": "{}"}, "custom_fields不是JSON数组"),
            ({"nick_name": ""}, "nick_name不能为空"),
        ],
    )
    def test_a_bad_user_row_fails_alone(self, consumer, tables, values, reason):
        tables.snapshot()
        tables.user("bad", **values)

        job = run_full(consumer)

        assert job.state is JobState.DONE
        assert set(consumer.directory().users) == {"u0", "u1", "u2"}
        assert [reason in failure for failure in job.result.failures] == [True]

    def test_a_failed_row_does_not_delete_who_was_there(self, filled, tables):
        tables.snapshot(task_id="20261122130000", users=0)
        for uid in ("u0", "u1", "u2"):
            tables.user(uid, task_id="20261122130000", phone="unreadable")

        job = run_full(filled, task_id="20261122130000")

        assert job.state is JobState.DONE
        assert set(filled.directory().users) == {"u0", "u1", "u2"}

    @pytest.mark.parametrize(
        "thresholds, state",
        [
            (Thresholds(users=0, departments=1, memberships=1), JobState.STOPPED),
            (Thresholds(users=1, departments=0, memberships=1), JobState.STOPPED),
            (Thresholds(users=1, departments=1, memberships=0), JobState.STOPPED),
            (Thresholds(users=1, departments=1, memberships=1), JobState.DONE),
        ],
    )
    def test_stops_when_more_would_be_deleted_than_the_thresholds_allow(
        self, consumer, tables, thresholds, state
    ):
        """One user, one department and one other membership are missing in the second snapshot."""
        tables.snapshot()
        tables.department("40", "1")
        tables.member("u1", "20")
        run_full(consumer)
        before = dict(consumer.directory().users)
        set_rules(consumer, thresholds=thresholds)
        tables.snapshot(task_id="20261122130000", users=2)

        job = run_full(consumer, task_id="20261122130000")

        assert job.state is state
        assert job.result.deleted == {"users": 1, "departments": 1, "memberships": 1}
        assert (consumer.directory().users == before) is (state is JobState.STOPPED)

    def test_by_default_two_lost_memberships_stop_a_job(self, filled, tables):
        tables.snapshot(task_id="20261122130000", users=1)
        for uid in ("u1", "u2"):
            tables.user(uid, task_id="20261122130000")
            tables.member(uid, "20", task_id="20261122130000")

        assert run_full(filled, task_id="20261122130000").state is JobState.STOPPED

    def test_users_keep_their_ids_over_jobs(self, filled, tables):
        before = filled.directory().user("u0").id
        tables.snapshot(task_id="20261122130000")
        run_full(filled, task_id="20261122130000")

        assert filled.directory().user("u0").id == before

    def test_a_newer_job_cancels_the_waiting_one(self, consumer, tables):
        tables.snapshot()
        older = consumer.full_sync(COMPANY, task_id="20261122110000", collect_cost=1)
        newer = run_full(consumer)

        assert (older.state, newer.state) == (JobState.CANCELLED, JobState.DONE)

    @pytest.mark.parametrize("status, company", [(0, COMPANY), (1, "other")])
    def test_needs_an_enabled_tenant(self, database_url, tables, status, company):
        tables.tenant(third_company_id=company, status=status)
        consumer = Consumer(database_url=database_url, third_company_id=COMPANY, salt=SALT)

        with pytest.raises(ConfigurationError):
            consumer.full_sync(COMPANY, task_id=TASK, collect_cost=1)
        with pytest.raises(ConfigurationError):
            consumer.increment_sync(COMPANY)


class TestIncrements:
    def test_the_window_ends_before_the_present_second_and_never_looks_back(self, filled, tables):
        late = tables.dept("dept_add", "later", ago=-60)
        seen = tables.dept("dept_add", "before", ago=2)
        first = filled.run_increments()
        behind = tables.dept("dept_add", "behind", ago=60)
        filled.run_increments()

        assert first.applied == 1
        assert tables.verdict(DEPARTMENTS, seen) == (1, "success")
        assert tables.verdict(DEPARTMENTS, late) == (0, None)
        assert tables.verdict(DEPARTMENTS, behind) == (0, None)

    @pytest.mark.slow
    def test_a_row_is_read_once_its_second_has_passed(self, filled, tables):
        row = tables.dept("dept_add", "soon", ago=-1)
        deadline = time.monotonic() + 20
        while tables.verdict(DEPARTMENTS, row)[0] == 0 and time.monotonic() < deadline:
            filled.run_increments()
            time.sleep(0.2)

        assert tables.verdict(DEPARTMENTS, row) == (1, "success")

    def test_departments_come_before_users_and_users_before_memberships(self, filled, tables):
        place = tables.place("user_dept_add", "new", "50", ago=20)
        person = tables.person("user_add", "new", ago=10, def_did="50")
        tables.dept("dept_add", "50", ago=5)
        set_rules(filled, readings=Readings(joins_on_add=False))

        assert filled.run_increments().failed == 0
        assert tables.verdict(USERS, person) == tables.verdict(MEMBERSHIPS, place) == (1, "success")
        assert filled.directory().user("new").memberships == {"50": 0}

    def test_rows_of_one_second_have_no_order_to_rely_on(self, filled, tables):
        parent = tables.dept("dept_add", "50")
        child = tables.dept("dept_add", "51", pid="50")
        tables.connection.execute(
            "UPDATE tb_las_department_increment SET sync_time = localtimestamp - interval '5 seconds'"
        )

        filled.run_increments()

        assert tables.verdict(DEPARTMENTS, parent)[0] == 1
        assert tables.verdict(DEPARTMENTS, child) == (-1, "部门不存在")

    def test_a_window_takes_a_thousand_rows_and_loses_the_rest(self, filled, tables):
        tables.connection.execute(
            "INSERT INTO tb_las_department_increment"
            " (did, third_company_id, platform_id, pid, name, update_type, sync_time)"
            " SELECT n::text, %s, %s, '-1', 'N' || n, 'dept_add', localtimestamp - interval '9 seconds'"
            " FROM generate_series(1001, 2005) n",
            [COMPANY, PLATFORM],
        )
        assert filled.run_increments().applied == 1000
        assert filled.run_increments().applied == 0

    @pytest.mark.slow
    def test_a_failed_row_is_tried_again_only_inside_a_later_window(self, filled, tables):
        row = tables.dept("dept_add", "51", pid="50", ago=5)
        assert filled.run_increments().failed == 1
        tables.dept("dept_add", "50", ago=-1)
        tables.connection.execute(
            "UPDATE tb_las_department_increment SET sync_time = localtimestamp + interval '2 seconds'"
            " WHERE id = %s",
            [row],
        )
        deadline = time.monotonic() + 20
        while tables.verdict(DEPARTMENTS, row)[0] == -1 and time.monotonic() < deadline:
            filled.run_increments()
            time.sleep(0.2)

        assert tables.verdict(DEPARTMENTS, row) == (1, "success")

    def test_an_unknown_update_type_aborts_the_run_and_holds_the_window(self, filled, tables):
        tables.dept("dept_rename", "10", ago=9)
        row = tables.dept("dept_add", "50", ago=5)

        for _ in range(2):
            assert "unknown update_type" in filled.run_increments().error
        assert tables.verdict(DEPARTMENTS, row) == (0, None)

    def test_a_foreign_platform_id_stalls_the_window(self, filled, tables):
        tables.dept("dept_add", "60", ago=9, platform_id="foreign")
        row = tables.dept("dept_add", "50", ago=5)

        for _ in range(2):
            assert "foreign platform_id" in filled.run_increments().error
        assert tables.verdict(DEPARTMENTS, row) == (0, None)

    def test_interrupt_stops_at_the_first_failure(self, filled, tables):
        set_rules(filled, error_strategy=ErrorStrategy.INTERRUPT)
        bad = tables.dept("dept_del", "999", ago=9)
        row = tables.dept("dept_add", "50", ago=5)

        assert filled.run_increments().error
        assert tables.verdict(DEPARTMENTS, bad)[0] == -1
        assert tables.verdict(DEPARTMENTS, row) == (0, None)

    def test_the_reason_is_cut_to_the_column(self, filled, tables):
        row = tables.person("user_add", "x", employment_status="y" * 60, custom_fields="[" * 5000)

        filled.run_increments()

        status, message = tables.verdict(USERS, row)
        assert status == -1
        assert message.startswith("employment_status非法")

    def test_rows_of_rejected_objects_fail(self, filled, tables):
        set_rules(filled, rejected=frozenset({"50", "u1"}))
        department = tables.dept("dept_add", "50")
        user = tables.person("user_update", "u1")
        place = tables.place("user_dept_add", "u1", "20")
        other = tables.place("user_dept_update", "u2", "10")

        assert filled.run_increments().failed == 3
        assert [
            tables.verdict(table, row)[0]
            for table, row in [
                (DEPARTMENTS, department),
                (USERS, user),
                (MEMBERSHIPS, place),
                (MEMBERSHIPS, other),
            ]
        ] == [-1, -1, -1, 1]

    def test_needs_a_schedule_and_refuses_a_second_run(self, filled):
        filled.increment_sync(COMPANY)
        with pytest.raises(BusyError):
            filled.increment_sync(COMPANY)
        filled.run_now()
        filled.increment_sync(COMPANY)
        filled.run_now()
        set_rules(filled, schedule_configured=False)
        with pytest.raises(ConfigurationError):
            filled.increment_sync(COMPANY)

    def test_accepted_work_runs_by_itself(self, filled, tables):
        row = tables.dept("dept_add", "50")
        filled.set_rules(ConsumerRules(increment_delay=0.01, timezone=ZONE))
        filled.start()
        filled.increment_sync(COMPANY)
        assert filled.wait_idle()
        filled.close()

        assert tables.verdict(DEPARTMENTS, row) == (1, "success")


class TestDepartmentRows:
    @pytest.mark.parametrize(
        "update_type, did, values, expected",
        [
            ("dept_add", "50", {"pid": "10", "order": 3}, ("10", "D50", 3)),
            ("dept_add", "50", {"pid": "-1"}, ("0", "D50", 0)),
            ("dept_add", "10", {"pid": "20", "name": "neu"}, ("20", "neu", 5)),
            ("dept_update", "10", {"pid": "1", "name": "neu", "order": 8}, ("1", "neu", 8)),
            ("dept_update", "10", {"pid": "1", "name": "", "order": 8}, ("1", "研发", 8)),
            ("dept_update", "50", {"pid": "1"}, ("1", "D50", 0)),
            ("dept_move", "10", {"pid": "20"}, ("20", "研发", 5)),
        ],
    )
    def test_takes_effect(self, filled, tables, update_type, did, values, expected):
        row = tables.dept(update_type, did, **values)

        filled.run_increments()

        assert tables.verdict(DEPARTMENTS, row) == (1, "success")
        found = filled.directory().department(did)
        assert (found.pid, found.name, found.order) == expected

    def test_an_empty_department_can_be_deleted(self, filled, tables):
        tables.dept("dept_add", "50", ago=9)
        row = tables.dept("dept_del", "50", ago=5)

        filled.run_increments()

        assert tables.verdict(DEPARTMENTS, row) == (1, "success")
        assert filled.directory().department("50") is None

    @pytest.mark.parametrize(
        "update_type, did, values, reason",
        [
            ("dept_add", "50", {"pid": "999"}, "部门不存在"),
            ("dept_add", "50", {"pid": "0"}, "部门不存在"),
            ("dept_add", "50", {"pid": None}, "pid不能为空"),
            ("dept_add", "50", {"pid": "1", "name": "研发"}, "同级部门名称重复"),
            ("dept_add", "50", {"pid": "1", "type": "A1"}, "type非法"),
            ("dept_update", "1", {"pid": "10"}, "不能移动到自己的下级部门"),
            ("dept_update", "10", {"pid": "1", "name": ""}, "部门名称和排序都为空"),
            ("dept_update", "0", {"pid": "1"}, "不能移动到自己的下级部门"),
            ("dept_move", "999", {"pid": "1"}, "部门不存在"),
            ("dept_move", "10", {"pid": "999"}, "部门不存在"),
            ("dept_del", "999", {}, "部门不存在"),
            ("dept_del", "10", {}, "部门不为空"),
            ("dept_del", "1", {}, "部门不为空"),
            ("dept_del", "-1", {}, "不能删除根部门"),
        ],
    )
    def test_fails_with_a_reason(self, filled, tables, update_type, did, values, reason):
        before = dict(filled.directory().departments)
        row = tables.dept(update_type, did, **values)

        filled.run_increments()

        status, message = tables.verdict(DEPARTMENTS, row)
        assert status == -1
        assert reason in message
        assert filled.directory().departments == before


class TestUserRows:
    @pytest.mark.parametrize(
        "def_did, memberships, provisional",
        [("", {"0": 4}, True), ("-1", {"0": 4}, False), ("20", {"20": 4}, False)],
    )
    def test_a_new_user_starts_in_the_default_department(
        self, filled, tables, def_did, memberships, provisional
    ):
        tables.person("user_add", "new", def_did=def_did, def_did_order=4)

        filled.run_increments()

        user = filled.directory().user("new")
        assert (dict(user.memberships), user.provisional) == (memberships, provisional)

    def test_a_real_department_ends_the_stay_in_the_root(self, filled, tables):
        tables.person("user_add", "new", def_did="")
        tables.place("user_dept_add", "new", "20", order=1)

        filled.run_increments()

        assert filled.directory().user("new").memberships == {"20": 1}
        assert filled.directory().user("new").main == "20"

    @pytest.mark.parametrize("null_clears, title", [(False, "old"), (True, "")])
    def test_a_null_column_keeps_or_clears_by_the_reading_chosen(self, filled, tables, null_clears, title):
        set_rules(filled, readings=Readings(null_clears=null_clears))
        tables.person("user_update", "u0", ago=9, title="old", email="a@example.com")
        tables.person("user_update", "u0", ago=5, email="")

        filled.run_increments()

        assert (filled.directory().user("u0").title, filled.directory().user("u0").email) == (title, "")

    def test_an_update_adds_a_missing_user_with_a_known_department(self, filled, tables):
        tables.person("user_update", "new", def_did="20", phone=encrypted("13800000000", uid="new"))

        filled.run_increments()

        assert filled.directory().user("new").phone == "13800000000"
        assert filled.directory().user("new").memberships == {"20": 0}

    def test_an_added_user_that_exists_is_updated_whatever_the_case_of_its_uid(self, filled, tables):
        tables.person("user_add", "U0", account="u0", nick_name="neu", employment_status="disabled")

        filled.run_increments()

        assert len(filled.directory().users) == 3
        assert filled.directory().user("u0").nick_name == "neu"
        assert filled.directory().user("u0").employment_status == "disabled"
        assert filled.directory().user("u0").memberships == {"10": 0, "20": 7}

    def test_an_account_is_free_again_after_its_holder_left(self, filled, tables):
        tables.person("user_del", "u0", ago=9)
        row = tables.person("user_add", "new", account="U0", ago=5)

        filled.run_increments()

        assert tables.verdict(USERS, row) == (1, "success")
        assert filled.directory().user("u0") is None

    @pytest.mark.parametrize(
        "update_type, uid, values, reason",
        [
            ("user_add", "new", {"account": "U0"}, "登录名重复"),
            ("user_add", "new", {"account": ""}, "account不能为空"),
            ("user_add", "new", {"nick_name": ""}, "nick_name不能为空"),
            ("user_add", "new", {"employment_status": "x"}, "employment_status非法"),
            ("user_add", "new", {"def_did": "999"}, "部门不存在"),
            ("user_add", "new", {"leader": "nobody"}, "上级用户不存在"),
            ("user_add", "new", {"phone": encrypted("1", uid="other")}, "解密失败"),
            ("user_update", "new", {}, "用户不存在"),
            ("user_update", "new", {"def_did": "999"}, "部门不存在"),
            ("user_del", "new", {}, "用户不存在"),
        ],
    )
    def test_fails_with_a_reason(self, filled, tables, update_type, uid, values, reason):
        before = dict(filled.directory().users)
        row = tables.person(update_type, uid, **values)

        filled.run_increments()

        status, message = tables.verdict(USERS, row)
        assert status == -1
        assert reason in message
        assert filled.directory().users == before


class TestMembershipRows:
    @pytest.mark.parametrize(
        "update_type, uid, did, values, memberships, main",
        [
            ("user_dept_add", "u1", "20", {"order": 3}, {"10": 1, "20": 3}, "10"),
            ("user_dept_add", "u1", "20", {"main": 1}, {"10": 1, "20": 0}, "20"),
            ("user_dept_add", "u1", "-1", {}, {"10": 1, "0": 0}, "10"),
            ("user_dept_del", "u0", "10", {}, {"20": 7}, "20"),
            ("user_dept_del", "u1", "10", {}, {"0": 0}, "0"),
            ("user_dept_update", "u0", "20", {"order": 1, "main": 1}, {"10": 0, "20": 1}, "20"),
            ("user_dept_update", "u0", "20", {"dids": '[{"did":"1"}]'}, {"10": 0, "20": 7}, "10"),
            (
                "user_dept_move",
                "u0",
                "1",
                {"dids": json.dumps([{"did": "1", "order": 2}, {"did": "20", "order": 3}])},
                {"1": 2, "20": 3},
                "1",
            ),
        ],
    )
    def test_takes_effect(self, filled, tables, update_type, uid, did, values, memberships, main):
        row = tables.place(update_type, uid, did, **values)

        filled.run_increments()

        assert tables.verdict(MEMBERSHIPS, row) == (1, "success")
        user = filled.directory().user(uid)
        assert (dict(user.memberships), user.main) == (memberships, main)

    @pytest.mark.parametrize(
        "update_type, uid, did, values, reason",
        [
            ("user_dept_add", "u0", "10", {}, "部门下该用户已存在"),
            ("user_dept_add", "u0", "999", {}, "部门不存在"),
            ("user_dept_add", "nobody", "10", {}, "用户不存在"),
            ("user_dept_del", "u1", "20", {}, "部门下该用户不存在"),
            ("user_dept_update", "u1", "20", {}, "部门下该用户不存在"),
            ("user_dept_move", "u1", "20", {"dids": '[{"did":"10"}]'}, "did不在dids中"),
            ("user_dept_move", "u1", "20", {"dids": '[{"did":"20"},{"did":"999"}]'}, "部门不存在"),
            ("user_dept_move", "u1", "20", {}, "dids不是JSON数组"),
            ("user_dept_move", "u1", "20", {"dids": "20"}, "dids不是JSON数组"),
            ("user_dept_move", "nobody", "20", {"dids": '[{"did":"20"}]'}, "用户不存在"),
        ],
    )
    def test_fails_with_a_reason(self, filled, tables, update_type, uid, did, values, reason):
        before = dict(filled.directory().users)
        row = tables.place(update_type, uid, did, **values)

        filled.run_increments()

        assert tables.verdict(MEMBERSHIPS, row) == (-1, reason)
        assert filled.directory().users == before

    def test_nobody_leaves_the_root_as_the_last_department(self, filled, tables):
        tables.place("user_dept_del", "u1", "10", ago=9)
        row = tables.place("user_dept_del", "u1", "-1", ago=5)

        filled.run_increments()

        assert tables.verdict(MEMBERSHIPS, row) == (-1, "用户的最后一个部门是根部门")


async def test_a_full_sync_ordered_over_http_reaches_the_directory(database_url, tables):
    tables.tenant()
    tables.snapshot()
    options = SandboxOptions(phone_salt_secret=SALT, wps=WpsRules(signature=Signature.NONE))
    form = {
        "grant_type": "client_credentials",
        "client_id": options.client_id,
        "client_secret": options.client_secret,
    }
    order = {"task_id": TASK, "third_company_id": COMPANY, "collect_cost": 1500}
    async with (
        Sandbox(organisation=Organisation(), database_url=database_url, options=options) as sandbox,
        aiohttp.ClientSession(base_url=sandbox.url) as session,
    ):
        async with session.post("/openapi/oauth2/token", data=form) as response:
            session.headers["Authorization"] = f"Bearer {(await response.json())['access_token']}"
        async with session.post("/openapi/v7/ecisaccountsync/full/sync", json=order) as response:
            assert (await response.json())["code"] == "200"
        assert await asyncio.to_thread(sandbox.consumer.wait_idle)
        async with session.get("/_sandbox/wps") as response:
            answer = await response.json()

    assert answer["jobs"][0]["state"] == 100
    assert {user["uid"] for user in answer["users"]} == {"u0", "u1", "u2"}
