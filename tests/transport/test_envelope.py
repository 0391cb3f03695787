"""Envelopes: every message comes back as it was; whatever is none is refused with an error that can be addressed."""

from __future__ import annotations

import contextlib
import math
import types
import typing

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmqbroker.errors import InvalidRequestError, UnsupportedVersionError
from zmqbroker.transport import envelope
from zmqbroker.transport.catalogue import REQUESTS
from zmqbroker.transport.envelope import (
    MalformedEnvelopeError,
    convert_body,
    decode_request,
    split_reply,
    split_request,
)
from zmqbroker.transport.message_base import Body
from zmqbroker.transport.messages import CloseRequest, NodeStatusRequest, ProduceRequest

int64 = st.integers(-(2**63), 2**63 - 1)
text = st.text(max_size=20)
BODIES = sorted(
    {cls for request in REQUESTS.values() for cls in (request, request.REPLY)}, key=lambda cls: cls.__name__
)


def strategy(hint):
    """Values that a field of this type takes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        meta = arguments[1]
        if meta.ge is not None:
            return st.integers(meta.ge, meta.le)
        return text
    if origin in (types.UnionType, typing.Union):
        return st.one_of([strategy(argument) for argument in arguments])
    if origin is list:
        return st.lists(strategy(arguments[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(strategy, arguments))
    plain = {int: int64, str: text, bytes: st.binary(max_size=50), bool: st.booleans(), type(None): st.none()}
    plain[typing.Any] = st.none() | st.lists(int64 | text, max_size=3)
    return plain[hint] if hint in plain else bodies(hint)


def bodies(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{name: strategy(hints[name]) for name in cls.__struct_fields__})


def test_every_message_is_in_the_catalogue_once():
    assert len(REQUESTS) == 67
    assert all(issubclass(cls, Body) for cls in BODIES)


@pytest.mark.parametrize("cls", REQUESTS.values(), ids=lambda cls: cls.__name__)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_requests_and_replies_come_back(cls, data):
    correlation_id = data.draw(int64)
    request = data.draw(bodies(cls))
    raw = split_request(envelope.encode_request(request, correlation_id))
    assert (raw.api, raw.correlation_id, decode_request(raw)) == (cls.API, correlation_id, request)
    reply = data.draw(bodies(cls.REPLY))
    back = split_reply(envelope.encode_reply(cls.API, correlation_id, reply, 5))
    assert (back.api, back.correlation_id, back.error_code, back.throttle_time_ms) == (cls.API, correlation_id, 0, 5)
    assert convert_body(back.body, cls.REPLY) == reply


@pytest.mark.parametrize("cls", REQUESTS.values(), ids=lambda cls: cls.__name__)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_fields_too_many_are_refused(cls, data):
    raw = split_request(envelope.encode_request(data.draw(bodies(cls)), 1))
    with pytest.raises(InvalidRequestError, match=f"{cls.__name__}: .*at most length"):
        convert_body([*raw.body, 1], cls)


def test_errors_have_their_code_and_sentence():
    back = split_reply(envelope.encode_error(3, 7, InvalidRequestError("no")))
    assert back == (3, 0, 7, InvalidRequestError.code, "no", 0, None)


WRONG_NUMBERS = (True, False, 1.0, math.nan, math.inf, 1e300, 2**31, 2**63, 2**64 - 1, -(2**31), "1", b"1", None, [1])


@pytest.mark.parametrize("wrong", WRONG_NUMBERS, ids=repr)
def test_a_number_that_is_none_is_refused_by_the_name_of_its_field(wrong):
    frame = msgpack.packb([0, 0, 9, [1, wrong, []]])
    with pytest.raises(InvalidRequestError, match=r"\$\[1\]"):
        decode_request(split_request(frame))
    frame = msgpack.packb([0, 0, 9, [1, 1, [["a", 0, wrong]]]])
    if not (type(wrong) is int and wrong == -(2**31)):
        with pytest.raises(InvalidRequestError, match=r"\$\[2\]\[0\]\[2\]"):
            decode_request(split_request(frame))


@pytest.mark.parametrize("wrong", [True, 1.0, math.nan, 2**63, 2**64 - 1, "1", None, [], b""], ids=repr)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_header_with_a_number_that_is_none_keeps_the_others(wrong, position):
    header = [3, 0, 9]
    header[position] = wrong
    with pytest.raises(MalformedEnvelopeError) as caught:
        split_request(msgpack.packb([*header, None]))
    expected = [3, 0, 9]
    expected[position] = (-1, 0, -1)[position]
    assert [caught.value.api, caught.value.version, caught.value.correlation_id] == expected


@pytest.mark.parametrize(
    "value",
    [[], [3], [3, 0, 9], [3, 0, 9, None, 1], {}, "text", 5, None, True, 1.5, b"bytes"],
    ids=repr,
)
def test_what_is_no_envelope_is_refused(value):
    with pytest.raises(MalformedEnvelopeError) as caught:
        split_request(msgpack.packb(value))
    long_enough = isinstance(value, list) and len(value) >= 3
    assert caught.value.correlation_id == (9 if long_enough else -1)


def nested(depth):
    return b"\x91" * depth + b"\x00"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n",
        nested(5000),
        nested(1_000_000),
        msgpack.packb([3, 0, 9, {"a": 1}]),
        msgpack.packb([3, 0, 9, msgpack.ExtType(5, b"x")]),
        msgpack.packb([3, 0, 9, msgpack.Timestamp(1)]),
        b"\x94\x03\x00\x09\xdd\x7f\xff\xff\xff",
        b"\x94\x03\x00\x09\xdb\x7f\xff\xff\xff",
        b"\x94\x03\x00\x09\xc6\x7f\xff\xff\xff",
        b"\x94\x03\x00\x09\xdf\x7f\xff\xff\xff",
        b"\x94\x03\x00\x09\xa2\xff\xff",
        msgpack.packb([3, 0, 9, "x" * (2**20 + 1)]),
        msgpack.packb([3, 0, 9, [0] * (2**20 + 1)]),
        b"\x94\x03\x00\x09\xc0\xc0",
    ],
    ids=range(16),
)
def test_what_is_no_msgpack_or_too_much_of_it_is_refused(frame):
    with pytest.raises(MalformedEnvelopeError, match=f"of {len(frame)} bytes"):
        split_request(frame)
    assert envelope.readable_header(frame) == (-1, -1)


@pytest.mark.parametrize("body", [{}, msgpack.ExtType(5, b""), [{}], [[{}]]], ids=repr)
def test_empty_maps_and_extensions_are_no_bodies(body):
    for cls in REQUESTS.values():
        frame = msgpack.packb([cls.API, 0, 9, body])
        with pytest.raises(InvalidRequestError):
            decode_request(split_request(frame))


def test_an_envelope_larger_than_allowed_is_not_even_read():
    with pytest.raises(MalformedEnvelopeError, match="at most 8388608 are read"):
        split_request(b"\x00" * (envelope.MAX_ENVELOPE_BYTES + 1))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(REQUESTS.values())).flatmap(bodies), st.data())
def test_an_envelope_that_is_cut_or_continued_is_refused(request_, data):
    frame = envelope.encode_request(request_, 9)
    with pytest.raises(MalformedEnvelopeError):
        split_request(frame[: data.draw(st.integers(0, len(frame) - 1))])
    with pytest.raises(MalformedEnvelopeError):
        split_request(frame + data.draw(st.binary(min_size=1, max_size=5)))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_are_a_request_or_a_typed_error(frame):
    with contextlib.suppress(InvalidRequestError, UnsupportedVersionError):
        decode_request(split_request(frame))


@pytest.mark.parametrize("version", [-1, 1, 2**40])
def test_another_version_is_refused_and_can_be_answered(version):
    frame = msgpack.packb([3, version, 9, None])
    with pytest.raises(UnsupportedVersionError, match=f"version {version} of API 3 .* speaks version 0"):
        split_request(frame)
    assert envelope.readable_header(frame) == (3, 9)


@pytest.mark.parametrize("api", [-1, 4, 999, 2**62])
def test_another_api_is_refused_and_can_be_answered(api):
    raw = split_request(msgpack.packb([api, 0, 9, None]))
    assert raw.correlation_id == 9
    with pytest.raises(UnsupportedVersionError, match=f"API {api} is not known"):
        decode_request(raw)


def test_bodies_without_fields_are_empty_arrays():
    for cls in (CloseRequest, NodeStatusRequest):
        assert decode_request(split_request(msgpack.packb([cls.API, 0, 1, []]))) == cls()
        for wrong in (None, 0, "", [1]):
            with pytest.raises(InvalidRequestError):
                decode_request(split_request(msgpack.packb([cls.API, 0, 1, wrong])))


def test_names_are_bounded():
    with pytest.raises(InvalidRequestError, match="1024"):
        convert_body([1, 1, [["a" * 1025, 0]]], ProduceRequest)


@pytest.mark.parametrize("frame", [b"", b"\xc1", nested(1_000_000), b"\x91\x00", b"\x97\x00\x00\x00\x00\x00\x00\x00"])
def test_a_reply_that_is_none_is_refused(frame):
    with pytest.raises(MalformedEnvelopeError):
        split_reply(frame)


def test_bodies_are_what_msgspec_says():
    assert msgspec.msgpack.decode(envelope.encode_request(NodeStatusRequest(), 5)) == [1001, 0, 5, []]
