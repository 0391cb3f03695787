"""Walking over the batches of a segment file in large reads, with or without their CRCs. No state, no writing."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from .batch import COMPRESSION_MASK, CRC_START, HEADER_SIZE, LENGTH_OVERHEAD, MAGIC, BatchHeader, computed_crc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from .disk import File

HEADER = Struct(">qiibIHiqqqhii")
assert HEADER.size == HEADER_SIZE

SCAN_CHUNK_BYTES = 256 << 10
"""Read at once where every byte is looked at (CRC): as much as stays in the processor's cache until it is."""

WALK_CHUNK_BYTES = 16 << 10
"""Read at once where only headers are looked at."""


class BadBatchError(Exception):
    """No valid batch stands at a position where one should; the log decides whether that is a torn tail or damage."""

    def __init__(self, position: int, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.offset = offset
        self.reason = reason


class Located(NamedTuple):
    """A batch and where it starts in its file."""

    position: int
    header: BatchHeader


def check_header(header: BatchHeader, position: int, end: int, expected_offset: int) -> None:
    """Raise BadBatchError unless a batch with this header can stand at position in a file of end bytes.

    Offsets within a log follow each other without gaps; the CRC leaves them out, so this is what protects them.
    """
    if header.magic != MAGIC:
        reason = f"the magic byte is {header.magic}, not {MAGIC}"
    elif header.batch_length < HEADER_SIZE - LENGTH_OVERHEAD:
        reason = f"the batch length {header.batch_length} is less than a header's"
    elif position + header.batch_length + LENGTH_OVERHEAD > end:
        reason = f"the batch needs {header.size} bytes and {end - position} are left in the file"
    elif header.base_offset != expected_offset:
        reason = f"the batch has base offset {header.base_offset} where {expected_offset} should follow"
    elif header.last_offset_delta < 0 or header.attributes & COMPRESSION_MASK > 4:  # noqa: PLR2004  zstd, the last codec
        reason = f"last offset delta {header.last_offset_delta} or attributes {header.attributes:#x} cannot be"
    else:
        return
    raise BadBatchError(position, expected_offset, reason)


def check_crc_of(batch: Buffer, header: BatchHeader, position: int, offset: int) -> None:
    """Raise BadBatchError unless a whole batch has the CRC that its header says."""
    crc = computed_crc(batch)
    if crc != header.crc:
        reason = f"the CRC-32C of bytes {CRC_START} to {header.size} is {crc:#010x}, the header says {header.crc:#010x}"
        raise BadBatchError(position, offset, reason)


def header_at(file: File, position: int, end: int, expected_offset: int | None = None) -> BatchHeader:
    """The header at a position of a file of end bytes; BadBatchError if none can be there."""
    data = file.read(position, min(HEADER_SIZE, end - position))
    if len(data) < HEADER_SIZE:
        offset = -1 if expected_offset is None else expected_offset
        raise BadBatchError(position, offset, f"a header needs {HEADER_SIZE} bytes and {len(data)} are left")
    header = BatchHeader._make(HEADER.unpack(data))
    check_header(header, position, end, header.base_offset if expected_offset is None else expected_offset)
    return header


def first_bad(data: bytes, offset: int) -> BadBatchError | None:
    """What is wrong with whole batches that were read, CRCs included; None: nothing. The first one holds the offset.

    The error's position is one in data.
    """
    position, expected = 0, offset
    view = memoryview(data)
    while position < len(data):
        left = len(data) - position
        if left < HEADER_SIZE:
            return BadBatchError(position, expected, f"a header needs {HEADER_SIZE} bytes and {left} are left")
        header = BatchHeader._make(HEADER.unpack_from(data, position))
        holds_offset = position == 0 and 0 <= offset - header.base_offset <= header.last_offset_delta
        try:
            check_header(header, position, len(data), header.base_offset if holds_offset else expected)
            end = position + header.size
            check_crc_of(view[position:end], header, position, expected)
        except BadBatchError as error:
            return error
        position, expected = end, header.next_offset
    return None


def placed(error: BadBatchError, file: File, position: int, end: int, expected_offset: int) -> BadBatchError:
    """The error with the offset that a good batch would have there, by those before it, from a good position on.

    What the bad batch says of its offset is not to be relied on, and whoever met it may have asked for one within it.
    """
    try:
        for found in walk(file, position, end, expected_offset, check_crc=False):
            if found.position >= error.position:
                return BadBatchError(found.position, found.header.base_offset, error.reason)
    except BadBatchError as met:
        return met if met.position < error.position else BadBatchError(met.position, met.offset, error.reason)
    return error


def walk(
    file: File, position: int, end: int, expected_offset: int, *, check_crc: bool, chunk_bytes: int = 0
) -> Iterator[Located]:
    """Yield each batch from position up to end; BadBatchError at the first place where no valid one stands.

    Reads chunk by chunk; a batch that crosses the end of a chunk is read again as the start of the next one. Nothing
    is copied for a batch: headers are unpacked and CRCs computed in the chunk.
    """
    chunk_bytes = chunk_bytes or (SCAN_CHUNK_BYTES if check_crc else WALK_CHUNK_BYTES)
    unpack = HEADER.unpack_from
    chunk = memoryview(b"")
    chunk_start = position
    while position < end:
        at = position - chunk_start
        left = len(chunk) - at
        if left < HEADER_SIZE:
            chunk = memoryview(file.read(position, min(chunk_bytes, end - position)))
            chunk_start, at, left = position, 0, len(chunk)
            if left < HEADER_SIZE:
                raise BadBatchError(
                    position, expected_offset, f"a header needs {HEADER_SIZE} bytes and {left} are left"
                )
        header = BatchHeader._make(unpack(chunk, at))
        check_header(header, position, end, expected_offset)
        size = header.batch_length + LENGTH_OVERHEAD
        if check_crc:
            if size > left:
                chunk = memoryview(file.read(position, min(max(chunk_bytes, size), end - position)))
                chunk_start, at = position, 0
                if len(chunk) < size:
                    raise BadBatchError(position, expected_offset, f"of {size} bytes only {len(chunk)} could be read")
            check_crc_of(chunk[at : at + size], header, position, expected_offset)
        yield Located(position, header)
        position += size
        expected_offset += header.last_offset_delta + 1
