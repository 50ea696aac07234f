"""What came of the cases, for a person to read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import mean

from nancalacc.faultkit.boundaries import Boundary, Kind


@dataclass(frozen=True, slots=True)
class Case:
    """One run that was struck at a boundary; `wrongs` is empty when it ended right."""

    scenario: str
    boundary: Boundary
    way: str
    seconds: float
    wrongs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scenario}, {self.boundary}, then {self.way}: {'; '.join(self.wrongs) or 'right'}"


@dataclass(frozen=True, slots=True)
class Report:
    """The cases of one run of the kit; as text it gives numbers, times and every wrong end state."""

    cases: tuple[Case, ...]

    @property
    def wrong(self) -> tuple[Case, ...]:
        """The cases that ended wrong."""
        return tuple(case for case in self.cases if case.wrongs)

    def __add__(self, other: Report) -> Report:
        return Report(self.cases + other.cases)

    def __str__(self) -> str:
        lines = []
        for scenario in dict.fromkeys(case.scenario for case in self.cases):
            cases = [case for case in self.cases if case.scenario == scenario]
            boundaries = {case.boundary for case in cases}
            kinds = Counter(boundary.kind for boundary in boundaries)
            seconds = sorted(case.seconds for case in cases)
            lines.append(
                f"{scenario}: {len(boundaries)} boundaries ("
                + ", ".join(f"{kind} {kinds[kind]}" for kind in Kind if kinds[kind])
                + f"), {len(cases)} cases; seconds a case: mean {mean(seconds):.2f},"
                f" 95 % {seconds[len(seconds) * 95 // 100]:.2f}, longest {seconds[-1]:.2f};"
                f" wrong end states: {sum(bool(case.wrongs) for case in cases)}"
            )
        return "\n".join([*lines, *(f"WRONG {case}" for case in self.wrong)])
