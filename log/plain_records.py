"""Records in plain Python: for the broker's own few, and to say exactly what is wrong with a client's. No I/O.

``records.py`` has the same two functions on a compiled codec whose import takes longer than a node's whole start.
Layout of a record in a batch (KIP-98; ``DefaultRecord.java``); varints are zigzag, as in Protocol Buffers::

    length          varint      bytes after this field
    attributes      int8        none defined
    timestamp       varlong     ms after the batch's base timestamp, may be negative
    offset          varint      after the batch's base offset
    key             varint      length, -1: none; then the bytes
    value           varint      length, -1: none; then the bytes
    headers         varint      how many; then for each its key (length, UTF-8) and its value (length, -1: none, bytes)

Reading is strict: an overlong varint, a length below -1 or an attribute is refused, so that what passes here can be
read by every client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import InvalidRecordError
from . import compression
from .batch import HEADER_SIZE, NO_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, check_whole, make_attributes, make_batch
from .record import CREATE_TIME, LOG_APPEND_TIME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from .batch import BatchHeader
    from .record import Headers, NewRecord, Record

_NULL = b"\x01"
"""The varint of -1."""
_UINT32_END, _UINT64_END = 2**32, 2**64
HEADERS_MAX = 2**20
"""Headers of one record: more would keep the reader busy for seconds."""
_MORE = 0x80
"""Set in all bytes of a varint but its last."""
_SMALL_END = 128
_SHIFT_MAX = 63
_INT32_SHIFT_MAX = 28
"""The fifth byte of seven bits is a varint's last."""


class PlainRecord(NamedTuple):
    """A record that was read by this codec."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Frame(NamedTuple):
    """Where the parts of one record stand in the data; a length of -1 is None."""

    timestamp_delta: int
    offset_delta: int
    key_start: int
    key_length: int
    value_start: int
    value_length: int
    headers_start: int
    headers_count: int


def varint(value: int) -> bytes:
    """Encode a signed number of up to 64 bits."""
    zigzag = value << 1 if value >= 0 else ~(value << 1)
    if zigzag < _SMALL_END:
        return _SMALL[zigzag]
    encoded = bytearray()
    while zigzag >= _SMALL_END:
        encoded.append(zigzag & 0x7F | _MORE)
        zigzag >>= 7
    encoded.append(zigzag)
    return bytes(encoded)


_SMALL = [bytes((zigzag,)) for zigzag in range(_SMALL_END)]


def read_varint(data: bytes, position: int, end: int = _UINT32_END) -> tuple[int, int]:
    """Decode (number, position after it); end is 2^32 or, for a varlong, 2^64.

    Raises InvalidRecordError if it is longer than its type allows and IndexError if the data ends before it.
    """
    zigzag = data[position]
    position += 1
    if zigzag < _MORE:
        return (zigzag >> 1) ^ -(zigzag & 1), position
    byte = data[position]
    position += 1
    zigzag += (byte - 1) << 7
    if byte < _MORE:
        return (zigzag >> 1) ^ -(zigzag & 1), position
    zigzag -= _MORE << 7
    shift = 14
    while True:
        byte = data[position]
        position += 1
        zigzag |= (byte & 0x7F) << shift
        if byte < _MORE:
            break
        shift += 7
        if shift > _SHIFT_MAX:
            message = f"a varint before byte {position} of the records is longer than 10 bytes"
            raise InvalidRecordError(message)
    # The second: it may take more bytes than its type has, even where the number is small.
    if zigzag >= end or (end == _UINT32_END and shift > _INT32_SHIFT_MAX):
        message = f"a varint before byte {position} of the records does not fit into its type"
        raise InvalidRecordError(message)
    return (zigzag >> 1) ^ -(zigzag & 1), position


def encode_records(records: Sequence[NewRecord]) -> tuple[bytes, int]:
    """Encode the records of a batch and find the largest timestamp; the first record's is the base."""
    base_timestamp = max_timestamp = records[0][0]
    pieces: list[bytes] = []
    for offset_delta, (timestamp, key, value, headers) in enumerate(records):
        max_timestamp = max(max_timestamp, timestamp)
        parts = [b"\x00", varint(timestamp - base_timestamp), varint(offset_delta)]
        for part in (key, value):
            if part is None:
                parts.append(_NULL)
            else:
                parts += (varint(len(part)), part)
        parts.append(varint(len(headers)))
        for name, header_value in headers:
            encoded_name = name.encode()
            parts += (varint(len(encoded_name)), encoded_name)
            parts += (_NULL,) if header_value is None else (varint(len(header_value)), header_value)
        pieces.append(varint(sum(map(len, parts))))
        pieces += parts
    return b"".join(pieces), max_timestamp


def encode_batch(
    records: Sequence[NewRecord],
    *,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    transactional: bool = False,
    control: bool = False,
) -> bytes:
    """Encode records as one uncompressed batch. Raises ValueError if there are none."""
    if not records:
        message = "a batch holds at least one record"
        raise ValueError(message)
    data, max_timestamp = encode_records(records)
    return make_batch(
        data,
        records_count=len(records),
        base_timestamp=records[0][0],
        max_timestamp=max_timestamp,
        attributes=make_attributes(transactional=transactional, control=control),
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )


def decode_batch(batch: Buffer, *, max_decompressed_bytes: int = 2**26) -> list[Record]:
    """Decode the records of one whole batch. Raises CorruptMessageError or InvalidRecordError."""
    header = check_whole(batch)
    data = memoryview(batch)[HEADER_SIZE:]
    if header.compression == compression.NONE:
        return decode_records(header, bytes(data))
    return decode_records(header, compression.decompress(header.compression, data, max_decompressed_bytes))


def decode_records(header: BatchHeader, data: bytes) -> list[Record]:
    """Decode the decompressed records of a batch. Raises InvalidRecordError."""
    records: list[Record] = []
    timestamp_type = LOG_APPEND_TIME if header.is_append_time else CREATE_TIME
    for frame in frames(data, header.records_count, header.last_offset_delta):
        timestamp = header.max_timestamp if timestamp_type else header.base_timestamp + frame.timestamp_delta
        headers: list[tuple[str, bytes | None]] = []
        _read_headers(data, frame.headers_start, frame.headers_count, headers)
        records.append(
            PlainRecord(
                header.base_offset + frame.offset_delta,
                timestamp,
                timestamp_type,
                _slice(data, frame.key_start, frame.key_length),
                _slice(data, frame.value_start, frame.value_length),
                headers,
            )
        )
    return records


def _slice(data: bytes, start: int, length: int) -> bytes | None:
    return None if length < 0 else data[start : start + length]


def frames(data: bytes, count: int, last_offset_delta: int) -> Iterator[Frame]:
    """Walk the decompressed records of a batch without holding more than one of them.

    Raises InvalidRecordError if they are not exactly count well-formed records whose offsets rise from 0 or more to
    last_offset_delta at most. In what a producer sends that is count - 1, so that there are no gaps; compaction leaves
    some.
    """
    if count < 0 or last_offset_delta < 0:
        message = (
            f"the batch says it has {count} records and that its last offset is {last_offset_delta} after its first"
        )
        raise InvalidRecordError(message)
    position = 0
    offset_delta = -1
    for index in range(count):
        try:
            frame, position = _read_frame(data, position)
        except IndexError:
            message = f"record {index} of {count} is cut off by the end of the batch"
            raise InvalidRecordError(message) from None
        if not offset_delta < frame[1] <= last_offset_delta:
            message = (
                f"record {index} of {count} says its offset is {frame[1]} after the batch's; "
                f"it must be above {offset_delta}, the one before it, and {last_offset_delta} at most"
            )
            raise InvalidRecordError(message)
        offset_delta = frame[1]
        yield frame
    if position != len(data):
        message = f"{len(data) - position} bytes are left after the {count} records of the batch"
        raise InvalidRecordError(message)


def _read_frame(data: bytes, position: int) -> tuple[Frame, int]:
    """Check one record; most of its numbers take one byte, for which a call each would double the time."""
    length, start = read_varint(data, position)
    end = start + length
    if length < 0 or end > len(data):
        message = f"a record says it is {length} bytes long and {len(data) - start} are left"
        raise InvalidRecordError(message)
    if data[start] != 0:
        message = f"a record has the attributes {data[start]:#04x}; none are defined"
        raise InvalidRecordError(message)
    timestamp_delta, position = (0, start + 2) if data[start + 1] == 0 else read_varint(data, start + 1, _UINT64_END)
    offset_delta, position = read_varint(data, position)
    if data[position] == 1:
        key_length, key_start = -1, position + 1
        value_length, value_start = read_varint(data, key_start)
    else:
        key_length, key_start = read_varint(data, position)
        if key_length < -1 or key_start + key_length > end:
            raise _bad_length(key_length, end - key_start, part="key")
        value_length, value_start = read_varint(data, key_start + max(key_length, 0))
    position = value_start + value_length if value_length > 0 else value_start
    if value_length < -1 or position > end:
        raise _bad_length(value_length, end - value_start, part="value")
    headers_count, headers_start = (0, position + 1) if data[position] == 0 else read_varint(data, position)
    if not 0 <= headers_count <= HEADERS_MAX:
        message = f"a record says it has {headers_count} headers; 0 to {HEADERS_MAX} are allowed"
        raise InvalidRecordError(message)
    position = _read_headers(data, headers_start, headers_count, None) if headers_count else headers_start
    if position != end:
        message = f"a record says it is {length} bytes long and its parts take {position - start}"
        raise InvalidRecordError(message)
    parts = (timestamp_delta, offset_delta, key_start, key_length, value_start, value_length)
    return Frame(*parts, headers_start, headers_count), position


def _bad_length(length: int, left: int, *, part: str) -> InvalidRecordError:
    return InvalidRecordError(f"the {part} of a record says it has {length} bytes and {left} are left")


def _read_headers(data: bytes, position: int, count: int, into: list[tuple[str, bytes | None]] | None) -> int:
    """Check headers and, if there is a list for them, collect them; returns the position after the last."""
    end = len(data)
    for _ in range(count):
        name_length, start = read_varint(data, position)
        if name_length < 0:
            message = f"a header's key says it has {name_length} bytes; it cannot be null"
            raise InvalidRecordError(message)
        if start + name_length > end:
            raise _bad_length(name_length, end - start, part="header key")
        try:
            name = data[start : start + name_length].decode()
        except UnicodeDecodeError as error:
            message = f"a header's key is no UTF-8: {error.reason} at its byte {error.start}"
            raise InvalidRecordError(message) from error
        value_length, start = read_varint(data, start + name_length)
        position = start + max(value_length, 0)
        if value_length < -1 or position > end:
            raise _bad_length(value_length, end - start, part="header value")
        if into is not None:
            into.append((name, _slice(data, start, value_length)))
    return position
