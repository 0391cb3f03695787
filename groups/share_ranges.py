"""Ranges of offsets and what a share group knows of their records. Pure.

The set covers its offsets without holes. Neighbours that are alike are one range, so that memory grows with what
differs and not with the records. Three heaps find the lowest range that waits for delivery, the lease that ends first
and the delay that ends first; what of them is out of date is dropped when it comes up, or when it is half of a heap.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AVAILABLE, ACQUIRED, ARCHIVING, ACKNOWLEDGED, ARCHIVED = range(5)
STATE_NAMES = ("available", "acquired", "archiving", "acknowledged", "archived")
"""archiving: on its way to the dead-letter topic, or to nowhere; archived: there."""

_GARBAGE_MIN: Final = 64

_ALLOWED: Final = frozenset(
    {
        (AVAILABLE, AVAILABLE),
        (AVAILABLE, ACQUIRED),
        (AVAILABLE, ARCHIVING),
        (AVAILABLE, ARCHIVED),
        (ACQUIRED, ACQUIRED),
        (ACQUIRED, AVAILABLE),
        (ACQUIRED, ARCHIVING),
        (ACQUIRED, ACKNOWLEDGED),
        (ACQUIRED, ARCHIVED),
        (ARCHIVING, ARCHIVED),
    }
)
"""Which state may follow which: acknowledged and archived are final."""


class Range(NamedTuple):
    """Records that are alike, both ends included."""

    first: int
    last: int
    state: int = AVAILABLE
    deliveries: int = 0
    """How often they were delivered."""
    not_before: int = 0
    """Wall clock in ms: no delivery before then; 0: at once."""
    reason: str = ""
    """Why they are given up."""
    member: str = ""
    """Who has leased them."""
    deadline: float = 0.0
    """Monotonic clock in ms: when the lease ends."""
    lease: int = 0
    """Which lease it is, of all that there have been."""

    @property
    def is_final(self) -> bool:
        """Whether nothing can change any more."""
        return self.state >= ACKNOWLEDGED

    @property
    def is_unseen(self) -> bool:
        """Whether the range holds delayed records, of which nobody knows yet which ones are due at not_before."""
        return self.state == AVAILABLE and self.deliveries == 0 and self.not_before > 0

    @property
    def size(self) -> int:
        """How many offsets it has."""
        return self.last - self.first + 1


class RangeSet:
    """Ranges from ``start`` to before ``end``, in order and without holes."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.sizes = [0, 0, 0, 0, 0]
        """Records in each state."""
        self._firsts: list[int] = []
        self._ranges: list[Range] = []
        self._available: list[int] = []
        self._archiving: list[int] = []
        self._delays: list[tuple[int, int]] = []
        self._leases: list[tuple[float, int]] = []
        self._heaps_max = _GARBAGE_MIN

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def at(self, offset: int) -> Range:
        """The range that holds an offset."""
        assert self.start <= offset < self.end, f"offset {offset} is not in {self.start} to {self.end}"
        return self._ranges[bisect_right(self._firsts, offset) - 1]

    def overlapping(self, first: int, last: int) -> list[Range]:
        """Ranges that hold any of these offsets."""
        low = max(0, bisect_right(self._firsts, first) - 1)
        return [found for found in self._ranges[low : bisect_right(self._firsts, last)] if found.last >= first]

    # ---- changes

    def extend(self, added: Range) -> None:
        """Add a range at the end."""
        assert added.first == self.end <= added.last, f"{added} does not follow offset {self.end - 1}"
        self.sizes[added.state] += added.size
        self.end = added.last + 1
        self._splice(len(self._ranges), len(self._ranges), [added])

    def change(self, first: int, last: int, changed: Callable[[Range], Range]) -> None:
        """Change all records of a span; ranges that reach out of it are split."""
        assert self.start <= first <= last < self.end, f"{first} to {last} is not in {self.start} to {self.end}"
        low = bisect_right(self._firsts, first) - 1
        high = bisect_right(self._firsts, last)
        pieces: list[Range] = []
        for old in self._ranges[low:high]:
            inner = old
            if old.first < first:
                pieces.append(old._replace(last=first - 1))
                inner = inner._replace(first=first)
            if old.last > last:
                inner = inner._replace(last=last)
            new = changed(inner)
            assert (old.state, new.state) in _ALLOWED, f"{STATE_NAMES[old.state]} cannot become {new}"
            self.sizes[old.state] -= inner.size
            self.sizes[new.state] += inner.size
            pieces.append(new)
            if old.last > last:
                pieces.append(old._replace(first=last + 1))
        self._splice(low, high, pieces)

    def put(self, piece: Range) -> None:
        """Set a span to what the log says of it, whatever was there; gaps before it become available."""
        if piece.first > self.end:
            self.extend(Range(self.end, piece.first - 1))
        if piece.first == self.end:
            self.extend(piece)
            return
        if piece.last >= self.end:
            self.extend(Range(self.end, piece.last))
        low = bisect_right(self._firsts, piece.first) - 1
        high = bisect_right(self._firsts, piece.last)
        pieces: list[Range] = []
        for old in self._ranges[low:high]:
            self.sizes[old.state] -= min(old.last, piece.last) - max(old.first, piece.first) + 1
        if self._ranges[low].first < piece.first:
            pieces.append(self._ranges[low]._replace(last=piece.first - 1))
        pieces.append(piece)
        if self._ranges[high - 1].last > piece.last:
            pieces.append(self._ranges[high - 1]._replace(first=piece.last + 1))
        self.sizes[piece.state] += piece.size
        self._splice(low, high, pieces)

    def drop_before(self, offset: int) -> None:
        """Forget everything below an offset."""
        if offset >= self.end:
            self.start = self.end = max(offset, self.start)
            self._firsts.clear()
            self._ranges.clear()
            self.sizes = [0, 0, 0, 0, 0]
            return
        while self._ranges and self._ranges[0].first < offset:
            old = self._ranges[0]
            gone = min(old.last, offset - 1)
            self.sizes[old.state] -= gone - old.first + 1
            self._splice(0, 1, [old._replace(first=gone + 1)] if gone < old.last else [])
        self.start = max(self.start, offset)

    def drop_final(self) -> None:
        """Move the start past everything that is finished."""
        done = 0
        for found in self._ranges:
            if not found.is_final:
                break
            self.sizes[found.state] -= found.size
            done += 1
        if done:
            self.start = self._ranges[done - 1].last + 1
            del self._ranges[:done]
            del self._firsts[:done]

    def _splice(self, low: int, high: int, pieces: list[Range]) -> None:
        """Put pieces in the place of ranges, each made one with a neighbour that is like it."""
        if low > 0 and pieces:
            low -= 1
            pieces.insert(0, self._ranges[low])
        if high < len(self._ranges) and pieces:
            pieces.append(self._ranges[high])
            high += 1
        merged: list[Range] = []
        for piece in pieces:
            if merged and merged[-1][2:] == piece[2:]:
                merged[-1] = merged[-1]._replace(last=piece.last)
            else:
                merged.append(piece)
        self._ranges[low:high] = merged
        self._firsts[low:high] = [piece.first for piece in merged]
        for piece in merged:
            self._announce(piece)
        if len(self._available) + len(self._delays) + len(self._leases) + len(self._archiving) > self._heaps_max:
            self._collect()

    # ---- heaps

    def _announce(self, piece: Range) -> None:
        if piece.state == AVAILABLE:
            if piece.not_before:
                heappush(self._delays, (piece.not_before, piece.first))
            else:
                heappush(self._available, piece.first)
        elif piece.state == ACQUIRED:
            heappush(self._leases, (piece.deadline, piece.first))
        elif piece.state == ARCHIVING:
            heappush(self._archiving, piece.first)

    def _collect(self) -> None:
        """Build the heaps anew."""
        due = {first for first in self._available if (held := self._starting_at(first)) and held.is_unseen}
        self._available, self._archiving, self._delays, self._leases = list(due), [], [], []
        for piece in self._ranges:
            if piece.first not in due:
                self._announce(piece)
        heapify(self._available)
        self._heaps_max = 4 * len(self._ranges) + _GARBAGE_MIN

    def _starting_at(self, first: int) -> Range | None:
        at = bisect_right(self._firsts, first) - 1
        return self._ranges[at] if at >= 0 and self._firsts[at] == first else None

    def first_available(self, wall_ms: int) -> Range | None:
        """The lowest range that may be delivered now; one that is unseen has to be looked at before."""
        self._end_delays(wall_ms)
        heap = self._available
        while heap:
            found = self._starting_at(heap[0])
            if found is not None and found.state == AVAILABLE and (not found.not_before or found.is_unseen):
                if found.not_before <= wall_ms:
                    return found
                heappush(self._delays, (found.not_before, found.first))
            heappop(heap)
        return None

    def _end_delays(self, wall_ms: int) -> None:
        heap = self._delays
        while heap and heap[0][0] <= wall_ms:
            not_before, first = heappop(heap)
            found = self._starting_at(first)
            if found is None or found.state != AVAILABLE or found.not_before != not_before:
                continue
            if found.is_unseen:
                heappush(self._available, first)
            else:
                self.change(found.first, found.last, lambda old: old._replace(not_before=0))
                heap = self._delays  # a change may have built it anew

    def first_archiving(self) -> Range | None:
        """The lowest range on its way to the dead-letter topic."""
        heap = self._archiving
        while heap:
            found = self._starting_at(heap[0])
            if found is not None and found.state == ARCHIVING:
                return found
            heappop(heap)
        return None

    def first_lease(self) -> Range | None:
        """The range whose lease ends first."""
        heap = self._leases
        while heap:
            deadline, first = heap[0]
            found = self._starting_at(first)
            if found is not None and found.state == ACQUIRED and found.deadline == deadline:
                return found
            heappop(heap)
        return None

    def next_delay(self) -> int | None:
        """When the first delay ends, by the wall clock; None: there is none."""
        heap = self._delays
        while heap:
            not_before, first = heap[0]
            found = self._starting_at(first)
            if found is not None and found.state == AVAILABLE and found.not_before == not_before:
                return not_before
            heappop(heap)
        return None
