"""Alarms: who of a coordinator's parts wants to run when. Each has one alarm at most, the earliest it asked for."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Alarmed:
    """What can have an alarm."""

    alarm_ms: float | None = None
    """When it is due; for Alarms alone."""

    def on_alarm(self, now_ms: float) -> None:
        """Do what is due, and ask for the next alarm."""
        raise NotImplementedError


class Alarms:
    """All alarms of a coordinator, by the monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarmed]] = []
        self._numbers = count()

    def set(self, target: Alarmed, when_ms: float) -> bool:
        """Have it run at this time, or earlier; returns whether that is news."""
        if target.alarm_ms is not None and target.alarm_ms <= when_ms:
            return False
        target.alarm_ms = when_ms
        heappush(self._heap, (when_ms, next(self._numbers), target))
        return True

    def clear(self, target: Alarmed) -> None:
        """Take its alarm back."""
        target.alarm_ms = None

    def due(self, now_ms: float) -> Iterator[Alarmed]:
        """Whatever is due; its alarm is gone when it comes out."""
        heap = self._heap
        while heap and heap[0][0] <= now_ms:
            when_ms, _, target = heappop(heap)
            if target.alarm_ms == when_ms:
                target.alarm_ms = None
                yield target

    def next_ms(self) -> float | None:
        """When the next one is due."""
        heap = self._heap
        while heap and heap[0][2].alarm_ms != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None
