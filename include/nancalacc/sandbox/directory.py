"""The directory inside the sandbox's WPS: departments and users under the company root."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

ROOT_DID = "0"
ROOT_PID = "-1"
ADMINISTRATOR_ID = "1"


def fold(text: str) -> str:
    """How WPS's database compares ids and accounts: without case and accents [wps 5]."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).casefold()


@dataclass(frozen=True, slots=True)
class DirectoryDepartment:
    """A department; `id` is WPS's own, `did` ours. The company root has did '0' and pid '-1'."""

    id: str
    did: str
    name: str
    pid: str
    order: int = 0


@dataclass(frozen=True, slots=True)
class DirectoryUser:
    """A user; `memberships` maps did to the order there, `main` is the did of the main department.

    `provisional` says that the user is in the root only until there is a real department.
    """

    id: str
    uid: str
    account: str
    nick_name: str
    main: str
    memberships: Mapping[str, int]
    provisional: bool = False
    avatar: str = ""
    email: str = ""
    gender: str = ""
    title: str = ""
    work_place: str = ""
    leader: str = ""
    employer: str = ""
    employment_status: str = "notactive"
    employment_type: str = ""
    phone: str = field(default="", repr=False)
    telephone: str = field(default="", repr=False)


class Directory:
    """Departments by folded did and users by folded uid; records are replaced, never changed."""

    def __init__(self, *, company_name: str = "") -> None:
        self._ids = count(2)
        root = DirectoryDepartment("1", ROOT_DID, company_name, ROOT_PID)
        self.departments: dict[str, DirectoryDepartment] = {ROOT_DID: root}
        self.users: dict[str, DirectoryUser] = {}

    def new_id(self) -> str:
        """The next id of WPS's own; "1" is the root department and the administrator [wps 4]."""
        return str(next(self._ids))

    @property
    def root(self) -> DirectoryDepartment:
        """The company root."""
        return self.departments[ROOT_DID]

    def department(self, did: str) -> DirectoryDepartment | None:
        """The department with this did; '-1' means the company root [wps 5.3]."""
        return self.departments.get(ROOT_DID if did == ROOT_PID else fold(did))

    def user(self, uid: str) -> DirectoryUser | None:
        """The user with this uid."""
        return self.users.get(fold(uid))

    def children(self, did: str) -> list[DirectoryDepartment]:
        """The departments directly below one, by order descending."""
        below = [found for found in list(self.departments.values()) if found.pid == did]
        return sorted(below, key=lambda found: (-found.order, found.did))

    def members(self, did: str) -> list[DirectoryUser]:
        """The direct members of a department."""
        return [user for user in list(self.users.values()) if did in user.memberships]

    def path(self, department: DirectoryDepartment) -> str:
        """The names from the root down to a department, joined by '/'."""
        names = [department.name]
        while department.pid != ROOT_PID:
            department = self.departments[fold(department.pid)]
            names.append(department.name)
        return "/".join(reversed(names))

    def put_department(self, department: DirectoryDepartment) -> None:
        """Add or replace a department."""
        self.departments[fold(department.did)] = department

    def put_user(self, user: DirectoryUser) -> None:
        """Add or replace a user."""
        self.users[fold(user.uid)] = user

    def replace_all(
        self, *, departments: dict[str, DirectoryDepartment], users: dict[str, DirectoryUser]
    ) -> None:
        """Put the result of a full job in place at once."""
        self.departments = departments
        self.users = users
