"""A log that is compacted in small steps, under crashes at any disk operation, keeps what its history says it must."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from zmqbroker.errors import StorageError
from zmqbroker.log.batch import read_header
from zmqbroker.log.data_folder import DataFolder
from zmqbroker.log.plain_records import decode_batch
from zmqbroker.log.records import encode_batch
from zmqbroker.log.segment import Segment
from zmqbroker.log.transactions import Marker, encode_marker
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.simulation.log_model import read_all

NAME = "compacted-0"
DELETE_RETENTION_MS = 500
TRANSACTIONAL = (3, 4)
KEYS = [b"a", b"bb", b"ccc", b"d" * 40, b""]


class PowerCut(BaseException):
    """Raised by the disk in the middle of something."""


class CompactionMachine(RuleBasedStateMachine):
    @initialize(
        segment_bytes=st.sampled_from([300, 700, 2500]),
        interval=st.sampled_from([1, 150, 700]),
        memory=st.sampled_from([1, 700, 1 << 20]),
    )
    def start(self, segment_bytes, interval, memory):
        self.disk = MemoryDisk()
        self.config = TopicConfig(
            cleanup_policy="compact",
            segment_bytes=segment_bytes,
            index_interval_bytes=interval,
            delete_retention_ms=DELETE_RETENTION_MS,
            min_cleanable_dirty_ratio=0.0,
        )
        self.memory = memory
        self.time = 1_000_000
        self.leader_epoch = 0
        self.history = []
        """Every record that is in the log or was compacted away: (offset, timestamp, key, value), by offset."""
        self.batches = []
        """(base offset, next offset, leader epoch, producer id, sequence) of each batch that was appended."""
        self.steps = []
        """(base offset, next offset, producer id, "data", "commit" or "abort") of each batch in a transaction."""
        self.flushed = 0
        self.high_watermark = 0
        self.cleaned_end = 0
        """Past this nothing was ever to be compacted."""
        self.open()

    def open(self):
        self.folder = DataFolder.open(self.disk, "/data", node_id=1, make_id=lambda: "c")
        self.log = self.folder.open_log(NAME, self.config, self.time)
        assert self.log.damage is None, self.log.damage
        self.cleaning = self.work = self.job = None

    # The log's ordinary life

    record = st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.binary(max_size=30)), st.integers(-3, 3))

    batch = st.tuples(
        st.lists(record, min_size=1, max_size=6),
        st.sampled_from([0, 0, 0, 1, 4, "commit", "abort"]),
        st.sampled_from([-1, 1, 2, *TRANSACTIONAL, *TRANSACTIONAL]),
    )

    @rule(batches=st.lists(batch, min_size=1, max_size=8), new_epoch=st.booleans())
    def append_all(self, batches, new_epoch):
        self.leader_epoch += new_epoch
        for batch in batches:
            self.append(*batch)

    outcomes = st.sampled_from([(), ("abort", "commit"), ("commit", "abort"), ("abort", "abort")])

    @rule(batches=st.lists(batch, min_size=3, max_size=12), outcomes=outcomes, clean=st.booleans())
    def append_seal_and_clean(self, batches, outcomes, clean):
        self.append_all(batches, new_epoch=False)
        for producer_id, outcome in zip(TRANSACTIONAL, outcomes, strict=False):
            self.end_transaction(producer_id, outcome)
        if clean:
            self.seal_and_clean()

    def seal_and_clean(self):
        self.roll()
        for _ in range(4):
            self.flush()
        if self.cleaning is None:
            self.start_cleaning()

    def append(self, records, codec, producer_id):
        self.time += 7
        if codec in ("commit", "abort"):
            self.end_transaction(producer_id, codec)
            return
        rows = [(self.time + late, key, value, ()) for key, value, late in records]
        sequence = self.next_sequence(producer_id)
        epoch = 0 if producer_id >= 0 else -1
        transactional = producer_id in TRANSACTIONAL
        options = {"compression": codec, "transactional": transactional}
        batch = encode_batch(rows, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, **options)
        base = self.log.log_end_offset
        (result,) = self.log.append([(read_header(batch), batch)], leader_epoch=self.leader_epoch, now_ms=self.time)
        if isinstance(result, StorageError):
            return
        if read_header(batch).size <= self.config.segment_bytes:
            assert (result.base_offset, result.duplicate) == (base, False), result
            self.batches.append((base, base + len(rows), self.leader_epoch, producer_id, sequence))
            self.history += [(base + i, time, key, value) for i, (time, key, value, _) in enumerate(rows)]
            if transactional:
                self.steps.append((base, base + len(rows), producer_id, "data"))

    def end_transaction(self, producer_id, outcome):
        """With a marker, which may come for a transaction that was not begun; every one has a number of its own."""
        if producer_id not in TRANSACTIONAL:
            return
        self.time += 1
        base = self.log.log_end_offset
        batch = encode_marker(producer_id, 0, Marker(outcome == "commit", 0, self.time), self.time)
        (result,) = self.log.append([(read_header(batch), batch)], leader_epoch=self.leader_epoch, now_ms=self.time)
        if not isinstance(result, StorageError):
            assert (result.base_offset, result.duplicate) == (base, False), result
            self.batches.append((base, base + 1, self.leader_epoch, -1, -1))
            self.steps.append((base, base + 1, producer_id, outcome))

    def transactions(self):
        """Each transaction: its data as ranges of offsets, the offset of its marker or None, and its outcome."""
        found, ended = {}, []
        for base, end, producer_id, kind in self.steps:
            if kind == "data":
                found.setdefault(producer_id, []).append(range(base, end))
            elif producer_id in found:
                ended.append((found.pop(producer_id), base, kind))
        return ended + [(ranges, None, "") for ranges in found.values()]

    def undone(self):
        """The offsets of all aborted records."""
        return {at for ranges, _, outcome in self.transactions() if outcome == "abort" for one in ranges for at in one}

    def stable(self, from_offset=0):
        """Where the partition is stable up to, by all transactions, or by their batches from an offset on."""
        undecided = [
            one.start
            for ranges, last, _ in self.transactions()
            if last is None or last >= self.high_watermark
            for one in ranges
            if one.start >= from_offset
        ]
        return max(min([self.high_watermark, *undecided]), self.log.log_start_offset)

    def next_sequence(self, producer_id):
        if producer_id < 0:
            return -1
        known = self.log.producers.get(producer_id)
        if known is None or not known.batches:
            return 0  # it is new, or a recovery has forgotten it, because all of its records were deleted
        last = next((batch for batch in reversed(self.batches) if batch[3] == producer_id), None)
        return 0 if last is None else last[4] + last[1] - last[0]

    def first_base(self):
        """From where on batches are looked at when the log is opened: of what began before, only the rest is known."""
        return self.log._segment_at(self.log.log_start_offset).base_offset

    def wait(self, after):
        self.time += after

    @rule()
    def flush(self):
        if self.job is None:
            self.job = self.log.start_flush()
            if self.job is not None:
                self.job.run()
        else:
            self.log.finish_flush(self.job)
            self.job = None
            self.flushed = self.log.recovery_point
            self.high_watermark = max(self.high_watermark, self.log.flushed_offset)
            self.log.settle_transactions(self.high_watermark)

    def roll(self):
        self.log.roll_if_old(self.time + 10**12)

    def checkpoint(self):
        self.log.checkpoint()
        self.folder.write_checkpoints()

    # Compaction, a few batches at a time

    @precondition(lambda self: self.cleaning is None)
    @rule()
    def start_cleaning(self):
        self.cleaning = self.log.start_cleaning(
            now_ms=self.time, high_watermark=self.high_watermark, memory_bytes=self.memory
        )
        if self.cleaning is not None:
            self.cleaned_end = max(self.cleaned_end, self.stable(from_offset=self.first_base()))

    @precondition(lambda self: self.cleaning is not None)
    @rule(batches=st.integers(1, 30))
    def clean(self, batches):
        self.step(batches)

    @precondition(lambda self: self.cleaning is not None)
    @rule()
    def clean_to_the_end(self):
        while self.cleaning is not None:
            self.step(1000)

    def step(self, batches):
        if self.work is not None:
            self.work()
            self.work = None
        left = [batches]

        def is_over():
            left[0] -= 1
            return left[0] < 0

        self.work = self.cleaning.step(is_over)
        if self.cleaning.is_done:
            assert self.work is None
            assert self.log.cleaning is None
            assert self.log.first_dirty_offset >= self.cleaning.end_offset
            self.check_no_repeats(self.cleaning.end_offset)
            self.cleaning = None

    def check_no_repeats(self, end):
        """Below the first dirty offset no key occurs twice."""
        keys = [key for offset, _, key, _ in self.stored() if offset < end]
        assert len(keys) == len(set(keys)), keys

    @precondition(lambda self: self.cleaning is not None)
    @rule(room=st.integers(0, 100))
    def disk_is_full_while_it_cleans(self, room):
        self.disk.capacity_bytes = self.disk._used(self.disk._root) + room
        try:
            while self.cleaning is not None:
                self.step(1000)
        except OSError:
            self.log.abort_cleaning()
            assert not self.log.failure
            self.cleaning = self.work = None
        self.disk.capacity_bytes = None

    def forget_aborted(self):
        if self.cleaning is not None and self.cleaning.is_done:
            self.cleaning = None
            if self.work is not None:
                self.work()  # it was on its way to another thread
            self.work = None

    def abort(self):
        self.log.abort_cleaning()
        self.forget_aborted()

    @rule(
        what=st.sampled_from(["wait", "roll", "checkpoint", "abort", "truncate", "delete_records", "reopen"]),
        at=st.floats(0, 1),
    )
    def do_something_else(self, what, at):
        if what == "wait":
            self.wait(int(2000 * at))
        elif what in {"truncate", "delete_records"}:
            getattr(self, what)(at)
        else:
            getattr(self, what)()

    # What ends a pass

    def truncate(self, at):
        start = max(self.high_watermark, self.log.log_start_offset)
        offset = start + int(at * (self.log.log_end_offset - start))
        self.log.truncate_to(offset)
        self.forget_aborted()
        self.forget_from(self.log.log_end_offset)

    def forget_from(self, end):
        self.history = [record for record in self.history if record[0] < end]
        self.batches = [batch for batch in self.batches if batch[1] <= end]
        self.steps = [step for step in self.steps if step[1] <= end]
        self.cleaned_end = min(self.cleaned_end, end)
        self.flushed = min(self.flushed, end)
        self.high_watermark = min(self.high_watermark, end)

    def delete_records(self, at):
        start = self.log.log_start_offset
        self.log.delete_records_before(start + int(at * max(self.high_watermark - start, 0)))
        self.forget_aborted()
        self.flushed = max(self.flushed, self.log.recovery_point)

    def reopen(self):
        self.folder.close(clean=True)
        self.flushed = self.log.log_end_offset
        before = self.log.first_dirty_offset
        self.open()
        assert self.folder.was_clean
        assert self.log.first_dirty_offset == before

    @rule(seed=st.integers(0, 2**32), lost=st.booleans())
    def crash(self, seed, lost):
        start = self.log.log_start_offset
        self.disk.crash(Random(seed))
        if lost:
            self.disk.remove("/data/cleaner-offset-checkpoint")
        self.open()
        assert self.log.log_end_offset >= self.flushed, (self.log, self.flushed)
        assert self.log.log_start_offset <= start
        self.forget_from(self.log.log_end_offset)
        self.flushed = self.log.recovery_point

    @rule(
        what=st.sampled_from(["clean", "clean", "clean", "flush", "truncate", "delete", "close", "abort"]),
        seed=st.integers(0, 2**32),
        at=st.floats(0, 1),
    )
    def crash_within(self, what, seed, at):
        if what == "clean" and self.cleaning is None:
            self.seal_and_clean()
        left = [Random(seed).randrange(60)]

        def fault(_operation, _path):
            left[0] -= 1
            if left[0] < 0:
                raise PowerCut

        self.disk.fault = fault
        end = self.log.log_end_offset
        flushed = self.flushed
        start = self.log.log_start_offset
        try:
            if what == "clean":
                while self.cleaning is not None:
                    self.step(1000)
            elif what == "truncate":
                flushed = min(flushed, max(self.high_watermark, start))
                self.truncate(at)
                end = self.log.log_end_offset
            elif what == "delete":
                start = end
                self.delete_records(at)
            elif what == "flush":
                self.flush()
            elif what == "close":
                self.folder.close(clean=True)
            else:
                self.abort()
        except PowerCut:
            pass
        self.disk.fault = None
        self.disk.crash(Random(seed))
        self.open()
        assert self.log.log_end_offset >= flushed, (self.log, flushed)
        assert self.log.log_end_offset <= end
        assert self.log.log_start_offset <= start
        self.forget_from(self.log.log_end_offset)
        self.flushed = self.log.recovery_point

    # What always holds

    def stored(self, *, markers=False):
        """The log's records, after a look at every batch: nothing is between them."""
        records = []
        expected = None
        for batch in read_all(self.log, 400):
            header = read_header(batch)
            assert expected is None or header.base_offset == expected
            expected = header.next_offset
            epoch = next(b[2] for b in self.batches if b[0] <= header.base_offset < b[1])
            assert header.leader_epoch == epoch
            if markers or not header.is_control:
                records += [(r.offset, r.timestamp, r.key, r.value) for r in decode_batch(batch)]
        assert expected is None or expected == self.log.log_end_offset
        return [record for record in records if record[0] >= self.log.log_start_offset]

    @invariant()
    def the_last_of_each_key_is_there(self):
        if not hasattr(self, "log"):
            return
        start = self.log.log_start_offset
        history = {record[0]: record for record in self.history if record[0] >= start}
        stored = self.stored()
        for record in stored:
            assert history[record[0]] == record
        there = {record[0] for record in stored}
        assert [
            record for offset, record in history.items() if offset >= self.cleaned_end and offset not in there
        ] == []
        undone = self.undone()
        for end in (self.log.log_end_offset, self.stable()):  # for readers of all, and of what is committed
            seen = [record for record in stored if record[0] < end and record[0] not in undone]
            last = {record[2]: record for offset, record in history.items() if offset < end and offset not in undone}
            for key, (offset, time, _, value) in last.items():
                if offset in there:
                    continue
                assert value is None
                assert self.time >= time + DELETE_RETENTION_MS - 3
                assert not [record for record in seen if record[2] == key], "an older one came back to life"

    @invariant()
    def transactions_are_what_they_were(self):
        if not hasattr(self, "log"):
            return
        stable = self.log.stable_offset(self.high_watermark)
        assert self.stable() <= stable <= self.stable(from_offset=self.first_base())
        undone, known = self.undone(), self.log.producers.transactions
        there = {record[0] for record in self.stored()}
        for base, end, producer_id, kind in self.steps:
            if kind == "data" and not there.isdisjoint(range(base, end)):
                assert known.is_aborted(producer_id, base) == (base in undone)

    @invariant()
    def times_are_found(self):
        if not hasattr(self, "log"):
            return
        stored = self.stored(markers=True)
        for wanted in (0, self.time - 40, self.time - 8, self.time + 4):
            expected = next(((offset, time) for offset, time, *_ in stored if time >= wanted), None)
            found = self.log.offset_for_timestamp(wanted)
            assert (found[:2] if found else None) == expected
        newest = self.log.offset_of_max_timestamp()
        if self.log.log_start_offset == 0:
            assert (newest and newest[1]) == max((time for _, time, *_ in stored), default=None)

    @invariant()
    def every_offset_can_be_read(self):
        if not hasattr(self, "log"):
            return
        for offset in range(self.log.log_start_offset, self.log.log_end_offset):
            header = read_header(self.log.read(offset, 1))
            assert header.base_offset <= offset < header.next_offset

    @invariant()
    def state_equals_a_full_scan(self):
        if not hasattr(self, "log"):
            return
        first = self.log._segment_at(self.log.log_start_offset).base_offset
        producers = self.log.producers.entries()
        last = {producer: (base, sequence) for base, _, _, producer, sequence in self.batches if base >= first}
        last.pop(-1, None)
        for producer, (base, sequence) in last.items():
            batch = producers[producer].batches[-1]
            assert (batch.first_offset, batch.first_sequence) == (base, sequence)
        for segment in self.log._segments:
            if segment.next_offset <= self.log.log_start_offset and segment.sealed:
                continue
            fresh = Segment.existing(
                self.disk,
                self.log.folder,
                segment.base_offset,
                None,
                index_interval_bytes=self.config.index_interval_bytes,
            )
            fresh.path = segment.path
            fresh.size = self.disk.size(segment.path)
            fresh.rebuild("")
            fresh.finish_load()
            assert fresh.bad is None
            assert (fresh.next_offset, fresh.size) == (segment.next_offset, segment.size)
            assert segment.offset_index == fresh.offset_index
            assert segment.largest_timestamp() == fresh.max_timestamp
            fresh.release()


CompactionMachine.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
test_compaction_machine = CompactionMachine.TestCase
