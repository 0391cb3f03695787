"""Metadata records: every one comes back as it was; what is none is refused."""

from __future__ import annotations

from typing import get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.errors import CorruptMessageError
from zmqbroker.quorum.records import MetadataRecord, decode, encode

KINDS = get_args(MetadataRecord)
int64 = st.integers(-(2**63), 2**63 - 1)


def records():
    by_type = {"int": int64, "str": st.text(), "bool": st.booleans(), "list[int]": st.lists(int64)}
    by_type["str | None"] = st.none() | st.text()
    by_type["list[tuple[int, str]]"] = st.lists(st.tuples(int64, st.text()))
    return st.one_of(
        *[st.builds(kind, *[by_type[kind.__annotations__[name]] for name in kind.__struct_fields__]) for kind in KINDS]
    )


@given(records())
def test_round_trip(record):
    assert decode(encode(record)) == record


@given(records())
def test_fields_of_a_later_version_are_ignored(record):
    assert decode(msgpack.packb([*msgpack.unpackb(encode(record)), "more"])) == record


@given(records(), st.data())
def test_a_value_cut_short_or_with_more_behind_it_is_refused(record, data):
    value = encode(record)
    with pytest.raises(CorruptMessageError):
        decode(value[: data.draw(st.integers(0, len(value) - 1))])
    with pytest.raises(CorruptMessageError):
        decode(value + b"\x00")


@given(st.binary(max_size=60))
def test_bytes_that_are_no_record_are_refused(value):
    try:
        record = decode(value)
    except CorruptMessageError:
        return
    assert decode(encode(record)) == record


@pytest.mark.parametrize(
    "value",
    [
        ["Unknown", 1],
        [],
        {},
        "CreateTopic",
        ["CreateTopic", "a"],
        ["CreateTopic", 1, "a"],
        ["SetPartition", "a", 0, [1], [1], 1, None],
        ["NextProducerId", True],
        ["NextProducerId", 1.5],
        ["RemoveTopic", None],
    ],
)
def test_records_of_the_wrong_shape_are_refused(value):
    with pytest.raises(CorruptMessageError, match="cannot be read"):
        decode(msgpack.packb(value))
