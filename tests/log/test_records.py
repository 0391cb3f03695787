"""The compiled codec: what it writes is what aiokafka writes, and both of our codecs read it alike."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from aiokafka.record import _crecords
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from crc32c import crc32c
from hypothesis import example, given
from hypothesis import strategies as st
from zmqbroker.errors import CorruptMessageError, InvalidRecordError
from zmqbroker.log import plain_records
from zmqbroker.log import records as codec
from zmqbroker.log.batch import make_batch, read_header, stamp, stamp_append_time
from zmqbroker.log.plain_records import varint

NOW_MS = 1_700_000_000_000
MIB = 2**20

timestamps = st.one_of(st.integers(NOW_MS - 100, NOW_MS + 100), st.integers(0, 2**62))
parts = st.one_of(st.none(), st.binary(max_size=80))
headers = st.lists(st.tuples(st.text(max_size=6), parts), max_size=3)
records = st.lists(st.tuples(timestamps, parts, parts, headers), min_size=1, max_size=12)
states = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {
            "producer_id": st.integers(0, 2**63 - 1),
            "producer_epoch": st.integers(0, 2**15 - 1),
            "base_sequence": st.integers(0, 2**31 - 1),
            "transactional": st.booleans(),
        }
    ),
)


def content(decoded):
    return [(record.timestamp, record.key, record.value, list(record.headers)) for record in decoded]


def by_aiokafka(written, compression=0, *, producer_id=-1, producer_epoch=-1, base_sequence=-1, transactional=False):
    builder = DefaultRecordBatchBuilder(
        2, compression, transactional, producer_id, producer_epoch, base_sequence, 2**31 - 1
    )
    for offset, (timestamp, key, value, record_headers) in enumerate(written):
        builder.append(offset, timestamp, key, value, record_headers)
    return bytes(builder.build())


def test_the_compiled_classes_are_used():
    assert DefaultRecordBatch.__module__.startswith(_crecords.__name__)
    assert DefaultRecordBatchBuilder.__module__.startswith(_crecords.__name__)


@given(records, states)
@example([(NOW_MS, None, b"v" * 5000, []), (NOW_MS + 1, b"k", None, [("h", None)])], {})
def test_all_encoders_write_the_same_bytes(written, state):
    batch = codec.encode_batch(written, **state)
    assert batch == by_aiokafka(written, **state)
    assert batch == plain_records.encode_batch(written, **state)


@given(records, st.integers(0, 4), states)
def test_round_trip_by_both_decoders(written, compression, state):
    batch = codec.encode_batch(written, compression=compression, **state)
    decoded = codec.decode_batch(batch, max_decompressed_bytes=MIB)
    plain = plain_records.decode_batch(batch, max_decompressed_bytes=MIB)
    assert content(decoded) == content(plain) == written
    assert [record.offset for record in decoded] == [record.offset for record in plain] == list(range(len(written)))
    assert {record.timestamp_type for record in (*decoded, *plain)} == {0}


@given(records, st.integers(0, 4))
def test_aiokafka_reads_our_batches_and_we_its(written, compression):
    ours = DefaultRecordBatch(codec.encode_batch(written, compression=compression))
    assert ours.validate_crc()
    assert content(ours) == written
    theirs = by_aiokafka(written, compression)
    assert content(codec.decode_batch(theirs, max_decompressed_bytes=MIB)) == written


def test_a_large_batch_has_its_compression_and_all_its_records():
    written = [(NOW_MS + index, b"key %d" % index, b"some text", []) for index in range(10_000)]
    for compression in (1, 2, 3, 4):
        batch = codec.encode_batch(written, compression=compression)
        header = read_header(batch)
        assert (header.compression, header.records_count) == (compression, 10_000)
        assert (header.base_timestamp, header.max_timestamp) == (NOW_MS, NOW_MS + 9999)
        assert content(codec.decode_batch(batch, max_decompressed_bytes=MIB)) == written


def test_what_compression_would_make_larger_stays_as_it_is():
    assert read_header(codec.encode_batch([(NOW_MS, None, b"1", [])], compression=1)).compression == 0


def test_offsets_and_append_time_are_the_brokers():
    batch = bytearray(codec.encode_batch([(NOW_MS, None, b"a", []), (NOW_MS + 1, None, b"b", [])], compression=4))
    stamp(batch, 500, 3)
    stamp_append_time(batch, NOW_MS + 99)
    for decoded in (codec.decode_batch(batch, max_decompressed_bytes=MIB), plain_records.decode_batch(batch)):
        assert [record.offset for record in decoded] == [500, 501]
        assert {(record.timestamp, record.timestamp_type) for record in decoded} == {(NOW_MS + 99, 1)}


def test_records_without_timestamp_say_minus_1():
    batch = codec.encode_batch([(-1, None, b"a", []), (-1, None, b"b", [])])
    assert [record.timestamp for record in codec.decode_batch(batch, max_decompressed_bytes=MIB)] == [-1, -1]


def test_headers_may_be_any_sequence():
    batch = codec.encode_batch([(NOW_MS, None, b"a", (("h", b"1"),)), (NOW_MS, None, b"b", ())])
    assert content(codec.decode_batch(batch, max_decompressed_bytes=MIB))[0][3] == [("h", b"1")]


def test_no_records_are_no_batch():
    with pytest.raises(ValueError, match="at least one"):
        codec.encode_batch([])
    with pytest.raises(ValueError, match="at least one"):
        plain_records.encode_batch([])


def test_the_decoders_hold_the_limit():
    batch = codec.encode_batch([(NOW_MS, None, bytes(MIB), [])], compression=4)
    for decode in (codec.decode_batch, plain_records.decode_batch):
        with pytest.raises(CorruptMessageError, match=r"max\.decompressed\.bytes allows 1000000"):
            decode(batch, max_decompressed_bytes=1_000_000)


def parse(data: bytes, count: int):
    header = read_header(make_batch(data, records_count=1, base_timestamp=NOW_MS, max_timestamp=NOW_MS))
    return codec.parse(header._replace(records_count=count, last_offset_delta=count - 1), data, base_offset=0)


A_RECORD = plain_records.encode_records([(NOW_MS, None, b"x" * 30, [])])[0]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 1),
        (A_RECORD, 2),
        (A_RECORD + A_RECORD, 2),
        (A_RECORD, 0),
        (A_RECORD, -1),
        (A_RECORD, 2**31 - 1),
        (A_RECORD[:-1], 1),
        (A_RECORD + b"\0", 1),
        (b"\x80" * 200, 1),
        (b"\xff" * 9, 1),
        # A value that takes in the sentinel, and lengths at which positions overflow.
        (b"\x50\x00\x00\x00\x01" + varint(22) + b"y" * 5, 1),
        (b"\x00\x00\x00\x00" + varint(2**63 - 1), 1),
        (b"\x00\x00\x00\x00\x01" + varint(2**63 - 40), 1),
        # Null header values and unfinished varints at the very end of the buffer.
        (b"\x14\x00\x00\x00\x01\x01" + varint(2**40) + b"\x00\x81", 1),
        (b"\x14\x00\x00\x00\x01\x01\x04\x02h\x81", 1),
        (b"\x12\x00\x00\x00\x01\x01\x02\x02\xff\x00", 1),
        (b"\x0e\x00\x00\x00\x01\x01\x02\x01\x01", 1),
        (b"\x0c\x00\x00\x00\x01\x01\x01", 1),
    ],
)
def test_malformed_records_are_invalid(data, count):
    with pytest.raises(InvalidRecordError):
        parse(data, count)


@given(st.binary(max_size=40), st.integers(1, 3))
def test_any_bytes_are_records_or_invalid(data, count):
    try:
        parsed = parse(data, count)
    except InvalidRecordError:
        return
    assert [record.offset for record in parsed] == list(range(count))


@pytest.mark.parametrize("swallowed", range(1, 24))
def test_no_record_passes_for_the_sentinel(swallowed):
    """A last record whose value takes in part of what the codec is given beyond the data."""
    for value_length in range(30):
        body = b"\x00\x00\x00\x01" + varint(value_length + swallowed) + b"z" * value_length
        for length in (len(body) + swallowed, len(body) + swallowed + 1):
            with pytest.raises(InvalidRecordError):
                parse(varint(length) + body, 1)


def test_neither_the_header_nor_the_plain_codec_nor_the_check_import_aiokafka():
    code = (
        "import sys, zmqbroker.log.validation, zmqbroker.log.plain_records, zmqbroker.log.compression;"
        "sys.exit(any(name.startswith('aiokafka') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def with_offsets(batch: bytes, deltas: list[int], last_offset_delta: int) -> bytes:
    """The batch as compaction would leave it: some records, with the offsets that they had."""
    changed = bytearray(batch)
    struct.pack_into(">i", changed, 23, last_offset_delta)
    position = 61
    for delta in deltas:
        assert changed[position + 3] < 0x80
        changed[position + 3] = varint(delta)[0]
        position += 1 + changed[position] // 2
    struct.pack_into(">I", changed, 17, crc32c(memoryview(changed)[21:]))
    return bytes(changed)


@pytest.mark.parametrize("decode", [codec.decode_batch, plain_records.decode_batch])
def test_a_compacted_batch_may_have_gaps(decode):
    batch = codec.encode_batch([(NOW_MS, b"a", b"1", []), (NOW_MS, b"b", b"2", []), (NOW_MS, b"c", b"3", [])])
    gaps = with_offsets(batch, [3, 7, 20], 30)
    assert [record.offset for record in decode(gaps, max_decompressed_bytes=MIB)] == [3, 7, 20]
    for deltas, last in (([3, 7, 20], 19), ([3, 3, 20], 30), ([7, 3, 20], 30), ([-1, 3, 20], 30), ([0, 1, 2], 1)):
        with pytest.raises(InvalidRecordError, match="says its offset is"):
            decode(with_offsets(batch, deltas, last), max_decompressed_bytes=MIB)


@pytest.mark.parametrize("decode", [codec.decode_batch, plain_records.decode_batch])
def test_a_compacted_batch_may_be_empty(decode):
    empty = bytearray(codec.encode_batch([(NOW_MS, b"a", b"1", [])])[:61])
    struct.pack_into(">i", empty, 8, 49)
    struct.pack_into(">i", empty, 57, 0)
    struct.pack_into(">I", empty, 17, crc32c(memoryview(empty)[21:]))
    assert decode(empty, max_decompressed_bytes=MIB) == []
