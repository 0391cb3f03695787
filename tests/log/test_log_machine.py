"""A partition log under every kind of change, crash and restart equals a plain list of batches."""

from __future__ import annotations

import contextlib
from errno import EIO
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from zmqbroker.errors import DuplicateSequenceError, OutOfOrderSequenceError, StorageError
from zmqbroker.log.batch import read_header
from zmqbroker.log.data_folder import DataFolder
from zmqbroker.log.plain_records import decode_batch, encode_batch
from zmqbroker.log.segment import Segment
from zmqbroker.log.transactions import Marker, encode_marker, read_marker
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.simulation.log_model import LogModel, make_batch, read_all, split_batches

NOW = 1_000_000
NAME = "a-topic-0"


TRANSACTIONAL = (3, 4)


class PowerCut(BaseException):
    """Raised by the disk in the middle of something."""


def idempotent(times, producer_id, sequence, value_bytes=10, *, transactional=True):
    rows = [(time, None, b"v" * value_bytes, ()) for time in times]
    options = {"producer_id": producer_id, "producer_epoch": 0, "base_sequence": sequence}
    batch = bytes(encode_batch(rows, transactional=transactional, **options))
    return read_header(batch), batch


def transactions_of(batches):
    """Each transaction in a list of batches: producer id, first offset, offset of its marker or None, committed."""
    first, ended = {}, []
    for batch in batches:
        header = read_header(batch)
        if header.is_control:
            if header.producer_id in first:
                begun = first.pop(header.producer_id)
                ended.append((header.producer_id, begun, header.base_offset, read_marker(batch).committed))
        elif header.is_transactional:
            first.setdefault(header.producer_id, header.base_offset)
    return ended + [(producer_id, begun, None, None) for producer_id, begun in first.items()]


class LogMachine(RuleBasedStateMachine):
    @initialize(
        segment_bytes=st.sampled_from([500, 1200, 4000]),
        interval=st.sampled_from([1, 150, 700]),
        segment_ms=st.sampled_from([10**9, 500]),
    )
    def start(self, segment_bytes, interval, segment_ms):
        self.disk = MemoryDisk()
        self.model = LogModel()
        self.config = TopicConfig(
            segment_bytes=segment_bytes,
            index_interval_bytes=interval,
            segment_ms=segment_ms,
            retention_ms=10**12,
            retention_bytes=-1,
        )
        self.leader_epoch = 0
        self.time = NOW
        self.sent = {}  # producer id -> batches stored, as (sequence, records, offset)
        self.markers = 0
        self.whole = True  # nothing was removed at the start: state must equal a full scan exactly
        self.jobs = []
        self.flushed = 0
        self.open()

    def open(self):
        self.folder = DataFolder.open(self.disk, "/data", node_id=1, make_id=lambda: "c")
        self.log = self.folder.open_log(NAME, self.config, self.time)
        assert self.log.damage is None, self.log.damage

    # Appends

    def make(self, draw):
        kind, records, producer_id, value_bytes = draw
        self.time += 7
        times = [self.time + i * (1 if records % 2 else -1) for i in range(records)]
        if kind in ("commit", "abort") and producer_id in TRANSACTIONAL:
            return kind, self.marker(producer_id, kind), producer_id, -1, 1
        history = self.sent.get(producer_id, [])
        sequence = history[-1][0] + history[-1][1] if history else 0
        if kind == "repeat" and history:
            sequence, records, _ = history[-1 - (value_bytes % min(len(history), 5))]
            times = times[:1] * records
        elif kind == "ancient" and len(history) > 5:
            sequence, records, _ = history[-6]
            times = times[:1] * records
        elif kind == "gap" and history:
            sequence += 3
        elif producer_id >= 0:
            kind = "next"
        if producer_id < 0:
            return "plain", make_batch(times, value_bytes=value_bytes), producer_id, -1, records
        transactional = producer_id in TRANSACTIONAL
        made = idempotent(times, producer_id, sequence, value_bytes, transactional=transactional)
        return kind, made, producer_id, sequence, records

    def marker(self, producer_id, kind):
        self.markers += 1
        batch = bytes(encode_marker(producer_id, 0, Marker(kind == "commit", 0, self.markers), self.time))
        return read_header(batch), batch

    drawn = st.tuples(
        st.sampled_from(["next", "next", "commit", "repeat", "gap", "ancient", "abort"]),
        st.integers(1, 6),
        st.sampled_from([-1, 1, *TRANSACTIONAL, *TRANSACTIONAL]),
        st.integers(0, 60),
    )

    @rule(
        draws=st.lists(drawn, min_size=1, max_size=5),
        new_epoch=st.booleans(),
        room=st.sampled_from([None, None, 0, 300]),
    )
    def append(self, draws, new_epoch, room):
        self.leader_epoch += new_epoch
        # One batch of each producer in a turn: what it sends next depends on what became of the last.
        draws = list({draw[2]: draw for draw in draws}.values())
        made = [self.make(draw) for draw in draws]
        if room is not None:
            self.disk.capacity_bytes = self.disk._used(self.disk._root) + room
        results = self.log.append([batch for _, batch, *_ in made], leader_epoch=self.leader_epoch, now_ms=self.time)
        self.disk.capacity_bytes = None
        failed = False
        for (kind, (header, batch), producer_id, sequence, records), result in zip(made, results, strict=True):
            if isinstance(result, StorageError):
                assert room is not None
                failed = True
                continue
            assert not failed
            if kind == "gap":
                assert isinstance(result, OutOfOrderSequenceError)
            elif kind == "ancient":
                assert isinstance(result, DuplicateSequenceError)
            elif kind == "repeat":
                assert result.duplicate
                assert (sequence, records, result.base_offset) in self.sent[producer_id]
            else:
                assert not result.duplicate
                assert self.model.append(batch, self.leader_epoch) == result.base_offset
                assert result.last_offset == result.base_offset + header.last_offset_delta
                if producer_id >= 0 and kind == "next":
                    self.sent.setdefault(producer_id, []).append((sequence, records, result.base_offset))

    copied = st.tuples(st.integers(1, 4), st.integers(0, 50), st.sampled_from(["plain", "next", "abort", "commit"]))

    @rule(draws=st.lists(copied, min_size=1, max_size=6), new_epoch=st.booleans())
    def replicate(self, draws, new_epoch):
        self.leader_epoch += new_epoch
        before = len(self.model.batches)
        for records, value_bytes, kind in draws:
            self.time += 3
            times = [self.time] * records
            if kind == "plain":
                made = make_batch(times, value_bytes=value_bytes)
            else:
                made = idempotent(times, 5, self.model.end) if kind == "next" else self.marker(5, kind)
            self.model.append(made[1], self.leader_epoch)
        assert self.log.append_as_follower(b"".join(self.model.batches[before:])) == self.model.end

    # Reads

    @rule(at=st.floats(0, 1), max_bytes=st.integers(1, 3000), until=st.floats(0, 1))
    def read(self, at, max_bytes, until):
        span = self.model.end - self.model.start
        offset = self.model.start + int(at * span)
        end = self.model.start + int(until * span)
        data = self.log.read(offset, max_bytes, end_offset=end)
        expected = self.model.read(offset, end)
        assert expected.startswith(data)
        if data:
            found = split_batches(data)
            assert len(data) <= max_bytes or len(found) == 1
        else:
            assert not expected

    @rule(back=st.integers(0, 300))
    def find_time(self, back):
        if not self.model.batches:
            return
        wanted = self.time - back
        expected = None
        for header in self.model.headers():
            step = 1 if header.records_count % 2 else -1
            for i in range(header.records_count):
                spread = header.max_timestamp != header.base_timestamp or step < 0
                time = header.base_timestamp + (i * step if spread and self.spread(header) else 0)
                if header.base_offset + i >= self.model.start and time >= wanted and expected is None:
                    expected = (header.base_offset + i, time)
        found = self.log.offset_for_timestamp(wanted)
        assert (found[:2] if found else None) == expected

    def spread(self, header):
        batch = next(b for b in self.model.batches if read_header(b).base_offset == header.base_offset)
        return len({record.timestamp for record in decode_batch(batch)}) > 1

    # Flush, save, reopen

    @rule()
    def start_flush(self):
        job = self.log.start_flush()
        if job is not None:
            self.jobs.append(job)

    @rule(which=st.integers(0, 5))
    def finish_flush(self, which):
        if self.jobs:
            job = self.jobs.pop(which % len(self.jobs))
            job.run()
            self.log.finish_flush(job)
            self.flushed = self.log.recovery_point

    @rule()
    def checkpoint(self):
        self.log.checkpoint()
        self.folder.write_checkpoints()

    @rule()
    def reopen(self):
        self.jobs.clear()
        self.folder.close(clean=True)
        self.flushed = self.model.end
        self.open()
        assert self.folder.was_clean
        assert self.log.recovery.scanned_bytes == 0
        assert self.log.log_start_offset == self.model.start
        assert self.log.log_end_offset == self.model.end

    @rule(seed=st.integers(0, 2**32))
    def crash(self, seed):
        self.recover(seed, self.model.batches, self.flushed, self.model.start)

    @rule(which=st.integers(0, 3))
    def die_of_a_failed_flush(self, which):
        """The next process reads all that was written, and has to see for itself that it gets onto the medium."""
        self.jobs.clear()
        self.log._cancel_flush()
        job = self.log.start_flush()
        flushes = []

        def fault(operation, path):
            if operation == "flush":
                flushes.append(path)
                if len(flushes) > which:
                    raise OSError(EIO, "injected fault", path)

        self.disk.fault = fault
        with contextlib.suppress(OSError):
            if job is not None:
                job.run()
        self.disk.fault = None
        self.disk.locked.clear()
        self.recover(None, self.model.batches, self.model.end, self.model.start)

    def recover(self, seed, candidates, end_min, start_max, start_min=None):
        self.jobs.clear()
        start_min = self.model.start if start_min is None else start_min
        if seed is not None:
            self.disk.crash(Random(seed))
        old = {read_header(batch).base_offset: batch for batch in candidates}
        self.open()
        assert self.log.log_end_offset >= end_min, (self.log, end_min)
        assert self.log.log_start_offset <= max(start_max, self.log.log_end_offset)
        for batch in read_all(self.log, 500):
            assert old[read_header(batch).base_offset] == batch
        first = self.log._segment_at(self.log.log_start_offset).base_offset
        if any(base < first for base in old):
            self.whole = False  # a segment below the log start is not looked at, but a snapshot may know its producers
        if first not in old:
            first = min([base for base in old if base >= first], default=self.log.log_end_offset)
        self.model.batches = [b for base, b in sorted(old.items()) if first <= base < self.log.log_end_offset]
        self.model.start, self.model.end = self.log.log_start_offset, self.log.log_end_offset
        self.flushed = self.log.recovery_point
        self.forget_sent()

    def forget_sent(self):
        """What the producers know to be stored: as after a restart of theirs too."""
        stored = {read_header(batch).base_offset for batch in self.model.batches}
        state = self.log.producers.entries()
        for producer_id in list(self.sent):
            self.sent[producer_id] = [sent for sent in self.sent[producer_id] if sent[2] in stored]
            if producer_id not in state or not self.sent[producer_id]:
                del self.sent[producer_id]
        for producer_id, entry in state.items():
            self.sent[producer_id] = self.sent.get(producer_id, [])
            known = {sent[2] for sent in self.sent[producer_id]}
            kept = [
                (b.first_sequence, b.last_sequence - b.first_sequence + 1, b.first_offset)
                for b in entry.batches
                if b.first_offset not in known
            ]
            self.sent[producer_id] = sorted(kept + self.sent[producer_id])

    # Cuts

    def cut_point(self, at):
        return self.model.start + int(at * (self.model.end - self.model.start))

    @rule(at=st.floats(0, 1))
    def truncate(self, at):
        offset = self.cut_point(at)
        self.model.truncate(offset)
        self.log.truncate_to(offset)
        self.flushed = min(self.flushed, self.model.end)
        self.forget_sent()

    @rule(at=st.integers(0, 50))
    def restart_at(self, at):
        self.model.restart(at)
        self.log.truncate_and_start_at(at)
        self.flushed = at
        self.sent.clear()
        self.whole = True
        self.leader_epoch += 1

    @rule(at=st.floats(0, 1))
    def delete_records(self, at):
        offset = self.cut_point(at)
        self.log.delete_records_before(offset)
        self.after_start_moved()

    @rule(at=st.floats(0, 1), size=st.integers(0, 3000), age=st.integers(0, 300), until=st.floats(0, 1))
    def retain(self, at, size, age, until):
        high_watermark = self.cut_point(until)
        config = TopicConfig(
            segment_bytes=self.config.segment_bytes,
            index_interval_bytes=self.config.index_interval_bytes,
            segment_ms=self.config.segment_ms,
            retention_bytes=size if at < 0.5 else -1,
            retention_ms=age if at > 0.3 else -1,
        )
        self.log.reconfigure(config)
        count = self.log.apply_retention(self.time, high_watermark)
        self.log.reconfigure(self.config)
        if count:
            assert self.log._bases[0] <= max(high_watermark, self.model.start)
        self.after_start_moved()

    def after_start_moved(self):
        first = self.log._bases[0]
        if self.model.batches and read_header(self.model.batches[0]).base_offset < first:
            self.whole = False
        self.model.start_at(self.log.log_start_offset, first)
        self.flushed = max(self.flushed, self.log.recovery_point)

    @rule()
    def roll(self):
        before = self.log.segments_count
        rolled = self.log.roll_if_old(self.time + 10**10)
        assert self.log.segments_count == before + rolled

    # Power cuts in the middle

    @rule(
        what=st.sampled_from(["truncate", "restart", "delete", "retain", "checkpoint", "flush", "append", "close"]),
        after=st.integers(0, 12),
        at=st.floats(0, 1),
        seed=st.integers(0, 2**32),
    )
    def crash_within(self, what, after, at, seed):
        left = [after]

        def fault(_operation, _path):
            left[0] -= 1
            if left[0] < 0:
                raise PowerCut

        offset = self.cut_point(at)
        candidates = list(self.model.batches)
        end_min, start_max = self.flushed, self.model.start
        fresh = 10 + self.markers  # a producer of which the log has not heard
        extra = [make_batch([self.time], value_bytes=200) for _ in range(4)]
        extra[1:3] = [idempotent([self.time], fresh, 0, 200), self.marker(fresh, "abort")]
        self.disk.fault = fault
        try:
            if what == "truncate":
                end_min = min(end_min, max([b for b in self.bases() if b <= offset], default=offset))
                self.log.truncate_to(offset)
            elif what == "restart":
                end_min = 0
                start_max = max(start_max, 7)
                self.whole = False
                self.log.truncate_and_start_at(7)
            elif what == "delete":
                start_max = max(start_max, offset)
                self.whole = False
                self.log.delete_records_before(offset)
            elif what == "retain":
                start_max = self.model.end
                self.whole = False
                self.log.reconfigure(TopicConfig(retention_bytes=0, segment_bytes=self.config.segment_bytes))
                self.log.apply_retention(self.time, offset)
            elif what == "checkpoint":
                self.checkpoint()
            elif what == "flush":
                self.start_flush()
                self.finish_flush(0)
                end_min = self.flushed
            elif what == "append":
                model = LogModel()
                model.end = self.model.end
                for _, batch in extra:
                    model.append(batch, self.leader_epoch)
                candidates += model.batches
                self.log.append(extra, leader_epoch=self.leader_epoch, now_ms=self.time)
            else:
                self.folder.close(clean=True)
                end_min = self.model.end
        except PowerCut:
            pass
        self.recover(seed, candidates, end_min, start_max)

    def bases(self):
        return [header.base_offset for header in self.model.headers()]

    # What always holds

    @invariant()
    def state_equals_a_full_scan(self):
        if not hasattr(self, "log"):
            return
        assert (self.log.log_start_offset, self.log.log_end_offset) == (self.model.start, self.model.end)
        live = self.log.epochs.entries()
        scanned = self.model.epochs()
        while scanned and len(live) > 1 and live[1][1] <= scanned[0][1]:
            del live[0]  # its records were removed with the segment that had them
        if scanned and live[0][1] < scanned[0][1]:
            live[0] = (live[0][0], scanned[0][1])  # its true start was removed with the segment that had it
        assert live == scanned or not scanned
        producers, expected = self.log.producers.entries(), self.model.producers()
        if self.whole:
            assert producers == expected
        for producer_id, entry in expected.items():
            kept = entry.batches
            assert not kept or producers[producer_id].batches[-len(kept) :] == kept
            assert producers[producer_id].transaction >= entry.transaction
        self.transactions_equal_a_full_scan()

    def transactions_equal_a_full_scan(self):
        expected = transactions_of(self.model.batches)
        start, end = self.log.log_start_offset, self.log.log_end_offset
        first = self.log._segment_at(start).base_offset
        for mark in range(self.flushed, end + 1):
            real = self.log.stable_offset(mark)
            stable = max(start, min([mark, *(each[1] for each in expected if each[2] is None or each[2] >= mark)]))
            assert real == stable or (not self.whole and start <= real < stable)
        self.log.settle_transactions(self.flushed)
        aborted = self.log.aborted_between(start, end)
        begun = {(each.producer_id, each.last_offset): each.first_offset for each in aborted}
        for producer_id, begins, last, committed in expected:
            if committed is False and last >= start:
                known = begun.pop((producer_id, last))
                assert known == begins or (not self.whole and known < first)
        assert all(not self.whole and known < first for known in begun.values())

    @invariant()
    def indexes_equal_a_full_scan(self):
        if not hasattr(self, "log"):
            return
        for segment in self.log._segments:
            if segment.next_offset <= self.log.log_start_offset and segment.sealed:
                continue  # about to be deleted
            fresh = Segment.existing(
                self.disk,
                self.log.folder,
                segment.base_offset,
                None,
                index_interval_bytes=self.config.index_interval_bytes,
            )
            fresh.rebuild("")
            fresh.finish_load()
            assert fresh.bad is None
            assert fresh.next_offset == segment.next_offset
            assert segment.offset_index == fresh.offset_index
            assert segment.max_timestamp == fresh.max_timestamp
            fresh.release()


LogMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
test_log_machine = LogMachine.TestCase
