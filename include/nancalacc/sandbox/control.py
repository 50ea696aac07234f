"""The control API under /_sandbox: what a test or a person with curl may see and change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from nancalacc.errors import NancalaccError, ObjectError, ObjectNotFoundError
from nancalacc.sandbox.callback import CallbackRules
from nancalacc.sandbox.consumer import ConsumerRules
from nancalacc.sandbox.dingtalk import DingTalkRules
from nancalacc.sandbox.faults import Fault
from nancalacc.sandbox.organisation import (
    ROOT_DEPT_ID,
    Organisation,
    User,
    demo_organisation,
    organisation_of_size,
)
from nancalacc.sandbox.robot import RobotRules
from nancalacc.sandbox.stream import StreamRules
from nancalacc.sandbox.wps import WpsRules

if TYPE_CHECKING:
    from nancalacc.sandbox.server import Sandbox

T = TypeVar("T")
PRIVATE = ("mobile", "telephone", "phone")
Answer = Mapping[str, Any]


class Control:
    """Routes over a running sandbox; every body and answer is JSON, a wrong request gets 400 or 404."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def add_routes(self, app: web.Application, *, prefix: str) -> None:
        """Add all routes of the control API."""
        routes: list[tuple[str, str, Callable[[web.Request, Any], Answer]]] = [
            ("GET", "", self._index),
            ("GET", "/faults", self._faults),
            ("POST", "/faults", self._add_faults),
            ("DELETE", "/faults", self._clear_faults),
            ("GET", "/settings", self._settings),
            ("PATCH", "/settings", self._change_settings),
            ("POST", "/tokens/expire", self._expire_tokens),
            ("GET", "/dingtalk", self._dingtalk),
            ("PUT", "/dingtalk", self._replace_organisation),
            ("POST", "/dingtalk/departments", self._add_department),
            ("PATCH", "/dingtalk/departments/{dept_id:[0-9]+}", self._modify_department),
            ("DELETE", "/dingtalk/departments/{dept_id:[0-9]+}", self._remove_department),
            ("POST", "/dingtalk/users", self._add_user),
            ("PATCH", "/dingtalk/users/{userid}", self._modify_user),
            ("DELETE", "/dingtalk/users/{userid}", self._remove_user),
            ("GET", "/events", self._events),
            ("POST", "/events", self._emit),
            ("POST", "/events/raw", self._send_raw),
            ("POST", "/events/disconnect", self._disconnect),
            ("POST", "/events/cut", self._cut),
            ("GET", "/robot", self._robot),
            ("GET", "/wps", self._wps),
            ("POST", "/wps/run", self._run),
            ("GET", "/compare", self._compare),
            ("GET", "/calls", self._calls),
            ("DELETE", "/calls", self._clear_calls),
            ("POST", "/reset", self._reset),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, prefix + path, _json_handler(handler))
        self._paths = [f"{method} {prefix}{path}" for method, path, _ in routes]
        app.router.add_route("*", f"{prefix}/{{rest:.*}}", _json_handler(_unknown))

    def _index(self, _request: web.Request, _body: Any) -> Answer:
        return {"paths": self._paths}

    def _faults(self, _request: web.Request, _body: Any) -> Answer:
        return {"faults": [asdict(fault) | {"seen": seen} for fault, seen in self._sandbox.faults.in_force()]}

    def _add_faults(self, request: web.Request, body: Any) -> Answer:
        for item in _listed(body):
            self._sandbox.faults.put(_made(Fault, item))
        return self._faults(request, None)

    def _clear_faults(self, request: web.Request, _body: Any) -> Answer:
        self._sandbox.faults.clear()
        return self._faults(request, None)

    def _settings(self, _request: web.Request, _body: Any) -> Answer:
        sandbox = self._sandbox
        return {
            "dingtalk": asdict(sandbox.dingtalk.rules),
            "wps": asdict(sandbox.wps.rules),
            "consumer": asdict(sandbox.consumer.rules),
            "stream": asdict(sandbox.stream.rules),
            "callback": asdict(sandbox.callback.rules),
            "robot": asdict(sandbox.robot.rules),
        }

    def _change_settings(self, request: web.Request, body: Any) -> Answer:
        """Change some settings; nothing is changed when one of them is wrong."""
        sandbox = self._sandbox
        known = set(self._settings(request, None))
        if not set(_dict(body)) <= known:
            raise ObjectError(f"Unknown settings: {sorted(set(body) - known)}; there are {sorted(known)}")
        dingtalk = _changed(sandbox.dingtalk.rules, DingTalkRules, _dict(body.get("dingtalk", {})))
        wps = _changed(sandbox.wps.rules, WpsRules, _dict(body.get("wps", {})))
        consumer = _changed(sandbox.consumer.rules, ConsumerRules, _dict(body.get("consumer", {})))
        stream = _changed(sandbox.stream.rules, StreamRules, _dict(body.get("stream", {})))
        callback = _changed(sandbox.callback.rules, CallbackRules, _dict(body.get("callback", {})))
        robot = _changed(sandbox.robot.rules, RobotRules, _dict(body.get("robot", {})))
        sandbox.stream.rules = stream
        sandbox.robot.rules = robot
        sandbox.callback.rules = callback
        sandbox.dingtalk.rules = dingtalk
        sandbox.wps.rules = wps
        sandbox.consumer.set_rules(consumer)
        return self._settings(request, None)

    def _expire_tokens(self, _request: web.Request, _body: Any) -> Answer:
        self._sandbox.dingtalk.expire_tokens()
        self._sandbox.wps.expire_tokens()
        return {}

    def _dingtalk(self, request: web.Request, _body: Any) -> Answer:
        organisation = self._sandbox.organisation
        counts = {
            "departments": len(organisation.departments),
            "users": len(organisation.users),
            "memberships": sum(len(user.placements) for user in list(organisation.users.values())),
        }
        if "counts" in request.query:
            return {"counts": counts}
        return {
            "counts": counts,
            "departments": [asdict(found) for found in list(organisation.departments.values())],
            "users": [_public(user) for user in list(organisation.users.values())],
        }

    def _replace_organisation(self, request: web.Request, body: Any) -> Answer:
        self._sandbox.dingtalk.organisation = _organisation(_dict(body))
        return {"counts": self._dingtalk(request, None)["counts"]}

    def _add_department(self, _request: web.Request, body: Any) -> Answer:
        return asdict(
            self._sandbox.organisation.add_department(**_typed(_dict(body), DEPARTMENT_TYPES, "name"))
        )

    def _modify_department(self, request: web.Request, body: Any) -> Answer:
        changes = _typed(_dict(body), DEPARTMENT_TYPES)
        return asdict(
            self._sandbox.organisation.modify_department(int(request.match_info["dept_id"]), **changes)
        )

    def _remove_department(self, request: web.Request, _body: Any) -> Answer:
        self._sandbox.organisation.remove_department(int(request.match_info["dept_id"]))
        return {}

    def _add_user(self, _request: web.Request, body: Any) -> Answer:
        return _public(self._sandbox.organisation.add_user(_made(User, body)))

    def _modify_user(self, request: web.Request, body: Any) -> Answer:
        organisation, userid = self._sandbox.organisation, request.match_info["userid"]
        wanted = _changed(organisation.user(userid), User, _dict(body))
        changes = {name: getattr(wanted, name) for name in _dict(body)}
        return _public(organisation.modify_user(userid, **changes))

    def _remove_user(self, request: web.Request, _body: Any) -> Answer:
        self._sandbox.organisation.remove_user(request.match_info["userid"])
        return {}

    def _events(self, _request: web.Request, _body: Any) -> Answer:
        stream, callback = self._sandbox.stream, self._sandbox.callback
        answers = list(stream.answers)
        return {
            "connections": stream.connections,
            "opened": stream.opened,
            "outstanding": len(stream.outstanding) + callback.outstanding,
            "answers": len(answers),
            "consumed": len(stream.consumed()),
            "refused": len([answer for answer in answers if answer.code and not answer.consumed]),
            "unanswered": len([answer for answer in answers if not answer.code]),
            "violations": list(stream.violations),
            "callbacks": len(callback.reactions),
            "callbacks_accepted": len([found for found in list(callback.reactions) if found.accepted]),
        }

    def _emit(self, request: web.Request, body: Any) -> Answer:
        """Deliver one event or a list of them over the Stream."""
        wanted = [_typed(_dict(item), EVENT_TYPES, "type") for item in _listed(body)]
        ids = [
            self._sandbox.stream.emit(
                item["type"], item.get("data", {}), event_id=item.get("event_id"), headers=item.get("headers")
            )
            for item in wanted
        ]
        return {"event_ids": ids}

    def _send_raw(self, request: web.Request, body: Any) -> Answer:
        self._sandbox.stream.send_raw(_typed(_dict(body), {"text": str}, "text")["text"])
        return self._events(request, None)

    def _disconnect(self, request: web.Request, _body: Any) -> Answer:
        self._sandbox.stream.disconnect()
        return self._events(request, None)

    def _cut(self, request: web.Request, _body: Any) -> Answer:
        self._sandbox.stream.cut()
        return self._events(request, None)

    def _robot(self, _request: web.Request, _body: Any) -> Answer:
        return {"messages": self._sandbox.robot.messages}

    def _wps(self, request: web.Request, _body: Any) -> Answer:
        consumer = self._sandbox.consumer
        directory = consumer.directory(request.query.get("third_company_id", ""))
        answer: dict[str, Any] = {
            "counts": {"departments": len(directory.departments), "users": len(directory.users)},
            "idle": consumer.idle(),
            "jobs": [
                {key: value for key, value in asdict(job).items() if key != "due"}
                for job in list(consumer.jobs)
            ],
            "runs": [
                asdict(run) | {"start": run.start.isoformat(), "end": run.end.isoformat()}
                for run in list(consumer.runs)
            ],
        }
        if "counts" not in request.query:
            answer["departments"] = [asdict(found) for found in list(directory.departments.values())]
            answer["users"] = [_public(user) for user in list(directory.users.values())]
        return answer

    def _run(self, request: web.Request, _body: Any) -> Answer:
        self._sandbox.consumer.run_now()
        return self._wps(request, None)

    def _compare(self, request: web.Request, _body: Any) -> Answer:
        root = request.query.get("root_dept_id", str(ROOT_DEPT_ID))
        if not root.isdecimal():
            raise ObjectError("root_dept_id must be a number")
        self._sandbox.organisation.department(int(root))
        found = self._sandbox.compare(
            root_dept_id=int(root),
            third_company_id=request.query.get("third_company_id", ""),
            accounts=request.query.get("accounts", "true") == "true",
        )
        return asdict(found)

    def _calls(self, request: web.Request, _body: Any) -> Answer:
        calls = self._sandbox.calls
        counts = calls.counts()
        answer: dict[str, Any] = {"total": sum(counts.values()), "calls": counts}
        if "timestamps" in request.query:
            answer["timestamps"] = {path: calls.times(path) for path in counts}
        return answer

    def _clear_calls(self, request: web.Request, _body: Any) -> Answer:
        self._sandbox.calls.clear()
        return self._calls(request, None)

    def _reset(self, request: web.Request, body: Any) -> Answer:
        self._sandbox.reset(organisation=_organisation(_dict(body)))
        return {"counts": self._dingtalk(request, None)["counts"]}


DEPARTMENT_TYPES: Mapping[str, Any] = {
    "name": str,
    "parent_id": int,
    "order": int,
    "dept_id": int,
    "managers": tuple[str, ...],
}
EVENT_TYPES: Mapping[str, Any] = {
    "type": str,
    "data": dict[str, Any] | str,
    "event_id": str,
    "headers": dict[str, str],
}
SIZE_TYPES: Mapping[str, Any] = {"people": int, "departments": int, "seed": int}


def _json_handler(
    handler: Callable[[web.Request, Any], Answer],
) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            values = json.loads(body) if body else {}
            # Some answers take seconds for a large organisation; the loop goes on serving meanwhile.
            found = await asyncio.to_thread(handler, request, values)
        except ObjectNotFoundError as error:
            return web.json_response({"error": str(error)}, status=404)
        except (NancalaccError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(found, dumps=_dumps)

    return answer


def _unknown(request: web.Request, _body: Any) -> Answer:
    raise ObjectNotFoundError(f"No {request.method} {request.path} here; GET /_sandbox lists what there is")


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _dict(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ObjectError("The body must be a JSON object")
    return body


def _listed(body: Any) -> list[Any]:
    return body if isinstance(body, list) else [body]


def _validated(kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ObjectError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _made(kind: type[T], body: Any) -> T:
    values = _dict(body)
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    if not set(values) <= known:
        raise ObjectError(f"Unknown keys {sorted(set(values) - known)}; there are {sorted(known)}")
    made: T = _validated(kind, values)
    return made


def _changed(before: T, kind: type[T], changes: Mapping[str, Any]) -> T:
    values = asdict(before)  # type: ignore[call-overload]
    for key, value in changes.items():
        nested = values.get(key)
        values[key] = nested | value if isinstance(nested, dict) and isinstance(value, dict) else value
    return _made(kind, values)


def _typed(values: Mapping[str, Any], types: Mapping[str, Any], *needed: str) -> dict[str, Any]:
    if not set(values) <= set(types) or not set(needed) <= set(values):
        raise ObjectError(f"Expected the keys {sorted(types)}, got {sorted(values)}")
    return {key: _validated(types[key], value) for key, value in values.items()}


def _organisation(body: Mapping[str, Any]) -> Organisation:
    wanted = _typed(body, SIZE_TYPES)
    seed = wanted.get("seed", 1)
    if "people" not in wanted:
        return demo_organisation(seed)
    return organisation_of_size(wanted["people"], departments=max(1, wanted.get("departments", 1)), seed=seed)


def _public(record: Any) -> dict[str, Any]:
    """A record without phone numbers, saying only whether there is one."""
    shown: dict[str, Any] = asdict(record)
    for name in PRIVATE:
        if name in shown:
            shown[f"has_{name}"] = bool(shown.pop(name))
    return shown
