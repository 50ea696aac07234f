"""What WPS should look like for an organisation, and where it differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import islice

from nancalacc.sandbox.directory import ROOT_DID, Directory, DirectoryDepartment, DirectoryUser, fold
from nancalacc.sandbox.organisation import ROOT_DEPT_ID, Organisation, User

SHOWN = 20
LARGEST_ORDER = 2**31 - 1
SURE_PREFIX = 200


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether both are the same, the first differences and how much there is; no phone is named."""

    equal: bool
    differences: tuple[str, ...]
    counts: Mapping[str, int]


def compare(
    organisation: Organisation,
    directory: Directory,
    *,
    root_dept_id: int = ROOT_DEPT_ID,
    omitted: Set[str] = frozenset(),
    accounts: bool = True,
) -> Comparison:
    """Compare the subtree of `root_dept_id` with the directory.

    Fields in `omitted` (DingTalk's names) cannot be known to a sync and are left out. `accounts`
    expects the userid as account. Names that had to be altered (longer than the column, or like a
    sibling's) are compared by their beginning, orders as cut to 32 bit. A mobile number or e-mail
    address of several people must be exactly one's in WPS.
    """
    subject = _Comparing(
        organisation, directory, root_dept_id=root_dept_id, omitted=omitted, accounts=accounts
    )
    found = list(islice(subject.differences(), SHOWN))
    counts = {
        "departments_expected": len(subject.scope),
        "departments": len(directory.departments) - 1,
        "users_expected": len(subject.users),
        "users": len(directory.users),
        "memberships_expected": sum(len(subject.places(user)) for user in subject.users.values()),
        "memberships": sum(len(user.memberships) for user in list(directory.users.values())),
    }
    return Comparison(equal=not found, differences=tuple(found), counts=counts)


class _Comparing:
    def __init__(
        self,
        organisation: Organisation,
        directory: Directory,
        *,
        root_dept_id: int,
        omitted: Set[str],
        accounts: bool,
    ) -> None:
        self.scope = organisation.subtree(root_dept_id)
        self.users = {
            fold(user.userid): user
            for user in list(organisation.users.values())
            if any(place.dept_id in self.scope for place in user.placements)
        }
        self._organisation = organisation
        self._directory = directory
        self._root = root_dept_id
        self._omitted = omitted
        self._accounts = accounts
        self._shared = {name: self._of_several(name) for name in ("mobile", "email")}

    def did(self, dept_id: int) -> str:
        return "1" if dept_id == self._root else str(dept_id)

    def _of_several(self, name: str) -> set[str]:
        """The values of a field that more than one person has."""
        counts = Counter(fold(value) for user in self.users.values() if (value := getattr(user, name)))
        return {value for value, number in counts.items() if number > 1}

    def is_shared(self, user: User, name: str) -> bool:
        """Whether another person has the same mobile number or e-mail address."""
        return name in self._shared and fold(getattr(user, name) or "") in self._shared[name]

    def places(self, user: User) -> dict[str, int]:
        return {
            self.did(place.dept_id): _clamped(place.order)
            for place in user.placements
            if place.dept_id in self.scope
        }

    def differences(self) -> Iterator[str]:
        yield from self._departments()
        yield from self._users()
        yield from self._holders()

    def _departments(self) -> Iterator[str]:
        expected = {self.did(dept_id): dept_id for dept_id in self.scope}
        for found in list(self._directory.departments.values()):
            if found.did != ROOT_DID and found.did not in expected:
                yield f"department {found.did}: only in WPS"
        for dept_id in sorted(self.scope):
            department = self._organisation.departments[dept_id]
            did = self.did(dept_id)
            actual = self._directory.department(did)
            if actual is None:
                yield f"department {did}: missing in WPS"
                continue
            is_root = dept_id == self._root or department.parent_id is None
            pid = ROOT_DID if is_root else self.did(department.parent_id or ROOT_DEPT_ID)
            if actual.pid != pid:
                yield f"department {did}: parent is {actual.pid}, expected {pid}"
            if not is_root and actual.order != _clamped(department.order) and "order" not in self._omitted:
                yield f"department {did}: order is {actual.order}, expected {_clamped(department.order)}"
            yield from self._names(dept_id, actual=actual)

    def _names(self, dept_id: int, *, actual: DirectoryDepartment) -> Iterator[str]:
        """Compare the names below `dept_id`, and that of the root itself."""
        if dept_id == self._root and not _same_name(
            self._organisation.departments[dept_id].name, actual.name
        ):
            yield f"department {actual.did}: name is {actual.name!r}"
        children = self._organisation.children(dept_id)
        alike = Counter(_likeness(child.name) for child in children)
        for child in children:
            found = self._directory.department(self.did(child.dept_id))
            altered = alike[_likeness(child.name)] > 1
            if found is not None and not _same_name(child.name, found.name, altered=altered):
                yield f"department {found.did}: name is {found.name!r}, expected {child.name!r}"

    def _users(self) -> Iterator[str]:
        for key, found in list(self._directory.users.items()):
            if key not in self.users:
                yield f"user {found.uid}: only in WPS"
        for user in self.users.values():
            actual = self._directory.user(user.userid)
            if actual is None:
                yield f"user {user.userid}: missing in WPS"
                continue
            for field, expected in self._expected(user).items():
                if not _same_text(expected, getattr(actual, field)):
                    yield f"user {user.userid}: {field} is {getattr(actual, field)!r}, expected {expected!r}"
            yield from self._private(user, actual=actual)
            places = self.places(user)
            if dict(actual.memberships) != places:
                yield f"user {user.userid}: memberships are {dict(actual.memberships)}, expected {places}"
            main = next((did for did in places if did != "1"), "1")
            if actual.main != main:
                yield f"user {user.userid}: main department is {actual.main}, expected {main}"

    def _expected(self, user: User) -> dict[str, str]:
        leader = user.manager_userid or ""
        known = {
            "name": ("nick_name", user.name),
            "email": ("email", user.email),
            "title": ("title", user.title),
            "job_number": ("employer", user.job_number),
            "work_place": ("work_place", user.work_place),
            "manager_userid": ("leader", leader if fold(leader) in self.users else ""),
            "active": ("employment_status", "active" if user.active else "notactive"),
        }
        if self.is_shared(user, "email"):
            del known["email"]
        if self._accounts:
            known["userid"] = ("account", user.userid)
        return {field: value or "" for name, (field, value) in known.items() if name not in self._omitted}

    def _private(self, user: User, *, actual: DirectoryUser) -> Iterator[str]:
        for name, field, expected in (
            ("mobile", "phone", user.mobile),
            ("telephone", "telephone", user.telephone),
        ):
            value = getattr(actual, field)
            if self.is_shared(user, name):
                continue
            same = value.endswith(expected) if expected else not value
            if not same and name not in self._omitted:
                yield f"user {user.userid}: {field} differs"

    def _holders(self) -> Iterator[str]:
        """Of what several people have, one has it in WPS and the others nothing."""
        for name, field in (("mobile", "phone"), ("email", "email")):
            holders: Counter[str] = Counter()
            for user in self.users.values():
                actual = self._directory.user(user.userid)
                if actual is None or name in self._omitted or not self.is_shared(user, name):
                    continue
                value = getattr(actual, field)
                if value and not fold(value).endswith(fold(getattr(user, name))):
                    yield f"user {user.userid}: {field} is another one's"
                holders[fold(getattr(user, name))] += bool(value)
            for number in holders.values():
                if number != 1:
                    yield f"{field}: {number} people have what several should share, expected 1"


def _clamped(order: int) -> int:
    return max(-LARGEST_ORDER - 1, min(order, LARGEST_ORDER))


def _likeness(name: str) -> str:
    return fold(name.strip())[:SURE_PREFIX]


def _same_name(expected: str, actual: str, *, altered: bool = False) -> bool:
    if altered or len(expected) > SURE_PREFIX:
        return actual.startswith(expected.strip()[:SURE_PREFIX])
    return actual.rstrip() == expected.rstrip()


def _same_text(expected: str, actual: str) -> bool:
    if len(expected) > SURE_PREFIX:
        return actual.startswith(expected[:SURE_PREFIX].rstrip())
    return actual.rstrip() == expected.rstrip()
