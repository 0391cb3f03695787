"""A segment's sparse indexes, in Kafka's file formats: offset to position, and timestamp to offset. No I/O.

An entry of the offset index (``.index``) is 8 bytes, big-endian: the last offset of a batch relative to the segment's
base offset, and the position where that batch starts. An entry of the time index (``.timeindex``) is 12 bytes: the
largest timestamp up to some batch, and the relative offset of the batch that has it; every record with a larger
timestamp has a larger offset. In memory each column is one array, so that a lookup is a bisection in C.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from operator import lt
from struct import Struct

OFFSET_ENTRY_SIZE = 8
TIME_ENTRY_SIZE = 12
MAX_RELATIVE_OFFSET = 2**31 - 1

_TIME_ENTRY = Struct(">qi")
assert array("i").itemsize == 4  # noqa: PLR2004  the files hold 32-bit numbers
assert _TIME_ENTRY.size == TIME_ENTRY_SIZE


class IndexFormatError(Exception):
    """The bytes are not those of an index; the reason says why. The index is then rebuilt from its segment."""


def _increasing(column: array[int]) -> bool:
    return all(map(lt, column, column[1:]))


class OffsetIndex:
    """Where some of a segment's batches start, by offset."""

    __slots__ = ("_base", "_offsets", "_positions")

    def __init__(self, base_offset: int) -> None:
        self._base = base_offset
        self._offsets = array("i")
        self._positions = array("i")

    def __len__(self) -> int:
        return len(self._offsets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OffsetIndex):
            return NotImplemented
        return self._base == other._base and self.entries() == other.entries()

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def last_position(self) -> int:
        """Position of the last entry's batch; -1 without entries."""
        return self._positions[-1] if self._positions else -1

    def entries(self) -> list[tuple[int, int]]:
        """(last offset of the batch, position of its start), in order."""
        return [
            (self._base + offset, position) for offset, position in zip(self._offsets, self._positions, strict=True)
        ]

    def append(self, last_offset: int, position: int) -> None:
        """Note the batch that ends with this offset and starts at this position.

        IndexFormatError if that does not follow the last entry: one that was read from a file was wrong.
        """
        relative = last_offset - self._base
        assert 0 <= relative <= MAX_RELATIVE_OFFSET, (last_offset, self._base)
        if self._offsets and (relative <= self._offsets[-1] or position <= self._positions[-1]):
            message = f"offset {last_offset} at position {position} follows its entry {self.entries()[-1]}"
            raise IndexFormatError(message)
        self._offsets.append(relative)
        self._positions.append(position)

    def before(self, offset: int) -> tuple[int, int] | None:
        """The last entry whose batch ends at or below the offset."""
        at = bisect_right(self._offsets, offset - self._base) - 1
        return (self._base + self._offsets[at], self._positions[at]) if at >= 0 else None

    def at_or_after(self, offset: int) -> tuple[int, int] | None:
        """The first entry whose batch ends at or above the offset: that batch may hold it."""
        at = bisect_left(self._offsets, offset - self._base)
        return (self._base + self._offsets[at], self._positions[at]) if at < len(self._offsets) else None

    def last_start(self, position_max: int, offset_end: int) -> tuple[int, int] | None:
        """The last entry that starts at or below a position and whose batch ends below an offset."""
        at = bisect_right(self._positions, position_max) - 1
        at = min(at, bisect_left(self._offsets, offset_end - self._base) - 1)
        return (self._base + self._offsets[at], self._positions[at]) if at >= 0 else None

    def truncate(self, size: int) -> None:
        """Drop the entries of batches that start at or past size bytes."""
        at = bisect_left(self._positions, size)
        del self._offsets[at:]
        del self._positions[at:]

    def encode(self) -> bytes:
        """The bytes of the ``.index`` file."""
        columns = array("i", bytes(OFFSET_ENTRY_SIZE * len(self._offsets)))
        columns[0::2] = self._offsets
        columns[1::2] = self._positions
        if sys.byteorder == "little":
            columns.byteswap()
        return columns.tobytes()

    @classmethod
    def decode(cls, data: bytes, base_offset: int, segment_size: int) -> OffsetIndex:
        """Read an ``.index`` file; IndexFormatError unless its entries can belong to a segment of that many bytes."""
        if len(data) % OFFSET_ENTRY_SIZE:
            message = f"{len(data)} bytes is not a multiple of {OFFSET_ENTRY_SIZE}"
            raise IndexFormatError(message)
        columns = array("i", data)
        if sys.byteorder == "little":
            columns.byteswap()
        index = cls(base_offset)
        index._offsets = columns[0::2]
        index._positions = columns[1::2]
        if not (_increasing(index._offsets) and _increasing(index._positions)):
            message = "its entries do not increase"
            raise IndexFormatError(message)
        if columns and (columns[0] < 0 or columns[1] < 0 or columns[-1] >= segment_size):
            message = f"its entries reach from {columns[1]} to {columns[-1]} in a segment of {segment_size} bytes"
            raise IndexFormatError(message)
        return index


class TimeIndex:
    """Up to which offset a segment's timestamps have reached a value."""

    __slots__ = ("_base", "_offsets", "_timestamps")

    def __init__(self, base_offset: int) -> None:
        self._base = base_offset
        self._timestamps = array("q")
        self._offsets = array("i")

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def last(self) -> tuple[int, int] | None:
        """The last entry: (timestamp, offset)."""
        return (self._timestamps[-1], self._base + self._offsets[-1]) if self._offsets else None

    def entries(self) -> list[tuple[int, int]]:
        """(timestamp, offset), in order."""
        return [(time, self._base + offset) for time, offset in zip(self._timestamps, self._offsets, strict=True)]

    def append(self, timestamp: int, offset: int) -> None:
        """Note that the largest timestamp so far is this one, in the batch that ends at this offset.

        Only increasing timestamps are noted; the same maximum again says nothing new. IndexFormatError if the offset
        does not follow the last entry's.
        """
        relative = offset - self._base
        assert 0 <= relative <= MAX_RELATIVE_OFFSET, (offset, self._base)
        if self._timestamps:
            if timestamp <= self._timestamps[-1]:
                return
            if relative <= self._offsets[-1]:
                message = f"timestamp {timestamp} at offset {offset} follows its entry {self.last}"
                raise IndexFormatError(message)
        if timestamp < 0:
            return
        self._timestamps.append(timestamp)
        self._offsets.append(relative)

    def lookup(self, timestamp: int) -> int:
        """An offset at or below the first record with this timestamp or a later one: where to begin the search."""
        at = bisect_left(self._timestamps, timestamp) - 1
        return self._base + self._offsets[at] if at >= 0 else self._base

    def truncate(self, offset: int) -> None:
        """Drop the entries at or past an offset."""
        at = bisect_left(self._offsets, offset - self._base)
        del self._timestamps[at:]
        del self._offsets[at:]

    def encode(self) -> bytes:
        """The bytes of the ``.timeindex`` file."""
        return b"".join(map(_TIME_ENTRY.pack, self._timestamps, self._offsets))

    @classmethod
    def decode(cls, data: bytes, base_offset: int, next_offset: int) -> TimeIndex:
        """Read a ``.timeindex`` file; IndexFormatError unless its entries can belong to a segment with that end."""
        if len(data) % TIME_ENTRY_SIZE:
            message = f"{len(data)} bytes is not a multiple of {TIME_ENTRY_SIZE}"
            raise IndexFormatError(message)
        index = cls(base_offset)
        for timestamp, relative in _TIME_ENTRY.iter_unpack(data):
            index._timestamps.append(timestamp)
            index._offsets.append(relative)
        offsets = index._offsets
        if not _increasing(index._timestamps) or not _increasing(offsets):
            message = "its entries do not increase"
            raise IndexFormatError(message)
        if offsets and (offsets[0] < 0 or offsets[-1] + base_offset >= next_offset or index._timestamps[0] < 0):
            message = f"its entries reach offset {offsets[-1] + base_offset} in a segment that ends at {next_offset}"
            raise IndexFormatError(message)
        return index
