"""Organisations of every shape, and changes of them, from a seed."""

import random
from collections.abc import Callable

from nancalacc.sandbox.organisation import BEYOND_32_BIT, ROOT_DEPT_ID, Organisation, Placement, User

LEAST_PEOPLE = 2
PEOPLE, DEPARTMENTS = (LEAST_PEOPLE, 12, 40, 80), (1, 4, 0, 30, 12)
"""How many there may be; numbers without a common factor, so that seeds in a row have every pair."""


def random_organisation(seed: int) -> Organisation:
    """From two people in the root to many in thirty departments, flat or up to a dozen levels deep.

    Who is in several departments, leads some, or shares a number or an address with others comes from
    the seed, and so does which fields nobody filled in.
    """
    dice = random.Random(f"organisation {seed}")
    organisation = Organisation(name=f"公司{seed}")
    departments = [ROOT_DEPT_ID]
    deep = dice.choice((0.0, 0.5, 0.9))
    for number in range(DEPARTMENTS[seed % len(DEPARTMENTS)]):
        above = departments[-1] if dice.random() < deep else dice.choice(departments)
        order = dice.choice((0, number, BEYOND_32_BIT))
        name = f"{dice.choice('甲乙丙丁')}{dice.choice(('', number))}"
        added = organisation.add_department(name, parent_id=above, dept_id=10 + number, order=order)
        departments.append(added.dept_id)
    people = PEOPLE[seed % len(PEOPLE)]
    spread = dice.choice((1, 2, 5))
    for number in range(people):
        homes = dice.sample(departments, k=min(dice.randint(1, spread), len(departments)))
        organisation.add_user(
            User(
                userid=f"p{number}",
                name=f"员工{number}",
                placements=tuple(
                    Placement(home, dice.choice((number, BEYOND_32_BIT)), leader=dice.random() < 0.2)
                    for home in homes
                ),
                mobile=dice.choice((None, "", f"197{number:08d}", f"199{dice.randrange(8):08d}")),
                telephone=dice.choice((None, f"8{number:03d}")),
                email=dice.choice((None, "", f"p{number}@example.com", "A@example.com")),
                title=dice.choice((None, "工程师")),
                job_number=dice.choice((None, f"K{dice.randrange(40)}")),
                manager_userid=dice.choice((None, f"p{dice.randrange(people)}", "nobody")),
                active=dice.random() < 0.9,
            )
        )
    return organisation


class RandomOrganisation:
    """Makes changes that DingTalk itself would allow; departments that are `kept` are never removed."""

    def __init__(self, organisation: Organisation, *, seed: int, kept: frozenset[int] = frozenset()) -> None:
        self.organisation = organisation
        self.random = random.Random(seed)
        self.kept = kept | {ROOT_DEPT_ID}
        self.next_id = 1000

    def change(self) -> None:
        kinds: list[tuple[int, Callable[[], None]]] = [
            (6, self.join), (4, self.leave), (8, self.modify), (8, self.move), (4, self.add_department),
            (3, self.rename_department), (3, self.move_department), (3, self.remove_department),
        ]  # fmt: skip
        weights = [weight for weight, _ in kinds]
        self.random.choices([kind for _, kind in kinds], weights)[0]()

    def department(self) -> int:
        return self.random.choice(sorted(self.organisation.departments))

    def person(self) -> str:
        return self.random.choice(sorted(self.organisation.users))

    def places(self) -> tuple[Placement, ...]:
        ids = {self.department() for _ in range(self.random.choice((1, 1, 1, 2, 3)))}
        return tuple(Placement(each, self.random.randrange(50)) for each in sorted(ids))

    def name(self) -> str:
        return self.random.choice("甲乙丙丁")

    def manager(self) -> str:
        return self.random.choice((self.person(), f"n{self.next_id + 3}", "boss"))

    def mobile(self) -> str:
        """One in three is somebody else's, too."""
        return self.random.choice((f"199{self.random.randrange(8):08d}", f"198{self.next_id:08d}", ""))

    def email(self) -> str:
        name = self.random.choice(("a", "A", "b", f"n{self.next_id}", f"m{self.next_id}", ""))
        return name and f"{name}@example.com"

    def join(self) -> None:
        self.next_id += 1
        self.organisation.add_user(
            User(
                userid=f"n{self.next_id}",
                name=self.name(),
                placements=self.places(),
                mobile=self.mobile(),
                email=self.email(),
                job_number=f"K{self.random.randrange(40)}",
                manager_userid=self.manager(),
            )
        )

    def leave(self) -> None:
        if len(self.organisation.users) > LEAST_PEOPLE:
            self.organisation.remove_user(self.person())

    def modify(self) -> None:
        self.organisation.modify_user(
            self.person(),
            name=self.name(),
            title=self.name(),
            mobile=self.mobile(),
            email=self.email(),
            job_number=f"K{self.random.randrange(40)}",
            manager_userid=self.manager(),
            active=self.random.random() < 0.9,
        )

    def move(self) -> None:
        self.organisation.move_user(self.person(), placements=self.places())

    def add_department(self) -> None:
        self.next_id += 1
        self.organisation.add_department(
            self.name(), parent_id=self.department(), dept_id=self.next_id, order=self.random.randrange(9)
        )

    def rename_department(self) -> None:
        self.organisation.modify_department(self.department(), name=self.name())

    def move_department(self) -> None:
        dept_id, above = self.department(), self.department()
        if dept_id != 1 and above not in self.organisation.subtree(dept_id):
            self.organisation.modify_department(dept_id, parent_id=above)

    def remove_department(self) -> None:
        dept_id = self.department()
        if dept_id in self.kept or self.organisation.children(dept_id):
            return
        for uid in self.organisation.members(dept_id):
            places = [each for each in self.organisation.user(uid).placements if each.dept_id != dept_id]
            self.organisation.move_user(uid, placements=places or [Placement(1, 1)])
        self.organisation.remove_department(dept_id)
