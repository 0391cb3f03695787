"""Batches as they were read for a share group: where each stands, and which of its records are delayed. Pure.

Only headers are looked at, unless a batch holds a header ``__deliver_at``: then its records are decoded, once.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import BrokerError
from ..log import compression
from ..log.batch import HEADER_SIZE, BatchHeader, read_header
from ..log.plain_records import decode_records

if TYPE_CHECKING:
    from ..log.record import Headers

DELIVER_AT: Final = "__deliver_at"
"""The header of a record that share groups shall not deliver before this time: decimal ms since 1970."""
_MARK: Final = DELIVER_AT.encode()
_TIME_MAX: Final = 2**62


class Delayed(NamedTuple):
    """Offsets of a batch with one time before which they are not delivered; 0: at once."""

    first: int
    last: int
    not_before: int


class StoredBatch(NamedTuple):
    """One batch of a chunk."""

    header: BatchHeader
    position: int

    @property
    def first(self) -> int:
        """Offset of its first record."""
        return self.header.base_offset

    @property
    def last(self) -> int:
        """Offset of its last record."""
        return self.header.base_offset + self.header.last_offset_delta

    @property
    def is_empty(self) -> bool:
        """Whether it holds no record that could be delivered."""
        return self.header.records_count == 0 or self.header.is_control


class Chunk:
    """Batches that were read one after the other."""

    def __init__(self, offset: int, data: bytes, decompressed_max: int) -> None:
        """Raise CorruptMessageError if the data is not made of batches."""
        self.data = data
        self.decompressed_max = decompressed_max
        self._delays: dict[int, list[Delayed] | None] = {}
        self._may_delay = _MARK in data
        self._batches: list[StoredBatch] = []
        position = 0
        while position < len(data):
            header = read_header(data, position)
            self._may_delay = self._may_delay or header.compression != compression.NONE
            self._batches.append(StoredBatch(header, position))
            position += header.size
        self._lasts = [batch.last for batch in self._batches]
        self.first = min(offset, self._batches[0].first) if self._batches else offset
        self.next = self._lasts[-1] + 1 if self._batches else offset
        """From first to before next, it is known what there is."""

    def covers(self, offset: int) -> bool:
        """Whether it is known what stands at this offset."""
        return self.first <= offset < self.next

    def find(self, offset: int) -> StoredBatch:
        """The batch of an offset or, where there is none, the next."""
        assert self.covers(offset), f"offset {offset} is not in {self.first} to {self.next}"
        return self._batches[bisect_left(self._lasts, offset)]

    def bytes_of(self, batch: StoredBatch) -> bytes:
        """The whole batch as stored."""
        return self.data[batch.position : batch.position + batch.header.size]

    def delays(self, batch: StoredBatch) -> list[Delayed] | None:
        """All offsets of a batch by the time of their delivery; None: all at once."""
        if not self._may_delay:
            return None
        if batch.position not in self._delays:
            self._delays[batch.position] = self._find_delays(batch)
        return self._delays[batch.position]

    def _find_delays(self, batch: StoredBatch) -> list[Delayed] | None:
        header = batch.header
        start, end = batch.position + HEADER_SIZE, batch.position + header.size
        if header.compression == compression.NONE and self.data.find(_MARK, start, end) < 0:
            return None
        try:
            data = compression.decompress(header.compression, self.data[start:end], self.decompressed_max)
            if _MARK not in data:
                return None
            times = [(record.offset, _time_of(record.headers)) for record in decode_records(header, data)]
        except BrokerError:
            return None  # whoever gets it finds that it cannot be read, and rejects it
        return _runs(times, batch.first, batch.last)


def _time_of(headers: Headers) -> int:
    """When a record is to be delivered; 0 if it does not say, or not what a time is."""
    for name, value in headers:
        if name == DELIVER_AT and value is not None and value.isdigit():
            return min(int(value), _TIME_MAX) if len(value) < 20 else _TIME_MAX  # noqa: PLR2004 - digits of 2^62
    return 0


def _runs(times: list[tuple[int, int]], first: int, last: int) -> list[Delayed] | None:
    """Runs of one time; offsets without a record go with those before them."""
    runs: list[Delayed] = []
    for offset, time in times:
        if not runs:
            runs.append(Delayed(first, offset, time))
        elif runs[-1].not_before == time:
            runs[-1] = runs[-1]._replace(last=offset)
        else:
            runs[-1] = runs[-1]._replace(last=offset - 1)
            runs.append(Delayed(offset, offset, time))
    if runs:
        runs[-1] = runs[-1]._replace(last=last)
    return runs if any(run.not_before for run in runs) else None


def due_runs(delays: list[Delayed] | None, first: int, last: int, wall_ms: int) -> list[Delayed]:
    """What is due and what is not, of these offsets: the delayed of one stretch as one, with their earliest time."""
    if delays is None:
        return [Delayed(first, last, 0)]
    found: list[Delayed] = []
    for run in delays:
        low, high = max(run.first, first), min(run.last, last)
        if low > high:
            continue
        time = run.not_before if run.not_before > wall_ms else 0
        if found and bool(found[-1].not_before) == bool(time):
            found[-1] = Delayed(found[-1].first, high, min(found[-1].not_before, time))
        else:
            found.append(Delayed(low, high, time))
    return found
