"""Transactions of one log: markers, the last stable offset, the aborted list; and what a failed write takes back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.errors import (
    InvalidProducerEpochError,
    InvalidTxnStateError,
    OutOfOrderSequenceError,
    StorageError,
    TransactionCoordinatorFencedError,
)
from zmqbroker.log.batch import read_header
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.log.plain_records import encode_batch
from zmqbroker.log.producer_state import ProducerStates, SnapshotFormatError
from zmqbroker.log.transactions import NO_TRANSACTION, Marker, Transactions, encode_marker, read_marker
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk

FOLDER = "/t-0"


def data(producer_id=1, sequence=0, records=1, epoch=0, *, transactional=True, **options):
    rows = [(1000, b"k", b"v", ())] * records
    batch = encode_batch(
        rows,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        transactional=transactional,
        **options,
    )
    return read_header(batch), batch


def marker(number, producer_id=1, epoch=0, *, committed=False, coordinator_epoch=0):
    batch = encode_marker(producer_id, epoch, Marker(committed, coordinator_epoch, number), 1000)
    return read_header(batch), batch


def open_log(disk, **options):
    config = options.pop("config", TopicConfig(segment_bytes=1000))
    return PartitionLog.open(disk, FOLDER, config, now_ms=0, **options)


def append(log, *made):
    return log.append(list(made), leader_epoch=0, now_ms=1000)


def known(log):
    """All that is known of transactions."""
    transactions = log.producers.transactions
    return log.producers.entries(), transactions.aborted, transactions.ended, transactions.stable_offset(0)


# ---- markers


@given(st.booleans(), st.integers(-1, 2**31 - 1), st.integers(-1, 2**63 - 1), st.integers(0, 2**62), st.integers(0, 99))
def test_a_marker_says_what_was_written(committed, coordinator_epoch, number, producer_id, epoch):
    written = Marker(committed, coordinator_epoch, number)
    batch = encode_marker(producer_id, epoch, written, 77)
    header = read_header(batch)
    assert read_marker(batch) == read_marker(memoryview(batch)) == written
    assert (header.is_control, header.is_transactional, header.records_count) == (True, True, 1)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (producer_id, epoch, -1)
    assert header.max_timestamp == 77


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("version", [0, 1])
def test_a_marker_of_kafkas_has_no_number(kind, version):
    """EndTransactionMarker.java: a key of two int16, a value of int16 and int32, and no headers."""
    row = (5, struct.pack(">hh", version, kind), struct.pack(">hi", version, 9), ())
    batch = encode_batch([row], producer_id=3, producer_epoch=1, transactional=True, control=True)
    assert read_marker(batch) == Marker(kind == 1, 9, NO_TRANSACTION)
    states = ProducerStates()
    first, _ = data(3, epoch=1)
    states.update(first, 0, timestamp=0, now_ms=0)
    for offset in (1, 2):
        assert not states.is_repeated(read_header(batch), read_marker(batch)), "one without number repeats nothing"
        states.update(read_header(batch), offset, timestamp=0, now_ms=0, marker=read_marker(batch))
    assert states.get(3).open_at == NO_TRANSACTION
    assert len(states.transactions.ended) == 1


@pytest.mark.parametrize(
    "rows",
    [
        [(5, struct.pack(">hh", 0, 2), struct.pack(">hi", 0, 9), ())],  # the record of a change of leader, in a quorum
        [(5, b"\0", struct.pack(">hi", 0, 9), ())],
        [(5, None, struct.pack(">hi", 0, 9), ())],
        [(5, struct.pack(">hh", 0, 1), None, ())],
        [(5, struct.pack(">hh", 0, 1), b"\0\0\0", ())],
        [(5, struct.pack(">hh", 0, 1), struct.pack(">hi", 0, 9), ())] * 2,
    ],
)
def test_another_control_batch_is_no_marker(rows):
    assert read_marker(encode_batch(rows, producer_id=3, producer_epoch=1, transactional=True, control=True)) is None


@pytest.mark.parametrize("number", [None, b"", b"\0" * 7, b"\0" * 9])
def test_a_header_that_is_no_number_is_none(number):
    row = (5, struct.pack(">hh", 0, 1), struct.pack(">hi", 0, 9), [("transaction", number), ("other", b"x" * 8)])
    assert read_marker(encode_batch([row], producer_id=3, producer_epoch=1, control=True)) == (1, 9, -1)


def test_a_marker_with_a_broken_record_is_none():
    batch = bytearray(marker(1)[1])
    batch[61] ^= 0x40
    assert read_marker(batch) is None


# ---- the table


class Model:
    """Every transaction that there ever was, and where the log ends."""

    def __init__(self):
        self.real = Transactions()
        self.end = 0
        self.open = {}
        self.ended = []

    def do(self, producer_id, kind, size):
        if kind == "data":
            if producer_id not in self.open:
                self.real.open_at(producer_id, self.end)
                self.open[producer_id] = self.end
            self.end += size
        elif producer_id in self.open:
            self.real.end(producer_id, self.end, committed=kind == "commit")
            self.ended.append((producer_id, self.open.pop(producer_id), self.end, kind == "commit"))
            self.end += 1

    def stable(self, high_watermark):
        undecided = [first for _, first, last, _ in self.ended if last >= high_watermark]
        return min([high_watermark, *undecided, *self.open.values()])

    def aborted(self, start, end):
        return sorted(
            (first, producer_id, last)
            for producer_id, first, last, committed in self.ended
            if not committed and last >= start and first < end
        )


event = st.tuples(st.integers(1, 4), st.sampled_from(["data", "data", "commit", "abort", "abort"]), st.integers(1, 5))


@given(st.lists(st.tuples(event, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=40))
def test_the_table_equals_a_model_that_forgets_nothing(steps):
    model, high_watermark = Model(), 0
    for what, on, at, until in steps:
        model.do(*what)
        high_watermark += int(on * (model.end - high_watermark))
        assert model.real.stable_offset(high_watermark) == model.stable(high_watermark)
        if int(at * 1000) % 2:
            model.real.settle(high_watermark)
            assert all(each.last_offset >= high_watermark for each in model.real.ended)
            assert model.real.stable_offset(high_watermark) == model.stable(high_watermark)
        start = int(at * (model.end + 1))
        end = start + int(until * (model.end + 2 - start))
        found = model.real.aborted_between(start, end)
        assert [(each.first_offset, each.producer_id, each.last_offset) for each in found] == model.aborted(start, end)
        for offset in (start, end):
            for producer_id in range(1, 5):
                is_in = any(who == producer_id for _, who, _ in model.aborted(offset, offset + 1))
                assert model.real.is_aborted(producer_id, offset) == is_in
    again = Transactions(model.real.aborted, model.real.ended)
    for producer_id, first in model.open.items():
        again.open_at(producer_id, first)
    assert again.stable_offset(high_watermark) == model.stable(high_watermark)
    assert again.aborted_between(0, model.end + 1) == model.real.aborted_between(0, model.end + 1)


@given(st.lists(event, max_size=40), st.floats(0, 1))
def test_what_is_forgotten_is_before_the_start(events, at):
    model = Model()
    for what in events:
        model.do(*what)
    start = int(at * (model.end + 1))
    model.real.forget_before(start)
    assert all(each.last_offset >= start for each in model.real.aborted)
    found = model.real.aborted_between(start, model.end + 1)
    assert [(each.first_offset, each.producer_id, each.last_offset) for each in found] == model.aborted(
        start, model.end + 1
    )
    assert model.real.stable_offset(model.end) == model.stable(model.end)


def test_a_read_does_not_look_at_what_ended_long_after_it():
    """Each says up to where the partition was stable when it ended: nothing that ends later begins before that."""

    class Counted(list):
        looked = 0

        def __getitem__(self, index):
            self.looked += 1
            return super().__getitem__(index)

    model = Model()
    model.do(9, "data", 1)  # for a while this one keeps all from being stable
    for number in range(500):
        model.do(1, "data", 2)
        model.do(1, "abort", 1)
        if number == 100:
            model.do(9, "abort", 1)
    counted = model.real._aborted = Counted(model.real._aborted)
    far = model.end // 2
    assert len(model.real.aborted_between(far, far + 3)) in (1, 2)
    assert counted.looked < 30
    assert [each.producer_id for each in model.real.aborted_between(0, 3)] == [9, 1], "the long one is found"
    assert counted.looked < 200


# ---- producers


def test_what_an_open_transaction_allows_and_what_not():
    log = open_log(MemoryDisk())
    append(log, data(sequence=0, records=2))
    refused, *more = append(
        log, data(sequence=2, transactional=False), data(2, transactional=False), data(sequence=2), marker(5)
    )
    assert isinstance(refused, InvalidTxnStateError)
    assert [result.base_offset for result in more] == [2, 3, 4]
    (taken,) = append(log, data(sequence=3, transactional=False))
    assert taken.base_offset == 5
    old, gap = append(log, data(sequence=0, epoch=-1), data(sequence=9))
    assert isinstance(old, InvalidProducerEpochError)
    assert isinstance(gap, OutOfOrderSequenceError)


def test_a_marker_that_comes_twice_ends_nothing_else():
    log = open_log(MemoryDisk())
    append(log, data(), marker(5, committed=True), data(sequence=1))
    end = log.log_end_offset
    (again,) = append(log, marker(5, committed=True))
    assert (again.duplicate, again.last_offset) == (True, end - 1), "it is committed with all that is here"
    (older,) = append(log, marker(4))
    assert older.duplicate
    assert log.log_end_offset == end
    assert log.producers.get(1).open_at == 2
    append(log, marker(6))
    assert [each[:3] for each in log.aborted_between(0, 9)] == [(1, 2, 3)]


def test_a_marker_of_the_next_epoch_fences_and_keeps_what_is_open():
    log = open_log(MemoryDisk())
    append(log, data(sequence=0), marker(5, epoch=1))
    entry = log.producers.get(1)
    assert (entry.epoch, entry.batches, entry.open_at, entry.transaction) == (1, (), NO_TRANSACTION, 5)
    assert [each[:3] for each in log.aborted_between(0, 9)] == [(1, 0, 1)]
    (late,) = append(log, data(sequence=1))
    assert isinstance(late, InvalidProducerEpochError)
    (late,) = append(log, marker(6))
    assert isinstance(late, InvalidProducerEpochError)
    assert "epoch 0 of producer 1 comes after epoch 1" in late.message
    (taken,) = append(log, data(sequence=0, epoch=1))
    assert taken.base_offset == 2


def test_a_coordinator_that_was_replaced_writes_no_marker():
    log = open_log(MemoryDisk())
    append(log, data(), marker(5, coordinator_epoch=3), data(sequence=1))
    (late,) = append(log, marker(6, coordinator_epoch=2))
    assert isinstance(late, TransactionCoordinatorFencedError)
    assert "epoch 2, and 3" in late.message
    assert log.stable_offset(log.log_end_offset) == 2
    (taken,) = append(log, marker(6, coordinator_epoch=3))
    assert taken.base_offset == 3


def test_a_marker_for_nothing_fences_all_the_same():
    """The producer added the partition and wrote nothing to it."""
    log = open_log(MemoryDisk())
    append(log, marker(5, producer_id=7, epoch=2))
    assert log.stable_offset(1) == 1
    assert log.aborted_between(0, 9) == []
    assert log.producers.transactions.ended == []
    (late,) = append(log, data(7, epoch=1))
    assert isinstance(late, InvalidProducerEpochError)


def test_several_transactions_of_one_turn():
    log = open_log(MemoryDisk())
    append(log, data(1), data(2), marker(5, 1), data(1, 1), marker(6, 2, committed=True), data(2, 1), marker(7, 1))
    assert [each[:3] for each in log.aborted_between(0, 9)] == [(1, 0, 2), (1, 3, 6)]
    assert log.stable_offset(4) == 1, "nobody knows yet whether the second one's end stays"
    assert log.stable_offset(7) == 5


def test_a_producer_with_an_open_transaction_is_not_forgotten():
    log = open_log(MemoryDisk())
    append(log, data(1), data(2), marker(5, 2))
    assert log.expire_producers(10**9, 1000) == 1
    assert log.producers.get(1).open_at == 0
    append(log, marker(6))
    assert log.expire_producers(10**9, 1000) == 1
    assert len(log.producers) == 0
    assert [each[:3] for each in log.aborted_between(0, 9)] == [(1, 0, 3), (2, 1, 2)]


# ---- writes that fail

BEFORE = [data(1), data(2), marker(5, 2), data(3, transactional=False), data(4), marker(6, 4, committed=True)]
TURNS = [
    [marker(9)],
    [marker(9, committed=True)],
    [marker(9), data(1, 1)],
    [marker(9, epoch=1), data(1, 0, epoch=1), marker(10, epoch=1)],
    [data(2, 1), marker(9, 2), data(2, 2), marker(10, 2, committed=True), data(2, 3)],
    [data(5), data(6), marker(9), marker(9, 5), marker(9, 6, committed=True)],
    [data(1, 1, 5), marker(9, 2), data(2, 1), marker(10, 1), data(4, 1)],
]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("follower", [False, True])
def test_a_write_that_fails_is_taken_back_with_all_that_it_said(turn, follower):
    disk = MemoryDisk()
    log = open_log(disk, config=TopicConfig(segment_bytes=100_000))
    append(log, *BEFORE)
    log.settle_transactions(2)
    before = known(log)
    other = open_log(MemoryDisk(), config=TopicConfig(segment_bytes=100_000))
    append(other, *BEFORE)
    results = append(other, *turn)
    assert all(hasattr(result, "base_offset") for result in results), results
    copied = other.read(log.log_end_offset, 1 << 20)
    disk.fail_once("append")
    if follower:
        with pytest.raises(StorageError):
            log.append_as_follower(copied)
    else:
        assert all(isinstance(result, StorageError) for result in append(log, *turn))
    assert known(log) == before
    assert log.stable_offset(log.log_end_offset) == 0
    if follower:
        log.append_as_follower(copied)
    else:
        assert append(log, *turn) == results
    assert known(log)[:2] == known(other)[:2]


def test_what_went_into_the_segment_before_stays_when_the_next_one_cannot_be_written():
    disk = MemoryDisk()
    log = open_log(disk, config=TopicConfig(segment_bytes=700))
    turn = [data(1), *(data(2, sequence) for sequence in range(5)), marker(9, 2), *(data(3, n) for n in range(4))]
    calls = []

    def fault(operation, path):
        calls.append(operation)
        if operation == "append" and calls.count("append") == 2:
            raise OSError(28, "No space left on device", path)

    disk.fault = fault
    results = append(log, *turn)
    disk.fault = None
    written = [result for result in results if not isinstance(result, StorageError)]
    assert 0 < len(written) < len(turn)
    again = open_log(disk)
    assert again.log_end_offset == log.log_end_offset == len(written)
    assert again.producers.entries() == log.producers.entries()
    assert again.aborted_between(0, 99) == log.aborted_between(0, 99)
    rest = append(log, *turn[len(written) :])
    assert [result.base_offset for result in rest] == list(range(len(written), len(turn)))
    assert [each[:3] for each in log.aborted_between(0, 99)] == [(2, 1, 6)]
    assert log.stable_offset(log.log_end_offset) == 0


# ---- the snapshot file


@given(st.lists(event, max_size=30), st.floats(0, 1))
def test_snapshots_with_transactions(events, at):
    states, end, sequences, high = ProducerStates(), 0, {}, 0
    for producer_id, kind, size in events:
        if kind == "data":
            header, _ = data(producer_id, sequences.get(producer_id, 0), size)
            sequences[producer_id] = sequences.get(producer_id, 0) + size
            states.update(header, end, timestamp=1, now_ms=0)
        else:
            header, batch = marker(end, producer_id, committed=kind == "commit", coordinator_epoch=2)
            states.update(header, end, timestamp=1, now_ms=0, marker=read_marker(batch))
        end += header.last_offset_delta + 1
        high += int(at * (end - high))
        states.transactions.settle(high)
    encoded = states.encode()
    again = ProducerStates.decode(encoded, now_ms=0)
    assert again.entries() == states.entries()
    assert again.transactions.aborted == states.transactions.aborted
    assert again.transactions.ended == states.transactions.ended
    for mark in range(high, end + 1):
        assert again.transactions.stable_offset(mark) == states.transactions.stable_offset(mark)
    for cut in range(0, len(encoded), 7):
        with pytest.raises(SnapshotFormatError):
            ProducerStates.decode(encoded[:cut], now_ms=0)


def test_counts_that_cannot_be_are_refused():
    from crc32c import crc32c

    counts = [(1, 0, 0), (0, -1, 0), (0, 2**31 - 1, 0), (0, 0, -1), (0, 0, 5)]
    for count in counts:
        body = struct.pack(">iii", *count)
        with pytest.raises(SnapshotFormatError):
            ProducerStates.decode(struct.pack(">hI", 101, crc32c(body)) + body, now_ms=0)
