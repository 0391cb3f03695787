"""What a row is: one piece of work, done by several systems through several clients, with figures and goals."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .stage import Stage
    from .system import System

Measured = dict[str, float]
"""One round's figures, by name."""


@dataclass(frozen=True)
class Figure:
    """One number of a row."""

    name: str
    unit: str
    is_better: Literal["more", "less"] = "more"
    is_drawn: bool = True
    """Whether the plot shows it; what only explains another figure is left to the tables."""


@dataclass(frozen=True)
class Goal:
    """What a line of ours is held to, as the project's list of figures to beat puts it."""

    text: str
    figure: str
    limit: float
    """The least or the most, by the figure's own direction: a ratio to the best of ``against``, else a number."""
    against: tuple[str, ...] = ()
    """The labels of the lines that it is compared with; none: the limit is a number of the figure's unit."""
    takes_worst: bool = False
    """Whether every round has to keep it, not their median."""


@dataclass(frozen=True)
class Entry:
    """One line of a row: a system, the way in which it is used, and what an acknowledgement means there."""

    system: type[System]
    client: str
    durability: str
    measure: Callable[[Stage], Measured]
    """Take one round's figures."""
    prepare: Callable[[Stage], None] | None = None
    """Called once, before the first round."""
    goals: tuple[Goal, ...] = ()

    @property
    def label(self) -> str:
        """System and client, in one."""
        return f"{self.system.name}, {self.client}"


@dataclass(frozen=True)
class Row:
    """One piece of work."""

    name: str
    about: str
    """What is done and what is measured of it, in a sentence."""
    figures: tuple[Figure, ...]
    entries: tuple[Entry, ...]
    warms_up: bool = True
    """Whether each line is measured once before the first round that counts, for JVMs and caches."""
    uses_shared: bool = True
    """Whether it uses the systems that other rows use too; if not, it starts its own."""
    keeps: tuple[str, object] | None = None
    """The label of a line, and the name under which the median of its first figure is kept for other rows."""


@dataclass
class Outcome:
    """A line and what its rounds gave."""

    entry: Entry
    rounds: list[Measured] = field(default_factory=list)
    problem: str = ""
    is_failed: bool = False
    """Whether it went wrong, and was not just missing."""

    def values(self, figure: Figure) -> list[float]:
        """One value for each round."""
        return [measured[figure.name] for measured in self.rounds]

    def median(self, figure: Figure) -> float:
        """The middle one."""
        return statistics.median(self.values(figure))


@dataclass
class Result:
    """A row and what its lines gave."""

    row: Row
    outcomes: list[Outcome]

    def figure(self, name: str) -> Figure:
        """A figure by its name."""
        return next(figure for figure in self.row.figures if figure.name == name)

    def best(self, figure: Figure, labels: Iterable[str] | None = None) -> Outcome | None:
        """The best of these lines, or of all peers; None if none of them has a figure."""
        chosen = set(labels) if labels is not None else {o.entry.label for o in self.outcomes if _is_peer(o)}
        found = [outcome for outcome in self.outcomes if outcome.rounds and outcome.entry.label in chosen]
        best = max if figure.is_better == "more" else min
        return best(found, key=lambda outcome: outcome.median(figure), default=None)


def _is_peer(outcome: Outcome) -> bool:
    return not outcome.entry.system.is_ours


@dataclass(frozen=True)
class Ratio:
    """One line's figure as a multiple of another's: of the medians, and of the rounds, which were taken in turns."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, one: Outcome, other: Outcome, figure: Figure) -> Ratio:
        """How many times the other's it is."""
        rounds = [a / b for a, b in zip(one.values(figure), other.values(figure), strict=False)]
        return cls(one.median(figure) / other.median(figure), min(rounds), max(rounds))


@dataclass(frozen=True)
class Verdict:
    """What came of a goal."""

    goal: Goal
    peer: Outcome | None
    """The line that it was compared with; None: with a number, or there was nothing to compare with."""
    ratio: Ratio | None
    is_met: bool | None
    """None: nobody knows."""


def judge(result: Result, outcome: Outcome, goal: Goal) -> Verdict:
    """Hold a line against one of its goals."""
    figure = result.figure(goal.figure)
    if not outcome.rounds:
        return Verdict(goal, None, None, None)
    more = figure.is_better == "more"
    if not goal.against:
        worst = min if more else max
        value = worst(outcome.values(figure)) if goal.takes_worst else outcome.median(figure)
        return Verdict(goal, None, None, value >= goal.limit if more else value <= goal.limit)
    peer = result.best(figure, goal.against)
    if peer is None:
        return Verdict(goal, None, None, None)
    ratio = Ratio.of(outcome, peer, figure)
    return Verdict(goal, peer, ratio, ratio.median >= goal.limit if more else ratio.median <= goal.limit)
