"""The HTTP callback: a real server, a real database, and the sandbox as the sender."""

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import aiohttp
import httpx
import psycopg
import pytest
import uvicorn

from nancalacc.clients.callback_crypto import Sealed
from nancalacc.config import ConnectionInfo, DingTalkSettings, Settings
from nancalacc.errors import ConfigurationError
from nancalacc.sandbox.callback import ANSWER_SECONDS, CallbackRules, CallbackSender
from nancalacc.sandbox.postgres import Postgres
from nancalacc.web.app import create_app
from nancalacc.web.services import WebServices

RULES = CallbackRules()
APP = ConnectionInfo(
    "dingtalk_default",
    host="http://127.0.0.1:9",
    login="app",
    password="secret",
    extra={"callback_token": RULES.token, "callback_aes_secret": RULES.aes_secret},
)
VECTOR_APP = ConnectionInfo(
    "dingtalk_vector",
    host="http://127.0.0.1:9",
    login="dingtestappkey",
    password="secret",
    extra={
        "callback_token": "testtoken",
        "callback_aes_secret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
    },
)
EVENT = ("user_add_org", {"userId": ["研发-1"]})
OLD = "1700000000000"


class Site:
    """The app on a port, with connections a test may change and the inbox behind it."""

    def __init__(self, database_url: str) -> None:
        self.connections = {"dingtalk_default": APP}
        self.pairs = (("dingtalk_default", "wps_default"),)
        self.url = database_url
        self.resolved = 0
        self.services = WebServices(
            url=lambda: self.url,
            dingtalk_settings=self.settings,
            settings=lambda: Settings(companies=self.pairs),
        )
        self.inbox = psycopg.connect(database_url, autocommit=True)
        config = uvicorn.Config(create_app(self.services), port=0, log_config=None, lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)

    def settings(self, conn_id: str) -> DingTalkSettings:
        self.resolved += 1
        if conn_id not in self.connections:
            raise ConfigurationError(f"Connection {conn_id!r} is not defined")
        return DingTalkSettings.of(self.connections[conn_id])

    def start(self) -> None:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        # What is only done for the first request is not to count against DingTalk's 1500 ms.
        httpx.get(f"{self.base}/health", trust_env=False)

    def stop(self) -> None:
        if self.thread.is_alive():
            self.server.should_exit = True
            self.thread.join()
        self.services.close()
        self.inbox.close()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def sender(self, connection: ConnectionInfo = APP) -> CallbackSender:
        rules = replace(
            RULES,
            url=f"{self.base}/dingtalk/callback",
            token=connection.extra["callback_token"],
            aes_secret=connection.extra["callback_aes_secret"],
        )
        return CallbackSender(owner_key=connection.login, rules=rules)

    def rows(self) -> list[tuple]:
        return self.inbox.execute(
            "SELECT dingtalk_conn_id, event_type, object_ids, status FROM dingtalk_events ORDER BY id"
        ).fetchall()


@pytest.fixture(scope="module")
def module_database(postgres: Postgres, template_database: str) -> Iterator[str]:
    yield postgres.create_database("nancalacc_callback", template=template_database)
    postgres.drop_database("nancalacc_callback")


@pytest.fixture
def unstarted(module_database: str) -> Iterator[Site]:
    made = Site(module_database)
    made.inbox.execute("DELETE FROM dingtalk_events")
    yield made
    made.stop()


@pytest.fixture
def site(unstarted: Site) -> Site:
    unstarted.start()
    return unstarted


STORED = ("dingtalk_default", "user_add_org", ["研发-1"], "pending")


async def test_an_event_is_stored_and_answered(site):
    sender = site.sender()

    reaction = await sender.send(sender.message(*EVENT))

    assert reaction.accepted
    assert site.rows() == [STORED]


async def test_repetitions_are_answered_and_stored_once(site):
    sender = site.sender()
    message = sender.message(*EVENT)
    sealed = sender.sealed(message)

    reactions = [await sender.post(sealed), await sender.post(sealed), await sender.send(message)]

    assert all(reaction.accepted for reaction in reactions)
    assert site.rows() == [STORED]


async def test_the_url_check_is_answered_and_leaves_no_trace(site):
    assert (await site.sender().send(b'{"EventType":"check_url"}')).accepted
    assert site.rows() == []


async def test_the_older_form_with_other_capitals_is_read(site):
    content = {"CorpId": "c", "EventType": "user_leave_org", "UserId": ["u1"], "TimeStamp": "1685501863357"}

    assert (await site.sender().send(json.dumps(content).encode())).accepted
    assert site.rows() == [("dingtalk_default", "user_leave_org", ["u1"], "pending")]


@pytest.mark.parametrize("diff", [{"userid": "u1", "curr": {}}, [{"userid": "u1", "prev": {}}]])
async def test_differences_may_be_an_object_or_a_list(site, diff):
    sender = site.sender()

    assert (
        await sender.send(sender.message("user_modify_org", {"userId": ["u1"], "diffInfo": diff}))
    ).accepted
    assert [row[2:] for row in site.rows()] == [(["u1"], "pending")]


@pytest.mark.parametrize(
    "wrong, status",
    [
        ({"token": "another"}, 403),
        ({"aes_secret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}, 403),
        ({"owner_key": "another-app"}, 403),
        ({"timestamp": OLD}, 403),
        ({"timestamp": "soon"}, 403),
    ],
)
async def test_refuses_what_is_not_from_dingtalk(site, wrong, status, caplog):
    sender = site.sender()

    reaction = await sender.send(sender.message(*EVENT), **wrong)

    assert reaction.status == status
    assert site.rows() == []
    assert "研发-1" not in caplog.text
    assert RULES.token not in caplog.text


@pytest.mark.parametrize(
    "change", [{"signature": "0" * 40}, {"signature": "é"}, {"nonce": "other"}, {"encrypt": "AAAA"}]
)
async def test_refuses_a_changed_request(site, change):
    sender = site.sender()
    sealed = sender.sealed(sender.message(*EVENT))

    assert (await sender.post(replace(sealed, **change))).status == 403
    assert site.rows() == []


async def test_refuses_bad_padding_under_a_good_signature(site):
    sender = site.sender()
    crypto = sender._crypto()
    timestamp = str(int(time.time() * 1000))
    signature = crypto.signature(timestamp=timestamp, nonce="n", encrypt="AAAA" * 16)

    reaction = await sender.post(Sealed(signature, timestamp, "n", "AAAA" * 16))

    assert reaction.status == 403


@pytest.mark.parametrize("content", [b"\xff\xfe\x80", b"{", b"[]", b'{"userId": ["u1"]}'])
async def test_damaged_content_under_a_good_signature_is_refused_and_kept_dead(site, content):
    sender = site.sender()

    assert (await sender.send(content)).status == 400
    assert [row[1:] for row in site.rows()] == [("", [], "dead")]


async def test_an_event_that_names_nobody_is_kept_dead_and_does_not_come_again(site):
    sender = site.sender()

    assert (await sender.send(sender.message("user_add_org", {"userId": []}))).accepted
    assert [row[1:] for row in site.rows()] == [("user_add_org", [], "dead")]


async def post(site: Site, body: bytes, query: str = "?signature=a&timestamp=1&nonce=n") -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{site.base}/dingtalk/callback{query}", data=io.BytesIO(body)) as answer,
    ):
        await answer.read()
        return answer.status


@pytest.mark.parametrize(
    "body, status",
    [
        (b"", 400),
        (b"\xff\xfe", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"encrypt": null}', 400),
        (b'{"encrypt": {"a": 1}}', 403),
        (b'{"encrypt": "x"}', 403),
        (b"x" * 10_000_000, 413),
    ],
)
async def test_refuses_other_bodies(site, body, status):
    assert await post(site, body) == status
    assert site.rows() == []


@pytest.mark.parametrize(
    "query", ["", "?signature=a&timestamp=1", "?timestamp=1&nonce=n", "?signature=a&nonce=n"]
)
async def test_refuses_a_query_that_lacks_something(site, query):
    assert await post(site, b'{"encrypt": "x"}', query) == 400


@pytest.mark.parametrize("missing", ["callback_token", "callback_aes_secret"])
async def test_without_token_or_key_there_is_nothing_here(site, missing):
    sender = site.sender()
    extra = {key: value for key, value in APP.extra.items() if key != missing}
    site.connections["dingtalk_default"] = replace(APP, extra=extra)

    assert (await sender.send(sender.message(*EVENT))).status == 404


@pytest.mark.parametrize("extra", [{"callback_token": "t", "callback_aes_secret": "short"}, None])
async def test_a_wrong_connection_takes_nothing_and_is_named_in_the_log(site, extra, caplog):
    sender = site.sender()
    if extra is None:
        site.connections.clear()
    else:
        site.connections["dingtalk_default"] = replace(APP, extra=extra)

    assert (await sender.send(sender.message(*EVENT))).status == 404
    assert "No callbacks for connection dingtalk_default" in caplog.text


async def test_connections_are_not_read_for_every_callback(site):
    sender = site.sender()
    for _ in range(3):
        await sender.send(sender.message(*EVENT))

    assert site.resolved == 1
    assert len(site.rows()) == 3


async def test_connections_that_cannot_be_read_now_mean_later(site, caplog):
    def fail(_conn_id: str) -> DingTalkSettings:
        raise RuntimeError("postgresql://user:password@host")

    site.services.dingtalk_settings = fail

    assert (await site.sender().send(b"{}")).status == 500
    assert "password" not in caplog.text
    site.services.dingtalk_settings = site.settings
    sender = site.sender()
    assert (await sender.send(sender.message(*EVENT))).accepted


async def test_the_signature_tells_the_company(unstarted):
    unstarted.connections |= {
        "dingtalk_vector": VECTOR_APP,
        "dingtalk_twin": replace(APP, conn_id="dingtalk_twin"),
        "dingtalk_neighbour": replace(APP, conn_id="dingtalk_neighbour", login="another-app"),
    }
    unstarted.pairs = tuple((conn_id, f"wps_{conn_id}") for conn_id in [*unstarted.connections, "missing"])
    unstarted.start()
    first, second = unstarted.sender(), unstarted.sender(VECTOR_APP)

    assert (await first.send(first.message(*EVENT))).accepted
    assert [row[0] for row in unstarted.rows()] == ["dingtalk_default", "dingtalk_twin"]
    assert (await second.send(second.message(*EVENT))).accepted
    assert unstarted.rows()[2][0] == "dingtalk_vector"


async def test_without_the_database_the_answer_is_500_until_it_is_back(unstarted, module_database, caplog):
    unstarted.url = "postgresql://nobody@127.0.0.1:9/none"
    unstarted.start()
    sender = unstarted.sender()
    message = sender.message(*EVENT)

    reaction = await sender.send(message)
    assert (reaction.status, reaction.message) == (500, "")
    assert "outcome=later" in caplog.text
    unstarted.services._database.close()
    unstarted.services._database = None
    unstarted.url = module_database
    assert (await sender.send(message)).accepted
    assert unstarted.rows() == [STORED]


async def test_a_database_that_hangs_means_500_in_time(site):
    sender = site.sender()
    with psycopg.connect(site.url) as blocker:
        blocker.execute("LOCK TABLE dingtalk_events")
        reaction = await sender.send(sender.message(*EVENT))

    assert reaction.status == 500
    assert reaction.seconds <= ANSWER_SECONDS


async def test_events_are_logged_without_their_content(site, caplog):
    sender = site.sender()
    with caplog.at_level(logging.INFO):
        await sender.send(sender.message(*EVENT))

    assert "type=user_add_org outcome=stored" in caplog.text
    assert "研发-1" not in caplog.text


async def get(site: Site, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(site.base + path) as answer:
        return answer.status, await answer.text()


async def test_health_says_whether_the_database_works_and_nothing_else(site):
    assert await get(site, "/health") == (200, '{"status":"healthy"}')
    with psycopg.connect(site.url) as other:
        other.execute("ALTER TABLE nancalacc_alembic_version RENAME TO hidden")
        other.commit()
        assert await get(site, "/health") == (503, '{"status":"unhealthy"}')
        other.execute("ALTER TABLE hidden RENAME TO nancalacc_alembic_version")


async def test_health_without_a_database_or_connection(unstarted):
    def fail() -> str:
        raise RuntimeError("no secrets backend")

    unstarted.services._url = fail
    unstarted.start()

    assert await get(unstarted, "/health") == (503, '{"status":"unhealthy"}')
    unstarted.services._url = lambda: "postgresql://nobody@127.0.0.1:9/none"
    assert await get(unstarted, "/health") == (503, '{"status":"unhealthy"}')


@pytest.mark.parametrize(
    "path, status", [("/docs", 404), ("/redoc", 404), ("/openapi.json", 401), ("/sagas", 401)]
)
async def test_there_is_nothing_to_read_without_a_login(site, path, status):
    assert (await get(site, path))[0] == status
