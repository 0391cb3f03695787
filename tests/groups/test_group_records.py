"""The records of __consumer_offsets: Kafka's bytes, and what is done with others."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.errors import InvalidRecordError
from zmqbroker.groups import group_records as r
from zmqbroker.transport.group_messages import GroupEvent

name = st.text(max_size=50)
int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
data = st.binary(max_size=50)
members = st.lists(
    st.builds(r.MemberState, name, st.none(), name, name, st.integers(0, 2**31 - 1), int32, data, data),
    max_size=3,
    unique_by=lambda member: member.member_id,
)
events = st.builds(GroupEvent, int64, int64, name, int32, name, name, name)


MEMBER = r.MemberState("m", None, "", "", 1, 1, b"", b"")


def test_an_offset_is_written_as_kafka_writes_it():
    key = r.offset_key("group", "topic", 7)
    assert key == bytes.fromhex("0001 0005 67726f7570 0005 746f706963 00000007")
    value = r.offset_value(r.OffsetState(300, 5, "meta", 1_700_000_000_000))
    assert value == bytes.fromhex("0003 000000000000012c 00000005 0004 6d657461 0000018bcfe56800")


def test_a_group_is_written_as_kafka_writes_it():
    assert r.group_key("g") == bytes.fromhex("0002 0001 67")
    member = r.MemberState("m", "i", "c", "h", 60_000, 10_000, b"\x00\x01", b"\x02")
    value = r.group_value(r.GroupState("consumer", 3, "range", "m", 1_700_000_000_000, (member,)))
    assert value == bytes.fromhex(
        "0003 0008 636f6e73756d6572 00000003 0005 72616e6765 0001 6d 0000018bcfe56800 00000001"
        "0001 6d 0001 69 0001 63 0001 68 0000ea60 00002710 00000002 0001 00000001 02"
    )


def test_an_empty_group_has_neither_assignor_nor_leader():
    value = r.group_value(r.GroupState("consumer", 4, None, None, -1))
    assert value == bytes.fromhex("0003 0008 636f6e73756d6572 00000004 ffff ffff ffffffffffffffff 00000000")


@given(name, name, int32, st.none() | st.builds(r.OffsetState, int64, int32, name, int64))
def test_offsets_come_back(group, topic, partition, state):
    value = None if state is None else r.offset_value(state)
    assert r.decode(r.offset_key(group, topic, partition), value) == r.OffsetRecord(group, topic, partition, state)


@given(name, st.builds(r.GroupState, name, int32, name, st.none() | name, int64, members.map(tuple)))
def test_groups_come_back(group, state):
    assert r.decode(r.group_key(group), r.group_value(state)) == r.GroupRecord(group, state)


@given(name, int32, st.none() | events)
def test_events_come_back(group, slot, event):
    value = None if event is None else r.event_value(event)
    assert r.decode(r.event_key(group, slot), value) == r.EventRecord(group, slot, event)


def test_older_values_are_read():
    key = r.offset_key("g", "t", 0)
    version_1 = bytes.fromhex("0001 0000000000000009 0000 0000000000000005 0000000000000006")
    assert r.decode(key, version_1) == r.OffsetRecord("g", "t", 0, r.OffsetState(9, -1, "", 5))
    version_0 = bytes.fromhex(
        "0000 0000 00000002 0001 61 0001 6d 00000001 0001 6d 0000 0000 00000007 00000000 00000000"
    )
    member = r.MemberState("m", None, "", "", 7, 7, b"", b"")
    assert r.decode(r.group_key("g"), version_0) == r.GroupRecord("g", r.GroupState("", 2, "a", "m", -1, (member,)))


@pytest.mark.parametrize("version", [3, 17, -1, 99, 103, 32767])
def test_keys_of_unknown_versions_are_somebody_elses(version):
    assert r.decode(version.to_bytes(2, "big", signed=True) + b"anything", b"\x00\x00") is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"", None),
        (b"\x00", None),
        (r.group_key("g")[:-1], None),
        (r.group_key("g") + b"x", None),
        (r.group_key("g"), b""),
        (r.group_key("g"), b"\x00\x04" + bytes(40)),
        (r.offset_key("g", "t", 0), r.offset_value(r.OffsetState(1, 1, "", 1))[:-1]),
        (r.offset_key("g", "t", 0), r.offset_value(r.OffsetState(1, 1, "", 1)) + b"x"),
        (r.offset_key("g", "t", 0), b"\xff\xff" + bytes(22)),
        (b"\x00\x02\x00\x01\xff", None),
        (r.group_key("g"), r.group_value(r.GroupState("c", 1, None, "m", 1, (MEMBER,)))),
        (r.group_key("g"), r.group_value(r.GroupState("c", 1, "p", "m", 1, (MEMBER, MEMBER)))),
    ],
)
def test_malformed_records_are_refused(key, value):
    with pytest.raises(InvalidRecordError, match="no valid record of __consumer_offsets"):
        r.decode(key, value)


@given(st.binary(max_size=60), st.none() | st.binary(max_size=60))
def test_nothing_else_is_raised(key, value):
    with suppress(InvalidRecordError):
        r.decode(key, value)
