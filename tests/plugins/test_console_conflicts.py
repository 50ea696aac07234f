"""What the console's API says is held back."""

from base64 import urlsafe_b64encode

import httpx
import pytest

from console_rows import Rows
from plugins.conftest import Rights


@pytest.fixture
def held(rows: Rows) -> Rows:
    saga = rows.saga("a")
    rows.saga("b", company="tenant-2")
    rows.conflict("mobile", "u1")
    rows.conflict("email", "u1")
    rows.conflict("name", "300", other="200", saga=saga)
    rows.conflict("place", "u2", other=None, company="tenant-2")
    return rows


async def test_conflicts_are_listed_in_pages_with_their_counts(client: httpx.AsyncClient, held: Rows):
    found, cursor = [], None
    while True:
        query = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/conflicts", params=query)).json()
        found += [(each["third_company_id"], each["kind"], each["key"]) for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == [
        ("tenant-1", "email", "u1"),
        ("tenant-1", "mobile", "u1"),
        ("tenant-1", "name", "300"),
        ("tenant-2", "place", "u2"),
    ]
    assert page["counts"] == {"email": 1, "mobile": 1, "name": 1, "place": 1}


async def test_a_conflict_names_what_clashes_since_when_and_who_found_it(
    client: httpx.AsyncClient, held: Rows
):
    page = (await client.get("/conflicts", params={"kind": "name", "company": "tenant-1"})).json()
    [found] = page["items"]
    assert found["since"].endswith("Z")
    del found["since"]
    assert found == {
        "third_company_id": "tenant-1",
        "kind": "name",
        "key": "300",
        "other": "200",
        "reason": "has the name of 200: it is left empty in WPS",
        "transaction_id": held.made[0],
    }
    assert page["counts"] == {"email": 1, "mobile": 1, "name": 1}


@pytest.mark.parametrize(
    "query, status",
    [
        ("kind=gone", 422),
        ("limit=0", 422),
        ("company=%00", 422),
        ("cursor=%20", 422),
        ("cursor=x", 400),
        ("cursor=e30=", 400),
        ("cursor=WzFd", 400),
        ("cursor=WyJcdWQ4MDAiLCJhIiwiYiJd", 400),
        (f"cursor={urlsafe_b64encode(b'[' * 1400).decode()}", 400),
    ],
)
async def test_what_cannot_be_understood_is_refused(client: httpx.AsyncClient, query: str, status: int):
    assert (await client.get(f"/conflicts?{query}")).status_code == status


async def test_who_may_see_none_of_the_dags_sees_no_conflicts(
    client: httpx.AsyncClient, held: Rows, rights: Rights
):
    rights.methods = set()
    assert (await client.get("/conflicts")).status_code == 403
