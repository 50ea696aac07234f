"""The full job: turns one snapshot of the tables into the new directory [wps 5.2]."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from nancalacc.errors import FatalError, ObjectError
from nancalacc.sandbox.directory import (
    ROOT_DID,
    ROOT_PID,
    Directory,
    DirectoryDepartment,
    DirectoryUser,
    fold,
)
from nancalacc.sandbox.rows import Row, check_department, profile, text


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many objects a full job may delete; one more stops it [wps 3.1]."""

    users: int = 200
    departments: int = 20
    memberships: int = 1


class ThresholdError(FatalError):
    """The job would delete more than the thresholds allow: nothing is applied."""


@dataclass(slots=True)
class SnapshotResult:
    """What came of a full job: rows applied and deleted by kind, and why rows failed."""

    applied: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)
    without_membership: int = 0
    failures: list[str] = field(default_factory=list)


class Snapshot:
    """The rows of one task that are selected (check_type 1) and of the tenant's platforms.

    `apply` changes the directory at once or not at all, and tells in `result` what it did. It raises
    FatalError when the root row is missing or not the only one, and ThresholdError when too much
    would be deleted.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        departments: Iterable[Row],
        users: Iterable[Row],
        memberships: Iterable[Row],
        salt: str,
        rename_duplicates: bool = False,
    ) -> None:
        self._directory = directory
        self._salt = salt
        self._rename = rename_duplicates
        self._department_rows = list(departments)
        self._user_rows = users
        self._places: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in memberships:
            self._places[row["platform_id"], fold(row["uid"])].append(row)
        self.result = SnapshotResult()
        self._snapshot_dids = {fold(row["did"]) for row in self._department_rows}
        self._snapshot_uids: set[str] = set()

    def apply(self, *, thresholds: Thresholds) -> None:
        """Build the new directory, check what it would delete, and put it in place."""
        departments = self._departments()
        users = self._users(departments)
        self._check(thresholds=thresholds, departments=departments, users=users)
        self.result.applied = {
            "departments": len(departments) - 1,
            "users": len(users),
            "memberships": sum(len(user.memberships) for user in users.values()),
        }
        self._directory.replace_all(departments=departments, users=users)

    def _fail(self, kind: str, key: str, reason: object) -> None:
        self.result.failures.append(f"{kind} {key}: {reason}")

    def _departments(self) -> dict[str, DirectoryDepartment]:
        roots = [row for row in self._department_rows if row["pid"] == ROOT_PID]
        if not roots:
            raise FatalError("采集表根部门不存在")
        if len(roots) > 1:
            raise FatalError("存在多个根部门")
        below: dict[str, list[Row]] = defaultdict(list)
        for row in self._department_rows:
            if row["pid"] != ROOT_PID:
                below[fold(text(row, "pid"))].append(row)
        root = replace(self._directory.root, name=roots[0]["name"])
        built = {ROOT_DID: root}
        waiting = [(fold(roots[0]["did"]), root)]
        while waiting:
            key, parent = waiting.pop()
            names: set[str] = set()
            for row in sorted(below.pop(key, []), key=lambda row: (-(row["order"] or 0), row["did"])):
                added = self._department(row, parent=parent, names=names, built=built)
                if added is not None:
                    built[fold(added.did)] = added
                    waiting.append((fold(added.did), added))
        for rows in below.values():
            for row in rows:
                self._fail("department", row["did"], "上级部门不存在或失败")
        self._keep_failed(built)
        return built

    def _keep_failed(self, built: dict[str, DirectoryDepartment]) -> None:
        """A failed row is no deletion: what was there stays, where its parent stays too."""
        missing = True
        while missing:
            missing = False
            for key in self._snapshot_dids - set(built):
                old = self._directory.departments.get(key)
                if old is not None and fold(old.pid) in built:
                    built[key] = old
                    missing = True

    def _department(
        self, row: Row, *, parent: DirectoryDepartment, names: set[str], built: dict[str, DirectoryDepartment]
    ) -> DirectoryDepartment | None:
        did, name = row["did"], row["name"]
        try:
            check_department(row)
            if not name:
                raise ObjectError("部门名称不能为空")
            if fold(did) in built:
                raise ObjectError("did重复")
            if name in names:
                if not self._rename:
                    raise ObjectError("同级部门名称重复")
                name = f"{name}({did})"
        except ObjectError as error:
            self._fail("department", did, error)
            return None
        names.add(name)
        old = self._directory.departments.get(fold(did))
        own_id = old.id if old is not None else self._directory.new_id()
        return DirectoryDepartment(own_id, did, name, parent.did, row["order"] or 0)

    def _users(self, departments: dict[str, DirectoryDepartment]) -> dict[str, DirectoryUser]:
        built: dict[str, DirectoryUser] = {}
        accounts: dict[str, str] = {}
        for row in self._user_rows:
            key = fold(row["uid"])
            repeated = key in self._snapshot_uids
            self._snapshot_uids.add(key)
            try:
                if repeated:
                    raise ObjectError("uid重复")
                user = self._user(row, departments=departments)
                if accounts.setdefault(fold(user.account), key) != key:
                    raise ObjectError("登录名重复")
                built[key] = user
            except ObjectError as error:
                self._fail("user", row["uid"], error)
        for (_, uid), rows in self._places.items():
            if uid not in self._snapshot_uids:
                self._fail("membership", rows[0]["uid"], "用户不存在")
        for key, user in list(built.items()):
            if user.leader and fold(user.leader) not in self._snapshot_uids:
                self._fail("user", user.uid, "上级用户不存在")
                del built[key]
        for key in self._snapshot_uids - set(built):
            old = self._directory.users.get(key)
            if old is not None:
                places = {did: order for did, order in old.memberships.items() if fold(did) in departments}
                built[key] = replace(old, memberships=places or {ROOT_DID: 0})
        return built

    def _user(self, row: Row, *, departments: dict[str, DirectoryDepartment]) -> DirectoryUser:
        fields = {name: value or "" for name, value in profile(row, salt=self._salt).items()}
        uid = row["uid"]
        default = text(row, "def_did")
        default_key = ROOT_DID if default in {"", ROOT_PID} else fold(default)
        if default_key not in departments:
            raise ObjectError("默认部门不存在")
        places: dict[str, int] = {}
        main = ""
        rows = self._places.get((row["platform_id"], fold(uid)), [])
        for place in rows:
            found = departments.get(ROOT_DID if place["did"] == ROOT_PID else fold(place["did"]))
            if found is None:
                self._fail("membership", f"{uid} in {place['did']}", "部门不存在")
                continue
            places[found.did] = place["order"] or 0
            if place["main"] == 1 and not main:
                main = found.did
        if not rows:
            self.result.without_membership += 1
        provisional = not places and default == ""
        if not places:
            places[departments[default_key].did] = row["def_did_order"] or 0
        if not main:
            main = departments[default_key].did
            main = main if main in places else next(iter(places))
        old = self._directory.users.get(fold(uid))
        own_id = old.id if old is not None else self._directory.new_id()
        return DirectoryUser(
            id=own_id, uid=uid, main=main, memberships=places, provisional=provisional, **fields
        )

    def _check(
        self,
        *,
        thresholds: Thresholds,
        departments: dict[str, DirectoryDepartment],
        users: dict[str, DirectoryUser],
    ) -> None:
        gone_departments = set(self._directory.departments) - set(departments)
        gone_users = set(self._directory.users) - set(users)
        gone_places = sum(
            fold(did) in departments and did not in users[key].memberships and not old.provisional
            for key, old in self._directory.users.items()
            if key in users
            for did in old.memberships
        )
        self.result.deleted = {
            "departments": len(gone_departments),
            "users": len(gone_users),
            "memberships": gone_places,
        }
        for kind, number in self.result.deleted.items():
            allowed = getattr(thresholds, kind)
            if number > allowed:
                raise ThresholdError(f"{number} {kind} would be deleted, the threshold is {allowed}")
