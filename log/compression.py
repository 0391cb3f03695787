"""The four compressions of record batches, with a bound on what they decompress to. No I/O.

gzip is zlib's; snappy comes in the blocks of xerial's stream, as Kafka's Java clients write it, or as one raw block, as
librdkafka does; lz4 and zstd are their frames. The data comes from strangers: a few bytes may claim, or really unfold
to, gigabytes. So no decompressor here ever gets room for more than the limit.
"""

from __future__ import annotations

import zlib
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, cast

import cramjam

from ..errors import CorruptMessageError, UnsupportedCompressionError
from .batch import COMPRESSION_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)

_GZIP_WINDOW_BITS = 31
"""15, the largest window, and 16 for gzip's header and trailer."""
_LZ4_LEVEL = 1
_ZSTD_LEVEL = 3

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + b"\x00\x00\x00\x01\x00\x00\x00\x01"
"""Magic, version 1, readable by version 1."""
_XERIAL_BLOCK_BYTES = 32 * 1024
_BLOCK_LENGTH = Struct(">i")

_FIRST_ROOM_BYTES = 16 * 1024
_ROOM_FACTOR = 8
"""How much more room than input, and than the last attempt, a decompressor is given: few batches need a second one."""


def compress(codec: int, data: Buffer) -> bytes:
    """Compress the records of a batch. Raises UnsupportedCompressionError for a codec that is not 0 to 4."""
    if codec == ZSTD:
        return bytes(cramjam.zstd.compress(data, level=_ZSTD_LEVEL))
    if codec == LZ4:
        # Kafka reads independent blocks only (KIP-57), and the batch has a checksum of its own.
        compressor = cramjam.lz4.Compressor(level=_LZ4_LEVEL, content_checksum=False, block_linked=False)
        compressor.compress(data)
        return bytes(compressor.finish())
    if codec == SNAPPY:
        return _compress_snappy(memoryview(data))
    if codec == GZIP:
        compressor_object = zlib.compressobj(wbits=_GZIP_WINDOW_BITS)
        return compressor_object.compress(data) + compressor_object.flush()
    if codec == NONE:
        return bytes(data)
    raise _unsupported(codec)


def decompress(codec: int, data: Buffer, limit: int) -> bytes:
    """Decompress the records of a batch to at most limit bytes.

    Raises CorruptMessageError if there are more, or if the data is malformed, and UnsupportedCompressionError for a
    codec that is not 0 to 4. More than the limit is never decompressed, whatever the data claims.
    """
    if codec in (LZ4, ZSTD):
        return _decompress_frame(codec, data, limit)
    if codec == SNAPPY:
        return _decompress_snappy(memoryview(data), limit)
    if codec == GZIP:
        return _decompress_gzip(data, limit)
    if codec != NONE:
        raise _unsupported(codec)
    size = len(memoryview(data))
    if size > limit:
        raise _too_large(codec, size, size, limit)
    return bytes(data)


def _unsupported(codec: int) -> UnsupportedCompressionError:
    return UnsupportedCompressionError(
        f"the batch's compression is {codec}; 0 to 4 are supported: {', '.join(COMPRESSION_NAMES)}"
    )


def _too_large(codec: int, size: int, decompressed_size: int | None, limit: int) -> CorruptMessageError:
    total = f"more than {limit}" if decompressed_size is None else str(decompressed_size)
    return CorruptMessageError(
        f"{size} bytes of {COMPRESSION_NAMES[codec]} decompress to {total} bytes; "
        f"max.decompressed.bytes allows {limit}: send smaller batches"
    )


def _malformed(codec: int, reason: object) -> CorruptMessageError:
    return CorruptMessageError(f"the batch's records are no valid {COMPRESSION_NAMES[codec]}: {reason}")


def _decompress_gzip(data: Buffer, limit: int) -> bytes:
    """One gzip member or several after each other."""
    members = []
    rest: Buffer = data
    room = limit
    while True:
        member = zlib.decompressobj(wbits=_GZIP_WINDOW_BITS)
        try:
            # One byte more than there is room for tells "exactly full" from "too much"; 0 would mean no bound at all.
            members.append(member.decompress(rest, room + 1))
        except zlib.error as error:
            raise _malformed(GZIP, error) from error
        room -= len(members[-1])
        if room < 0:
            raise _too_large(GZIP, len(memoryview(data)), None, limit)
        if not member.eof:
            raise _malformed(GZIP, "it ends in the middle")
        rest = member.unused_data
        if not rest:
            return members[0] if len(members) == 1 else b"".join(members)


def _compress_snappy(data: memoryview) -> bytes:

    pieces = [_XERIAL_HEADER]
    for start in range(0, len(data), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + _XERIAL_BLOCK_BYTES]))
        pieces += (_BLOCK_LENGTH.pack(len(block)), block)
    return b"".join(pieces)


def _snappy_blocks(data: memoryview) -> list[memoryview]:
    """The raw blocks of a xerial stream, or all of the data as the only one."""
    if data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        return [data]
    blocks = []
    position = len(_XERIAL_HEADER)
    while position < len(data):
        start = position + _BLOCK_LENGTH.size
        if start > len(data):
            raise _malformed(SNAPPY, f"{len(data) - position} bytes are left where a block's length should be")
        (length,) = _BLOCK_LENGTH.unpack_from(data, position)
        position = start + length
        if length < 0 or position > len(data):
            raise _malformed(SNAPPY, f"a block says it has {length} bytes and {len(data) - start} are left")
        blocks.append(data[start:position])
    return blocks


def _decompress_snappy(data: memoryview, limit: int) -> bytes:
    """Each block begins with its decompressed length, so that the sum is known before any is decompressed."""
    blocks = _snappy_blocks(data)
    try:
        sizes = [cramjam.snappy.decompress_raw_len(block) for block in blocks]
        total = sum(sizes)
        if total > limit:
            raise _too_large(SNAPPY, len(data), total, limit)
        output = memoryview(bytearray(total))
        position = 0
        for block, size in zip(blocks, sizes, strict=True):
            cramjam.snappy.decompress_raw_into(block, output[position : position + size])
            position += size
    except cramjam.DecompressionError as error:
        raise _malformed(SNAPPY, error) from error
    return bytes(output)


def _decompress_frame(codec: int, data: Buffer, limit: int) -> bytes:
    """Decompress lz4 or zstd into ever larger rooms up to the limit.

    Their frames need not say how long they are, and cramjam's streaming decompressors take no bound, but a decompressor
    that writes into a given buffer stops at the end of it.
    """
    size = len(memoryview(data))
    decompress_into = _decompressor(codec)
    room = min(limit, max(_FIRST_ROOM_BYTES, size * _ROOM_FACTOR))
    while True:
        output = bytearray(room)
        try:
            written = decompress_into(data, output)
        except cramjam.DecompressionError as error:
            if str(error) != _out_of_room_message(codec):
                raise _malformed(codec, error) from error
            if room == limit:
                raise _too_large(codec, size, None, limit) from error
            del output  # before the next one is made
            room = min(limit, room * _ROOM_FACTOR)
        else:
            with memoryview(output) as view:
                return bytes(view[:written])


@cache
def _decompressor(codec: int) -> Callable[[Buffer, bytearray], int]:

    module = cramjam.lz4 if codec == LZ4 else cramjam.zstd
    return cast("Callable[[Buffer, bytearray], int]", module.decompress_into)


@cache
def _out_of_room_message(codec: int) -> str:
    """What cramjam says when the output is full: asked once, because its errors have neither types nor codes."""
    try:
        _decompressor(codec)(compress(codec, b"12"), bytearray(1))
    except cramjam.DecompressionError as error:
        return str(error)
    message = "cramjam wrote 2 bytes into a buffer of 1"
    raise AssertionError(message)
