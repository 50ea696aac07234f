"""DingTalk's contact API, as strict as the real one [dt 0-4]."""

from __future__ import annotations

import json
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from nancalacc.sandbox.faults import Family, wrapped_error
from nancalacc.sandbox.organisation import UNIONID_PREFIX, Department, Organisation, Placement, User

TOKEN_HEADER = "x-acs-dingtalk-access-token"
ORDER_FIELDS = {"entry_asc", "entry_desc", "modify_asc", "modify_desc", "custom"}
AUTH_FIELDS = ["mobile", "email", "job_number"]


@dataclass(frozen=True, slots=True)
class DingTalkRules:
    """What a test may change about the app and its permissions.

    `calls_per_second` is the limit of each API path in a sliding second (0: none); `omitted` are
    fields left out for want of a permission; `token_lifetime` is in seconds.
    """

    calls_per_second: int = 20
    token_lifetime: float = 7200
    authed_dept: tuple[int, ...] = (1,)
    authed_user: tuple[str, ...] = ()
    omitted: frozenset[str] = frozenset()


class AnswerError(Exception):
    """An answer with an error code; `wrapped` puts it under 88 as the gateway does [dt 3]."""

    def __init__(self, code: str, message: str, *, wrapped: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.wrapped = wrapped


def family_of(path: str) -> Family:
    """The API family of a DingTalk path."""
    return Family.NEW if path.startswith("/v1.0/") else Family.OLD


class DingTalk:
    """Both API families over one organisation, for one app."""

    def __init__(
        self,
        organisation: Organisation,
        *,
        app_key: str,
        app_secret: str,
        rules: DingTalkRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        observer: Callable[[str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._organisation = organisation
        self._organisation.observer = self._observer = observer
        self.rules = rules or DingTalkRules()
        self._app_key = app_key
        self._app_secret = app_secret
        self._clock = clock
        self._tokens: dict[str, float] = {}
        self._admitted: dict[str, deque[float]] = defaultdict(deque)
        self._apis: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
            "/topapi/v2/department/listsub": self._listsub,
            "/topapi/v2/department/listsubid": self._listsubid,
            "/topapi/v2/department/get": self._department_get,
            "/topapi/v2/user/list": self._user_list,
            "/topapi/user/listid": self._listid,
            "/topapi/user/listsimple": self._listsimple,
            "/topapi/v2/user/get": self._user_get,
            "/topapi/user/getbyunionid": self._getbyunionid,
        }

    @property
    def organisation(self) -> Organisation:
        """The organisation that is served."""
        return self._organisation

    @organisation.setter
    def organisation(self, organisation: Organisation) -> None:
        """Serve another one; the change itself is no event."""
        self._organisation.observer = None
        self._organisation = organisation
        self._organisation.observer = self._observer

    def expire_tokens(self) -> None:
        """Let every token end now; the next request for one gives a new one."""
        self._tokens = dict.fromkeys(self._tokens, self._clock())

    def reset(self) -> None:
        """Forget tokens and the calls of the last second."""
        self._tokens.clear()
        self._admitted.clear()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one call of either family."""
        if family_of(request.path) is Family.NEW:
            return self._answer_new(request, body=_object(await request.read()))
        try:
            answer = self._answer_old(request, body=await request.read())
        except AnswerError as error:
            text = str(error)
            if error.wrapped:
                return web.json_response(wrapped_error(error.code, text))
            return web.json_response(
                {"errcode": int(error.code), "errmsg": text, "request_id": _request_id()}
            )
        return web.json_response({"errcode": 0, "errmsg": "ok", "request_id": _request_id()} | answer)

    def _answer_old(self, request: web.Request, *, body: bytes) -> dict[str, Any]:
        path, query = request.path, request.query
        if path not in self._apis and path not in {"/gettoken", "/auth/scopes"}:
            raise AnswerError("22" if path.startswith("/topapi/") else "404", "请求的URI地址不存在")
        if request.method != ("POST" if path in self._apis else "GET"):
            raise AnswerError("40035", "不合法的参数: http method")
        if path == "/gettoken":
            self._count(path)
            token = self._old_token(query)
            return {"access_token": token, "expires_in": int(self.rules.token_lifetime)}
        self._check_old_token(query.get("access_token", ""))
        self._count(path)
        if path == "/auth/scopes":
            return {
                "auth_user_field": [name for name in AUTH_FIELDS if name not in self.rules.omitted],
                "condition_field": [],
                "auth_org_scopes": {
                    "authed_dept": list(self.rules.authed_dept),
                    "authed_user": list(self.rules.authed_user),
                },
            }
        values = _object(body)
        if values is None:
            raise AnswerError("40035", "不合法的参数: body is not a JSON object")
        if values.get("language", "zh_CN") not in {"zh_CN", "en_US"}:
            raise AnswerError("40035", "不合法的参数: language")
        return {"result": self._apis[path](values)}

    def _answer_new(self, request: web.Request, *, body: Mapping[str, Any] | None) -> web.Response:
        if request.path == "/v1.0/oauth2/accessToken" and request.method == "POST":
            if not self._admit(request.path):
                return _new_error(403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi")
            values = body or {}
            if not values.get("appKey") or not values.get("appSecret"):
                return _new_error(400, "MissingParameter")
            if not self._is_app(values["appKey"], values["appSecret"]):
                return _new_error(400, "invalidClientIdOrSecret")
            return web.json_response(
                {"accessToken": self._issue(), "expireIn": int(self.rules.token_lifetime)}
            )
        token = request.headers.get(TOKEN_HEADER, "")
        if not token:
            return _new_error(400, "AuthenticationFailed.MissingParameter")
        if self._tokens.get(token, self._clock()) <= self._clock():
            return _new_error(400, "InvalidAuthentication")
        return _new_error(404, "InvalidAction.NotFound")

    def _is_app(self, app_key: object, app_secret: object) -> bool:
        given = f"{app_key}\n{app_secret}".encode()
        return secrets.compare_digest(given, f"{self._app_key}\n{self._app_secret}".encode())

    def _old_token(self, query: Mapping[str, str]) -> str:
        app_key, app_secret = query.get("appkey"), query.get("appsecret")
        if not app_key or not app_secret:
            raise AnswerError("40035", "不合法的参数: appkey, appsecret")
        if not self._is_app(app_key, app_secret):
            raise AnswerError("40089", "不合法的corpid或corpsecret")
        return self._issue()

    def _issue(self) -> str:
        now = self._clock()
        valid = [token for token, end in self._tokens.items() if end > now]
        token = valid[0] if valid else secrets.token_hex(16)
        self._tokens[token] = now + self.rules.token_lifetime
        return token

    def _check_old_token(self, token: str) -> None:
        if not token:
            raise AnswerError("40000", "access_token is blank", wrapped=True)
        end = self._tokens.get(token)
        if end is None:
            raise AnswerError("40014", "不合法的access_token", wrapped=True)
        if end <= self._clock():
            raise AnswerError("42001", "access_token超时", wrapped=True)

    def _admit(self, path: str) -> bool:
        limit, now = self.rules.calls_per_second, self._clock()
        admitted = self._admitted[path]
        while admitted and admitted[0] <= now - 1:
            admitted.popleft()
        if limit and len(admitted) >= limit:
            return False
        admitted.append(now)
        return True

    def _count(self, path: str) -> None:
        if not self._admit(path):
            raise AnswerError("90018", "您的服务器调用钉钉开放平台所有接口的请求都被暂时禁用了", wrapped=True)

    def _visible(self, dept_id: int) -> bool:
        if 1 in self.rules.authed_dept:
            return True
        place: int | None = dept_id
        while place is not None:
            if place in self.rules.authed_dept:
                return True
            place = self.organisation.departments[place].parent_id
        return False

    def _department(self, values: Mapping[str, Any]) -> Department:
        dept_id = _number(values, "dept_id", least=1)
        found = self.organisation.departments.get(dept_id)
        if found is None:
            raise AnswerError("60003", "部门不存在")
        if not self._visible(dept_id):
            raise AnswerError("50004", "请求的部门id不在授权范围内")
        return found

    def _subdepartments(self, values: Mapping[str, Any]) -> list[Department]:
        dept_id = _number(values, "dept_id", least=1)
        if dept_id not in self.organisation.departments:
            raise AnswerError("60003", "部门不存在")
        return [child for child in self.organisation.children(dept_id) if self._visible(child.dept_id)]

    def _listsub(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "dept_id": child.dept_id,
                "name": child.name,
                "parent_id": child.parent_id,
                "create_dept_group": True,
                "auto_add_user": True,
            }
            for child in self._subdepartments({"dept_id": 1} | dict(values))
        ]

    def _listsubid(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"dept_id_list": [child.dept_id for child in self._subdepartments(values)]}

    def _department_get(self, values: Mapping[str, Any]) -> dict[str, Any]:
        found = self._department(values)
        answer: dict[str, Any] = {
            "dept_id": found.dept_id,
            "name": found.name,
            "parent_id": found.parent_id,
            "order": found.order,
            "dept_manager_userid_list": list(found.managers),
            "create_dept_group": True,
            "auto_add_user": True,
            "hide_dept": False,
            "outer_dept": False,
            "dept_permits": [],
            "outer_permit_depts": [],
            "member_count": len(self.organisation.members(found.dept_id)),
        }
        return self._permitted(answer)

    def _page(
        self, values: Mapping[str, Any], *, item: Callable[[User, Placement], dict[str, Any]]
    ) -> dict[str, Any]:
        department = self._department(values)
        cursor = _number(values, "cursor", least=0)
        size = _number(values, "size", least=1, most=100)
        order = values.get("order_field", "custom")
        if order not in ORDER_FIELDS or not isinstance(values.get("contain_access_limit", False), bool):
            raise AnswerError("40035", "不合法的参数: order_field, contain_access_limit")
        members = self.organisation.members(department.dept_id)
        if order.endswith("_desc"):
            members.reverse()
        start = _offset(cursor)
        users = [self.organisation.users[userid] for userid in members[start : start + size]]
        page: dict[str, Any] = {
            "has_more": start + size < len(members),
            "list": [item(user, user.placement(department.dept_id)) for user in users],
        }
        if page["has_more"]:
            page["next_cursor"] = _cursor(start + size)
        return page

    def _user_list(self, values: Mapping[str, Any]) -> dict[str, Any]:
        def item(user: User, place: Placement) -> dict[str, Any]:
            return self._permitted(_shared(user) | {"dept_order": place.order, "leader": place.leader})

        return self._page(values, item=item)

    def _listsimple(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._page(values, item=lambda user, _place: {"userid": user.userid, "name": user.name})

    def _listid(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"userid_list": self.organisation.members(self._department(values).dept_id)}

    def _user_get(self, values: Mapping[str, Any]) -> dict[str, Any]:
        userid = values.get("userid")
        if not isinstance(userid, str) or not userid:
            raise AnswerError("40035", "不合法的参数: userid")
        user = self.organisation.users.get(userid)
        if user is None:
            raise AnswerError("60121", "找不到该用户")
        if userid not in self.rules.authed_user and not any(
            self._visible(place.dept_id) for place in user.placements
        ):
            raise AnswerError("50002", "请求的员工userid不在授权范围内")
        places = user.placements
        return self._permitted(
            _shared(user)
            | {
                "manager_userid": user.manager_userid,
                "dept_order_list": [{"dept_id": place.dept_id, "order": place.order} for place in places],
                "leader_in_dept": [{"dept_id": place.dept_id, "leader": place.leader} for place in places],
                "real_authed": user.active,
                "senior": False,
                "role_list": [],
            }
        )

    def _getbyunionid(self, values: Mapping[str, Any]) -> dict[str, Any]:
        unionid = values.get("unionid")
        if not isinstance(unionid, str) or not unionid:
            raise AnswerError("400002", "无效的参数")
        userid = unionid.removeprefix(UNIONID_PREFIX)
        if userid == unionid or userid not in self.organisation.users:
            raise AnswerError("60121", "找不到该用户")
        return {"contact_type": 0, "userid": userid}

    def _permitted(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value for key, value in answer.items() if value is not None and key not in self.rules.omitted
        }


def _shared(user: User) -> dict[str, Any]:
    """What user/list and user/get have in common; None is left out."""
    return {
        "userid": user.userid,
        "unionid": user.unionid,
        "name": user.name,
        "avatar": "",
        "state_code": "86" if user.mobile else None,
        "mobile": user.mobile,
        "hide_mobile": False,
        "telephone": user.telephone,
        "job_number": user.job_number,
        "title": user.title,
        "email": user.email,
        "work_place": user.work_place,
        "extension": user.extension,
        "hired_date": user.hired_date,
        "dept_id_list": [place.dept_id for place in user.placements],
        "active": user.active,
        "admin": False,
        "boss": False,
        "exclusive_account": False,
    }


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        values = json.loads(body)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _number(values: Mapping[str, Any], key: str, *, least: int, most: int | None = None) -> int:
    value = values.get(key)
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < least
        or (most is not None and value > most)
    ):
        raise AnswerError("40035", f"不合法的参数: {key}")
    return value


def _cursor(offset: int) -> int:
    """An opaque number: whoever counts instead of using `next_cursor` is refused."""
    return offset * 10 + 7 if offset else 0


def _offset(cursor: int) -> int:
    offset, rest = divmod(cursor, 10)
    if cursor and rest != 7:
        raise AnswerError("40035", "不合法的参数: cursor")
    return offset


def _request_id() -> str:
    return secrets.token_hex(6)


def _new_error(status: int, code: str) -> web.Response:
    return web.json_response({"code": code, "message": code, "requestid": _request_id()}, status=status)
