"""A small organisation behind a running sandbox, and clients that speak each API family."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from nancalacc.config import Signature
from nancalacc.sandbox.organisation import Organisation, Placement, User
from nancalacc.sandbox.server import Sandbox, SandboxOptions
from nancalacc.sandbox.wps import WpsRules


def small_organisation() -> Organisation:
    """Root, 研发部 (100) with 一组 (110), 市场部 (200); seven users, u0 in two departments."""
    organisation = Organisation(name="公司")
    organisation.add_department("研发部", dept_id=100, order=10)
    organisation.add_department("一组", dept_id=110, parent_id=100, order=5_000_000_000)
    organisation.add_department("市场部", dept_id=200, order=20)
    for number in range(6):
        placements = [Placement(100, number, number == 0)]
        if number == 0:
            placements.append(Placement(200, 6_000_000_000))
        organisation.add_user(
            User(
                userid=f"u{number}",
                name=f"员工{number}",
                placements=tuple(placements),
                mobile=f"1990000000{number}",
                email=f"u{number}@example.com",
                job_number=str(number),
                manager_userid="u0" if number else None,
                active=number != 5,
            )
        )
    organisation.add_user(User(userid="boss", name="总", placements=(Placement(1),)))
    return organisation


class DingTalkCaller:
    """Calls the old family with a token in the query, as it must be."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session

    async def token(self) -> str:
        query = {"appkey": self.sandbox.options.app_key, "appsecret": self.sandbox.options.app_secret}
        async with self.session.get(f"{self.sandbox.url}/gettoken", params=query) as response:
            return str((await response.json())["access_token"])

    async def __call__(self, path: str, **body):
        token = await self.token()
        async with self.session.post(
            f"{self.sandbox.url}/{path}", params={"access_token": token}, json=body
        ) as response:
            assert response.status == 200
            return await response.json()


class WpsCaller:
    """Calls WPS with a bearer token and no signature."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session

    async def token(self) -> str:
        form = {
            "grant_type": "client_credentials",
            "client_id": self.sandbox.options.client_id,
            "client_secret": self.sandbox.options.client_secret,
        }
        async with self.session.post(f"{self.sandbox.url}/openapi/oauth2/token", data=form) as response:
            return str((await response.json())["access_token"])

    async def __call__(self, method: str, path: str, **arguments):
        headers = {"Authorization": f"Bearer {await self.token()}"}
        async with self.session.request(
            method, f"{self.sandbox.url}/openapi{path}", headers=headers, **arguments
        ) as response:
            return response.status, await response.json()


@pytest.fixture
def organisation() -> Organisation:
    return small_organisation()


@pytest.fixture
async def sandbox(organisation: Organisation) -> AsyncIterator[Sandbox]:
    options = SandboxOptions(wps=WpsRules(signature=Signature.NONE))
    async with Sandbox(organisation=organisation, options=options) as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as opened:
        yield opened


@pytest.fixture
def dingtalk(sandbox: Sandbox, session: aiohttp.ClientSession) -> DingTalkCaller:
    return DingTalkCaller(sandbox, session)


@pytest.fixture
def wps(sandbox: Sandbox, session: aiohttp.ClientSession) -> WpsCaller:
    return WpsCaller(sandbox, session)
