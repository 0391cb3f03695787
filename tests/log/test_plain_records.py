"""The plain codec: known bytes, varints, and that it says what is wrong with a record."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.errors import InvalidRecordError
from zmqbroker.log.plain_records import HEADERS_MAX, encode_records, frames, read_varint, varint

NOW_MS = 1_700_000_000_000


def test_the_bytes_of_a_record():
    data, max_timestamp = encode_records([(5, b"k", b"va", [("h", None)]), (3, None, None, [])])
    assert data == b"\x18\x00\x00\x00\x02k\x04va\x02\x02h\x01" + b"\x0c\x00\x03\x02\x01\x01\x00"
    assert max_timestamp == 5


@pytest.mark.parametrize(
    ("number", "encoded"),
    [(0, b"\0"), (-1, b"\1"), (1, b"\2"), (63, b"\x7e"), (-64, b"\x7f"), (64, b"\x80\x01"), (8192, b"\x80\x80\x01")],
)
def test_varints_are_zigzag(number, encoded):
    assert varint(number) == encoded


@given(st.integers(-(2**63), 2**63 - 1))
def test_varint_round_trip(number):
    encoded = varint(number)
    assert read_varint(b"." + encoded, 1, 2**64) == (number, 1 + len(encoded))
    if -(2**31) <= number < 2**31:
        assert read_varint(encoded, 0) == (number, len(encoded))
    else:
        with pytest.raises(InvalidRecordError, match="does not fit"):
            read_varint(encoded, 0)


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (b"\x80" * 5 + b"\x00", "does not fit"),
        (b"\xff\xff\xff\xff\x1f", "does not fit"),
        (b"\x80" * 10 + b"\x00", "longer than 10 bytes"),
    ],
)
def test_overlong_varints_are_invalid(encoded, said):
    with pytest.raises(InvalidRecordError, match=said):
        read_varint(encoded, 0)


def record(body: bytes) -> bytes:
    return varint(len(body)) + body


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "record 0 of 1 is cut off"),
        (b"\x80", "record 0 of 1 is cut off"),
        (b"\x01", "says it is -1 bytes long and 0 are left"),
        (b"\x10\x00", "says it is 8 bytes long and 1 are left"),
        (record(b"\x01\x00\x00\x01\x01\x00"), "attributes 0x01"),
        (record(b"\x00\x00\x02\x01\x01\x00"), "record 0 of 1 says its offset is 1 .* above -1, .* and 0 at most"),
        (record(b"\x00\x00\x00\x03\x01\x00"), "the key of a record says it has -2 bytes"),
        (record(b"\x00\x00\x00\x10\x01\x00"), "the key of a record says it has 8 bytes and 2 are left"),
        (record(b"\x00\x00\x00\x01\x03\x00"), "the value of a record says it has -2 bytes"),
        (record(b"\x00\x00\x00\x01\x10\x00"), "the value of a record says it has 8 bytes and 1 are left"),
        (record(b"\x00\x00\x00\x01\x01\x01"), "says it has -1 headers"),
        (record(b"\x00\x00\x00\x01\x01" + varint(HEADERS_MAX + 1)), "says it has 1048577 headers"),
        (record(b"\x00\x00\x00\x01\x01\x02\x01\x01"), "cannot be null"),
        (record(b"\x00\x00\x00\x01\x01\x02\x10h"), "header key of a record says it has 8 bytes"),
        (record(b"\x00\x00\x00\x01\x01\x02\x02\xff\x01"), "no UTF-8"),
        (record(b"\x00\x00\x00\x01\x01\x02\x02h\x03"), "header value of a record says it has -2 bytes"),
        (record(b"\x00\x00\x00\x01\x01\x02\x02h\x10"), "header value of a record says it has 8 bytes"),
        (record(b"\x00\x00\x00\x01\x01\x00\x00"), "7 bytes long and its parts take 6"),
        (record(b"\x00\x00\x00\x01\x01\x00") + b"\x00", "1 bytes are left after the 1 records"),
        (b"\x0a\x00\x00\x00\x01\x01\x00", "5 bytes long and its parts take 6"),
    ],
)
def test_what_is_wrong_is_said(data, said):
    with pytest.raises(InvalidRecordError, match=said):
        list(frames(data, 1, 0))
