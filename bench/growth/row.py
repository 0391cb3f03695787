"""What a row of the growth is: something that is measured at several sizes, or again and again over time."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from rows.row import Measured, SkipRowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rows.basics import Figure

QUICK_SHARE = 5


class Point(NamedTuple):
    """The figures at one size, or at one moment."""

    x: float
    figures: Measured
    """By name; one that could not be had is not there."""


@dataclass
class Findings:
    """What a row has found."""

    points: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out or went wrong, and why."""
    is_failed: bool = False

    def curve(self, figure: Figure) -> list[tuple[float, float]]:
        """One figure at all sizes where it is known."""
        return [(point.x, point.figures[figure.name]) for point in self.points if figure.name in point.figures]


@dataclass
class Bench:
    """What the rows of one run share."""

    folder: Path
    is_quick: bool
    minutes: float
    """How long the soak takes."""
    settings: Sequence[str] = ()
    """KEY=VALUE, of all nodes."""
    _folders: int = 0

    def new_folder(self) -> Path:
        """An empty folder under the run's own, with which it goes at the latest."""
        self._folders += 1
        folder = self.folder / f"{self._folders}"
        folder.mkdir()
        return folder

    def seconds(self, number: float) -> float:
        """How long to measure: a fifth of it in a quick run."""
        return number / QUICK_SHARE if self.is_quick else number

    def say(self, text: str) -> None:
        """Show progress, on one line of a terminal."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Row:
    """Something to measure."""

    name: str
    title: str
    x: str
    """What the sizes are sizes of."""
    settings: str
    """What the figures depend on."""
    figures: tuple[Figure, ...]
    measure: Callable[[Bench], Findings]
    over_time: bool = False
    """Whether x is minutes, and the figures have slopes in place of exponents."""


def at_each(
    sizes: Sequence[float], quick: Sequence[float], measure: Callable[[Bench, float], Measured]
) -> Callable[[Bench], Findings]:
    """Measure at one size after the other. One that fails is noted, and does not cost the others."""

    def measure_all(bench: Bench) -> Findings:
        findings = Findings()
        for size in quick if bench.is_quick else sizes:
            bench.say(f"at {size:,g}")
            try:
                findings.points.append(Point(size, measure(bench, size)))
            except SkipRowError as reason:
                findings.notes.append(f"{size:,g} was left out: {reason}")
            except Exception as error:  # noqa: BLE001 - one size that fails shall not cost the others
                findings.notes.append(f"{size:,g} failed: {type(error).__name__}: {error}")
                findings.is_failed = True
        return findings

    return measure_all
