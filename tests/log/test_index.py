"""Index lookups, against the plain list of entries."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.log.index import IndexFormatError, OffsetIndex, TimeIndex

BASE = 1000
gaps = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5000)), max_size=60)


def build(steps):
    offsets, times, entries = OffsetIndex(BASE), TimeIndex(BASE), []
    offset, value = BASE - 1, 0
    for step, more in steps:
        offset, value = offset + step, value + more
        offsets.append(offset, value)
        times.append(value, offset)
        entries.append((offset, value))
    return offsets, times, entries


@given(gaps, st.integers(BASE - 5, BASE + 3100), st.integers(-1, 310_000))
def test_lookups(steps, offset, value):
    offsets, times, entries = build(steps)
    assert offsets.entries() == entries
    assert offsets.before(offset) == max((e for e in entries if e[0] <= offset), default=None)
    assert offsets.at_or_after(offset) == min((e for e in entries if e[0] >= offset), default=None)
    assert offsets.last_start(value, offset) == max(
        (e for e in entries if e[1] <= value and e[0] < offset), default=None
    )
    assert times.lookup(value) == max((o for o, t in entries if t < value), default=BASE)
    assert times.entries() == [(t, o) for o, t in entries]


@given(gaps, st.integers(0, 310_000))
def test_truncation_keeps_what_is_before(steps, value):
    offsets, times, entries = build(steps)
    offsets.truncate(value)
    assert offsets.entries() == [e for e in entries if e[1] < value]
    times.truncate(BASE + value)
    assert times.entries() == [(t, o) for o, t in entries if o < BASE + value]


@given(gaps)
def test_files_hold_the_entries(steps):
    offsets, times, entries = build(steps)
    size, end = (entries[-1][1] + 1, entries[-1][0] + 1) if entries else (0, BASE)
    data = offsets.encode()
    assert len(data) == 8 * len(entries)
    assert OffsetIndex.decode(data, BASE, size) == offsets
    assert TimeIndex.decode(times.encode(), BASE, end).entries() == times.entries()
    if entries:
        assert data[:8] == (entries[0][0] - BASE).to_bytes(4, "big") + entries[0][1].to_bytes(4, "big")
        with pytest.raises(IndexFormatError):
            OffsetIndex.decode(data, BASE, size - 1)
        with pytest.raises(IndexFormatError):
            TimeIndex.decode(times.encode(), BASE, end - 1)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data):
    for decode in (OffsetIndex.decode, TimeIndex.decode):
        with contextlib.suppress(IndexFormatError):
            decode(data, BASE, 2**40)


def test_only_new_maxima_are_noted():
    times = TimeIndex(BASE)
    for timestamp, offset in [(-1, 1000), (5, 1001), (5, 1002), (3, 1003), (6, 1004)]:
        times.append(timestamp, offset)
    assert times.entries() == [(5, 1001), (6, 1004)]


def test_entries_that_do_not_follow_are_refused():
    offsets, times, _ = build([(5, 100)])
    with pytest.raises(IndexFormatError, match="follows"):
        offsets.append(BASE + 4, 100)
    with pytest.raises(IndexFormatError, match="follows"):
        times.append(101, BASE + 4)
