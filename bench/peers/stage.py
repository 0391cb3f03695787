"""What the rows of one run share: a folder, and the systems that run at the moment, each started when first needed."""

from __future__ import annotations

import itertools
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from .system import System

S = TypeVar("S", bound="System")

QUICK_PART = 50
QUICK_LEAST = 50


class MissingError(Exception):
    """A system cannot be measured here; the text says why."""


@dataclass
class Stage:
    """Systems end with the run at the latest, however that ends."""

    folder: Path
    closing: ExitStack
    is_quick: bool
    kept: dict[object, float] = field(default_factory=dict)
    """What a row found that another one builds on."""
    problems: dict[type[System], str] = field(default_factory=dict)
    """Why systems are missing."""
    _running: dict[type[System], System] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def scaled(self, count: int, step: int = 1) -> int:
        """How many to do, a multiple of the step: in a quick run a small part of them."""
        if self.is_quick:
            count = max(min(count, QUICK_LEAST), count // QUICK_PART)
        return max(step, count // step * step)

    def name(self, what: str) -> str:
        """A name for a topic that no other has."""
        return f"{what}-{next(self._numbers)}"

    def system(self, kind: type[S]) -> S:
        """A running system. Raises MissingError, the second time without trying again."""
        found = self._running.get(kind)
        if found is None:
            self.check(kind)
            found = self._make(kind)
            try:
                found.start()
            except Exception as error:
                self.problems[kind] = reason = f"it did not start: {error}".replace(str(self.folder), "...")
                raise MissingError(reason) from error
            self._running[kind] = found
        assert isinstance(found, kind)
        return found

    def check(self, kind: type[System]) -> None:
        """Raise MissingError if the system cannot be started here."""
        reason = self.problems.get(kind) or kind.missing()
        if reason:
            self.problems[kind] = reason
            raise MissingError(reason)

    @contextmanager
    def fresh(self, kind: type[S]) -> Iterator[S]:
        """A system with empty folders that nobody else uses, not started; its folder goes with it."""
        self.check(kind)
        found = self._make(kind)
        try:
            yield found
        finally:
            found.close()
            shutil.rmtree(found.folder, ignore_errors=True)

    def close_all_but(self, kinds: Collection[type[System]]) -> None:
        """End what no row needs any more: also idle, three JVMs take their part of two cores."""
        for kind in [kind for kind in self._running if kind not in kinds]:
            found = self._running.pop(kind)
            found.close()
            shutil.rmtree(found.folder, ignore_errors=True)

    def _make(self, kind: type[S]) -> S:
        made = kind(self.folder / f"{kind.__name__.lower()}-{next(self._numbers)}")
        self.closing.callback(made.close)
        return made
