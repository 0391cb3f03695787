"""Records that all have one shape: checked and encoded at a fraction of the cost of records one by one. No I/O.

Many producers write records of one size: measurements, fixed structs, benchmarks. Where all records of a stretch are
equally long, byte k of every record is one strided slice, and a slice is compared at the speed of C. The first record
says where length, key, value and their lengths stand; if those bytes are the same in all the records, and the others
are what they should be, then by induction all of them are framed like the first. The offset's varint grows at offsets
64 and 8192, so that there are up to three stretches.

A batch that is not of this kind, or not right, gets None: then a reader of records looks, and says what is wrong.

Encoding is the same thought the other way round: the bytes before a value depend on its length, its offset and its
timestamp's distance from the first, so they come from tables, and one join puts tables and values together.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

from ..errors import InvalidRecordError
from .plain_records import read_varint, varint

if TYPE_CHECKING:
    from .columns import RecordColumns

_STRETCHES = ((1, 0, 64), (2, 64, 8192), (3, 8192, 2**20))
"""Width of the offset's varint, and the offsets from and below which it has that."""
COUNT_MAX = _STRETCHES[-1][-1]
_ONE_BYTE_END = 0x80


def uniform_timestamp_deltas(data: bytes, count: int, *, needs_keys: bool) -> tuple[int, int] | None:
    """Find the smallest and the largest timestamp, after the base timestamp, of count well-formed uniform records.

    None unless the data is exactly that, has offsets 0 to count - 1, no headers, timestamps within 63 ms of the base,
    and, if it needs keys, keys.
    """
    if not 0 < count <= COUNT_MAX:
        return None
    position = 0
    deltas: set[int] = set()
    for width, first, end in _STRETCHES:
        if first >= count:
            break
        try:
            size = _check_stretch(data, position, width, (first, min(end, count)), deltas, needs_keys=needs_keys)
        except (IndexError, InvalidRecordError):
            return None
        if size == 0:
            return None
        position += size
    if position != len(data):
        return None
    timestamps = [(zigzag >> 1) ^ -(zigzag & 1) for zigzag in deltas]
    return min(timestamps), max(timestamps)


def _check_stretch(
    data: bytes, position: int, width: int, offsets: tuple[int, int], deltas: set[int], *, needs_keys: bool
) -> int:
    """Bytes that the records with these offsets take; 0 if they are not uniform. Adds their timestamps to deltas."""
    first, end = offsets
    count = end - first
    length, attributes_at = read_varint(data, position)
    attributes_at -= position
    stride = attributes_at + length
    size = stride * count
    if length <= 0 or position + size > len(data):
        return 0
    block = data[position : position + size] if size != len(data) else data
    timestamp_at = attributes_at + 1
    offset_at = timestamp_at + 1
    key_length_at = offset_at + width
    key_length, key_at = read_varint(block, key_length_at)
    value_length_at = key_at + max(key_length, 0)
    value_length, value_at = read_varint(block, value_length_at)
    headers_at = value_at + max(value_length, 0)
    if (
        key_length < (0 if needs_keys else -1)
        or value_length < -1
        or headers_at != stride - 1
        or block[headers_at] != 0
        or block[attributes_at] != 0
    ):
        return 0
    fixed = (*range(timestamp_at), *range(key_length_at, key_at), *range(value_length_at, value_at), headers_at)
    for at in fixed:
        if block[at::stride] != block[at : at + 1] * count:
            return 0
    for column, at in enumerate(range(offset_at, key_length_at)):
        if block[at::stride] != offset_columns(width)[column][:count]:
            return 0
    deltas.update(block[timestamp_at::stride])
    return 0 if max(deltas) >= _ONE_BYTE_END else size


@cache
def offset_columns(width: int) -> list[bytes]:
    """All varints of a width below each other, read by column.

    A column repeats: the first holds the lowest six bits of the offset, and each that follows seven higher ones, which
    stay the same for 64 offsets, for 8192... Put together from its repetitions it takes a millisecond, not a second.
    """
    _, first, end = _STRETCHES[width - 1]
    columns = []
    for column in range(width):
        goes_on = 0 if column == width - 1 else _ONE_BYTE_END
        if column == 0:
            period = bytes(2 * low | goes_on for low in range(64))
        else:
            period = b"".join(bytes([high | goes_on]) * (1 << (7 * column - 1)) for high in range(_ONE_BYTE_END))
        start = first % len(period)
        columns.append((period * (1 + (start + end - first) // len(period)))[start : start + end - first])
    return columns


_ENCODED_COUNT_MIN = 16
_ENCODED_COUNT_MAX = 16_384
_DELTAS_END = 64
"""Timestamps further after the first one take a varint of two bytes."""


def encode_uniform(columns: RecordColumns) -> bytes | None:
    """Encode records without keys and headers whose values are equally long; None if they are not of that kind."""
    values = columns.values
    count = len(values)
    if columns.extras is not None or not _ENCODED_COUNT_MIN <= count <= _ENCODED_COUNT_MAX:
        return None
    try:
        lengths = set(map(len, values))  # type: ignore[arg-type] # a None among them is the error caught here
    except TypeError:
        return None
    base = columns.runs[0][1]
    if len(lengths) > 1 or not all(0 <= timestamp - base < _DELTAS_END for _, timestamp in columns.runs):
        return None
    (length,) = lengths
    parts: list[bytes | None] = [None] * (3 * count)
    parts[1::3] = _offsets_and_lengths(length, 1 << (count - 1).bit_length())[:count]
    parts[2::3] = values
    ends = [first for first, _ in columns.runs[1:]] + [count]
    for (run_first, timestamp), run_end in zip(columns.runs, ends, strict=True):
        for width, stretch_first, stretch_end in _STRETCHES:
            first, end = max(run_first, stretch_first), min(run_end, stretch_end)
            if first < end:
                parts[3 * first : 3 * end : 3] = [_start(length, width, timestamp - base)] * (end - first)
    # Each start begins with the number of headers of the record before it, so the last one's is still to come.
    parts[0] = _start(length, 1, 0)[1:]
    parts.append(b"\x00")
    return b"".join(parts)  # type: ignore[arg-type] # none is None any more


def _start(value_length: int, offset_width: int, timestamp_delta: int) -> bytes:
    """Between a value and the next record's offset: no headers, the next one's length, attributes and timestamp."""
    around = 3 + offset_width + len(varint(value_length)) + value_length + 1
    return b"\x00" + varint(around) + b"\x00" + varint(timestamp_delta)


@lru_cache(maxsize=32)
def _offsets_and_lengths(value_length: int, count: int) -> list[bytes]:
    """Between a record's timestamp and its value: its offset, no key, the value's length."""
    end = b"\x01" + varint(value_length)
    return [varint(offset) + end for offset in range(count)]
