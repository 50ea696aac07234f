"""The organisation the sandbox's DingTalk serves: departments, users and what changes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from nancalacc.errors import ObjectError, ObjectNotFoundError

ROOT_DEPT_ID = 1
UNIONID_PREFIX = "union-"


@dataclass(frozen=True, slots=True)
class Placement:
    """A user's place in one department; `order` may exceed 32 bit [dt 2.7]."""

    dept_id: int
    order: int = 0
    leader: bool = False


@dataclass(frozen=True, slots=True)
class Department:
    """A department; only the root has no `parent_id` [dt 2]."""

    dept_id: int
    name: str
    parent_id: int | None
    order: int = 0
    managers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """A user; None means that DingTalk leaves the field out of its answers.

    `placements` keeps the order of `dept_id_list`; `hired_date` is in milliseconds.
    """

    userid: str
    name: str
    placements: tuple[Placement, ...]
    mobile: str | None = field(default=None, repr=False)
    telephone: str | None = field(default=None, repr=False)
    email: str | None = None
    title: str | None = None
    job_number: str | None = None
    work_place: str | None = None
    manager_userid: str | None = None
    hired_date: int | None = None
    extension: str | None = None
    active: bool = True

    @property
    def unionid(self) -> str:
        """The id of the same person towards all apps of one developer."""
        return f"{UNIONID_PREFIX}{self.userid}"

    def placement(self, dept_id: int) -> Placement:
        """The user's place in a department the user belongs to."""
        return next(place for place in self.placements if place.dept_id == dept_id)


class Organisation:
    """Departments and users with the rules DingTalk itself keeps.

    Records are immutable and replaced on a change, so readers in other threads see whole objects.
    Refused changes raise ObjectError, unknown ids ObjectNotFoundError. `observer` is told of every
    change as DingTalk tells it: event type and data [dt 7].
    """

    def __init__(self, *, name: str = "演示集团") -> None:
        self.departments: dict[int, Department] = {ROOT_DEPT_ID: Department(ROOT_DEPT_ID, name, None)}
        self.users: dict[str, User] = {}
        self.observer: Callable[[str, Mapping[str, Any]], None] | None = None
        self._children: dict[int, dict[int, None]] = {ROOT_DEPT_ID: {}}
        self._members: dict[int, dict[str, None]] = {ROOT_DEPT_ID: {}}

    def department(self, dept_id: int) -> Department:
        """The department, or ObjectNotFoundError."""
        found = self.departments.get(dept_id)
        if found is None:
            raise ObjectNotFoundError(f"Department {dept_id} does not exist", code="60003")
        return found

    def user(self, userid: str) -> User:
        """The user, or ObjectNotFoundError."""
        found = self.users.get(userid)
        if found is None:
            raise ObjectNotFoundError(f"User {userid!r} does not exist", code="60121")
        return found

    def children(self, dept_id: int) -> list[Department]:
        """The departments directly below one."""
        return [self.departments[child] for child in list(self._children[dept_id])]

    def members(self, dept_id: int) -> list[str]:
        """The userids of the direct members of a department, in the order they came."""
        return list(self._members[dept_id])

    def subtree(self, dept_id: int) -> set[int]:
        """The ids of a department and all below it."""
        found = {dept_id}
        waiting = [dept_id]
        while waiting:
            below = self._children[waiting.pop()]
            found.update(below)
            waiting.extend(below)
        return found

    def add_department(
        self,
        name: str,
        *,
        parent_id: int = ROOT_DEPT_ID,
        order: int = 0,
        dept_id: int | None = None,
        managers: Iterable[str] = (),
    ) -> Department:
        """Add a department; without an id it takes the next free one."""
        self.department(parent_id)
        new_id = max(self.departments) + 1 if dept_id is None else dept_id
        if new_id in self.departments:
            raise ObjectError(f"Department {new_id} exists already")
        added = Department(new_id, name, parent_id, order, tuple(managers))
        self._children[new_id] = {}
        self._members[new_id] = {}
        self.departments[new_id] = added
        self._children[parent_id][new_id] = None
        self._tell("org_dept_create", deptId=[new_id])
        return added

    def modify_department(self, dept_id: int, /, **changes: Any) -> Department:
        """Change name, order, managers or parent_id; the root stays the root."""
        before = self.department(dept_id)
        after = replace(before, **changes)
        if after.dept_id != dept_id:
            raise ObjectError(f"Department {dept_id}: the id of a department never changes")
        if after.parent_id != before.parent_id:
            if before.parent_id is None or after.parent_id is None:
                raise ObjectError("The root department cannot be moved, and there is only one")
            self.department(after.parent_id)
            if after.parent_id in self.subtree(dept_id):
                raise ObjectError(f"Department {dept_id} cannot be moved below itself")
            del self._children[before.parent_id][dept_id]
            self._children[after.parent_id][dept_id] = None
        self.departments[dept_id] = after
        self._tell("org_dept_modify", deptId=[dept_id])
        return after

    def remove_department(self, dept_id: int) -> None:
        """Remove an empty department."""
        gone = self.department(dept_id)
        if gone.parent_id is None:
            raise ObjectError("The root department cannot be removed")
        if self._children[dept_id] or self._members[dept_id]:
            raise ObjectError(f"Department {dept_id} is not empty")
        del self._children[gone.parent_id][dept_id]
        del self.departments[dept_id]
        del self._children[dept_id], self._members[dept_id]
        self._tell("org_dept_remove", deptId=[dept_id])

    def add_user(self, user: User) -> User:
        """Add a user to existing departments."""
        if user.userid in self.users:
            raise ObjectError(f"User {user.userid!r} exists already")
        self._check_placements(user)
        self.users[user.userid] = user
        for place in user.placements:
            self._members[place.dept_id][user.userid] = None
        self._tell("user_add_org", userId=[user.userid])
        return user

    def modify_user(self, userid: str, /, **changes: Any) -> User:
        """Change any field but the userid, placements included."""
        before = self.user(userid)
        after = replace(before, **changes)
        if after.userid != userid:
            raise ObjectError(f"User {userid!r}: the userid never changes")
        self._check_placements(after)
        left = {place.dept_id for place in before.placements}
        joined = {place.dept_id: None for place in after.placements}
        self.users[userid] = after
        for dept_id in left - set(joined):
            del self._members[dept_id][userid]
        for dept_id in joined:
            self._members[dept_id].setdefault(userid, None)
        is_joining = after.active and not before.active
        self._tell("user_active_org" if is_joining else "user_modify_org", userId=[userid])
        return after

    def move_user(self, userid: str, *, placements: Iterable[Placement]) -> User:
        """Replace the departments of a user."""
        return self.modify_user(userid, placements=tuple(placements))

    def remove_user(self, userid: str) -> None:
        """The user leaves the organisation."""
        gone = self.user(userid)
        for place in gone.placements:
            del self._members[place.dept_id][userid]
        del self.users[userid]
        self._tell("user_leave_org", userId=[userid])

    def _tell(self, event_type: str, **data: Any) -> None:
        if self.observer is not None:
            self.observer(event_type, data)

    def _check_placements(self, user: User) -> None:
        places = [place.dept_id for place in user.placements]
        if not places or len(set(places)) != len(places):
            raise ObjectError(f"User {user.userid!r} needs one or more different departments")
        for dept_id in places:
            self.department(dept_id)


BEYOND_32_BIT = 176_351_209_512
LONG_NAME = "很长的名字" * 60
ODD_NAMES = (
    "🚀 火箭 👩‍🚀 组",
    'O\'Brien "双引号" `反引号`',
    "<script>alert('x')</script>",
    "Robert'); DROP TABLE tb_las_user;--",
    LONG_NAME,
    "尾部空格  ",
    "ＦＵＬＬ－ＷＩＤＴＨ　全角",
    "back\\slash, comma; \\N %s {0}",
    "تجربة مختلط RTL",
    "Ünïcödé É",
)
DIRECT_MEMBERS = {"空部门": 0, "百人部": 100, "二百人部": 200, "二百三十人部": 230}
SURNAMES = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜"
GIVEN_NAMES = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰文斌"
TITLES = (None, "工程师", "高级工程师", "经理", "顾问", "Sales & Marketing")
WORK_PLACES = (None, "北京", "上海", "Singapore 新加坡")


def demo_organisation(seed: int = 1) -> Organisation:
    """1 250 users in about 70 departments on 7 levels below the root, with every oddity seen in real ones.

    Departments of 0, 100, 200 and 230 direct members, users in several departments and in the
    root, odd and equal names, orders beyond 32 bit, missing and inactive fields. The same seed
    gives the same organisation.
    """
    random = Random(seed)
    organisation = Organisation()
    for position, name in enumerate(DIRECT_MEMBERS):
        organisation.add_department(name, dept_id=100 + position, order=position)
    ordinary = [
        organisation.add_department(
            name, dept_id=432_825_000 + position, order=BEYOND_32_BIT + position
        ).dept_id
        for position, name in enumerate(ODD_NAMES)
    ]
    parent = ROOT_DEPT_ID
    for level in range(1, 8):
        parent = organisation.add_department(f"第{level}级", parent_id=parent, dept_id=700 + level).dept_id
        ordinary.append(parent)
    for twin in (801, 802):
        organisation.add_department("市场部", dept_id=twin, order=5)
        below = organisation.add_department("市场一组", parent_id=twin, dept_id=twin + 10)
        ordinary += [twin, below.dept_id]
    for position in range(40):
        above = ROOT_DEPT_ID if position < 8 else 3_000_000_000 + position // 5
        added = organisation.add_department(
            f"中心 {position:02d}",
            parent_id=above,
            dept_id=3_000_000_000 + position,
            order=random.randrange(10_000),
        )
        ordinary.append(added.dept_id)
    homes = [
        dept_id
        for dept_id, size in zip(range(100, 104), DIRECT_MEMBERS.values(), strict=True)
        for _ in range(size)
    ]
    homes += [ROOT_DEPT_ID] * 12
    homes += [ordinary[number % len(ordinary)] for number in range(1250 - len(homes))]
    leaders: dict[int, str] = {}
    for number, home in enumerate(homes):
        user = _demo_user(random, number=number, home=home, others=ordinary, leader=home not in leaders)
        leaders.setdefault(home, user.userid)
        organisation.add_user(user)
    for dept_id, userid in leaders.items():
        organisation.modify_department(dept_id, managers=(userid,))
    for user in list(organisation.users.values()):
        manager = _manager(organisation, user=user, leaders=leaders)
        organisation.modify_user(user.userid, manager_userid=manager)
    return organisation


def _demo_user(random: Random, *, number: int, home: int, others: list[int], leader: bool) -> User:
    userid = random.choice(("Zhang.San{}", "manager{}", "0152{}-27", "uSer_{}", "LI@{}")).format(
        f"{number:04d}"
    )
    name = random.choice(SURNAMES) + "".join(random.choices(GIVEN_NAMES, k=2))
    if number % 97 == 5:
        name = ODD_NAMES[number // 97 % len(ODD_NAMES)]
    placements = [Placement(home, BEYOND_32_BIT - number if number % 3 else number, leader)]
    if number % 9 == 0:
        extra = random.choice([dept_id for dept_id in others if dept_id != home])
        placements.insert(random.randrange(2), Placement(extra, number * 7))
    return User(
        userid=userid,
        name=name,
        placements=tuple(placements),
        mobile=None if number % 20 == 3 else f"199{number:08d}",
        telephone=f"8{number % 1000:03d}" if number % 5 == 0 else None,
        email=None if number % 7 == 2 else f"{userid.replace('@', '.').lower()}@example.com",
        title=random.choice(TITLES),
        job_number=None if number % 10 == 4 else f"NC{number:05d}",
        work_place=random.choice(WORK_PLACES),
        hired_date=1_597_573_616_828 + number * 86_400_000,
        extension='{"爱好":"读书"}' if number % 11 == 0 else None,
        active=number % 25 != 7,
    )


def _manager(organisation: Organisation, *, user: User, leaders: dict[int, str]) -> str | None:
    place: int | None = user.placements[0].dept_id
    while place is not None:
        manager = leaders.get(place)
        if manager not in {None, user.userid}:
            return manager
        place = organisation.departments[place].parent_id
    return None


def organisation_of_size(people: int, *, departments: int, seed: int = 1) -> Organisation:
    """A plain organisation for measuring: `departments` below the root (at least 1), 8 below each.

    Users are spread evenly; one in ten is in a second department. Few fields are set, so that
    200 000 users stay below about 150 MB.
    """
    random = Random(seed)
    organisation = Organisation(name="测量集团")
    for number in range(1, departments + 1):
        above = number // 8
        organisation.add_department(
            f"部门 {number}",
            parent_id=1000 + above if above else ROOT_DEPT_ID,
            dept_id=1000 + number,
            order=number,
        )
    for number in range(people):
        home = number % departments
        placements = [Placement(1001 + home, number)]
        if number % 10 == 0 and departments > 1:
            second = (home + random.randrange(1, departments)) % departments
            placements.append(Placement(1001 + second, number))
        organisation.add_user(
            User(
                userid=f"user{number:06d}",
                name=f"员工{number}",
                placements=tuple(placements),
                mobile=f"198{number:08d}",
                job_number=f"{number:06d}",
            )
        )
    return organisation
