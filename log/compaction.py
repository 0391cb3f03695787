"""What compaction leaves of one batch: the last record of each key, and deletions for as long as need be. No I/O.

A deletion (a record whose value is null) stays until delete.retention.ms after it was first compacted, so that a reader
that lags hears of it. The time at which it may go stands in its batch (KIP-534): attribute bit 6 says that the base
timestamp is that time, and the records' timestamps are relative to it as they are to any base timestamp.

Offsets never change. Records that go leave gaps inside of their batch; batches that go are replaced by one empty batch
for each stretch of them (``gap_batch``, 61 bytes). Kafka leaves nothing there; but then a segment that lost its tail
in a crash could not be told from one that was compacted, and here every log is a sequence of batches without gaps.
"""

from __future__ import annotations

from functools import cache
from itertools import compress
from typing import TYPE_CHECKING

from ..errors import ZmqBrokerError
from . import compression
from .batch import DELETE_HORIZON_BIT, HEADER_SIZE, NO_TIMESTAMP, rebuilt_batch
from .plain_records import read_varint, varint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .batch import BatchHeader
    from .record import Record

KEY_OVERHEAD_BYTES = 200
"""What a key in the map takes besides its own bytes: the dictionary's slot, two Python objects."""
_VARLONG_END = 2**64


class LastOffsets:
    """The last offset of each key in the part of a log that is not compacted yet. Bounded in memory."""

    def __init__(self, memory_bytes: int) -> None:
        self._offsets: dict[bytes, int] = {}
        self._room = memory_bytes

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, records: Sequence[Record]) -> bool:
        """Note the records of the next batch; False, and nothing is noted, if there is no room for their keys.

        The first batch always has room: a pass that could take none would never end.
        """
        offsets = self._offsets
        newest = {record.key: record.offset for record in records if record.key is not None}
        fresh = sum([len(key) + KEY_OVERHEAD_BYTES for key in newest if key not in offsets])
        if fresh > self._room and offsets:
            return False
        self._room -= fresh
        offsets.update(newest)
        return True

    def are_last(self, records: Sequence[Record]) -> list[bool]:
        """Of each record, whether no later one has its key; False without key: its topic was not compacted then."""
        get = self._offsets.get
        return [(key := record.key) is not None and get(key, -1) <= record.offset for record in records]


def records_of(header: BatchHeader, batch: memoryview, decompressed_max: int) -> tuple[bytes, list[Record]] | None:
    """The decompressed records of a stored batch, as bytes and read; None if they cannot be read: then they stay."""
    try:
        data = compression.decompress(header.compression, batch[HEADER_SIZE:], decompressed_max)
        return data, _compiled_parse()(header, data, base_offset=header.base_offset)
    except ZmqBrokerError:
        return None


def what_remains(
    header: BatchHeader,
    batch: memoryview,
    last: LastOffsets,
    *,
    now_ms: int,
    delete_retention_ms: int,
    decompressed_max: int,
) -> memoryview | None:
    """The batch itself if all of its records stay, one with those that do, or None if none does."""
    if header.is_control:
        return batch
    if not header.records_count:
        return None
    found = records_of(header, batch, decompressed_max)
    if found is None:
        return batch
    data, records = found
    horizon = header.base_timestamp if header.attributes & DELETE_HORIZON_BIT else None
    deletions_stay = horizon is None or now_ms < horizon
    kept = last.are_last(records)
    if not deletions_stay:
        kept = [stays and record.value is not None for stays, record in zip(kept, records, strict=True)]
    if True not in kept:
        return None
    new_horizon = None
    if horizon is None and any(record.value is None for record in compress(records, kept)):
        new_horizon = now_ms + delete_retention_ms
    elif False not in kept:
        return batch
    return memoryview(_with_records(header, data, kept, new_horizon))


def _with_records(header: BatchHeader, data: bytes, kept: Sequence[bool], new_horizon: int | None) -> bytes:
    """A batch with some of its records, byte for byte as they were, but for timestamps relative to a new horizon."""
    pieces: list[bytes] = []
    largest = NO_TIMESTAMP
    position = 0
    for stays in kept:
        length, start = read_varint(data, position)
        end = start + length
        if stays:
            delta, after = read_varint(data, start + 1, _VARLONG_END)
            timestamp = header.base_timestamp + delta
            largest = max(largest, timestamp)
            if new_horizon is None:
                pieces.append(data[position:end])
            else:
                encoded = varint(timestamp - new_horizon)
                pieces += (varint(1 + len(encoded) + end - after), data[start : start + 1], encoded, data[after:end])
        position = end
    assert position == len(data), (header, position, len(data))
    return rebuilt_batch(
        header,
        compression.compress(header.compression, b"".join(pieces)),
        records_count=sum(kept),
        attributes=header.attributes | (0 if new_horizon is None else DELETE_HORIZON_BIT),
        base_timestamp=header.base_timestamp if new_horizon is None else new_horizon,
        max_timestamp=header.max_timestamp if header.is_append_time else largest,
    )


@cache
def _compiled_parse() -> Callable[..., list[Record]]:
    from .records import parse  # noqa: PLC0415 - imports aiokafka, which takes longer than a node's whole start

    return parse
