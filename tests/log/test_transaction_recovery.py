"""What is known of transactions when a log is opened again: whatever file was lost, and after cuts at either end."""

from __future__ import annotations

import struct
from random import Random

import pytest
from crc32c import crc32c
from zmqbroker.log.batch import read_header
from zmqbroker.log.data_folder import DataFolder
from zmqbroker.log.plain_records import decode_batch, encode_batch
from zmqbroker.log.transactions import Marker, encode_marker
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.simulation.log_model import read_all

FOLDER = "/data/t-0"
CONFIG = TopicConfig(segment_bytes=700, index_interval_bytes=150)
FILES = [
    ".index",
    ".timeindex",
    ".snapshot",
    "leader-epoch-checkpoint",
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "cleaner-offset-checkpoint",
    ".kafka_cleanshutdown",
]


def open_log(disk, config=CONFIG):
    folder = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "c")
    log = folder.open_log("t-0", config, 1000)
    assert log.damage is None, log.damage
    return folder, log


class Writer:
    """Producers that write to a log in transactions."""

    def __init__(self, log, number=0):
        self.log = log
        self.sequences = {}
        self.number = number

    def append(self, batch):
        (result,) = self.log.append([(read_header(batch), batch)], leader_epoch=0, now_ms=1000)
        return result.base_offset

    def write(self, producer_id, *keys, value=b"v"):
        sequence = self.sequences.get(producer_id, 0)
        self.sequences[producer_id] = sequence + len(keys)
        rows = [(1000, key, value, ()) for key in keys]
        options = {"producer_id": producer_id, "producer_epoch": 0, "base_sequence": sequence}
        return self.append(encode_batch(rows, transactional=True, **options))

    def end(self, producer_id, *, committed):
        self.number += 1
        return self.append(encode_marker(producer_id, 0, Marker(committed, 1, self.number), 1000))


def filled(disk, config=CONFIG):
    """Transactions of each kind: a long one that is aborted, short ones, and two that are still open."""
    folder, log = open_log(disk, config)
    writer = Writer(log)
    writer.write(2, b"long")
    for round_number in range(12):
        writer.write(1, b"a%d" % (round_number % 3), b"b", value=b"of round %d" % round_number)
        writer.write(2, b"b", value=b"long %d" % round_number)
        writer.write(3, b"c%d" % round_number)
        if round_number == 8:
            writer.end(2, committed=False)
        writer.end(1, committed=bool(round_number % 2))
        if round_number < 10:
            writer.end(3, committed=True)
    assert log.segments_count > 4
    return folder, log


def flush(log):
    job = log.start_flush()
    if job is not None:
        job.run()
        log.finish_flush(job)


def known(log):
    """What is known of the producers, and what follows from it for readers, wherever the high watermark stands."""
    stable = [log.stable_offset(mark) for mark in range(log.log_start_offset, log.log_end_offset + 1)]
    aborted = log.aborted_between(log.log_start_offset, log.log_end_offset)
    return log.producers.entries(), aborted, stable


def visible(log):
    """What a reader of committed records sees, by key."""
    end = log.stable_offset(log.log_end_offset)
    seen = {}
    for batch in read_all(log):
        header = read_header(batch)
        if header.is_control or header.next_offset > end:
            continue
        out = {each.producer_id for each in log.aborted_between(header.base_offset, header.next_offset)}
        if not (header.is_transactional and header.producer_id in out):
            seen.update({record.key: (record.offset, record.value) for record in decode_batch(batch)})
    return seen


def missing(_):
    return None


def short(data):
    return data[:-1]


def noise(data):
    return Random(1).randbytes(len(data))


def old_version(data):
    """As it was before there were transactions."""
    return struct.pack(">hI", 100, crc32c(data[6:])) + data[6:]


def spoil(disk, suffix, how):
    """Spoil all files whose names end like this; returns their paths."""
    spoiled = []
    for folder in ("/data", FOLDER):
        for name in disk.list(folder):
            if name.endswith(suffix):
                path = f"{folder}/{name}"
                data = how(disk.read_file(path))
                disk.remove(path)
                if data is not None:
                    disk.replace_file(path, data)
                spoiled.append(path)
    return spoiled


@pytest.mark.parametrize("end", ["stop", "crash"])
@pytest.mark.parametrize("how", [missing, short, noise])
@pytest.mark.parametrize("suffix", FILES)
def test_whatever_small_file_is_lost(suffix, how, end):
    disk = MemoryDisk()
    folder, log = filled(disk)
    flush(log)
    log.checkpoint()
    folder.write_checkpoints()
    writer = Writer(log)
    writer.write(7, b"late")
    expected = known(log)
    assert len(expected[1]) > 5
    assert expected[2][-1] < log.log_end_offset - 5, "some are open"
    if end == "stop":
        folder.close(clean=True)
    spoil(disk, suffix, how)
    disk.locked.clear()
    folder, again = open_log(disk)
    assert again.log_end_offset == log.log_end_offset
    assert known(again) == expected
    Writer(again, 100).end(2, committed=False)
    assert again.producers.transactions.aborted[-1][:2] == (2, expected[0][2].open_at)
    folder.close(clean=True)
    _, last = open_log(disk)
    assert known(last)[:2] == known(again)[:2]


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_a_snapshot_of_before_transactions_is_rebuilt(end):
    disk = MemoryDisk()
    folder, log = filled(disk)
    flush(log)
    log.checkpoint()
    folder.write_checkpoints()
    expected = known(log)
    if end == "stop":
        folder.close(clean=True)
    paths = spoil(disk, ".snapshot", old_version)
    disk.locked.clear()
    _, again = open_log(disk)
    assert known(again) == expected
    assert set(again.recovery.rebuilt) == set(paths)
    assert "version 100" in again.recovery.reasons[0]


def test_a_cut_at_any_offset():
    """Markers that are cut off have ended nothing, and what began past the cut has not begun."""
    disk = MemoryDisk()
    _, log = filled(disk)
    batches = read_all(log)
    for cut in range(log.log_end_offset, 0, -3):
        log.truncate_to(cut)
        kept = [batch for batch in batches if read_header(batch).next_offset <= cut]
        other = MemoryDisk()
        _, fresh = open_log(other)
        fresh.append_as_follower(b"".join(kept))
        assert log.log_end_offset == fresh.log_end_offset
        assert known(log) == known(fresh)


def test_a_cut_start_forgets_what_nobody_can_read():
    disk = MemoryDisk()
    folder, log = filled(disk)
    flush(log)
    everything = log.aborted_between(0, log.log_end_offset)
    for start in range(0, log.stable_offset(log.log_end_offset), 4):
        log.delete_records_before(start)
        assert log.aborted_between(start, log.log_end_offset) == [each for each in everything if each[2] >= start]
    assert len(log.producers.transactions.aborted) < len(everything)
    open_at = log.stable_offset(log.log_end_offset)
    log.delete_records_before(open_at + 2)
    assert log.stable_offset(log.log_end_offset) == open_at + 2, "what is open began before the log does"
    folder.write_checkpoints()
    spoil(disk, ".snapshot", missing)
    disk.locked.clear()
    _, again = open_log(disk)
    assert again.stable_offset(again.log_end_offset) >= open_at + 2
    writer = Writer(again, 100)
    ends = [writer.end(producer_id, committed=False) for producer_id in (2, 3)]
    assert [each.last_offset for each in again.producers.transactions.aborted[-2:]] == ends
    assert again.stable_offset(again.log_end_offset) == again.log_end_offset


# ---- compaction

COMPACTED = TopicConfig(
    segment_bytes=700, index_interval_bytes=150, cleanup_policy="compact", min_cleanable_dirty_ratio=0.0
)


def clean(log, memory_bytes=1 << 20):
    log.roll_if_old(10**15)
    flush(log)
    flush(log)
    high_watermark = log.log_end_offset
    cleaning = log.start_cleaning(now_ms=1000, high_watermark=high_watermark, memory_bytes=memory_bytes)
    while cleaning is not None and not cleaning.is_done:
        work = cleaning.step(lambda: True)
        if work is not None:
            work()
    return cleaning


@pytest.mark.parametrize("memory_bytes", [1, 500, 1 << 20])
@pytest.mark.parametrize("how", [None, missing])
def test_a_compacted_log_says_the_same_to_a_reader_of_committed_records(memory_bytes, how):
    disk = MemoryDisk()
    folder, log = filled(disk, COMPACTED)
    _, whole = filled(MemoryDisk())
    expected = visible(whole)
    assert expected[b"b"][1] == b"of round 9", "the newest that is committed: later ones are aborted, or open"
    first_open = log.stable_offset(log.log_end_offset)
    before = [batch for batch in read_all(log) if read_header(batch).base_offset >= first_open]
    while clean(log, memory_bytes) is not None:
        assert visible(log) == expected
    assert [batch for batch in read_all(log) if read_header(batch).base_offset >= first_open] == before
    assert log.first_dirty_offset <= first_open
    if memory_bytes > 1000:
        assert log.first_dirty_offset > 20
    if how is not None:
        log.checkpoint()
        folder.write_checkpoints()
        spoil(disk, ".snapshot", how)
        spoil(disk, "recovery-point-offset-checkpoint", how)
        disk.locked.clear()
        folder, log = open_log(disk, COMPACTED)
    assert log.stable_offset(log.log_end_offset) == first_open
    assert visible(log) == expected
    for each in (log, whole):
        writer = Writer(each, 100)
        writer.end(2, committed=True)
        writer.end(3, committed=False)
    committed = visible(whole)
    assert committed[b"b"][1] == b"long 11"
    assert visible(log) == committed
    while clean(log, memory_bytes) is not None:
        assert visible(log) == committed
    assert log.first_dirty_offset > first_open


def test_an_aborted_record_supersedes_nothing_and_goes():
    _, log = open_log(MemoryDisk(), COMPACTED)
    writer = Writer(log)
    kept = writer.write(1, b"k", value=b"committed")
    writer.end(1, committed=True)
    writer.write(2, b"k", value=b"aborted")
    writer.end(2, committed=False)
    log.roll_if_old(10**15)
    writer.write(2, b"k", value=b"aborted too")
    writer.write(3, b"k", value=b"open")
    writer.end(2, committed=False)
    clean(log)
    assert visible(log) == {b"k": (kept, b"committed")}
    values = [record.value for batch in read_all(log) if not read_header(batch).is_control for record in decode(batch)]
    assert values == [b"committed", b"aborted too", b"open"], "from where one is open on nothing is touched"
    writer.end(3, committed=False)
    clean(log)
    values = [record.value for batch in read_all(log) if not read_header(batch).is_control for record in decode(batch)]
    assert values == [b"committed"]
    assert Writer(log).write(9, b"x") == log.log_end_offset - 1


def decode(batch):
    return decode_batch(batch) if read_header(batch).records_count else []
