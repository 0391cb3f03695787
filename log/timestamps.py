"""Finding records by timestamp (Kafka's ListOffsets): the batch by the time index, the record inside of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import CorruptMessageError
from .batch import HEADER_SIZE
from .compression import decompress
from .scan import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .batch import BatchHeader
    from .segment import Segment


class FoundOffset(NamedTuple):
    """A record's offset and timestamp, and the leader epoch it was written in."""

    offset: int
    timestamp: int
    leader_epoch: int


def first_at_or_after(
    segment: Segment, timestamp: int, offset_min: int, *, decompressed_max: int
) -> FoundOffset | None:
    """The first record of a segment, at or past offset_min, whose timestamp is at least this one."""
    position, expected = segment.near(max(segment.time_index.lookup(timestamp), offset_min))
    for at, header in walk(segment.file, position, segment.size, expected, check_crc=False):
        if header.next_offset <= offset_min or header.max_timestamp < timestamp:
            continue
        batch = segment.file.read(at, header.size)
        for offset, record_timestamp in record_timestamps(batch, header, decompressed_max):
            if offset >= offset_min and record_timestamp >= timestamp:
                return FoundOffset(offset, record_timestamp, header.leader_epoch)
    return None


def record_timestamps(batch: bytes, header: BatchHeader, decompressed_max: int) -> Iterator[tuple[int, int]]:
    """(offset, timestamp) of each record of a batch, without its keys and values."""
    if not header.records_count:
        return
    data = memoryview(batch)[HEADER_SIZE:]
    if header.compression:
        data = memoryview(decompress(header.compression, data, decompressed_max))
    base = header.base_timestamp
    position = 0
    try:
        for _ in range(header.records_count):
            length, start = _varint(data, position)
            timestamp_delta, after = _varint(data, start + 1)
            offset_delta, _ = _varint(data, after)
            timestamp = header.max_timestamp if header.is_append_time else base + timestamp_delta
            yield header.base_offset + offset_delta, timestamp
            position = start + length
    except IndexError as error:
        message = f"the batch at offset {header.base_offset} ends within a record"
        raise CorruptMessageError(message) from error


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A zig-zag variable-length integer and the position after it; IndexError past the end."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  the continuation bit
            return (value >> 1) ^ -(value & 1), position
        shift += 7
