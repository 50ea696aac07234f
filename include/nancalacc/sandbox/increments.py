"""The effect of each increment row on the directory, and why it may fail [wps 5.3]."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nancalacc.errors import FatalError, ObjectError
from nancalacc.sandbox.directory import ROOT_DID, Directory, DirectoryDepartment, DirectoryUser, fold
from nancalacc.sandbox.rows import Row, check_department, profile, required, text

DEPARTMENTS = "tb_las_department_increment"
USERS = "tb_las_user_increment"
MEMBERSHIPS = "tb_las_department_user_increment"


@dataclass(frozen=True, slots=True)
class Readings:
    """The points the contract leaves open [wps 9]; the sandbox can take either side.

    `null_clears`: a NULL column clears the value instead of keeping it. `joins_on_add`: user_add
    with a real def_did makes the membership, too. `unique_contacts`: a phone number or e-mail address
    that somebody else has is refused.
    """

    null_clears: bool = False
    joins_on_add: bool = True
    unique_contacts: bool = False


class Increments:
    """Applies rows, one at a time, in the order the caller chose.

    A row that cannot be applied raises ObjectError; an unknown update_type raises FatalError, which
    ends the whole run.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        salt: str,
        readings: Readings,
        rename_duplicates: bool = False,
    ) -> None:
        self._directory = directory
        self._salt = salt
        self._readings = readings
        self._rename = rename_duplicates
        self._accounts = {fold(user.account): key for key, user in directory.users.items()}
        self._effects: Mapping[str, Mapping[str, Callable[[Row], None]]] = {
            DEPARTMENTS: {
                "dept_add": self._dept_save,
                "dept_update": self._dept_update,
                "dept_move": self._dept_move,
                "dept_del": self._dept_del,
            },
            USERS: {"user_add": self._user_add, "user_update": self._user_update, "user_del": self._user_del},
            MEMBERSHIPS: {
                "user_dept_add": self._place_add,
                "user_dept_del": self._place_del,
                "user_dept_update": self._place_update,
                "user_dept_move": self._place_move,
            },
        }

    def apply(self, row: Row, *, table: str) -> None:
        """Apply one row of one of the three increment tables."""
        effect = self._effects[table].get(row["update_type"])
        if effect is None:
            raise FatalError(f"Row {row['id']} of {table}: unknown update_type {row['update_type']!r}")
        effect(row)

    def _department(self, did: str) -> DirectoryDepartment:
        found = self._directory.department(did)
        if found is None:
            raise ObjectError("部门不存在")
        return found

    def _user(self, uid: str) -> DirectoryUser:
        found = self._directory.user(uid)
        if found is None:
            raise ObjectError("用户不存在")
        return found

    def _free_name(self, name: str, *, parent: str, did: str) -> str:
        if all(
            sibling.name != name or fold(sibling.did) == fold(did)
            for sibling in self._directory.children(parent)
        ):
            return name
        if not self._rename:
            raise ObjectError("同级部门名称重复")
        return f"{name}({did})"

    def _parent(self, row: Row) -> DirectoryDepartment:
        if text(row, "pid") == ROOT_DID:
            # Increments name it '-1'; the root is of no row's platform [wps 5.2, 5.3].
            raise ObjectError("部门不存在")
        parent = self._department(text(row, "pid"))
        above: DirectoryDepartment | None = parent
        while above is not None:
            if fold(above.did) == fold(row["did"]):
                raise ObjectError("不能移动到自己的下级部门")
            above = self._directory.departments.get(fold(above.pid))
        return parent

    def _dept_save(self, row: Row) -> None:
        check_department(row)
        required(row, "name", "pid")
        parent = self._parent(row)
        old = self._directory.department(row["did"])
        if old is not None and old.did == ROOT_DID:
            raise ObjectError("不能修改根部门")
        name = self._free_name(row["name"], parent=parent.did, did=row["did"])
        order = row["order"]
        if order is None:
            order = old.order if old is not None and not self._readings.null_clears else 0
        if old is None:
            old = DirectoryDepartment(self._directory.new_id(), row["did"], name, parent.did)
        self._directory.put_department(replace(old, name=name, pid=parent.did, order=order))

    def _dept_update(self, row: Row) -> None:
        if not text(row, "name") and row["order"] is None:
            raise ObjectError("部门名称和排序都为空")
        old = self._directory.department(row["did"])
        if old is None or text(row, "name"):
            self._dept_save(row)
        else:
            self._dept_save(dict(row) | {"name": old.name})

    def _dept_move(self, row: Row) -> None:
        old = self._department(row["did"])
        required(row, "pid")
        if old.did == ROOT_DID:
            raise ObjectError("不能移动根部门")
        parent = self._parent(row)
        name = self._free_name(old.name, parent=parent.did, did=old.did)
        self._directory.put_department(replace(old, name=name, pid=parent.did))

    def _dept_del(self, row: Row) -> None:
        old = self._department(row["did"])
        if old.did == ROOT_DID:
            raise ObjectError("不能删除根部门")
        if self._directory.children(old.did) or self._directory.members(old.did):
            raise ObjectError("部门不为空")
        del self._directory.departments[fold(old.did)]

    def _checked_profile(self, row: Row) -> dict[str, str | None]:
        fields = profile(row, salt=self._salt)
        holder = self._accounts.get(fold(row["account"]))
        if holder is not None and holder != fold(row["uid"]):
            raise ObjectError("登录名重复")
        if self._readings.unique_contacts:
            self._check_contacts(fields, uid=row["uid"])
        if text(row, "leader"):
            leader = self._directory.user(row["leader"])
            if leader is None:
                raise ObjectError("上级用户不存在")
        return fields

    def _check_contacts(self, fields: Mapping[str, str | None], *, uid: str) -> None:
        for name, message in (("phone", "手机号重复"), ("email", "邮箱重复")):
            value = fields[name]
            if value and any(
                getattr(other, name) == value and fold(other.uid) != fold(uid)
                for other in self._directory.users.values()
            ):
                raise ObjectError(message)

    def _user_add(self, row: Row) -> None:
        old = self._directory.user(text(row, "uid"))
        if old is not None:
            self._save_user(row, old=old)
            return
        default = text(row, "def_did")
        home = self._directory.root if default == "" else self._department(default)
        self._new_user(row, home=home, provisional=default == "")

    def _user_update(self, row: Row) -> None:
        old = self._directory.user(text(row, "uid"))
        if old is not None:
            self._save_user(row, old=old)
            return
        if not text(row, "def_did"):
            raise ObjectError("用户不存在")
        self._new_user(row, home=self._department(row["def_did"]), provisional=False)

    def _new_user(self, row: Row, *, home: DirectoryDepartment, provisional: bool) -> None:
        fields = {name: value or "" for name, value in self._checked_profile(row).items()}
        if not self._readings.joins_on_add and home.did != ROOT_DID:
            home, provisional = self._directory.root, True
        user = DirectoryUser(
            id=self._directory.new_id(),
            uid=row["uid"],
            main=home.did,
            memberships={home.did: row["def_did_order"] or 0},
            provisional=provisional,
            **fields,
        )
        self._put(user)

    def _save_user(self, row: Row, *, old: DirectoryUser) -> None:
        fields = self._checked_profile(row)
        known: dict[str, Any] = {
            name: value or ""
            for name, value in fields.items()
            if value is not None or self._readings.null_clears
        }
        self._accounts.pop(fold(old.account), None)
        self._put(replace(old, **known))

    def _put(self, user: DirectoryUser) -> None:
        self._accounts[fold(user.account)] = fold(user.uid)
        self._directory.put_user(user)

    def _user_del(self, row: Row) -> None:
        old = self._user(row["uid"])
        self._accounts.pop(fold(old.account), None)
        del self._directory.users[fold(old.uid)]

    def _place_add(self, row: Row) -> None:
        department = self._department(row["did"])
        user = self._user(row["uid"])
        places = {} if user.provisional else dict(user.memberships)
        if department.did in places:
            raise ObjectError("部门下该用户已存在")
        places[department.did] = row["order"] or 0
        main = department.did if row["main"] == 1 or user.main not in places else user.main
        self._put(replace(user, memberships=places, main=main, provisional=False))

    def _member(self, row: Row) -> tuple[DirectoryUser, str]:
        department = self._department(row["did"])
        user = self._user(row["uid"])
        if department.did not in user.memberships:
            raise ObjectError("部门下该用户不存在")
        return user, department.did

    def _place_del(self, row: Row) -> None:
        user, did = self._member(row)
        places = {place: order for place, order in user.memberships.items() if place != did}
        if not places:
            if did == ROOT_DID:
                raise ObjectError("用户的最后一个部门是根部门")
            places[ROOT_DID] = 0
        main = user.main if user.main in places else next(iter(places))
        self._put(replace(user, memberships=places, main=main, provisional=False))

    def _place_update(self, row: Row) -> None:
        user, did = self._member(row)
        order = user.memberships[did] if row["order"] is None else row["order"]
        main = did if row["main"] == 1 else user.main
        self._put(replace(user, memberships=dict(user.memberships) | {did: order}, main=main))

    def _place_move(self, row: Row) -> None:
        user = self._user(row["uid"])
        main = self._department(row["did"]).did
        places: dict[str, int] = {}
        for item in self._wanted_places(text(row, "dids")):
            places[self._department(str(item.get("did", ""))).did] = int(item.get("order") or 0)
        if main not in places:
            raise ObjectError("did不在dids中")
        self._put(replace(user, memberships=places, main=main, provisional=False))

    def _wanted_places(self, value: str) -> list[dict[str, Any]]:
        try:
            items = json.loads(value)
        except ValueError:
            items = None
        if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
            raise ObjectError("dids不是JSON数组")
        return items
