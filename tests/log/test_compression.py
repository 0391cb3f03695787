"""The compressions: round trips, what other clients write, bombs, and malformed data."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from contextlib import suppress

import aiokafka.codec
import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.errors import BrokerError, CorruptMessageError, UnsupportedCompressionError
from zmqbroker.log.compression import GZIP, LZ4, NONE, SNAPPY, ZSTD, compress, decompress

CODECS = [GZIP, SNAPPY, LZ4, ZSTD]
MIB = 2**20
XERIAL = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"


@given(st.sampled_from([NONE, *CODECS]), st.binary(max_size=300), st.integers(0, 300))
def test_round_trip(codec, seed, repeats):
    data = seed * repeats
    assert decompress(codec, compress(codec, data), len(data)) == data
    assert decompress(codec, memoryview(bytearray(compress(codec, data))), len(data) + 9) == data


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_exactly_the_limit_passes_and_a_byte_more_does_not(codec):
    data = bytes(range(256)) * 1000
    compressed = compress(codec, data)
    assert decompress(codec, compressed, len(data)) == data
    with pytest.raises(
        CorruptMessageError, match=rf"{len(compressed)} bytes of .*max\.decompressed\.bytes allows 255999"
    ):
        decompress(codec, compressed, len(data) - 1)


def test_uncompressed_data_has_the_limit_too():
    with pytest.raises(CorruptMessageError, match=r"to 10 bytes; max\.decompressed\.bytes allows 9"):
        decompress(NONE, bytes(10), 9)


@pytest.mark.parametrize(
    ("codec", "encode", "decode"),
    [
        (GZIP, aiokafka.codec.gzip_encode, aiokafka.codec.gzip_decode),
        (SNAPPY, aiokafka.codec.snappy_encode, aiokafka.codec.snappy_decode),
        (LZ4, aiokafka.codec.lz4_encode, aiokafka.codec.lz4_decode),
        (ZSTD, aiokafka.codec.zstd_encode, aiokafka.codec.zstd_decode),
    ],
)
def test_another_client_reads_what_we_write_and_we_what_it_writes(codec, encode, decode):
    data = b"".join(b"record %d " % number for number in range(20_000))
    assert decompress(codec, encode(data), MIB) == data
    assert bytes(decode(compress(codec, data))) == data


def test_snappy_without_xerials_blocks_is_read():
    data = b"librdkafka writes one raw block" * 100
    assert decompress(SNAPPY, bytes(cramjam.snappy.compress_raw(data)), len(data)) == data


def test_snappy_is_written_as_xerial_does():
    compressed = compress(SNAPPY, bytes(70_000))
    assert compressed.startswith(XERIAL)
    (length,) = struct.unpack_from(">i", compressed, 16)
    assert cramjam.snappy.decompress_raw_len(compressed[20 : 20 + length]) == 32 * 1024


def test_lz4_blocks_are_independent_and_the_frame_has_no_content_checksum():
    version_and_flags = compress(LZ4, bytes(100_000))[4]
    assert version_and_flags >> 6 == 1
    assert version_and_flags & 0x20
    assert not version_and_flags & 0x04


@pytest.mark.parametrize("codec", [5, 6, 7, -1])
def test_an_unknown_codec_is_unsupported(codec):
    with pytest.raises(UnsupportedCompressionError, match="gzip, snappy, lz4, zstd"):
        compress(codec, b"")
    with pytest.raises(UnsupportedCompressionError, match="gzip, snappy, lz4, zstd"):
        decompress(codec, b"", 10)


def one_frame(codec: int, mebibytes: int) -> bytes:
    if codec == GZIP:
        return gzip.compress(bytes(mebibytes * MIB), compresslevel=1)
    compressor = cramjam.zstd.Compressor() if codec == ZSTD else cramjam.lz4.Compressor(level=1)
    for _ in range(mebibytes):
        compressor.compress(bytes(MIB))
    return bytes(compressor.finish())


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param((ZSTD, one_frame(ZSTD, 1) * 1024), id="zstd, 1 GiB in frames"),
        pytest.param((ZSTD, one_frame(ZSTD, 256)), id="zstd, one frame"),
        pytest.param((LZ4, one_frame(LZ4, 1) * 1024), id="lz4, 1 GiB in frames"),
        pytest.param((LZ4, one_frame(LZ4, 64)), id="lz4, one frame"),
        pytest.param((GZIP, one_frame(GZIP, 1) * 1024), id="gzip, 1 GiB in members"),
        pytest.param((GZIP, one_frame(GZIP, 32)), id="gzip, one member"),
        pytest.param((SNAPPY, b"\xff\xff\xff\xff\x0f" + bytes(100)), id="snappy, one block says 4 GiB"),
        pytest.param((SNAPPY, XERIAL + (b"\0\0\0\x06\x80\x80\x80\x04" + bytes(2)) * 1000), id="snappy, many blocks"),
    ],
)
def test_a_bomb_is_refused_within_the_limit(bomb):
    codec, data = bomb
    limit = 2 * MIB
    tracemalloc.start()
    try:
        with pytest.raises(CorruptMessageError, match=r"max\.decompressed\.bytes allows 2097152"):
            decompress(codec, data, limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The output, what zlib joins it from, and for gzip the copies that it makes of its input.
    assert peak < 3 * limit + 3 * len(data)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "broken",
    [
        lambda _: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:3],
        lambda data: data + b"\x01\x02\x03",
        lambda data: b"\x00" * len(data),
        lambda data: b"\xff" * len(data),
    ],
    ids=["empty", "cut", "half", "head", "more", "zeros", "ones"],
)
def test_malformed_data_is_corrupt(codec, broken):
    with pytest.raises(CorruptMessageError):
        decompress(codec, broken(compress(codec, b"some data" * 100)), MIB)


@pytest.mark.parametrize("length", [-1, 1, 2**31 - 1])
def test_a_xerial_block_of_wrong_length_is_corrupt(length):
    with pytest.raises(CorruptMessageError, match=f"says it has {length} bytes and 0 are left"):
        decompress(SNAPPY, XERIAL + struct.pack(">i", length), MIB)
    with pytest.raises(CorruptMessageError, match="2 bytes are left"):
        decompress(SNAPPY, XERIAL + b"\0\0", MIB)


@given(st.sampled_from(CODECS), st.binary(max_size=200), st.data())
def test_mutations_are_data_or_corrupt(codec, seed, data):
    compressed = bytearray(compress(codec, seed * 3))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(compressed)))
        compressed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with suppress(BrokerError):
        assert len(decompress(codec, bytes(compressed), 4096)) <= 4096
