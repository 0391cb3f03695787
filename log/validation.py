"""The check of a batch that a client produced, before it is appended. No I/O.

Everything that a consumer, a follower or recovery relies on is held true here: the header against the bytes, the CRC,
and the framing of every record. It costs the leader more than anything else it does with a record, so there are three
readers, from the fastest to the one that explains: uniform records by slices, others by the compiled codec, and large
or wrong ones by the plain one. The compiled codec is imported when the first batch needs it, because its import takes
longer than a node's whole start.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

from ..errors import (
    InvalidRecordError,
    InvalidTimestampError,
    MessageTooLargeError,
    UnsupportedCompressionError,
)
from . import compression as codecs
from . import plain_records
from .batch import (
    COMPRESSION_NAMES,
    DELETE_HORIZON_BIT,
    HEADER_SIZE,
    NO_TIMESTAMP,
    TRANSACTIONAL_BIT,
    UNKNOWN_BITS,
    BatchHeader,
    check_whole,
)
from .uniform_records import uniform_timestamp_deltas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from ..settings import TopicConfig
    from .record import Record

_UNIFORM_COUNT_MIN = 8
"""Fewer records are read faster than they are sliced."""

_COUNT_MAX = 2**20
"""Records of a batch, and headers of a large one: more would keep the node from everything else for seconds."""

_PLAIN_ATTRIBUTES = frozenset(
    codec | transactional for codec in range(len(COMPRESSION_NAMES)) for transactional in (0, TRANSACTIONAL_BIT)
)
"""All that a client may say."""

_LARGE_BYTES = 4 * 2**20
"""More bytes of records than this are walked one by one: as objects they could take 32 times as much memory."""


def check_batch(batch: Buffer, config: TopicConfig, *, now_ms: int) -> BatchHeader:
    """Check what a client wants to append, and return its header as the client wrote it.

    The buffer must hold exactly one batch. Base offset and leader epoch are not looked at: the leader writes its own.
    Raises CorruptMessageError, MessageTooLargeError, UnsupportedCompressionError, InvalidRecordError or
    InvalidTimestampError; for these the same bytes would be refused again, but for a CRC that broke on the way.
    """
    size = len(memoryview(batch))
    if size > config.max_message_bytes:
        message = (
            f"the batch is {size} bytes long and max.message.bytes of its topic allows {config.max_message_bytes}: "
            "send smaller batches, or raise the setting"
        )
        raise MessageTooLargeError(message)
    header = check_whole(batch)
    _check_attributes(header)
    _check_counts(header)
    data = memoryview(batch)[HEADER_SIZE:]
    if header.compression == codecs.NONE:
        records = bytes(data)
    else:
        records = codecs.decompress(header.compression, data, config.max_decompressed_bytes)
    smallest, largest = _check_records(header, records, needs_keys=config.is_compacted)
    if config.message_timestamp_type == "CreateTime":
        _check_timestamps(header, (smallest, largest), config, now_ms)
    return header


def _check_attributes(header: BatchHeader) -> None:
    attributes = header.attributes
    if attributes in _PLAIN_ATTRIBUTES:
        return
    if attributes & UNKNOWN_BITS:
        message = (
            f"the batch has the attributes {attributes:#06x}, of which {attributes & UNKNOWN_BITS:#06x} are unknown"
        )
        raise InvalidRecordError(message)
    if header.compression >= len(COMPRESSION_NAMES):
        message = (
            f"the batch's compression is {header.compression}; 0 to 4 are supported: {', '.join(COMPRESSION_NAMES)}"
        )
        raise UnsupportedCompressionError(message)
    if header.is_control:
        message = "a client cannot write control batches"
        raise InvalidRecordError(message)
    if attributes & DELETE_HORIZON_BIT:
        message = "the batch has a delete horizon, which only the compaction of a log sets"
        raise InvalidRecordError(message)
    if header.is_append_time:
        message = "the batch has the timestamp type LogAppendTime, which only a broker sets"
        raise InvalidTimestampError(message)


def _check_counts(header: BatchHeader) -> None:
    if header.records_count <= 0:
        message = f"the batch says it has {header.records_count} records; it must have at least 1"
        raise InvalidRecordError(message)
    if header.records_count > _COUNT_MAX:
        message = (
            f"the batch says it has {header.records_count} records; at most {_COUNT_MAX} are taken: send smaller ones"
        )
        raise InvalidRecordError(message)
    if header.records_count != header.last_offset_delta + 1:
        message = (
            f"the batch says it has {header.records_count} records and that its last offset is "
            f"{header.last_offset_delta} after its first; it must be one less"
        )
        raise InvalidRecordError(message)
    if header.has_producer_id:
        if header.producer_id < 0 or header.producer_epoch < 0 or header.base_sequence < 0:
            message = (
                f"the batch has producer id {header.producer_id}, epoch {header.producer_epoch} and sequence "
                f"{header.base_sequence}; an idempotent producer's are 0 or more"
            )
            raise InvalidRecordError(message)
    elif header.is_transactional:
        message = "the batch is transactional and has no producer id"
        raise InvalidRecordError(message)


def _check_records(header: BatchHeader, data: bytes, *, needs_keys: bool) -> tuple[int, int]:
    """Check that the decompressed records are what the header says; returns their smallest and largest timestamp."""
    count = header.records_count
    if count >= _UNIFORM_COUNT_MIN:
        deltas = uniform_timestamp_deltas(data, count, needs_keys=needs_keys)
        if deltas is not None:
            return header.base_timestamp + deltas[0], header.base_timestamp + deltas[1]
    if len(data) > _LARGE_BYTES or header.base_timestamp < 0:
        return _walk(header, data, needs_keys=needs_keys)
    records = _compiled_parse()(header, data, base_offset=0)
    if needs_keys:
        _check_keys([record.key for record in records])
    # A set first, because most records of a batch share a few timestamps.
    timestamps: set[int | None] = {record.timestamp for record in records}
    if None in timestamps:
        # The compiled record says None for the timestamp -1.
        return NO_TIMESTAMP, header.max_timestamp
    known = cast("set[int]", timestamps)
    return min(known), max(known)


def _walk(header: BatchHeader, data: bytes, *, needs_keys: bool) -> tuple[int, int]:
    """Check records one by one, holding none; smallest and largest timestamp as in _check_records."""
    smallest, largest, headers_count = 2**63, -(2**63), 0
    for frame in plain_records.frames(data, header.records_count, header.last_offset_delta):
        smallest = min(smallest, frame.timestamp_delta)
        largest = max(largest, frame.timestamp_delta)
        headers_count += frame.headers_count
        if headers_count > _COUNT_MAX:
            message = f"the batch has more than {_COUNT_MAX} headers in its records; send smaller batches"
            raise InvalidRecordError(message)
        if needs_keys:
            _check_keys((None if frame.key_length < 0 else b"",))
    return header.base_timestamp + smallest, header.base_timestamp + largest


def _check_keys(keys: Sequence[bytes | None]) -> None:
    if None in keys:
        message = "a record has no key, and the topic is compacted (cleanup.policy), which needs one in every record"
        raise InvalidRecordError(message)


def _check_timestamps(header: BatchHeader, found: tuple[int, int], config: TopicConfig, now_ms: int) -> None:
    smallest, largest = found
    if smallest < 0 and found != (NO_TIMESTAMP, NO_TIMESTAMP):
        message = f"a record has the timestamp {smallest}; it is 0 or more, or -1 in all records of a batch"
        raise InvalidTimestampError(message)
    # Some producers leave the largest timestamp out.
    if header.max_timestamp not in (largest, NO_TIMESTAMP):
        message = f"the batch says its largest timestamp is {header.max_timestamp} and its records say {largest}"
        raise InvalidTimestampError(message)
    if smallest < 0:
        return
    if largest - now_ms > config.message_timestamp_after_max_ms:
        message = (
            f"a record's timestamp is {largest}, {largest - now_ms} ms after the broker's clock; "
            f"message.timestamp.after.max.ms allows {config.message_timestamp_after_max_ms}"
        )
        raise InvalidTimestampError(message)
    if now_ms - smallest > config.message_timestamp_before_max_ms:
        message = (
            f"a record's timestamp is {smallest}, {now_ms - smallest} ms before the broker's clock; "
            f"message.timestamp.before.max.ms allows {config.message_timestamp_before_max_ms}"
        )
        raise InvalidTimestampError(message)


def warm_up() -> None:
    """Import the compiled codec now, in any thread, so that the first batch that needs it need not wait for that."""
    _compiled_parse()


class _Parse(Protocol):
    def __call__(self, header: BatchHeader, data: Buffer, *, base_offset: int) -> list[Record]: ...


@cache
def _compiled_parse() -> _Parse:
    from .records import parse  # noqa: PLC0415 - imports aiokafka, which takes longer than a node's whole start

    return parse
