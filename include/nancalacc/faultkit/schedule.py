"""Several actors on one saga at once, in an order that is decided and can be repeated.

Each actor is a thread, and one of them runs at a time. Between any two of its transactions, and
before and behind actions and calls, it may have to wait while others go on, or die.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from nancalacc.errors import DatabaseError
from nancalacc.store.database import Database

GO_ON_SECONDS = 60.0
"""After this an actor that is not given its turn is a failure of the kit."""


class KilledError(BaseException):
    """Ends an actor's thread, which can do nothing more to the database."""


class Schedule:
    """One execution of the programs of some actors.

    At each moment between two transactions the next of `choices` says who goes on: 0 the same
    actor, otherwise that many places further; when they are used up, everybody runs to his end.
    `deaths` says at which such moment of his own (1, 2, …) an actor dies.
    """

    def __init__(self, choices: Iterable[int], *, deaths: Mapping[str, int] | None = None) -> None:
        self.told: list[str] = []
        self.asked: dict[str, str] = {}
        """Keys of the questions that wait for an answer, by checkpoint."""
        self._choices: Iterator[int] = iter(choices)
        self._deaths = dict(deaths or {})
        self._moments: dict[str, int] = {}
        self._turns: dict[str, threading.Semaphore] = {}
        self._errors: list[BaseException] = []

    def run(self, programs: Mapping[str, Callable[[], None]]) -> None:
        """Run all programs to their ends; raises what one of them raised."""
        self._turns = {name: threading.Semaphore(0) for name in programs}
        self._moments = dict.fromkeys(programs, 0)
        threads = [
            threading.Thread(target=self._run, args=(name, program), name=name, daemon=True)
            for name, program in programs.items()
        ]
        for thread in threads:
            thread.start()
        self._turns[next(iter(programs))].release()
        for thread in threads:
            thread.join(GO_ON_SECONDS)
            if thread.is_alive():
                raise AssertionError("\n".join([*self.told, f"{thread.name} does not end"]))
        if self._errors:
            raise self._errors[0]

    def tell(self, what: str) -> None:
        """Add a line to the story of this schedule."""
        self.told.append(f"{threading.current_thread().name}: {what}")

    def pause(self, where: str, *, waits: bool = False) -> None:
        """A moment at which others may go on; somebody must if this actor `waits` for them."""
        me = threading.current_thread().name
        if me not in self._turns:
            return
        self._moments[me] += 1
        if self._moments[me] == self._deaths.get(me):
            self.tell(f"dies {where}")
            raise KilledError
        others = list(self._turns)
        places = next(self._choices, 0)
        if waits and len(others) > 1 and places % len(others) == 0:
            places += 1
        following = others[(others.index(me) + places) % len(others)]
        if following != me:
            self.tell(f"pauses {where}")
            self._turns[following].release()
            self._wait(me)

    def _wait(self, me: str) -> None:
        if not self._turns[me].acquire(timeout=GO_ON_SECONDS):
            raise AssertionError(f"{me} was not given its turn")

    def _run(self, me: str, program: Callable[[], None]) -> None:
        try:
            self._wait(me)
            program()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the thread that started this one
            self._errors.append(error)
        finally:
            del self._turns[me]
            for turn in self._turns.values():
                turn.release()
                break


class ScheduledDatabase(Database):
    """One actor's connections: a moment of the schedule behind each transaction; none once he is dead."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.schedule = Schedule(())
        self.is_dead = False

    def begin(self, schedule: Schedule) -> None:
        """Take part in a new schedule, alive."""
        self.schedule, self.is_dead = schedule, False

    @contextmanager
    def transaction(self, *, name: str = "") -> Iterator[Connection]:
        """See Database."""
        if self.is_dead:
            raise DatabaseError("The process is dead")
        with super().transaction(name=name) as connection:
            yield connection
        self.pause("between two transactions")

    def pause(self, where: str, *, waits: bool = False) -> None:
        """A moment of the schedule; raises KilledError when it is the last one."""
        try:
            self.schedule.pause(where, waits=waits)
        except KilledError:
            self.is_dead = True
            raise
