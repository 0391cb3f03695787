"""Scripts: what a simulated client does one thing after the other, as a generator that yields what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from .world import World

T = TypeVar("T")
Wait: TypeAlias = Callable[[Callable[[Any], object]], object]
"""Begins something, and calls back once, with what came of it."""
Script: TypeAlias = Generator[Wait, Any, T]


def sleep(world: World, delay_ms: float, label: str) -> Wait:
    """Wait for a while."""
    return lambda resume: world.later(delay_ms, label, lambda: resume(None))


class Running:
    """A script on its way. ``on_end`` hears that it has come to its end, and not if it was cancelled."""

    def __init__(self, script: Script[None], on_end: Callable[[], object]) -> None:
        self._script = script
        self._on_end = on_end
        self.over = False

    def begin(self) -> None:
        """Go on up to the first thing that is waited for."""
        self._go_on(None)

    def cancel(self) -> None:
        """Do nothing more, whatever is still answered."""
        self.over = True

    def _go_on(self, value: Any) -> None:
        if self.over:
            return
        try:
            wait = self._script.send(value)
        except StopIteration:
            self.over = True
            self._on_end()
            return
        wait(self._go_on)
