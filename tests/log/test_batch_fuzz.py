"""Mutated batches: the check and both decoders answer with records or a typed error, and agree on which."""

from __future__ import annotations

import struct
from contextlib import suppress

from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from zmqbroker.errors import BrokerError, InvalidRecordError
from zmqbroker.log import plain_records, records
from zmqbroker.log.uniform_records import uniform_timestamp_deltas
from zmqbroker.log.validation import check_batch
from zmqbroker.settings import TopicConfig

NOW_MS = 1_700_000_000_000
LIMIT = 2**16
CONFIGS = [TopicConfig(max_decompressed_bytes=LIMIT, cleanup_policy=policy) for policy in ("delete", "compact")]

parts = st.one_of(st.none(), st.binary(max_size=40))
headers = st.lists(st.tuples(st.text(max_size=4), parts), max_size=2)
mixed = st.lists(st.tuples(st.integers(NOW_MS - 99, NOW_MS + 99), parts, parts, headers), min_size=1, max_size=6)
uniform = st.builds(
    lambda count, key, value: [(NOW_MS, key, value, [])] * count, st.sampled_from([1, 8, 64, 70]), parts, parts
)
batches = st.builds(
    lambda written, compression: records.encode_batch(written, compression=compression),
    st.one_of(mixed, uniform),
    st.integers(0, 4),
)


@st.composite
def mutated(draw, valid, start=0):
    """Bytes with a few of those from start on flipped, replaced, inserted or deleted."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(start, max(start, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "replace", "delete"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "replace":
            data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
        else:
            del data[at : at + draw(st.integers(1, 8))]
    return bytes(data)


def with_right_length_and_crc(batch: bytes) -> bytes:
    """The batch as someone who means harm would send it: only its content is wrong."""
    fixed = bytearray(batch)
    if len(fixed) >= 61:
        struct.pack_into(">i", fixed, 8, len(fixed) - 12)
        struct.pack_into(">I", fixed, 17, crc32c(memoryview(fixed)[21:]))
    return bytes(fixed)


def outcome(call):
    try:
        return call()
    except BrokerError as error:
        assert error.message  # noqa: PT017 - either outcome is right, and both are looked at
        return None


def hold_against_each_other(batch: bytes) -> None:
    decoded = outcome(lambda: records.decode_batch(batch, max_decompressed_bytes=LIMIT))
    plain = outcome(lambda: plain_records.decode_batch(batch, max_decompressed_bytes=LIMIT))
    if plain is not None and all(abs(record.timestamp) < 2**62 for record in plain):
        assert decoded is not None, "the plain codec is the stricter one"
        assert [tuple(record) for record in plain] == [
            (
                record.offset,
                -1 if record.timestamp is None else record.timestamp,
                record.timestamp_type or 0,
                record.key,
                record.value,
                list(record.headers),
            )
            for record in decoded
        ]
    for config in CONFIGS:
        header = outcome(lambda: check_batch(batch, config, now_ms=NOW_MS))  # noqa: B023 - called at once
        if header is not None:
            assert decoded is not None
            assert len(decoded) == header.records_count


@settings(max_examples=200)
@given(mutated(batches), st.booleans())
def test_any_byte_may_be_wrong(batch, crc_is_right):
    hold_against_each_other(with_right_length_and_crc(batch) if crc_is_right else batch)


@settings(max_examples=200)
@given(mutated(batches, start=61))
def test_records_may_be_wrong_under_a_right_header(batch):
    hold_against_each_other(with_right_length_and_crc(batch))


@settings(max_examples=200)
@given(
    mutated(st.one_of(mixed, uniform).map(lambda written: plain_records.encode_records(written)[0])), st.integers(1, 71)
)
def test_the_shortcut_for_uniform_records_takes_nothing_that_the_walk_does_not(data, count):
    found = uniform_timestamp_deltas(data, count, needs_keys=False)
    if found is not None:
        deltas = [frame.timestamp_delta for frame in plain_records.frames(data, count, count - 1)]
        assert found == (min(deltas), max(deltas))


@given(st.binary(max_size=100), st.integers(1, 5))
def test_the_walk_takes_any_bytes(data, count):
    with suppress(InvalidRecordError):
        assert len(list(plain_records.frames(data, count, count - 1))) == count
