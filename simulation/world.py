"""The world of a simulation: virtual time, its events in order, named streams of randomness, and the trace.

Events are ordered by (virtual time, sequence), so a run depends on its seed alone. Each user of randomness has a stream
of its own, drawn from the seed and the user's name: one that draws more or less than before disturbs no other, and a
failing run can be made smaller without becoming another run altogether.
"""

from __future__ import annotations

from hashlib import blake2b
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ViolationError(Exception):
    """Something that must always hold did not."""

    def __init__(self, invariant: str, text: str, at_ms: float) -> None:
        super().__init__(f"{invariant}: {text} (at {at_ms:.3f} ms)")
        self.invariant = invariant
        self.text = text
        self.at_ms = at_ms


class Event:
    """Something that will happen once, unless it is cancelled."""

    __slots__ = ("callback", "label", "when_ms")

    def __init__(self, when_ms: float, label: str, callback: Callable[[], object]) -> None:
        self.when_ms = when_ms
        self.label = label
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Let it never happen."""
        self.callback = None


class World:
    """All there is in one run; who lives in it asks it for the time, for events and for randomness."""

    def __init__(self, seed: int, on_trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.now_ms = 0.0
        self.events = 0
        """How many have happened."""
        self.active = ""
        """Which node runs at the moment; log lines are its."""
        self.ran = ""
        """Which node's reactor the last event has run; empty: none."""
        self.after_event: list[Callable[[], None]] = []
        self._on_trace = on_trace
        self._heap: list[tuple[float, int, Event]] = []
        self._sequence = 0
        self._streams: dict[str, Random] = {}
        self._digest = blake2b(digest_size=16)
        self._violation: ViolationError | None = None

    # ---- time

    def at(self, when_ms: float, label: str, callback: Callable[[], object]) -> Event:
        """Let something happen at a time that is not past."""
        event = Event(max(when_ms, self.now_ms), label, callback)
        heappush(self._heap, (event.when_ms, self._sequence, event))
        self._sequence += 1
        return event

    def later(self, delay_ms: float, label: str, callback: Callable[[], object]) -> Event:
        """Let something happen in delay_ms."""
        return self.at(self.now_ms + delay_ms, label, callback)

    def step(self) -> bool:
        """Let the next event happen; False if there is none. Raises the ViolationError that it led to."""
        if self._next_ms() is None:
            return False
        when_ms, _, event = heappop(self._heap)
        callback = event.callback
        assert callback is not None, "a cancelled event was taken"
        event.callback = None
        self.now_ms = when_ms
        self.events += 1
        self._digest.update(f"{when_ms!r} {event.label}\n".encode())
        self.ran = ""
        callback()
        for check in self.after_event:
            check()
        self.check()
        return True

    def _next_ms(self) -> float | None:
        """When the next event is; those that were cancelled are dropped."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heappop(heap)
        return heap[0][0] if heap else None

    def run_until(self, end_ms: float) -> None:
        """Let everything happen up to a time."""
        while (next_ms := self._next_ms()) is not None and next_ms <= end_ms:
            self.step()
        self.now_ms = max(self.now_ms, end_ms)

    def run_while(self, condition: Callable[[], bool], limit_ms: float) -> bool:
        """Let events happen while the condition holds, for limit_ms at most; whether it ceased to hold."""
        end_ms = self.now_ms + limit_ms
        while condition():
            next_ms = self._next_ms()
            if next_ms is None or next_ms > end_ms:
                return False
            self.step()
        return True

    # ---- randomness

    def stream(self, name: str) -> Random:
        """The generator of one user of randomness."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = Random(f"{self.seed}/{name}")  # noqa: S311 - to be repeated, not secret
        return found

    # ---- what is seen

    def trace(self, who: str, text: str) -> None:
        """Write a line into the trace."""
        self._digest.update(f"{who} {text}\n".encode())
        if self._on_trace is not None:
            self._on_trace(f"{self.now_ms:12.3f}  {who:<10} {text}")

    def note(self, text: str) -> None:
        """Let two runs that differ in this differ in their hash; for what is too much to read."""
        self._digest.update(text.encode())

    @property
    def traced(self) -> bool:
        """Whether anybody reads the trace."""
        return self._on_trace is not None

    def show(self, who: str, text: str) -> None:
        """Write a line for the reader alone, one that is no part of what two runs must have in common."""
        if self._on_trace is not None:
            self._on_trace(f"{self.now_ms:12.3f}  {who:<10} {text}")

    def trace_hash(self) -> str:
        """The hash of every event and line so far: equal for two runs of a seed, in any process."""
        return self._digest.hexdigest()

    def violated(self, invariant: str, text: str) -> None:
        """Note that something does not hold; the run ends after this event. The first one counts."""
        if self._violation is None:
            self._violation = ViolationError(invariant, text, self.now_ms)
            self.trace("VIOLATION", f"{invariant}: {text}")

    def check(self) -> None:
        """Raise what was noted."""
        if self._violation is not None:
            raise self._violation
