"""Kafka's consumer protocol: its bytes as Kafka writes them, older and newer versions, and bytes that are none."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmqbroker.errors import InconsistentGroupProtocolError
from zmqbroker.groups.consumer_protocol import (
    Assignment,
    Subscription,
    decode_assignment,
    decode_sticky_data,
    decode_subscription,
    encode_assignment,
    encode_sticky_data,
    encode_subscription,
)

TOPICS = b"\x00\x00\x00\x01\x00\x01a"
NULL = b"\xff\xff\xff\xff"
OWNED = b"\x00\x00\x00\x01\x00\x01a\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x05"
MEMBER = Subscription(("a",), None, (("a", 3), ("a", 5)), 7, "r1")

topics = st.text(st.characters(codec="utf-8"), max_size=20)
partitions = st.lists(st.tuples(topics, st.integers(0, 2**31 - 1)), max_size=20).map(lambda found: tuple(sorted(found)))
user_data = st.none() | st.binary(max_size=20)
subscriptions = st.builds(
    Subscription,
    *(st.lists(topics).map(tuple), user_data, partitions, st.integers(-1, 2**31 - 1), st.none() | topics),
    group_instance_id=st.none(),
)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x00\x00" + TOPICS + NULL, Subscription(("a",))),
        (b"\x00\x00" + TOPICS + b"\x00\x00\x00\x02hi", Subscription(("a",), b"hi")),
        (b"\x00\x01" + TOPICS + NULL + OWNED, Subscription(("a",), None, (("a", 3), ("a", 5)))),
        (b"\x00\x02" + TOPICS + NULL + OWNED + b"\x00\x00\x00\x07", MEMBER._replace(rack=None)),
        (b"\x00\x03" + TOPICS + NULL + OWNED + b"\x00\x00\x00\x07" + b"\x00\x02r1", MEMBER),
        (b"\x00\x09" + TOPICS + NULL + OWNED + b"\x00\x00\x00\x07" + b"\x00\x02r1" + b"what is new", MEMBER),
    ],
    ids=["0", "0 with user data", "1", "2", "3", "9"],
)
def test_every_version_of_a_subscription_is_read(data, found):
    assert decode_subscription(data) == found
    assert decode_subscription(data, "instance").group_instance_id == "instance"


def test_the_bytes_are_kafkas():
    assert encode_subscription(MEMBER) == b"\x00\x03" + TOPICS + NULL + OWNED + b"\x00\x00\x00\x07" + b"\x00\x02r1"
    assert encode_assignment(Assignment((("a", 3), ("a", 5)))) == b"\x00\x03" + OWNED + NULL
    assert encode_sticky_data([("a", 3), ("a", 5)], 7) == OWNED + b"\x00\x00\x00\x07"


def test_no_bytes_are_no_assignment():
    assert decode_assignment(b"") == Assignment(())


def test_sticky_data_without_a_generation_is_read():
    assert decode_sticky_data(OWNED) == ((("a", 3), ("a", 5)), -1)


@settings(deadline=None)
@given(subscriptions)
def test_a_subscription_comes_back(subscription):
    assert decode_subscription(encode_subscription(subscription)) == subscription


@settings(deadline=None)
@given(st.builds(Assignment, partitions, user_data), st.binary(max_size=5))
def test_an_assignment_comes_back_whatever_a_newer_version_adds(assignment, more):
    assert decode_assignment(encode_assignment(assignment) + more) == assignment


@settings(deadline=None)
@given(partitions, st.integers(-1, 2**31 - 1))
def test_sticky_data_come_back(owned, generation):
    assert decode_sticky_data(encode_sticky_data(owned, generation)) == (owned, generation)


@settings(deadline=None)
@given(subscriptions, st.data())
def test_what_is_cut_off_is_refused(subscription, data):
    whole = encode_subscription(subscription)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InconsistentGroupProtocolError, match="malformed"):
        decode_subscription(whole[:cut])


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from([decode_subscription, decode_assignment, decode_sticky_data]))
def test_any_bytes_are_decoded_or_refused(data, decode):
    with suppress(InconsistentGroupProtocolError):
        decode(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xff" + TOPICS + NULL, "version is -1"),
        (b"\x00\x00\x7f\xff\xff\xff", "claims 2147483647 elements in 0 bytes"),
        (b"\x00\x00\x00\x00\x00\x01\xff\xff", "null"),
        (b"\x00\x00\x00\x00\x00\x01\x00\x01\xff" + NULL, "UTF-8"),
        (b"\x00\x00" + TOPICS + b"\xff\xff\xff\xfe", "-2 bytes"),
        (b"\x00\x01" + TOPICS + NULL + OWNED[:-4] + NULL, "partition -1"),
    ],
    ids=["version", "count", "null", "text", "length", "partition"],
)
def test_a_refusal_says_why(data, says):
    with pytest.raises(InconsistentGroupProtocolError, match=says):
        decode_subscription(data)
