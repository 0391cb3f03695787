"""Timers: callbacks at a later time of the injected clock.

A heap ordered by due time and then by sequence number, so that timers of one moment run in the order they were set, in
every run. Cancelling only marks the timer. The heap is rebuilt once more than half of it is marked, which makes a
cancel O(1) on average, and bounds the garbage by the number of live timers (plus a constant).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..clock import Clock

GARBAGE_MIN: Final = 64
"""Cancelled timers that are not worth a rebuild."""


class Timer:
    """A callback that will run once, unless it is cancelled."""

    __slots__ = ("_callback", "_timers", "in_heap", "when_ms")

    def __init__(self, when_ms: float, callback: Callable[[], object], timers: Timers) -> None:
        self.when_ms = when_ms
        """When it is due, by the clock's monotonic_ms."""
        self._callback: Callable[[], object] | None = callback
        self._timers = timers
        self.in_heap = True
        """Whether cancelling it leaves garbage. For Timers alone."""

    @property
    def active(self) -> bool:
        """Whether it has neither run nor been cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        """Never run; nothing happens if it has run or was cancelled before."""
        if self._callback is not None:
            self._callback = None
            if self.in_heap:
                self._timers.note_cancelled()

    def take(self) -> Callable[[], object] | None:
        """The callback, to be run now, or None if cancelled; from here on the timer is spent. For Timers alone."""
        callback, self._callback = self._callback, None
        return callback


class Timers:
    """All timers of one reactor."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._next_sequence = 0
        self._cancelled = 0

    def __len__(self) -> int:
        """Entries in the heap, cancelled ones included."""
        return len(self._heap)

    def call_later(self, delay_ms: float, callback: Callable[[], object]) -> Timer:
        """Run the callback in delay_ms; a delay that is not positive means at the next pass."""
        timer = Timer(self._clock.monotonic_ms() + max(delay_ms, 0.0), callback, self)
        heappush(self._heap, (timer.when_ms, self._next_sequence, timer))
        self._next_sequence += 1
        return timer

    def next_due_ms(self) -> float | None:
        """When the next timer is due; None if there is none."""
        while self._heap and not self._heap[0][2].active:
            self._pop()
        return self._heap[0][0] if self._heap else None

    def take_due(self) -> Iterator[Callable[[], object]]:
        """The callbacks that are due now, in order; to be used up before the next call.

        Timers set meanwhile wait for the next call, even those without delay: so a timer that sets itself again cannot
        hold up the pass. One that is cancelled meanwhile does not run.
        """
        now_ms = self._clock.monotonic_ms()
        due: list[Timer] = []
        while self._heap and self._heap[0][0] <= now_ms:
            due.append(self._pop())
        for timer in due:
            callback = timer.take()
            if callback is not None:
                yield callback

    def clear(self) -> None:
        """Drop all timers."""
        for _, _, timer in self._heap:
            timer.in_heap = False
            timer.cancel()
        self._heap.clear()
        self._cancelled = 0

    def note_cancelled(self) -> None:
        """One timer of the heap was cancelled. For Timer alone."""
        self._cancelled += 1
        if self._cancelled > max(GARBAGE_MIN, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2].active]
            heapify(self._heap)
            self._cancelled = 0

    def _pop(self) -> Timer:
        timer = heappop(self._heap)[2]
        timer.in_heap = False
        if not timer.active:
            self._cancelled -= 1
        assert 0 <= self._cancelled <= len(self._heap), "more cancelled timers than timers"
        return timer
