"""Many deadlines by key, most of which are moved before they are due. No clock of their own."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

K = TypeVar("K", bound="Hashable")

NEVER = float("inf")


class Deadlines(Generic[K]):
    """A deadline for each key.

    Moving a deadline to later costs one dictionary entry: its place in the heap is looked at when its old time comes.
    """

    def __init__(self) -> None:
        self._when: dict[K, float] = {}
        self._queued: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = count()

    def set(self, key: K, when_ms: float) -> None:
        """Set or move a deadline; NEVER cancels it."""
        if when_ms == NEVER:
            self._when.pop(key, None)
            return
        self._when[key] = when_ms
        if when_ms < self._queued.get(key, NEVER):
            self._push(key, when_ms)

    def cancel(self, key: K) -> None:
        """Forget a deadline, if there is one."""
        self._when.pop(key, None)

    def __contains__(self, key: K) -> bool:
        return key in self._when

    def next_ms(self) -> float:
        """The earliest deadline; NEVER if there is none."""
        self._settle()
        return self._heap[0][0] if self._heap else NEVER

    def pop_due(self, now_ms: float) -> K | None:
        """Take out the earliest key that is due, if any."""
        if self.next_ms() > now_ms:
            return None
        _, _, key = heappop(self._heap)
        del self._queued[key], self._when[key]
        return key

    def _push(self, key: K, when_ms: float) -> None:
        self._queued[key] = when_ms
        heappush(self._heap, (when_ms, next(self._order), key))

    def _settle(self) -> None:
        """Bring the true earliest deadline to the top."""
        heap = self._heap
        while heap:
            when_ms, _, key = heap[0]
            if self._queued.get(key) != when_ms:  # a second entry, earlier, took its place
                heappop(heap)
                continue
            wanted = self._when.get(key)
            if wanted == when_ms:
                return
            heappop(heap)
            del self._queued[key]
            if wanted is not None:
                self._push(key, wanted)
