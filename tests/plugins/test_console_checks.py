"""What the console's API says came of a sync afterwards: how WPS differs, and what an undo left alone."""

import re

import httpx
import pytest

from console_rows import Rows
from nancalacc.sync.former import REASONS
from plugins.conftest import Rights
from plugins.test_console_looks import STATIC

DIFFERENCES = (
    ("departments", "200", None, "changed", "parent,name"),
    ("users", "u1", None, "missing", None),
    ("users", "other", None, "extra", None),
    ("users", "foreign", None, "foreign", None),
    ("memberships", "u2", "200", "missing", None),
)


@pytest.fixture
def saga(rows: Rows) -> str:
    rows.known()
    return rows.saga("done")


async def pages(client: httpx.AsyncClient, path: str, **query: object) -> list[dict]:
    found, cursor = [], None
    while True:
        answer = await client.get(path, params=query | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return found


async def test_differences_come_in_pages_with_the_names_we_know(
    client: httpx.AsyncClient, rows: Rows, saga: str
):
    path = f"/sagas/{saga}/differences"
    assert (await client.get(path)).json() == {"verification": None, "items": [], "next_cursor": None}
    rows.verification(saga, "drifted", *DIFFERENCES)
    answer = await client.get(path)
    found = answer.json()["verification"]
    assert (found["verdict"], found["message"], found["dag_id"]) == ("drifted", "WPS is drifted", "reconcile")
    assert found["counts"]["missing"] == {"users": 1, "memberships": 1}
    assert found["ended_at"].endswith("Z")
    items = await pages(client, path, limit=2)
    assert [(each["kind"], each["key"], each["what"]) for each in items] == [
        (kind, key, what) for kind, key, _, what, _ in DIFFERENCES
    ]
    assert [each["name"] for each in items] == ["市场部", "员工一", None, None, "员工二"]
    assert items[0]["fields"] == ["parent", "name"]
    assert (items[4]["did"], items[4]["place_name"], items[4]["fields"]) == ("200", "市场部", [])
    assert "secret" not in answer.text
    assert [each["key"] for each in await pages(client, path, kind="users", what="extra")] == ["other"]
    for query in ("kind=people", "what=all", "limit=0", "cursor=x"):
        assert (await client.get(f"{path}?{query}")).status_code == 422


async def test_the_newest_verification_that_says_something_counts(
    client: httpx.AsyncClient, rows: Rows, saga: str
):
    async def verdict() -> str:
        return (await client.get(f"/sagas/{saga}/differences")).json()["verification"]["verdict"]

    rows.verification(saga, "drifted", *DIFFERENCES)
    rows.verification(saga, "unverifiable")
    rows.verification(saga, "pending", has_ended=False)
    assert await verdict() == "drifted"
    rows.verification(saga, "verified")
    assert await verdict() == "verified"
    assert (await client.get(f"/sagas/{saga}/differences")).json()["items"] == []


async def test_health_tells_of_companies_whose_wps_differs_from_what_it_was_given(
    client: httpx.AsyncClient, rows: Rows, saga: str, rights: Rights
):
    async def problems() -> list[str]:
        return (await client.get("/health/details")).json()["problems"]

    rows.verification(saga, "verified")
    other = rows.saga("other", company="tenant-b", dag_id="full_sync__wps_b")
    assert await problems() == []
    rows.verification(saga, "drifted", *DIFFERENCES)
    rows.verification(saga, "unverifiable")
    rows.verification(other, "stopped", ("users", "u1", None, "extra", None), company="tenant-b")
    drifted, stopped = await problems()
    assert drifted == (
        f"WPS differs from what company tenant-1 was given, in 5 objects: saga {saga} lists every difference"
    )
    assert stopped.startswith("WPS has stopped the last sync of company tenant-b by its own thresholds")
    assert f"saga {other}" in stopped
    rights.hidden_dags = {"full_sync__wps_b"}
    assert await problems() == [drifted]
    rows.verification(saga, "drifted", *DIFFERENCES, has_ended=False)
    assert await problems() == [drifted], "a look that goes on says nothing yet"
    rows.verification(saga, "verified")
    assert await problems() == []


async def test_what_an_undo_left_alone_is_listed_with_the_reason(
    client: httpx.AsyncClient, rows: Rows, saga: str
):
    path = f"/sagas/{saga}/left-alone"
    assert (await client.get(path)).json() == {"items": [], "next_cursor": None}
    for kind, key, reason in (
        ("users", "u1", "changed_since"),
        ("users", "gone", "department_gone"),
        ("departments", "200", "changed_since"),
        ("departments", "u1", "needed"),
    ):
        rows.execute("INSERT INTO undo_left VALUES (%s, %s, %s, %s)", saga, kind, key, reason)
    assert await pages(client, path, limit=1) == [
        {"kind": "departments", "key": "200", "name": "市场部", "reason": "changed_since"},
        {"kind": "departments", "key": "u1", "name": None, "reason": "needed"},
        {"kind": "users", "key": "gone", "name": None, "reason": "department_gone"},
        {"kind": "users", "key": "u1", "name": "员工一", "reason": "changed_since"},
    ]
    narrowed = await pages(client, path, kind="users", reason="changed_since")
    assert [each["key"] for each in narrowed] == ["u1"]
    assert (await client.get(path, params={"cursor": "WyJ1c2VycyJd"})).status_code == 400


async def test_who_may_not_see_the_run_sees_none_of_it(
    client: httpx.AsyncClient, rows: Rows, saga: str, rights: Rights
):
    rows.verification(saga, "drifted", *DIFFERENCES)
    rights.hidden_dags.add("full_sync")
    for path in ("differences", "left-alone"):
        answer = await client.get(f"/sagas/{saga}/{path}")
        assert answer.status_code == 404
        assert "u1" not in answer.text


def test_the_page_has_words_for_every_reason_to_leave_something_alone():
    words = set(re.findall(r"^  left_([a-z_]+): \[", (STATIC / "texts.js").read_text(), flags=re.MULTILINE))
    assert words == set(REASONS)
