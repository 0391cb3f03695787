"""Records by aiokafka's compiled codec: for the records of producers and consumers. No I/O.

Importing aiokafka takes longer than a node's whole start, so the broker imports this file when it first needs it.

The codec is fast, but it trusts its input: it reads varints without looking for the end of the buffer, and it
decompresses without bound. So it is only ever given uncompressed records that end with a sentinel, see ``parse``.
Compressing, and the header of what was compressed, are done here.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, cast

from aiokafka.errors import CorruptRecordException  # type: ignore[import-untyped] # it says nothing of types
from aiokafka.record.default_records import (  # type: ignore[import-untyped] # as above
    DefaultRecordBatch,
    DefaultRecordBatchBuilder,
)

from ..errors import InvalidRecordError
from . import compression as codecs
from . import plain_records
from .batch import (
    COMPRESSION_MASK,
    DELETE_HORIZON_BIT,
    HEADER,
    HEADER_SIZE,
    MAGIC,
    NO_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    BatchHeader,
    check_whole,
    make_attributes,
    make_batch,
    read_header,
)
from .uniform_records import encode_uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from .columns import RecordColumns
    from .record import NewRecord, Record

_LARGE_VALUE_BYTES = 2048
"""From here on plain Python is faster, because aiokafka's builder computes a CRC at a tenth of the speed of ours."""

_UNLIMITED = _COUNT_END = 2**31 - 1
"""Bytes of a builder, and records of a batch with room for one more in the field."""

_SENTINEL_VALUE = b"zmqbroker's end."
_SENTINEL_OFFSET_DELTA = 63
_SENTINEL = b"\x2c\x00\x00\x7e\x01\x20" + _SENTINEL_VALUE + b"\x00"
"""A whole record: length 22, no attributes, timestamp 0, offset 63, no key, a value of 16 bytes, no headers."""
assert max(_SENTINEL) < 0x80  # noqa: PLR2004 - so that each varint in it ends where it should


def encode_batch(
    records: Sequence[NewRecord],
    *,
    compression: int = codecs.NONE,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    transactional: bool = False,
) -> bytes:
    """Encode records as one batch; it stays uncompressed where compression would make it larger.

    A record is (timestamp in ms, key, value, headers). Raises ValueError if there are none, and TypeError for a key or
    value that is not bytes.
    """
    if not records:
        message = "a batch holds at least one record"
        raise ValueError(message)
    first = records[0]
    if first[2] is not None and len(first[2]) >= _LARGE_VALUE_BYTES:
        data, max_timestamp = plain_records.encode_records(records)
    else:
        builder = DefaultRecordBatchBuilder(2, 0, transactional, producer_id, producer_epoch, base_sequence, _UNLIMITED)
        append = builder.append
        for offset_delta, (timestamp, key, value, headers) in enumerate(records):
            append(offset_delta, timestamp, key, value, headers if isinstance(headers, list) else list(headers))
        batch = builder.build()
        if compression == codecs.NONE:
            return bytes(batch)
        max_timestamp = read_header(batch).max_timestamp
        data = bytes(memoryview(batch)[HEADER_SIZE:])
    data, compression = _compressed(data, compression)
    return make_batch(
        data,
        records_count=len(records),
        base_timestamp=first[0],
        max_timestamp=max_timestamp,
        attributes=make_attributes(compression=compression, transactional=transactional),
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )


def encode_columns(
    columns: RecordColumns,
    *,
    compression: int = codecs.NONE,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    transactional: bool = False,
) -> bytes:
    """Encode records that are kept by column, as ``encode_batch`` does; uniform ones in a fraction of the time."""
    data = encode_uniform(columns)
    if data is None:
        return encode_batch(
            list(columns.rows()),
            compression=compression,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
            transactional=transactional,
        )
    data, compression = _compressed(data, compression)
    return make_batch(
        data,
        records_count=len(columns),
        base_timestamp=columns.runs[0][1],
        max_timestamp=max(timestamp for _, timestamp in columns.runs),
        attributes=make_attributes(compression=compression, transactional=transactional),
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )


def _compressed(data: bytes, compression: int) -> tuple[bytes, int]:
    """Compress records, unless that makes them larger; returns them and the codec that they have now."""
    if compression == codecs.NONE:
        return data, compression
    compressed = codecs.compress(compression, data)
    return (compressed, compression) if len(compressed) < len(data) else (data, codecs.NONE)


def decode_batch(batch: Buffer, *, max_decompressed_bytes: int) -> list[Record]:
    """Decode the records of one whole batch.

    Raises CorruptMessageError for a batch of wrong size or CRC, or one that does not decompress to at most
    max_decompressed_bytes, UnsupportedCompressionError, and InvalidRecordError for malformed records.
    """
    header = check_whole(batch)
    data = memoryview(batch)[HEADER_SIZE:]
    if header.compression != codecs.NONE:
        return decode_records(header, codecs.decompress(header.compression, data, max_decompressed_bytes))
    return decode_records(header, data)


def decode_records(header: BatchHeader, data: Buffer) -> list[Record]:
    """Decode the decompressed records of a batch. Raises InvalidRecordError."""
    if header.base_timestamp < 0:
        # The compiled record says None where it has no timestamp; a batch of such records is rare.
        return plain_records.decode_records(header, bytes(data))
    records = parse(header, data, base_offset=header.base_offset)
    if header.attributes & DELETE_HORIZON_BIT and any(record.timestamp is None for record in records):
        return plain_records.decode_records(header, bytes(data))
    return records


def parse(header: BatchHeader, data: Buffer, *, base_offset: int) -> list[Record]:
    """Read the decompressed records of a batch with the compiled codec. Raises InvalidRecordError.

    The records end with the data and their offsets rise up to the header's last one. Like Kafka's own brokers and
    clients, this reads every negative length of a key or value as null, and ignores a record's attributes.

    The codec gets one record more, a sentinel. All its bytes are below 0x80, so that no varint, wherever in it a
    malformed record makes the codec look for one, runs past the end of the buffer, where an overlong one could read
    memory that is not the process's. And the records end where the data does if and only if what is read last is the
    sentinel itself: a value of 16 bytes before the last byte, and each byte before that the whole of a varint, leave
    no other way to read it.
    """
    count = header.records_count
    if not 0 <= count < _COUNT_END:
        raise _malformed(header, data)
    try:
        records = list(DefaultRecordBatch(b"".join((_codec_header(header, base_offset), data, _SENTINEL))))
    except (CorruptRecordException, UnicodeDecodeError, OverflowError, MemoryError):
        raise _malformed(header, data) from None
    last = records.pop()
    if (
        last.value != _SENTINEL_VALUE
        or last.key is not None
        or last.headers
        or last.offset != base_offset + _SENTINEL_OFFSET_DELTA
    ):
        raise _malformed(header, data)
    offsets = [record.offset for record in records]
    if header.last_offset_delta != count - 1 or offsets != list(range(base_offset, base_offset + count)):
        # Not as a producer numbers them, but compaction may have left gaps.
        limits = (base_offset - 1, *offsets, base_offset + header.last_offset_delta + 1)
        if header.last_offset_delta < 0 or any(after <= before for before, after in pairwise(limits)):
            raise _malformed(header, data)
    return cast("list[Record]", records)


def _codec_header(header: BatchHeader, base_offset: int) -> bytes:
    """Write what the codec looks at: no compression, one record more, and what fields of records depend on."""
    return HEADER.pack(
        *(base_offset, 0, NO_EPOCH, MAGIC, 0, header.attributes & ~COMPRESSION_MASK, 0),
        *(header.base_timestamp, header.max_timestamp, NO_PRODUCER_ID, NO_EPOCH, NO_SEQUENCE),
        header.records_count + 1,
    )


def _malformed(header: BatchHeader, data: Buffer) -> InvalidRecordError:
    """Say what is wrong with records that the compiled codec refused, by the plain one, which knows."""
    try:
        for _ in plain_records.frames(bytes(data), header.records_count, header.last_offset_delta):
            pass
    except InvalidRecordError as error:
        return error
    return InvalidRecordError("the batch's records are malformed")
