"""The rules of idempotent producers, against a model that remembers every batch; and the snapshot file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.errors import DuplicateSequenceError, InvalidProducerEpochError, OutOfOrderSequenceError
from zmqbroker.log.epoch_cache import EpochCache
from zmqbroker.log.producer_state import ProducerStates, SnapshotFormatError
from zmqbroker.simulation.log_model import make_batch

TOP = 2**31 - 1


def header(sequence, records=1, epoch=0, producer_id=1):
    return make_batch([7] * records, producer_id=producer_id, producer_epoch=epoch, sequence=sequence)[0]


def note(states, batch, offset=0):
    states.update(batch, offset, timestamp=batch.max_timestamp, now_ms=0)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.sampled_from([0, TOP - 10, TOP]),
    st.integers(-30, 10),
    st.integers(1, 9),
)
def test_what_follows_is_taken_and_all_else_is_refused(sizes, first, shift, records):
    states, stored, sequence, offset = ProducerStates(), [], first, 0
    if first:
        note(states, header(first - 1))
        stored.append((first - 1, first - 1, 0))
    for size in sizes:
        batch = header(sequence, size)
        assert states.check(batch) is None
        note(states, batch, offset)
        stored.append((sequence, batch.last_sequence, offset))
        sequence, offset = (sequence + size) & TOP, offset + size
    probe = header((sequence + shift) & TOP, records)
    repeats = [s for s in stored[-5:] if s[:2] == (probe.base_sequence, probe.last_sequence)]
    if repeats:
        assert states.check(probe).first_offset == repeats[0][2]
    elif shift == 0:
        assert states.check(probe) is None
    elif shift < 0 and shift + records <= 0:
        with pytest.raises(DuplicateSequenceError):
            states.check(probe)
    else:
        with pytest.raises(OutOfOrderSequenceError, match=f"sequence {probe.base_sequence}; expected {sequence}"):
            states.check(probe)


def test_epochs():
    states = ProducerStates()
    with pytest.raises(OutOfOrderSequenceError, match="producer 1 is not known here and sent sequence 77"):
        states.check(header(77))
    assert states.check(header(0)) is None
    note(states, header(0))
    with pytest.raises(OutOfOrderSequenceError, match="must begin with 0"):
        states.check(header(78, epoch=1))
    assert states.check(header(0, epoch=1)) is None
    note(states, header(0, epoch=1))
    with pytest.raises(InvalidProducerEpochError, match=r"epoch 0.*epoch 1"):
        states.check(header(1))
    assert len(states.get(1).batches) == 1


def test_undo():
    states = ProducerStates()
    before = states.update(header(0), 0, timestamp=1, now_ms=1)
    states.restore(1, before)
    assert states.entries() == {}
    note(states, header(0))
    kept = states.entries()
    before = states.update(header(1), 1, timestamp=1, now_ms=1)
    states.restore(1, before)
    assert states.entries() == kept


@given(st.dictionaries(st.integers(0, 2**40), st.lists(st.integers(1, 5), min_size=1, max_size=8), max_size=6))
def test_snapshots(producers):
    states = ProducerStates()
    for producer_id, sizes in producers.items():
        sequence = 0
        for size in sizes:
            note(states, header(sequence, size, producer_id=producer_id), sequence * 10)
            sequence += size
    data = states.encode()
    assert ProducerStates.decode(data, now_ms=0).entries() == states.entries()
    for position in {0, 1, 2, 5, 6, len(data) // 2, len(data) - 1}:
        spoiled = bytearray(data)
        spoiled[position] ^= 1
        with pytest.raises(SnapshotFormatError):
            ProducerStates.decode(bytes(spoiled), now_ms=0)
        with pytest.raises(SnapshotFormatError):
            ProducerStates.decode(data[:position], now_ms=0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=20), st.integers(0, 60), st.integers(0, 60))
def test_epoch_cache_equals_a_list_of_epochs(steps, cut, probe):
    cache, epochs, epoch = EpochCache(), [], 0
    for more, records in steps:
        epoch += more
        if records:
            cache.assign(epoch, len(epochs))
        epochs += [epoch] * records
    cache.truncate_end(cut)
    del epochs[cut:]
    for offset in range(len(epochs)):
        assert cache.epoch_of(offset) == epochs[offset]
    wanted = max((e for e in epochs if e <= probe), default=-1)
    end = len(epochs) - epochs[::-1].index(wanted) if wanted >= 0 else -1
    assert cache.end_offset(probe, len(epochs)) == (wanted, end)
    assert EpochCache.decode(cache.encode()).entries() == cache.entries()
