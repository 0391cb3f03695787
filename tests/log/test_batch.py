"""The header of a batch: layout, CRC, stamping, and what is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.errors import BrokerError, CorruptMessageError
from zmqbroker.log import batch as batches
from zmqbroker.log.plain_records import encode_batch

NOW_MS = 1_700_000_000_000


def a_batch(**options) -> bytes:
    return encode_batch([(NOW_MS, b"key", b"value", []), (NOW_MS + 5, None, None, [("h", b"x")])], **options)


def test_header_fields_are_where_kafka_has_them():
    batch = a_batch(producer_id=7, producer_epoch=2, base_sequence=40, transactional=True)
    assert struct.unpack_from(">qi", batch) == (0, len(batch) - 12)
    assert batch[16] == 2
    assert struct.unpack_from(">HiqqqhII", batch, 21) == (0x10, 1, NOW_MS, NOW_MS + 5, 7, 2, 40, 2)
    header = batches.read_header(batch)
    assert (header.size, header.last_offset, header.next_offset, header.last_sequence) == (len(batch), 1, 2, 41)
    assert header.is_transactional
    assert header.has_producer_id
    assert not header.is_control
    assert not header.is_append_time
    assert header.compression == 0


def test_a_header_is_found_at_a_position():
    batch = a_batch()
    assert batches.read_header(b"before" + batch, 6) == batches.read_header(batch)


def test_sequences_wrap_to_0():
    header = batches.read_header(a_batch(producer_id=1, producer_epoch=0, base_sequence=2**31 - 1))
    assert header.last_sequence == 0
    assert batches.read_header(a_batch()).last_sequence == batches.NO_SEQUENCE


def test_stamping_leaves_the_crc_valid():
    batch = bytearray(a_batch())
    before = batches.read_header(batch)
    batches.stamp(batch, 1000, 9)
    header = batches.check_whole(batch)
    assert (header.base_offset, header.last_offset, header.leader_epoch) == (1000, 1001, 9)
    assert batches.stamped_prefix(before, 1000, 9) == batch[:16]


def test_the_append_time_is_every_records_timestamp():
    batch = bytearray(a_batch())
    batches.stamp_append_time(batch, NOW_MS + 77)
    header = batches.check_whole(batch)
    assert header.is_append_time
    assert header.max_timestamp == NOW_MS + 77


def test_control_batches_say_so():
    assert batches.check_whole(a_batch(control=True)).is_control


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda batch: batch[:60], "at least 61 bytes and 60"),
        (lambda _: b"", "at least 61 bytes and 0"),
        (lambda batch: batch[:16] + b"\1" + batch[17:], "magic 1"),
        (lambda batch: batch[:8] + struct.pack(">i", 48) + batch[12:], "60 bytes long, less than"),
        (lambda batch: batch[:8] + struct.pack(">i", -1) + batch[12:], "11 bytes long, less than"),
        (lambda batch: batch[:-1], r"says it is \d+ bytes long and \d+ are there"),
        (lambda batch: batch + b"\0", r"says it is \d+ bytes long and \d+ are there"),
        (lambda batch: batch[:-1] + b"\7", r"CRC-32C is 0x[0-9a-f]{8} and its bytes have 0x"),
    ],
)
def test_a_broken_batch_is_corrupt(broken, said):
    with pytest.raises(CorruptMessageError, match=said):
        batches.check_whole(broken(a_batch()))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_header_or_an_error(data):
    try:
        header = batches.read_header(data)
    except BrokerError:
        return
    assert header.magic == 2


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind):
    assert batches.check_whole(kind(a_batch())).records_count == 2
