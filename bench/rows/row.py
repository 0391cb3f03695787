"""What a row of the benchmark is: a name, figures with units and goals, and a measurement that can be taken again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from .basics import Figure
    from .broker import BrokerUnderTest

Measured = dict[str, float]
"""One round's figures, by name."""


class SkipRowError(Exception):
    """The row cannot be measured here; the text says why."""


@dataclass
class Bench:
    """What the rows of one run share."""

    folder: Path
    closing: ExitStack
    """Everything that is started or made is registered here, so that it ends with the run, however that ends."""
    is_quick: bool
    make_broker: Callable[[], BrokerUnderTest]
    kept: dict[object, object] = field(default_factory=dict)
    _shared: BrokerUnderTest | None = None

    @property
    def shared_broker(self) -> BrokerUnderTest:
        """A running broker with the default settings, started when first asked for."""
        if self._shared is None:
            self._shared = self.make_broker()
            self._shared.start()
        return self._shared

    def scaled(self, count: int) -> int:
        """How many to do: a fifth of them in a quick run."""
        return count // 5 if self.is_quick else count


@dataclass(frozen=True)
class Row:
    """Something to measure."""

    name: str
    settings: str
    """Durability and what else the figure depends on."""
    figures: tuple[Figure, ...]
    measure: Callable[[Bench], Measured]
    """Take one round's figures."""
    prepare: Callable[[Bench], None] | None = None
    """Called once, before the first round and outside of any figure."""


def percentiles(seconds: list[float], marks: Mapping[str, float]) -> Measured:
    """Percentiles of durations, in microseconds."""
    ordered = sorted(seconds)
    return {name: ordered[min(len(ordered) - 1, int(len(ordered) * mark / 100))] * 1e6 for name, mark in marks.items()}
