"""The header of a record batch, Kafka's RecordBatch v2 (magic 2), and the checks a broker makes on it. No I/O.

Layout, big-endian (KIP-98; ``DefaultRecordBatch.java``)::

    pos  size  field
      0     8  base offset             stamped by the leader, outside of the CRC
      8     4  batch length            bytes after this field
     12     4  partition leader epoch  stamped by the leader, outside of the CRC
     16     1  magic                   2
     17     4  CRC-32C                 of everything from attributes on
     21     2  attributes              bits 0-2 compression, 3 timestamp type, 4 transactional, 5 control,
                                       6 delete horizon
     23     4  last offset delta
     27     8  base timestamp          ms; with bit 6 the delete horizon
     35     8  max timestamp           ms
     43     8  producer id             -1: none
     51     2  producer epoch          -1: none
     53     4  base sequence           -1: none
     57     4  records count
     61     -  records                 compressed as one block
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from ..errors import CorruptMessageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

HEADER_SIZE = 61
LENGTH_OVERHEAD = 12
"""Bytes before and in the batch-length field: a batch is ``batch_length + 12`` bytes long."""

MAGIC = 2
CRC_START = 21
NO_PRODUCER_ID = -1
NO_SEQUENCE = -1
NO_EPOCH = -1
NO_TIMESTAMP = -1
MAX_SEQUENCE = 2**31 - 1

COMPRESSION_MASK = 0x07
TIMESTAMP_TYPE_BIT = 0x08
TRANSACTIONAL_BIT = 0x10
CONTROL_BIT = 0x20
DELETE_HORIZON_BIT = 0x40
UNKNOWN_BITS = 0xFFFF & ~0x7F

COMPRESSION_NAMES = ("none", "gzip", "snappy", "lz4", "zstd")

HEADER = Struct(">qiibIHiqqqhii")
"""All fields, in the order of BatchHeader."""
_BEFORE_CRC = Struct(">qiibI")
_AFTER_CRC = Struct(">Hiqqqhii")
_PREFIX = Struct(">qii")
_STAMP_OFFSET = Struct(">q")
_STAMP_EPOCH = Struct(">i")
_STAMP_CRC = Struct(">I")
_STAMP_ATTRIBUTES = Struct(">H")
_ATTRIBUTES_AT = 21
_MAX_TIMESTAMP_AT = 35
_CRC_AT = 17
assert HEADER.size == HEADER_SIZE == _BEFORE_CRC.size + _AFTER_CRC.size
assert _BEFORE_CRC.size == CRC_START


class BatchHeader(NamedTuple):
    """The 61 bytes before a batch's records, decoded."""

    base_offset: int
    batch_length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records_count: int

    @property
    def size(self) -> int:
        """Bytes of the whole batch."""
        return self.batch_length + LENGTH_OVERHEAD

    @property
    def last_offset(self) -> int:
        """Offset of the last record."""
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        """Offset after the last record."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def compression(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; 5 to 7 are not defined."""
        return self.attributes & COMPRESSION_MASK

    @property
    def is_control(self) -> bool:
        """Whether the records are transaction markers, not data."""
        return bool(self.attributes & CONTROL_BIT)

    @property
    def is_transactional(self) -> bool:
        """Whether the batch belongs to a transaction."""
        return bool(self.attributes & TRANSACTIONAL_BIT)

    @property
    def is_append_time(self) -> bool:
        """Whether max_timestamp is every record's timestamp, given by the broker."""
        return bool(self.attributes & TIMESTAMP_TYPE_BIT)

    @property
    def has_producer_id(self) -> bool:
        """Whether an idempotent producer wrote it."""
        return self.producer_id != NO_PRODUCER_ID

    @property
    def last_sequence(self) -> int:
        """Sequence number of the last record; wraps from 2^31-1 to 0."""
        if self.base_sequence == NO_SEQUENCE:
            return NO_SEQUENCE
        return (self.base_sequence + self.last_offset_delta) & MAX_SEQUENCE


def read_header(buffer: Buffer, position: int = 0) -> BatchHeader:
    """Decode the header at a position.

    Raises CorruptMessageError if fewer than 61 bytes are left, the magic is not 2, or the length cannot be a batch's.
    """
    left = len(memoryview(buffer)) - position
    if left < HEADER_SIZE:
        message = f"a record batch needs at least {HEADER_SIZE} bytes and {left} are there"
        raise CorruptMessageError(message)
    header = BatchHeader._make(HEADER.unpack_from(buffer, position))
    if header.magic != MAGIC:
        message = f"the batch has magic {header.magic}; only record batches of magic {MAGIC} are accepted"
        raise CorruptMessageError(message)
    if header.batch_length < HEADER_SIZE - LENGTH_OVERHEAD:
        message = f"the batch says it is {header.size} bytes long, less than its own header of {HEADER_SIZE}"
        raise CorruptMessageError(message)
    return header


def computed_crc(batch: Buffer) -> int:
    """CRC-32C of a whole batch, from the attributes to its end."""
    return crc32c(memoryview(batch)[CRC_START:])


def stamp(batch: bytearray | memoryview, base_offset: int, leader_epoch: int) -> None:
    """Write offset and leader epoch into a batch in place: the two fields that the CRC leaves out."""
    _STAMP_OFFSET.pack_into(batch, 0, base_offset)
    _STAMP_EPOCH.pack_into(batch, 12, leader_epoch)


def stamped_prefix(header: BatchHeader, base_offset: int, leader_epoch: int) -> bytes:
    """The first 16 bytes as the log stores the batch, to be written before ``batch[16:]`` without a copy of that."""
    return _PREFIX.pack(base_offset, header.batch_length, leader_epoch)


def stamp_append_time(batch: bytearray | memoryview, append_time_ms: int) -> None:
    """Give a batch the broker's time in place, for topics with message.timestamp.type=LogAppendTime.

    The attributes then say that all its records have max_timestamp. These two fields stand inside of the CRC, which is
    computed anew.
    """
    (attributes,) = _STAMP_ATTRIBUTES.unpack_from(batch, _ATTRIBUTES_AT)
    _STAMP_ATTRIBUTES.pack_into(batch, _ATTRIBUTES_AT, attributes | TIMESTAMP_TYPE_BIT)
    _STAMP_OFFSET.pack_into(batch, _MAX_TIMESTAMP_AT, append_time_ms)
    _STAMP_CRC.pack_into(batch, _CRC_AT, computed_crc(batch))


def make_batch(
    records: bytes,
    *,
    records_count: int,
    base_timestamp: int,
    max_timestamp: int,
    attributes: int = 0,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    base_offset: int = 0,
    leader_epoch: int = NO_EPOCH,
) -> bytes:
    """Put a header with its CRC before encoded, and if the attributes say so compressed, records.

    The offsets of the records are 0 to records_count - 1, relative to the base offset.
    """
    assert records_count > 0, "a batch holds at least one record"
    covered = _AFTER_CRC.pack(
        attributes,
        records_count - 1,
        base_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        records_count,
    )
    length = HEADER_SIZE - LENGTH_OVERHEAD + len(records)
    crc = crc32c(records, crc32c(covered))
    return b"".join((_BEFORE_CRC.pack(base_offset, length, leader_epoch, MAGIC, crc), covered, records))


def rebuilt_batch(
    header: BatchHeader,
    records: bytes,
    *,
    records_count: int,
    attributes: int,
    base_timestamp: int,
    max_timestamp: int,
) -> bytes:
    """A batch with other records in the place of one: it keeps offsets, leader epoch, and producer's numbers."""
    covered = _AFTER_CRC.pack(
        *(attributes, header.last_offset_delta, base_timestamp, max_timestamp),
        *(header.producer_id, header.producer_epoch, header.base_sequence, records_count),
    )
    length = HEADER_SIZE - LENGTH_OVERHEAD + len(records)
    crc = crc32c(records, crc32c(covered))
    return b"".join((_BEFORE_CRC.pack(header.base_offset, length, header.leader_epoch, MAGIC, crc), covered, records))


def emptied_batch(header: BatchHeader) -> bytes:
    """What is left of a batch without its records: its offsets and its producer's sequence numbers."""
    return rebuilt_batch(
        header,
        b"",
        records_count=0,
        attributes=header.attributes & (TIMESTAMP_TYPE_BIT | TRANSACTIONAL_BIT | CONTROL_BIT),
        base_timestamp=NO_TIMESTAMP,
        max_timestamp=header.max_timestamp,
    )


def gap_batch(base_offset: int, next_offset: int, leader_epoch: int) -> bytes:
    """An empty batch that stands for a stretch of offsets whose records are gone."""
    assert base_offset < next_offset, (base_offset, next_offset)
    covered = _AFTER_CRC.pack(
        *(0, next_offset - base_offset - 1, NO_TIMESTAMP, NO_TIMESTAMP, NO_PRODUCER_ID, NO_EPOCH, NO_SEQUENCE, 0)
    )
    return _BEFORE_CRC.pack(base_offset, HEADER_SIZE - LENGTH_OVERHEAD, leader_epoch, MAGIC, crc32c(covered)) + covered


def end_of(batches: Buffer) -> int:
    """The offset after the last of some whole batches, of which there is one at least."""
    position, left = 0, len(memoryview(batches))
    while True:
        header = read_header(batches, position)
        position += header.size
        if position >= left:
            return header.next_offset


def make_attributes(*, compression: int = 0, transactional: bool = False, control: bool = False) -> int:
    """Combine what a producer says of a batch into its attributes."""
    return compression | (TRANSACTIONAL_BIT if transactional else 0) | (CONTROL_BIT if control else 0)


def check_whole(batch: Buffer) -> BatchHeader:
    """Decode the header of a buffer that holds exactly one batch, and check size and CRC.

    Raises CorruptMessageError that names both sizes or both sums.
    """
    header = read_header(batch)
    size = len(memoryview(batch))
    if size != header.size:
        message = f"the batch says it is {header.size} bytes long and {size} are there"
        raise CorruptMessageError(message)
    crc = computed_crc(batch)
    if crc != header.crc:
        message = f"the batch says its CRC-32C is {header.crc:#010x} and its bytes have {crc:#010x}"
        raise CorruptMessageError(message)
    return header
