"""How deliveries of DingTalk are read: every shape seen so far, and everything else."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nancalacc.store.tables import EventStatus
from nancalacc.sync.inbox import LONGEST_ID, InboxEvent, read_frame, read_plaintext

BORN = datetime(2023, 5, 8, 8, 10, 23, 336000, tzinfo=UTC)


def headers(event_type: str, **changes) -> dict:
    return {
        "topic": "*",
        "messageId": "213d_972_1898_70a7",
        "time": "1693221579964",
        "eventType": event_type,
        "eventId": "c7c7120f",
        "eventCorpId": "dingcorp",
        "eventBornTime": "1683533423336",
    } | changes


def frame(event_type: str, data, **changes) -> InboxEvent:
    return read_frame(headers(event_type, **changes), data if isinstance(data, str) else json.dumps(data))


def plaintext(content, *, sent: str = "1 n") -> InboxEvent:
    return read_plaintext(json.dumps(content).encode(), sent=sent)


def test_reads_the_frame_of_the_documentation():
    event = frame("user_add_org", {"timeStamp": "1685501863357", "userId": ["015227"]})

    assert event == InboxEvent(
        event_id="c7c7120f",
        event_type="user_add_org",
        corp_id="dingcorp",
        object_ids=("015227",),
        born_at=BORN,
    )


@pytest.mark.parametrize(
    "event_type, data, ids",
    [
        ("user_add_org", {"timestamp": "1", "userId": ["u1", "u2"], "optStaffId": "u9"}, ("u1", "u2")),
        ("user_modify_org", {"userId": ["u1"], "diffInfo": {"userid": "u1", "prev": {}}}, ("u1",)),
        ("user_modify_org", {"userId": ["u1"], "diffInfo": [{"userid": "u1", "curr": {}}]}, ("u1",)),
        ("user_modify_org", {"diffInfo": {"userid": "u1", "prev": {}}}, ("u1",)),
        ("user_modify_org", {"UserId": [], "DiffInfo": [{"userId": "u1"}, {"userid": "u2"}]}, ("u1", "u2")),
        ("user_leave_org", {"UserId": ["u1"], "TimeStamp": "1"}, ("u1",)),
        ("user_leave_org", {"unionid": "x", "dingId": "y", "userId": "u1"}, ("u1",)),
        ("user_active_org", {"userIdList": ["u1", "u1", " u2 "]}, ("u1", "u2")),
        ("user_active_org", {"userId": [], "userIdList": [7, 7.0]}, ("7",)),
        ("user_add_org", {"userid": "研发-1"}, ("研发-1",)),
        ("org_dept_create", {"deptId": [432825033]}, ("432825033",)),
        ("org_dept_modify", {"DeptId": ["432825033", 7]}, ("432825033", "7")),
        ("org_dept_remove", {"deptId": 3000000001}, ("3000000001",)),
    ],
)
def test_reads_ids_in_every_shape(event_type, data, ids):
    event = frame(event_type, data)

    assert (event.object_ids, event.status, event.error) == (ids, EventStatus.PENDING, "")


@pytest.mark.parametrize(
    "event_type, data, reason",
    [
        ("user_add_org", "{", "it is not JSON"),
        ("user_add_org", "[" * 100_000, "it is not JSON"),
        ("user_add_org", "[1]", "it is not a JSON object"),
        ("user_add_org", "null", "it names no userid"),
        ("user_add_org", "", "it names no userid"),
        ("user_add_org", {"userId": []}, "it names no userid"),
        ("user_add_org", {"deptId": [1]}, "it names no userid"),
        ("user_modify_org", {"diffInfo": ["u1", {"prev": {}}]}, "it names no userid"),
        ("user_modify_org", {"diffInfo": {"userid": None}}, "none of its 1"),
        ("user_add_org", {"userId": ["", None, {"a": 1}, True, "a\u0000b", "x" * 200]}, "none of its 6"),
        ("user_add_org", '{"userId": ["\\ud800"]}', "none of its 1 entries is a userid"),
        ("org_dept_remove", {}, "it names no department id"),
        ("org_dept_remove", {"deptId": ["x", -1, 0, 1.5, "9" * 40]}, "none of its 5"),
        ("", {"userId": ["u1"]}, "it names no event type"),
        ("user add", {"userId": ["u1"]}, "it names no event type"),
        ("x" * 101, {"userId": ["u1"]}, "it names no event type"),
    ],
)
def test_what_is_unreadable_is_dead_with_the_reason(event_type, data, reason):
    event = frame(event_type, data)

    assert (event.status, event.object_ids) == (EventStatus.DEAD, ())
    assert event.error.startswith(f"Unreadable: {reason}")


def test_usable_ids_are_used_although_others_are_not():
    event = frame("user_add_org", {"userId": ["u1", ""]})

    assert (event.object_ids, event.status) == (("u1",), EventStatus.PENDING)
    assert event.error == "1 of 2 entries are no userid and were left out"


@pytest.mark.parametrize(
    "event_type, data",
    [
        ("label_user_change", {"userIdList": ["u1"], "labelIdList": [1881], "action": "add"}),
        ("org_remove", ""),
        ("org_change", {"timeStamp": "1"}),
        ("something_new", {"userId": None}),
    ],
)
def test_other_types_are_recorded_only(event_type, data):
    event = frame(event_type, data)

    assert (event.status, event.event_type, event.object_ids) == (EventStatus.DONE, event_type, ())


def test_data_may_be_an_object_and_headers_may_hold_numbers():
    event = read_frame(
        {"EventType": "user_add_org", "EVENTID": 7, "eventBornTime": 1683533423336}, {"USERID": ["u1"]}
    )

    assert (event.event_id, event.object_ids, event.corp_id) == ("7", ("u1",), "")
    assert event.born_at == BORN


def test_what_the_headers_lack_is_taken_from_the_data():
    content = {
        "eventType": "user_add_org",
        "eventId": "e1",
        "corpId": "c",
        "timeStamp": 5000,
        "userId": ["u"],
    }
    event = read_frame({}, json.dumps(content))

    assert (event.event_type, event.event_id, event.corp_id) == ("user_add_org", "e1", "c")
    assert event.born_at == datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize("born", ["", "soon", "9" * 30, "-" + "9" * 30, "1.5", "9" * 5000])
def test_a_time_that_is_none_is_left_out(born):
    assert frame("user_add_org", {"userId": ["u1"]}, eventBornTime=born).born_at is None


class TestKeyWithoutAnEventId:
    def read(self, data=None, **changes) -> str:
        return frame("user_add_org", data or {"userId": ["u1"]}, eventId="", **changes).event_id

    def test_is_the_same_for_a_redelivery(self):
        assert self.read() == self.read(messageId="other", time="2")
        assert self.read().startswith("sha256:")
        assert len(self.read()) <= LONGEST_ID

    @pytest.mark.parametrize(
        "other",
        [{"data": {"userId": ["u2"]}}, {"eventBornTime": "1683533423337"}, {"eventType": "user_leave_org"}],
    )
    def test_differs_by_type_ids_and_time_of_birth(self, other):
        assert self.read() != self.read(**other)

    def test_without_any_time_differs_by_the_time_of_sending(self):
        """Otherwise the second change of a person, months later, would count as a repetition."""
        first, again, later = (self.read(eventBornTime="", time=time) for time in ("1", "1", "2"))

        assert first == again != later

    def test_uses_the_time_of_the_data_before_that_of_sending(self):
        data = {"userId": ["u1"], "timeStamp": "77"}

        assert self.read(data, eventBornTime="", time="1") == self.read(data, eventBornTime="", time="2")

    def test_of_unreadable_ones_differs_by_content(self):
        first, again, other = (self.read(data) for data in ("{", "{", "["))

        assert first == again != other

    @pytest.mark.parametrize("event_id", ["x" * 129, "a\u0000b", "\ud800"])
    def test_is_also_used_for_an_unusable_event_id(self, event_id):
        made = frame("user_add_org", {"userId": ["u1"]}, eventId=event_id).event_id

        assert made.startswith("sha256:")
        assert made != self.read()


class TestPlaintext:
    def test_reads_the_present_form(self):
        event = plaintext(
            {
                "EventType": "org_dept_create",
                "EventTime": 1683533423336,
                "CorpId": "dingcorp",
                "BizId": "b1",
                "eventId": "e1",
                "deptId": [432825033],
            }
        )

        assert event == InboxEvent(
            event_id="e1",
            event_type="org_dept_create",
            corp_id="dingcorp",
            object_ids=("432825033",),
            born_at=BORN,
        )

    def test_reads_the_older_form(self):
        content = {"CorpId": "c", "EventType": "user_add_org", "UserId": ["u1"], "TimeStamp": "5000"}
        event = plaintext(content)

        assert (event.object_ids, event.corp_id, event.status) == (("u1",), "c", EventStatus.PENDING)
        assert event.born_at == datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)
        assert event.event_id == plaintext(content, sent="other").event_id

    def test_takes_the_business_id_where_there_is_no_event_id(self):
        assert plaintext({"EventType": "org_change", "BizId": "b1"}).event_id == "b1"

    def test_without_id_and_time_tells_requests_apart(self):
        content = {"EventType": "user_active_org", "UserId": ["u1"]}
        first, again, later = (plaintext(content, sent=sent).event_id for sent in ("1 a", "1 a", "2 b"))

        assert first == again != later

    @pytest.mark.parametrize(
        "content, reason", [(b"\xff\xfe", "not UTF-8"), (b"{", "not JSON"), (b"7", "not a JSON object")]
    )
    def test_damaged_content_is_dead(self, content, reason):
        event = read_plaintext(content, sent="1")

        assert event.status is EventStatus.DEAD
        assert reason in event.error


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["eventType", "EventType", "eventId", "eventBornTime", "time", "userId", "deptId", "timeStamp", "corpId"]
)
TYPES = st.sampled_from(["user_add_org", "org_dept_modify", "x"])
CONTENTS = st.dictionaries(KEYS | st.text(max_size=8), TYPES | JSON_VALUES, max_size=6)


@given(head=CONTENTS, data=st.text() | st.binary() | JSON_VALUES | CONTENTS | CONTENTS.map(json.dumps))
def test_whatever_is_delivered_becomes_an_event_that_can_be_stored(head, data):
    for event in (read_frame(head, data), read_plaintext(repr(data).encode(), sent="1")):
        texts = (event.event_id, event.event_type, event.corp_id, event.error, *event.object_ids)
        assert all(text.isprintable() and len(text) <= LONGEST_ID for text in texts)
        assert event.event_id
        assert bool(event.object_ids) is (event.status is EventStatus.PENDING)
