"""The check of what a client produced: everything that is refused, by what error, in what words."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c
from zmqbroker.errors import (
    CorruptMessageError,
    InvalidRecordError,
    InvalidTimestampError,
    MessageTooLargeError,
    UnsupportedCompressionError,
)
from zmqbroker.log import plain_records
from zmqbroker.log.batch import make_batch, read_header
from zmqbroker.log.compression import compress
from zmqbroker.log.records import encode_batch
from zmqbroker.log.uniform_records import offset_columns, uniform_timestamp_deltas
from zmqbroker.log.validation import check_batch
from zmqbroker.settings import TopicConfig

NOW_MS = 1_700_000_000_000
CONFIG = TopicConfig()
RECORDS = [(NOW_MS + index, b"key", b"v" * index, [("h", b"x")]) for index in range(10)]
HEADER_FIELDS = {
    "magic": (">b", 16),
    "attributes": (">H", 21),
    "last_offset_delta": (">i", 23),
    "base_timestamp": (">q", 27),
    "max_timestamp": (">q", 35),
    "producer_id": (">q", 43),
    "producer_epoch": (">h", 51),
    "base_sequence": (">i", 53),
    "records_count": (">i", 57),
}


def changed(batch: bytes, **fields: int) -> bytes:
    """The batch with other header fields and the CRC that goes with them."""
    other = bytearray(batch)
    for name, value in fields.items():
        layout, position = HEADER_FIELDS[name]
        struct.pack_into(layout, other, position, value)
    struct.pack_into(">I", other, 17, crc32c(memoryview(other)[21:]))
    return bytes(other)


def of_data(data: bytes, count: int, compression: int = 0) -> bytes:
    return make_batch(
        compress(compression, data),
        records_count=count,
        base_timestamp=NOW_MS,
        max_timestamp=NOW_MS,
        attributes=compression,
    )


@pytest.mark.parametrize("compression", range(5))
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_good_batch_passes_and_its_header_comes_back(compression, kind):
    batch = encode_batch(RECORDS, compression=compression, producer_id=9, producer_epoch=0, base_sequence=0)
    assert check_batch(kind(batch), CONFIG, now_ms=NOW_MS) == read_header(batch)


def test_offset_and_leader_epoch_of_the_client_are_ignored():
    batch = bytearray(encode_batch(RECORDS))
    struct.pack_into(">q", batch, 0, 2**63 - 1)
    struct.pack_into(">i", batch, 12, 12345)
    assert check_batch(batch, CONFIG, now_ms=NOW_MS).base_offset == 2**63 - 1


@pytest.mark.parametrize(
    "broken", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b + b, lambda b: b[:30], lambda _: b""]
)
def test_exactly_one_batch_must_be_there(broken):
    with pytest.raises(CorruptMessageError, match=r"bytes long and \d+ are there|at least 61 bytes and \d+ are there"):
        check_batch(broken(encode_batch(RECORDS)), CONFIG, now_ms=NOW_MS)


def test_a_batch_above_the_topics_limit_is_too_large():
    batch = encode_batch(RECORDS)
    assert check_batch(batch, TopicConfig(max_message_bytes=len(batch)), now_ms=NOW_MS)
    with pytest.raises(
        MessageTooLargeError, match=rf"{len(batch)} bytes long and max\.message\.bytes .* {len(batch) - 1}"
    ):
        check_batch(batch, TopicConfig(max_message_bytes=len(batch) - 1), now_ms=NOW_MS)


def test_a_wrong_crc_is_corrupt():
    batch = bytearray(encode_batch(RECORDS))
    batch[-1] ^= 1
    with pytest.raises(CorruptMessageError, match="CRC-32C"):
        check_batch(batch, CONFIG, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"magic": 1}, CorruptMessageError, "magic 1"),
        ({"attributes": 0x80}, InvalidRecordError, "0x0080 are unknown"),
        ({"attributes": 0x8000}, InvalidRecordError, "0x8000 are unknown"),
        ({"attributes": 5}, UnsupportedCompressionError, "compression is 5"),
        ({"attributes": 6}, UnsupportedCompressionError, "compression is 6"),
        ({"attributes": 7}, UnsupportedCompressionError, "compression is 7"),
        ({"attributes": 0x20}, InvalidRecordError, "control"),
        ({"attributes": 0x40}, InvalidRecordError, "delete horizon"),
        ({"attributes": 0x08}, InvalidTimestampError, "LogAppendTime"),
        ({"attributes": 0x10}, InvalidRecordError, "transactional and has no producer id"),
        ({"attributes": 1}, CorruptMessageError, "no valid gzip"),
        ({"attributes": 2}, CorruptMessageError, "no valid snappy"),
        ({"attributes": 3}, CorruptMessageError, "no valid lz4"),
        ({"attributes": 4}, CorruptMessageError, "no valid zstd"),
        ({"producer_id": 1}, InvalidRecordError, "producer id 1, epoch -1 and sequence -1"),
        ({"producer_id": 1, "producer_epoch": 0}, InvalidRecordError, "sequence -1"),
        ({"producer_id": 1, "base_sequence": 0}, InvalidRecordError, "epoch -1"),
        ({"producer_id": -2, "producer_epoch": 0, "base_sequence": 0}, InvalidRecordError, "producer id -2"),
        ({"records_count": 9}, InvalidRecordError, "has 9 records and that its last offset is 9"),
        ({"records_count": 0}, InvalidRecordError, "has 0 records"),
        ({"records_count": -1, "last_offset_delta": -2}, InvalidRecordError, "has -1 records"),
        ({"records_count": 2**21, "last_offset_delta": 2**21 - 1}, InvalidRecordError, "at most 1048576"),
        ({"last_offset_delta": 8}, InvalidRecordError, "last offset is 8"),
        ({"last_offset_delta": 8, "records_count": 9}, InvalidRecordError, "left after the 9 records"),
        ({"last_offset_delta": 10, "records_count": 11}, InvalidRecordError, "record 10 of 11 is cut off"),
        ({"max_timestamp": NOW_MS + 8}, InvalidTimestampError, f"is {NOW_MS + 8} and its records say {NOW_MS + 9}"),
        ({"base_timestamp": -5000, "max_timestamp": -4991}, InvalidTimestampError, "has the timestamp -5000"),
        ({"base_timestamp": -1, "max_timestamp": 8}, InvalidTimestampError, "has the timestamp -1"),
        ({"base_timestamp": -9}, InvalidTimestampError, "has the timestamp -9"),
    ],
)
def test_headers_that_a_client_cannot_write(fields, error, said):
    with pytest.raises(error, match=said):
        check_batch(changed(encode_batch(RECORDS), **fields), CONFIG, now_ms=NOW_MS)


def test_a_producer_may_leave_timestamps_out():
    no_timestamps = encode_batch([(-1, None, b"v", [])] * 9)
    assert check_batch(no_timestamps, CONFIG, now_ms=NOW_MS).max_timestamp == -1
    assert check_batch(changed(encode_batch(RECORDS), max_timestamp=-1), CONFIG, now_ms=NOW_MS)


def test_one_record_without_timestamp_among_others_is_refused():
    mixed = encode_batch([(5, None, b"v", []), (-1, None, b"v", [])])
    with pytest.raises(InvalidTimestampError, match="has the timestamp -1"):
        check_batch(mixed, CONFIG, now_ms=NOW_MS)


@pytest.mark.parametrize("records", [RECORDS, [(NOW_MS, None, b"same", [])] * 100])
def test_timestamps_must_be_near_the_brokers_clock(records):
    config = TopicConfig(message_timestamp_before_max_ms=1000, message_timestamp_after_max_ms=500)
    batch = encode_batch(records)
    first, last = records[0][0], records[-1][0]
    assert check_batch(batch, config, now_ms=first + 1000)
    assert check_batch(batch, config, now_ms=last - 500)
    with pytest.raises(InvalidTimestampError, match=r"1001 ms before.*message\.timestamp\.before\.max\.ms allows 1000"):
        check_batch(batch, config, now_ms=first + 1001)
    with pytest.raises(InvalidTimestampError, match=r"501 ms after.*message\.timestamp\.after\.max\.ms allows 500"):
        check_batch(batch, config, now_ms=last - 501)


def test_the_brokers_time_takes_the_place_of_any_timestamp():
    config = TopicConfig(message_timestamp_type="LogAppendTime", message_timestamp_after_max_ms=0)
    assert check_batch(encode_batch(RECORDS), config, now_ms=0)


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("cleanup_policy", ["compact", "compact,delete"])
def test_a_compacted_topic_needs_keys(count, cleanup_policy):
    config = TopicConfig(cleanup_policy=cleanup_policy)
    keyed, keyless = (NOW_MS, b"k", b"v", []), (NOW_MS, None, b"v", [])
    assert check_batch(encode_batch([keyed] * count), config, now_ms=NOW_MS)
    for records in ([keyless] * count, [keyed] * count + [keyless]):
        with pytest.raises(InvalidRecordError, match="no key, and the topic is compacted"):
            check_batch(encode_batch(records), config, now_ms=NOW_MS)


def test_a_bomb_is_refused():
    batch = encode_batch([(NOW_MS, None, bytes(2**23), [])], compression=4)
    assert check_batch(batch, CONFIG, now_ms=NOW_MS)
    with pytest.raises(CorruptMessageError, match=r"max\.decompressed\.bytes allows 4194304"):
        check_batch(batch, TopicConfig(max_decompressed_bytes=2**22), now_ms=NOW_MS)


def test_the_limit_of_decompression_is_not_for_what_is_not_compressed():
    assert check_batch(encode_batch(RECORDS), TopicConfig(max_decompressed_bytes=1), now_ms=NOW_MS)


def test_millions_of_headers_are_refused_before_they_are_read():
    body = b"\x00\x00\x00\x01\x01" + plain_records.varint(2**22) + b"\x00\x01" * 2**22
    batch = of_data(plain_records.varint(len(body)) + body, 1, compression=4)
    with pytest.raises(InvalidRecordError, match="4194304 headers"):
        check_batch(batch, CONFIG, now_ms=NOW_MS)


def test_a_large_batch_is_walked():
    records = [(NOW_MS + index % 3, b"k" * (index % 5), bytes(6000 + index), [("h", None)]) for index in range(1000)]
    batch = encode_batch(records, compression=4)
    assert check_batch(batch, TopicConfig(cleanup_policy="compact"), now_ms=NOW_MS).records_count == 1000
    without_key = encode_batch([*records, (NOW_MS, None, None, [])], compression=4)
    with pytest.raises(InvalidRecordError, match="no key"):
        check_batch(without_key, TopicConfig(cleanup_policy="compact"), now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("count", "key", "value"),
    [
        *((count, None, b"v" * 3) for count in (8, 64, 65, 8192, 8193)),
        *((70, key, value) for key in (None, b"", b"k", b"k" * 70) for value in (None, b"", b"v" * 200)),
    ],
)
def test_uniform_records_are_known_as_such(count, key, value):
    records = [(NOW_MS + (index % 3 - 1 if index else 0), key, value, []) for index in range(count)]
    data, _ = plain_records.encode_records(records)
    assert uniform_timestamp_deltas(data, count, needs_keys=False) == (-1, 1)
    assert (uniform_timestamp_deltas(data, count, needs_keys=True) is None) == (key is None)
    assert uniform_timestamp_deltas(data, count - 1, needs_keys=False) is None
    assert uniform_timestamp_deltas(data, count + 1, needs_keys=False) is None
    assert uniform_timestamp_deltas(data + b"\0", count, needs_keys=False) is None
    assert uniform_timestamp_deltas(data[:-1], count, needs_keys=False) is None


@pytest.mark.parametrize("count", [70, 200])
def test_no_byte_of_a_records_frame_can_be_wrong_in_a_uniform_batch(count):
    """Every byte that is not in a key or value, in the first, a middle and the last record of each stretch."""
    records = [(NOW_MS, b"key", b"value", [])] * count
    data, _ = plain_records.encode_records(records)
    position = 0
    for index, frame in enumerate(plain_records.frames(data, count, count - 1)):
        end = frame.headers_start
        if index in (0, 1, 63, 64, 65, count - 1):
            content = {*range(frame.key_start, frame.key_start + 3), *range(frame.value_start, frame.value_start + 5)}
            for at in {*range(position, end)} - content:
                for wrong in (data[at] ^ 1, data[at] ^ 0x80, 0xFF):
                    broken = data[:at] + bytes((wrong,)) + data[at + 1 :]
                    found = uniform_timestamp_deltas(broken, count, needs_keys=False)
                    try:
                        deltas = [frame.timestamp_delta for frame in plain_records.frames(broken, count, count - 1)]
                    except InvalidRecordError:
                        assert found is None
                    else:
                        assert found in (None, (min(deltas), max(deltas)))
        position = end


@pytest.mark.parametrize(("width", "first", "end"), [(1, 0, 64), (2, 64, 8192), (3, 8192, 2**20)])
def test_columns_of_offsets_are_those_of_their_varints(width: int, first: int, end: int) -> None:
    encoded = b"".join(map(plain_records.varint, range(first, end)))
    assert offset_columns(width) == [encoded[column::width] for column in range(width)]
