"""Requests are decoded and responses encoded as kafka-python does it, in every version that is offered."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmqbroker.errors import InvalidRequestError
from zmqbroker.gateway.decoding import ELEMENTS_MAX, Cursor, snake_case, within
from zmqbroker.gateway.encoding import put_varint
from zmqbroker.gateway.protocol import API_VERSIONS, APIS, METADATA, PRODUCE, codec, schema_of

NAMES = [api.name for api in APIS.values()]
BOUNDS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}
TEXTS = st.text(max_size=8)


def drawn(name: str, data: Any) -> tuple[int, int]:
    """The key of an API, and one of its versions."""
    (api,) = (api for api in APIS.values() if api.name == name)
    return api.key, data.draw(st.integers(api.low, api.high))


def message_class(name: str) -> Any:
    """kafka-python's class of a message."""
    from importlib import import_module

    for module in ("producer", "consumer", "metadata", "admin"):
        found = getattr(import_module(f"kafka.protocol.{module}"), name, None)
        if found is not None:
            return found
    raise LookupError(name)


def value_of(field: Any, version: int) -> st.SearchStrategy[Any]:
    """Values of a field, as plain data."""
    kind = field["type"]
    if kind.startswith("[]"):
        element = value_of({**field, "type": kind[2:], "nullableVersions": None}, version)
        made: st.SearchStrategy[Any] = st.lists(element, max_size=3)
    elif kind == "bool":
        made = st.booleans()
    elif kind in BOUNDS:
        made = st.integers(-(2 ** BOUNDS[kind]), 2 ** BOUNDS[kind] - 1)
    elif kind == "uint16":
        made = st.integers(0, 2**16 - 1)
    elif kind == "bitfield":
        made = st.just(-(2**31))
    elif kind == "string":
        made = TEXTS
    elif kind in ("bytes", "records"):
        made = st.binary(max_size=8)
    elif kind == "uuid":
        made = st.uuids(version=4)
    else:
        made = structure(field["fields"], version)
    return st.none() | made if within(version, field.get("nullableVersions")) else made


def structure(fields: Any, version: int) -> st.SearchStrategy[dict[str, Any]]:
    """Structures, as dictionaries of the fields that a version has; tagged ones have their defaults."""
    return st.fixed_dictionaries(
        {
            snake_case(field["name"]): value_of(field, version)
            for field in fields
            if within(version, field["versions"]) and not within(version, field.get("taggedVersions"))
        }
    )


def as_theirs(cls: Any, fields: Any, value: Any, version: int) -> Any:
    """A dictionary as kafka-python's object."""
    made = {}
    for field in fields:
        name = snake_case(field["name"])
        if name not in value:
            continue
        inner = value[name]
        if field["type"] == "bitfield":
            inner = {31}
        if "fields" in field and inner is not None:
            part = getattr(cls, field["type"].removeprefix("[]"))
            inner = (
                [as_theirs(part, field["fields"], each, version) for each in inner]
                if field["type"].startswith("[]")
                else as_theirs(part, field["fields"], inner, version)
            )
        made[name] = inner
    return cls(version=version, **made)


def as_plain(fields: Any, message: Any, version: int) -> dict[str, Any]:
    """A decoded object as a dictionary."""
    found = {}
    for field in fields:
        if not within(version, field["versions"]) or within(version, field.get("taggedVersions")):
            continue
        name = snake_case(field["name"])
        inner = getattr(message, name)
        if "fields" in field and inner is not None:
            inner = (
                [as_plain(field["fields"], each, version) for each in inner]
                if field["type"].startswith("[]")
                else as_plain(field["fields"], inner, version)
            )
        found[name] = inner
    return found


def body(kind: str, value: dict[str, Any], version: int) -> bytes:
    """What kafka-python makes of it."""
    schema = schema_of(kind)
    return bytes(as_theirs(message_class(kind), schema["fields"], value, version).encode(version=version))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_kafka_python_encodes_is_decoded(name: str, data: Any) -> None:
    key, version = drawn(name, data)
    kind = f"{name}Request"
    schema = schema_of(kind)
    value = data.draw(structure(schema["fields"], version))
    decoded = codec(key, version).read(Cursor(body(kind, value, version)))
    assert as_plain(schema["fields"], decoded, version) == value


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_is_encoded_is_what_kafka_python_encodes(name: str, data: Any) -> None:
    key, version = drawn(name, data)
    kind = f"{name}Response"
    value = data.draw(structure(schema_of(kind)["fields"], version))
    out = bytearray()
    codec(key, version).write(out, value)
    assert bytes(out) == body(kind, value, version)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_damaged_requests_are_refused_or_read_and_nothing_else(name: str, data: Any) -> None:
    key, version = drawn(name, data)
    kind = f"{name}Request"
    good = bytearray(body(kind, data.draw(structure(schema_of(kind)["fields"], version)), version))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(good) - 1)))
        good[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    with suppress(InvalidRequestError):
        codec(key, version).read(Cursor(good))


def test_an_error_names_the_field() -> None:
    good = body("ProduceRequest", {"topic_data": [{"name": "t", "partition_data": [{"index": 1, "records": b"x"}]}]}, 9)
    path = r"ProduceRequest\.topic_data\.partition_data\.records: it takes 1 bytes, and 0 are left"
    with pytest.raises(InvalidRequestError, match=path):
        codec(PRODUCE, 9).read(Cursor(good[:-4]))


def test_lengths_that_go_beyond_the_request_are_refused_at_once() -> None:
    with pytest.raises(InvalidRequestError, match="more than 5 bytes"):
        codec(METADATA, 12).read(Cursor(b"\xff" * 1_000_000))
    with pytest.raises(InvalidRequestError, match="4294967294 elements, and 4 bytes are left"):
        codec(METADATA, 12).read(Cursor(b"\xff\xff\xff\xff\x0f" + bytes(4)))
    with pytest.raises(InvalidRequestError, match="2147483647 elements"):
        codec(METADATA, 4).read(Cursor(b"\x7f\xff\xff\xff\x00"))


def test_the_number_of_elements_is_bounded() -> None:
    many = bytearray()
    put_varint(many, ELEMENTS_MAX + 2)
    with pytest.raises(InvalidRequestError, match=f"{ELEMENTS_MAX} are allowed"):
        codec(METADATA, 9).read(Cursor(many + bytes(2 * ELEMENTS_MAX)))


def test_tagged_fields_that_are_not_known_are_skipped() -> None:
    tagged = bytearray(body("ApiVersionsRequest", {"client_software_name": "a", "client_software_version": "b"}, 3))
    tagged[-1:] = b"\x02\x07\x03xyz\x08\x00"
    decoded = codec(API_VERSIONS, 3).read(Cursor(tagged))
    assert (decoded.client_software_name, decoded.client_software_version) == ("a", "b")


def test_an_id_of_a_topic_is_a_uuid() -> None:
    topic_id = UUID(int=7)
    request = body("MetadataRequest", {"topics": [{"topic_id": topic_id, "name": None}]}, 12)
    (topic,) = codec(METADATA, 12).read(Cursor(request)).topics
    assert (topic.topic_id, topic.name) == (topic_id, None)
