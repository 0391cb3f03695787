"""What a path of the guard is, and the plain Python that all of them are set against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

CALIBRATION_TURNS = 1_000


def nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Work:
    """One slice of a path, ready to be taken again and again."""

    run: Callable[[], object]
    """What is timed."""
    prepare: Callable[[], object] = nothing
    """What is done before each slice and not timed."""


@dataclass(frozen=True)
class Path:
    """Something whose cost is watched."""

    name: str
    what: str
    """What one unit of it is."""
    units: int
    """How many of these a slice does: always the same, so that a slice is the same work in every run."""
    make: Callable[[ExitStack], Work]
    """Set it up; what it opens ends with the stack."""


class Cell:
    """One of many small objects that hand values on, as records, batches and messages do."""

    __slots__ = ("count", "held", "other")

    def __init__(self) -> None:
        self.count = 0
        self.held: list[tuple[int, Cell]] = []
        self.other = self

    def take(self, value: int) -> int:
        """Count, keep the value for a while in a tuple of its own, and ask the other cell."""
        held = self.held
        held.append((value + self.count, self))
        self.count += 1
        if len(held) > 64:  # noqa: PLR2004 - as long as a turn of an actor
            self.held = []
        return self.other.weigh(value)

    def weigh(self, value: int) -> int:
        """Be called for next to nothing."""
        return value & 1023 if value > self.count else self.count & 1023


def calibration() -> Callable[[], None]:
    """A loop of what this code is made of: attributes, calls of methods, small tuples and objects, appended lists.

    How long it takes says how fast the interpreter runs on this machine at this moment, and so the guard's figures are
    multiples of one turn of it: they stay what they are on a faster machine, or on one that others slow down.
    """
    first, second = Cell(), Cell()
    first.other, second.other = second, first

    def run() -> None:
        cells = (first, second)
        total = 0
        for number in range(CALIBRATION_TURNS):
            total += cells[number & 1].take(number + total)

    return run
