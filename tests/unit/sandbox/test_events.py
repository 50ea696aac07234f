"""Events of the sandbox's DingTalk: the Stream gateway, HTTP callbacks, and what makes them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from nancalacc.clients.callback_crypto import CallbackCrypto, Sealed
from nancalacc.sandbox.callback import CallbackRules
from nancalacc.sandbox.organisation import Organisation, Placement, User
from nancalacc.sandbox.stream import StreamRules

OPEN = "/v1.0/gateway/connections/open"
SUBSCRIPTIONS = [{"type": "EVENT", "topic": "*"}]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - conditions of another thread set no event
            await asyncio.sleep(0.01)


@pytest.fixture
def opened(sandbox, session):
    """Asks for an endpoint and a ticket."""

    async def call(**changes):
        body = {
            "clientId": sandbox.options.app_key,
            "clientSecret": sandbox.options.app_secret,
            "subscriptions": SUBSCRIPTIONS,
        } | changes
        async with session.post(sandbox.url + OPEN, json=body) as response:
            return response.status, await response.json()

    return call


@pytest.fixture
async def socket(sandbox, session, opened) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    sandbox.stream.rules = StreamRules(redelivery=0.2, close_after_disconnect=0.1)
    _, answer = await opened()
    async with session.ws_connect(answer["endpoint"], params={"ticket": answer["ticket"]}) as connected:
        yield connected


async def answer(socket, frame, *, code=200, data="{}", **changes) -> None:
    headers = {"messageId": frame["headers"].get("messageId"), "contentType": "application/json"}
    await socket.send_json({"code": code, "message": "OK", "headers": headers, "data": data} | changes)


class TestOpening:
    @pytest.mark.parametrize(
        "changes",
        [{"clientSecret": "wrong"}, {"clientId": None}, {"subscriptions": []}, {"subscriptions": None}],
    )
    async def test_refuses_others(self, opened, changes):
        assert (await opened(**changes))[0] == 400

    async def test_a_ticket_is_for_one_connection(self, opened, session):
        _, found = await opened()
        async with session.ws_connect(found["endpoint"], params={"ticket": found["ticket"]}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(found["endpoint"], params={"ticket": found["ticket"]})
        assert caught.value.status == 401

    async def test_a_ticket_ends(self, sandbox, opened, session):
        sandbox.stream.rules = StreamRules(ticket_lifetime=0)
        _, found = await opened()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(found["endpoint"], params={"ticket": found["ticket"]})

    async def test_a_ticket_must_be_encoded(self, opened, session):
        _, found = await opened()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{found['endpoint']}?ticket={found['ticket'].replace(' ', '%20')}")


class TestDelivery:
    async def test_headers_and_data_are_texts(self, sandbox, socket):
        event_id = sandbox.stream.emit("user_add_org", {"userId": ["研发"]})
        frame = await socket.receive_json()

        assert (frame["type"], frame["headers"]["eventId"]) == ("EVENT", event_id)
        assert all(isinstance(value, str) for value in frame["headers"].values())
        assert json.loads(frame["data"]) == {"userId": ["研发"]}

    @pytest.mark.parametrize(
        "code, data",
        [(200, '{"status": "SUCCESS"}'), (200, "{}"), (200, ""), (200, '{"userId": ["u1"]}')],
    )
    async def test_consumed_is_not_sent_again(self, sandbox, socket, code, data):
        sandbox.stream.emit("user_add_org", {})
        await answer(socket, await socket.receive_json(), code=code, data=data)
        await until(lambda: not sandbox.stream.outstanding)

        with pytest.raises(TimeoutError):
            await socket.receive(timeout=0.4)
        assert sandbox.stream.violations == []

    @pytest.mark.parametrize(
        "code, data, violation",
        [
            (200, '{"status": "LATER"}', False),
            (500, '{"status": "LATER"}', False),
            (500, '{"status": "SUCCESS"}', False),
            (404, "{}", False),
            (200, "no json", True),
            (200, "[]", True),
            (200, {"status": "SUCCESS"}, True),
            ("200", "{}", True),
            (None, None, True),
        ],
    )
    async def test_anything_else_is_delivered_again_with_another_message_id(
        self, sandbox, socket, code, data, violation
    ):
        sandbox.stream.emit("user_add_org", {})
        first = await socket.receive_json()
        await answer(socket, first, code=code, data=data)
        second = await socket.receive_json(timeout=5)

        assert second["headers"]["eventId"] == first["headers"]["eventId"]
        assert second["headers"]["eventBornTime"] == first["headers"]["eventBornTime"]
        assert second["headers"]["messageId"] != first["headers"]["messageId"]
        assert bool(sandbox.stream.violations) is violation

    async def test_no_answer_means_again_on_another_connection_too(self, sandbox, socket, session, opened):
        sandbox.stream.emit("user_add_org", {})
        await socket.receive_json()
        await socket.close()
        _, found = await opened()
        async with session.ws_connect(found["endpoint"], params={"ticket": found["ticket"]}) as second:
            await answer(second, await second.receive_json(timeout=5))
            await until(lambda: not sandbox.stream.outstanding)
        assert [found.code for found in sandbox.stream.answers] == [0, 200]

    async def test_an_event_waits_for_a_client(self, sandbox, session, opened):
        sandbox.stream.emit("user_add_org", {})
        await asyncio.sleep(0.05)
        _, found = await opened()
        async with session.ws_connect(found["endpoint"], params={"ticket": found["ticket"]}) as late:
            await answer(late, await late.receive_json(timeout=5))
            await until(lambda: not sandbox.stream.outstanding)

    async def test_duplicates_and_disorder_on_demand(self, sandbox, socket):
        sandbox.stream.rules = replace(sandbox.stream.rules, duplicates=1, disorder=0.2)
        sent = [sandbox.stream.emit("user_add_org", {}) for _ in range(10)]
        seen = []
        for _ in range(20):
            frame = await socket.receive_json(timeout=5)
            seen.append(frame["headers"]["eventId"])
            await answer(socket, frame)

        assert sorted(seen) == sorted(sent * 2)
        assert list(dict.fromkeys(seen)) != sent

    async def test_several_connections_share_events(self, sandbox, socket, session, opened):
        _, found = await opened()
        async with session.ws_connect(found["endpoint"], params={"ticket": found["ticket"]}) as second:
            counts = [0, 0]

            async def serve(position, connected):
                async for message in connected:
                    counts[position] += 1
                    await answer(connected, message.json())

            tasks = [asyncio.create_task(serve(*each)) for each in enumerate((socket, second))]
            for _ in range(40):
                sandbox.stream.emit("user_add_org", {})
            await until(lambda: not sandbox.stream.outstanding)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        assert sum(counts) == 40
        assert all(counts)


class TestSystemFrames:
    async def test_a_ping_wants_its_echo(self, sandbox, socket):
        for data in ("same", "wrong"):
            sandbox.stream.ping()
            frame = await socket.receive_json()
            await answer(socket, frame, data=frame["data"] if data == "same" else "{}")
        await until(lambda: sandbox.stream.violations)

        assert sandbox.stream.violations == ["a ping without its echo"]

    async def test_a_client_asked_to_leave_gets_no_more_events_and_is_closed(self, sandbox, socket):
        sandbox.stream.disconnect()
        frame = await socket.receive_json()
        sandbox.stream.emit("user_add_org", {})

        assert (frame["type"], frame["headers"]["topic"]) == ("SYSTEM", "disconnect")
        assert "messageId" not in frame["headers"]
        assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE

    async def test_connections_are_pinged_and_end_by_rule(self, sandbox, session, opened):
        sandbox.stream.rules = StreamRules(ping=0.05, lifetime=0.3, redelivery=0.1)
        _, found = await opened()
        topics = set()
        async with session.ws_connect(found["endpoint"], params={"ticket": found["ticket"]}) as connected:
            while topics != {"ping", "disconnect"}:
                topics.add((await connected.receive_json(timeout=5))["headers"]["topic"])


class TestCallbacks:
    @pytest.fixture
    async def receiver(self, sandbox) -> AsyncIterator[list[dict]]:
        """Accepts every second callback, and notes what it got."""
        got: list[dict] = []
        rules = sandbox.options.callback

        async def receive(request: web.Request) -> web.Response:
            query, body = request.query, await request.json()
            crypto = CallbackCrypto(
                token=rules.token, aes_secret=rules.aes_secret, owner_key=sandbox.options.app_key
            )
            sealed = Sealed(query["msg_signature"], query["timestamp"], query["nonce"], body["encrypt"])
            assert crypto.verifies(sealed)
            got.append(json.loads(crypto.open(sealed.encrypt)))
            if len(got) % 2:
                return web.Response(status=500)
            success = crypto.seal(b"success", timestamp="1", nonce="n")
            return web.json_response(
                {
                    "msg_signature": success.signature,
                    "timeStamp": success.timestamp,
                    "nonce": success.nonce,
                    "encrypt": success.encrypt,
                }
            )

        app = web.Application()
        app.router.add_post("/", receive)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        sandbox.callback.rules = CallbackRules(
            url=f"http://127.0.0.1:{runner.addresses[0][1]}/", redelivery=0.05, emit=True
        )
        yield got
        await runner.cleanup()

    async def test_changes_are_sent_until_accepted(self, sandbox, receiver):
        sandbox.organisation.modify_user("u1", name="新")
        await until(lambda: sandbox.callback.reactions and not sandbox.callback.outstanding)

        assert [reaction.accepted for reaction in sandbox.callback.reactions] == [False, True]
        assert receiver[0] == receiver[1]
        assert (receiver[0]["EventType"], receiver[0]["userId"]) == ("user_modify_org", ["u1"])

    async def test_an_answer_that_is_not_encrypted_is_not_accepted(self, sandbox):
        sandbox.callback.rules = CallbackRules(url=f"{sandbox.url}/_sandbox")

        reaction = await sandbox.callback.send(sandbox.callback.message("check_url", {}))
        assert (reaction.status, reaction.accepted) == (200, False)

    async def test_nobody_there_is_no_answer(self, sandbox):
        sandbox.callback.rules = CallbackRules(url="http://127.0.0.1:9/")

        assert (await sandbox.callback.send(b"{}")).status == 0


class TestChanges:
    def test_an_organisation_tells_every_change(self):
        told: list[tuple[str, dict]] = []
        organisation = Organisation()
        organisation.observer = lambda event_type, data: told.append((event_type, dict(data)))
        organisation.add_department("部", dept_id=5)
        organisation.modify_department(5, name="组")
        organisation.add_user(User("u1", "甲", (Placement(5),), active=False))
        organisation.modify_user("u1", active=True)
        organisation.move_user("u1", placements=[Placement(1)])
        organisation.remove_user("u1")
        organisation.remove_department(5)

        assert told == [
            ("org_dept_create", {"deptId": [5]}),
            ("org_dept_modify", {"deptId": [5]}),
            ("user_add_org", {"userId": ["u1"]}),
            ("user_active_org", {"userId": ["u1"]}),
            ("user_modify_org", {"userId": ["u1"]}),
            ("user_leave_org", {"userId": ["u1"]}),
            ("org_dept_remove", {"deptId": [5]}),
        ]

    async def test_changes_become_events_only_where_the_rules_say_so(self, sandbox):
        sandbox.organisation.remove_user("u1")
        assert sandbox.stream.outstanding == []
        sandbox.stream.rules = StreamRules(emit=True)
        before = sandbox.organisation
        sandbox.organisation.remove_user("u2")
        sandbox.dingtalk.organisation = Organisation()
        sandbox.organisation.add_department("部")
        before.remove_user("u3")

        assert len(sandbox.stream.outstanding) == 2
        sandbox.reset(organisation=Organisation())
        sandbox.organisation.add_department("部")
        assert sandbox.stream.outstanding == []


class TestControl:
    @pytest.fixture
    def control(self, sandbox, session):
        async def call(method, path, body=None, *, status=200):
            async with session.request(method, f"{sandbox.url}/_sandbox{path}", json=body) as response:
                found = await response.json()
                assert response.status == status, found
                return found

        return call

    async def test_sends_events_and_tells_what_became_of_them(self, sandbox, control, socket):
        given = [
            {"type": "user_add_org", "data": {"userId": ["u1"]}},
            {"type": "x", "data": "", "event_id": "e"},
        ]
        ids = (await control("POST", "/events", given))["event_ids"]
        assert ids[1] == "e"
        for _ in given:
            await answer(socket, await socket.receive_json())
        await until(lambda: not sandbox.stream.outstanding)
        await control("POST", "/events/raw", {"text": "garbage"})
        assert (await socket.receive()).data == "garbage"
        counts = await control("GET", "/events")

        assert (counts["connections"], counts["outstanding"], counts["consumed"]) == (1, 0, 2)

    async def test_disconnects_and_cuts(self, control, socket):
        await control("POST", "/events/disconnect")
        assert (await socket.receive_json())["headers"]["topic"] == "disconnect"
        await control("POST", "/events/cut")
        assert (await socket.receive(timeout=5)).type is not aiohttp.WSMsgType.TEXT

    async def test_changes_the_rules(self, sandbox, control):
        await control("PATCH", "/settings", {"stream": {"emit": True}, "callback": {"url": "http://x"}})

        assert sandbox.stream.rules == StreamRules(emit=True)
        assert sandbox.callback.rules.url == "http://x"

    @pytest.mark.parametrize(
        "path, body",
        [("/events", {"data": {}}), ("/events", {"type": "x", "what": 1}), ("/events/raw", {"text": 1})],
    )
    async def test_wrong_orders_are_refused(self, control, path, body):
        assert (await control("POST", path, body, status=400))["error"]
