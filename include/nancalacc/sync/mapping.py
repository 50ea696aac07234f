"""From DingTalk's records to rows for WPS: one mapping for both syncs.

Pure functions of the record. None means that a field was not read (no permission,
user/get not called): it is carried over from known state. An empty text means that
DingTalk said so [dt 2.7].
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from nancalacc.config import AccountSource
from nancalacc.sync.findings import Reason
from nancalacc.sync.phones import HOME_STATE_CODE, LONGEST_PHONE, encrypt_phone, number_key, value_key

ROOT_ROW_DID, ROOT_ROW_PID = "0", "-1"
"""The row without which no WPS job runs [wps 5.2]."""
ROOT_DID = "1"
"""The did of the department the sync starts from [design 5]."""

WIDTH = 255
EMAIL_WIDTH = 80
LEAST_ORDER, GREATEST_ORDER = -(2**31), 2**31 - 1
IGNORED_IN_COMPARISON = {"Mn", "Me", "Cf", "Cc"}

Record = Mapping[str, Any]
"""A department or a user as DingTalk sends it: any field may be missing."""
Note = tuple[Reason, str]
"""What was altered, and the id of the object."""


@dataclass(frozen=True, slots=True)
class DepartmentRow:
    """A department; `name` or `order` None = not read."""

    did: str
    pid: str
    name: str | None
    name_key: str | None
    order: int | None
    notes: tuple[Note, ...] = ()

    def values(self) -> tuple[Any, ...]:
        """The columns of staging in their order (see staging.COLUMNS)."""
        return (self.did, self.pid, self.name, self.name_key, self.order, None)


@dataclass(frozen=True, slots=True)
class PersonRow:
    """A person; every None is a field that was not read. `rejected` says why it cannot be written."""

    uid: str
    uid_key: str
    account: str | None = field(default=None, repr=False)
    account_key: str | None = field(default=None, repr=False)
    nick_name: str | None = None
    def_did: str = ""
    def_did_order: int | None = None
    avatar: str | None = None
    email: str | None = field(default=None, repr=False)
    title: str | None = None
    work_place: str | None = None
    leader: str | None = None
    employer: str | None = None
    employment_status: str | None = None
    phone: str | None = field(default=None, repr=False)
    telephone: str | None = field(default=None, repr=False)
    phone_key: str | None = field(default=None, repr=False)
    email_key: str | None = field(default=None, repr=False)
    departments: int = 0
    rejected: str | None = None
    notes: tuple[Note, ...] = ()

    def values(self) -> tuple[Any, ...]:
        """The columns of staging in their order (see staging.COLUMNS)."""
        return (
            self.uid,
            self.uid_key,
            self.account,
            self.account_key,
            self.nick_name,
            self.def_did,
            self.def_did_order,
            self.avatar,
            self.email,
            self.title,
            self.work_place,
            self.leader,
            self.leader,  # as `manager`: it stays when WPS does not know the leader
            self.employer,
            self.employment_status,
            self.phone,
            self.telephone,
            self.phone_key,
            self.email_key,
            self.departments,
            self.rejected,
        )


@dataclass(frozen=True, slots=True)
class MembershipRow:
    """A person in a department; `order` and `leader` None = not read."""

    uid: str
    did: str
    order: int | None
    main: bool
    leader: bool | None
    rejected: str | None = None

    def values(self) -> tuple[Any, ...]:
        """The columns of staging in their order (see staging.COLUMNS)."""
        return (self.uid, self.did, self.order, int(self.main), self.leader, self.rejected)


@dataclass(frozen=True, slots=True)
class Mapper:
    """The mapping for one pair of connections."""

    root_dept_id: int
    account_source: AccountSource
    phone_salt: str = field(repr=False)
    company: str = ""
    user_details: bool = True
    """Whether everybody is read singly."""

    def did(self, dept_id: int) -> str:
        """The did of a department: the root of the sync is '1', whatever its id is."""
        return ROOT_DID if dept_id == self.root_dept_id else str(dept_id)

    def dept_id(self, did: str) -> int:
        """The department with this did."""
        return self.root_dept_id if did == ROOT_DID else int(did)

    def department(self, record: Record) -> DepartmentRow:
        """The row of a department/get result; the root's parent is the root row."""
        dept_id = whole(record.get("dept_id")) or 0
        parent_id = parent_of(record) or self.root_dept_id
        did = self.did(dept_id)
        notes = _Notes(did)
        order = notes.clamped(whole(record.get("order")))
        name = notes.cut(text(record.get("name")))
        if name is not None and not name.strip():
            name = notes.replaced(Reason.NAME_MISSING, did)
        pid = ROOT_ROW_DID if dept_id == self.root_dept_id else self.did(parent_id)
        return DepartmentRow(did, pid, name, None if name is None else fold(name), order, tuple(notes.found))

    def in_order(self, dept_ids: Iterable[int]) -> tuple[int, ...]:
        """The departments of a user/get result in the order that tells the main one.

        By id where people are not read singly: DingTalk promises no order, and user/list may have another.
        """
        return tuple(dept_ids) if self.user_details else tuple(sorted(dept_ids))

    def main_department(self, dept_ids: Sequence[int]) -> int:
        """The first department that is not the root of the sync; the root if there is no other."""
        return next((dept_id for dept_id in dept_ids if dept_id != self.root_dept_id), self.root_dept_id)

    def person(
        self, record: Record, *, dept_ids: Sequence[int], order: int | None, departments: int | None = None
    ) -> PersonRow:
        """The row of a person from a user/list item, a user/get result or both merged.

        `dept_ids`: the departments within the snapshot; `order`: in the main one;
        `departments`: their number as the listings must show it, if it is not that of `dept_ids`; 0 if
        only the listings tell it.
        """
        uid = text(record.get("userid")) or ""
        rejected = unusable(uid)
        if rejected:
            home = self.did(self.main_department(dept_ids))
            return PersonRow("", "", def_did=home, rejected=rejected, notes=())
        notes = _Notes(uid)
        phone = self._phone(record)
        email = notes.dropped(text(record.get("email")), width=EMAIL_WIDTH)
        account = self._account(record, uid=uid, phone=phone, notes=notes)
        name = notes.cut(text(record.get("name")))
        if name is not None and not name.strip():
            name = notes.replaced(Reason.NAME_MISSING, uid)
        return PersonRow(
            uid=uid,
            uid_key=fold(uid),
            account=account,
            account_key=None if account is None else fold(account),
            nick_name=name,
            def_did=self.did(self.main_department(dept_ids)),
            def_did_order=notes.clamped(order),
            avatar=notes.dropped(text(record.get("avatar"))),
            email=email,
            title=notes.cut(text(record.get("title"))),
            work_place=notes.cut(text(record.get("work_place"))),
            leader=notes.dropped(text(record.get("manager_userid"))),
            employer=notes.cut(text(record.get("job_number"))),
            employment_status=_employment_status(record.get("active")),
            phone=self._encrypted(phone, uid=uid, notes=notes),
            telephone=self._encrypted(text(record.get("telephone")), uid=uid, notes=notes),
            phone_key=self._phone_key(phone),
            email_key=self._email_key(email),
            departments=len(dept_ids) if departments is None else departments,
            notes=tuple(notes.found),
        )

    def membership(
        self, record: Record, *, dept_id: int, dept_ids: Sequence[int], order: int | None, leader: bool | None
    ) -> MembershipRow:
        """The row of a person in one department."""
        uid = text(record.get("userid")) or ""
        rejected = unusable(uid)
        return MembershipRow(
            uid="" if rejected else uid,
            did=self.did(dept_id),
            order=_within(order),
            main=dept_id == self.main_department(dept_ids),
            leader=leader,
            rejected=rejected,
        )

    def memberships(self, record: Record, *, dept_ids: Sequence[int]) -> Iterator[MembershipRow]:
        """The rows of a person from a user/get result [dt 2.7]."""
        orders = department_values(record, "dept_order_list", "order")
        leaders = department_values(record, "leader_in_dept", "leader")
        for dept_id in dept_ids:
            yield self.membership(
                record,
                dept_id=dept_id,
                dept_ids=dept_ids,
                order=whole(orders.get(dept_id)),
                leader=flag(leaders.get(dept_id)),
            )

    def _phone(self, record: Record) -> str | None:
        """The mobile number: as it is in mainland China, with +code from elsewhere."""
        mobile = text(record.get("mobile"))
        state_code = (text(record.get("state_code")) or "").strip().lstrip("+")
        if not mobile or state_code in {"", HOME_STATE_CODE} or mobile.startswith("+"):
            return mobile
        return f"+{state_code}{mobile}"

    def _account(self, record: Record, *, uid: str, phone: str | None, notes: _Notes) -> str | None:
        match self.account_source:
            case AccountSource.USERID:
                return uid
            case AccountSource.JOB_NUMBER:
                account = text(record.get("job_number"))
            case AccountSource.EMAIL:
                account = text(record.get("email"))
            case AccountSource.MOBILE:
                account = phone
        if account is None or account.strip():
            return notes.cut(account)
        return notes.replaced(Reason.ACCOUNT_FROM_USERID, uid)

    def _phone_key(self, phone: str | None) -> str | None:
        return None if phone is None else number_key(phone, salt=self.phone_salt, company=self.company)

    def _email_key(self, email: str | None) -> str | None:
        if email is None:
            return None
        return value_key("email", fold(email), salt=self.phone_salt, company=self.company)

    def _encrypted(self, plain: str | None, *, uid: str, notes: _Notes) -> str | None:
        if plain is None:
            return None
        if len(plain.encode()) > LONGEST_PHONE:
            return notes.replaced(Reason.VALUE_DROPPED, "")
        return encrypt_phone(plain, uid=uid, salt=self.phone_salt)


class _Notes:
    """Fits values to their columns and keeps note of what it altered."""

    __slots__ = ("found", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.found: list[Note] = []

    def replaced(self, reason: Reason, value: str) -> str:
        self.found.append((reason, self.key))
        return value

    def cut(self, value: str | None) -> str | None:
        if value is None or len(value) <= WIDTH:
            return value
        return self.replaced(Reason.VALUE_CUT, value[:WIDTH])

    def dropped(self, value: str | None, *, width: int = WIDTH) -> str | None:
        if value is None or len(value) <= width:
            return value
        return self.replaced(Reason.VALUE_DROPPED, "")

    def clamped(self, order: int | None) -> int | None:
        fitting = _within(order)
        if fitting != order:
            self.found.append((Reason.ORDER_CLAMPED, self.key))
        return fitting


def departments_of(record: Record, *, within: Collection[int]) -> tuple[tuple[int, ...] | None, int]:
    """The person's departments in DingTalk's order and how many others were ignored.

    Only those in `within`, each once. None when the record does not say.
    """
    listed = record.get("dept_id_list")
    if not isinstance(listed, list):
        return None, 0
    numbers = list(dict.fromkeys(number for number in map(whole, listed) if number is not None))
    found = tuple(number for number in numbers if number in within)
    return found, len(numbers) - len(found)


def parent_of(record: Record) -> int | None:
    """The parent that a department's record states; None for none, which some write as 0 [dt 2]."""
    parent_id = whole(record.get("parent_id"))
    return parent_id if parent_id is not None and parent_id > 0 else None


def department_values(record: Record, key: str, value: str) -> dict[int, Any]:
    """A list of {"dept_id", value} of a user/get result by department [dt 2.7]."""
    listed = record.get(key)
    found: dict[int, Any] = {}
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, Mapping):
            dept_id = whole(entry.get("dept_id"))
            if dept_id is not None:
                found[dept_id] = entry.get(value)
    return found


def text(value: object) -> str | None:
    """A text that PostgreSQL can hold; None for what is missing or no text at all.

    DingTalk sends some numbers as texts and the other way round [dt 2].
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    cleaned = str(value).replace("\x00", "")
    try:
        cleaned.encode()
    except UnicodeEncodeError:
        # A surrogate without its other half: JSON can carry it, UTF-8 cannot.
        cleaned = cleaned.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return cleaned


def whole(value: object) -> int | None:
    """A whole number, also one sent as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def flag(value: object) -> bool | None:
    """A boolean, also one sent as text; None for anything else."""
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(str(value).lower())


def unusable(uid: str) -> str | None:
    """Why nothing can be written under this userid; None if it can."""
    if not uid:
        return Reason.NO_USERID.value
    if len(uid) > WIDTH:
        return f"{Reason.USERID_TOO_LONG.value}: {len(uid)} characters, it begins with {uid[:40]!r}"
    return None


def fold(value: str) -> str:
    """The text as a comparison without case, width and accents sees it [wps 9.8].

    At most 255 characters: a longer one becomes a hash, so that it still tells texts apart.
    """
    folded = unicodedata.normalize("NFKD", _bare(unicodedata.normalize("NFKD", value)).casefold())
    folded = _bare(folded).strip()
    return folded if len(folded) <= WIDTH else f"sha256:{sha256(folded.encode()).hexdigest()}"


def suffixed(value: str, suffix: str) -> str:
    """The value with a suffix, cut so that both fit the column."""
    return f"{value[: WIDTH - len(suffix)]}{suffix}"


def _bare(value: str) -> str:
    if value.isascii() and value.isprintable():
        return value
    return "".join(char for char in value if unicodedata.category(char) not in IGNORED_IN_COMPARISON)


def _within(order: int | None) -> int | None:
    return None if order is None else max(LEAST_ORDER, min(order, GREATEST_ORDER))


def _employment_status(active: object) -> str | None:
    state = flag(active)
    if state is None:
        return None
    return "active" if state else "notactive"
