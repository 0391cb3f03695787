"""The records of __transaction_state: the bytes are Kafka's, what is read is what was written, the rest is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.errors import InvalidRecordError
from zmqbroker.groups.transaction_records import (
    FormerProducer,
    State,
    TransactionState,
    decode,
    former_key,
    former_value,
    transaction_key,
    transaction_value,
)

NAMES = st.text(min_size=1, max_size=20)
INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
PARTITIONS = st.lists(st.tuples(NAMES, st.integers(0, 2**31 - 1)), unique=True, max_size=12)
STATES = st.builds(
    TransactionState,
    INT64,
    st.integers(-1, 2**15 - 1),
    INT32,
    st.sampled_from(State),
    PARTITIONS.map(lambda found: tuple(sorted(found))),
    INT64,
    INT64,
)
KAFKAS = bytes.fromhex(
    "0000"  # version
    "00000000000003e9"  # producer id
    "0002"  # epoch
    "0000ea60"  # time-out
    "01"  # ongoing
    "00000002"
    "0001 61 00000002 00000000 00000003"  # a-0, a-3
    "0001 62 00000001 00000007"  # b-7
    "0000018bcfe56800"  # last change
    "0000018bcfe567ff"  # start
)


@given(NAMES, STATES)
def test_what_is_read_is_what_was_written(transactional_id, state):
    assert decode(transaction_key(transactional_id), transaction_value(state)) == (transactional_id, state)
    assert decode(transaction_key(transactional_id), None) == (transactional_id, None)


@given(NAMES, INT64, st.integers(-1, 2**15 - 1))
def test_former_producers(transactional_id, producer_id, epoch):
    former = FormerProducer(producer_id, epoch)
    assert decode(former_key(transactional_id), former_value(*former)) == (transactional_id, former)
    assert decode(former_key(transactional_id), None) is None


def test_the_bytes_are_kafkas():
    """TransactionLogKey.json and TransactionLogValue.json, version 0."""
    state = TransactionState(
        1001, 2, 60_000, State.ONGOING, (("a", 0), ("a", 3), ("b", 7)), 1_700_000_000_000, 1_699_999_999_999
    )
    assert transaction_key("tx") == b"\0\0\0\x02tx"
    assert transaction_value(state) == KAFKAS
    assert decode(b"\0\0\0\x02tx", KAFKAS) == ("tx", state)


def test_partitions_of_a_topic_are_gathered_whatever_their_order():
    mixed = (("a", 3), ("b", 7), ("a", 0))
    state = TransactionState(1, 0, 1, State.PREPARE_ABORT, mixed, 2, 3)
    _, read = decode(transaction_key("tx"), transaction_value(state))
    assert set(read.partitions) == set(mixed)
    assert read._replace(partitions=mixed) == state


def test_kafka_writes_no_partitions_as_none():
    value = transaction_value(TransactionState(1, 0, 1, State.COMPLETE_COMMIT, (), 2, 3))
    at = len(value) - 20
    assert value[at : at + 4] == bytes(4)
    none = value[:at] + b"\xff\xff\xff\xff" + value[at + 4 :]
    assert decode(transaction_key("tx"), none) == decode(transaction_key("tx"), value)


@pytest.mark.parametrize("version", [1, 99, 101])
def test_keys_of_others_are_left_to_them(version):
    assert decode(version.to_bytes(2, "big") + b"whatever", b"x") is None


@given(STATES, st.data())
def test_broken_bytes_are_refused(state, data):
    key, value = transaction_key("tx"), transaction_value(state)
    cut = data.draw(st.integers(0, len(value) - 1))
    for broken in (value[:cut], value + b"\0", b"\0\x01" + value[2:], b"\xff\xff" + value[2:]):
        with pytest.raises(InvalidRecordError, match="no valid record of __transaction_state"):
            decode(key, broken)
    for broken in (b"", b"\0", key[:-1], key + b"x", b"\0\0\xff\xff"):
        with pytest.raises(InvalidRecordError):
            decode(broken, value)


@pytest.mark.parametrize("number", [6, 7, 8, -1])
def test_a_state_that_is_never_written_down_is_refused(number):
    broken = bytearray(KAFKAS)
    broken[16:17] = number.to_bytes(1, "big", signed=True)
    with pytest.raises(InvalidRecordError, match=f"its state is {number}, and 0 to 5 are known"):
        decode(transaction_key("tx"), bytes(broken))


@given(st.integers(0, len(KAFKAS) - 1), st.integers(1, 255))
def test_a_byte_that_has_changed_is_read_or_refused_and_nothing_else(position, change):
    broken = bytearray(KAFKAS)
    broken[position] ^= change
    try:
        found = decode(transaction_key("tx"), bytes(broken))
    except InvalidRecordError:
        return
    assert found is not None
    assert isinstance(found[1], TransactionState)


@pytest.mark.parametrize("value", [b"", b"\0\0", b"\0\x01" + bytes(10), bytes(11), bytes(13)])
def test_broken_former_producers_are_refused(value):
    with pytest.raises(InvalidRecordError):
        decode(former_key("tx"), value)
