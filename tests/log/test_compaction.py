"""Compaction of a log: what stays of batches, and a power cut at every single disk operation of a pass."""

from __future__ import annotations

import contextlib
from random import Random

import pytest
from zmqbroker.log.batch import read_header
from zmqbroker.log.data_folder import DataFolder
from zmqbroker.log.plain_records import decode_batch
from zmqbroker.log.records import encode_batch
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.simulation.log_model import read_all

NAME = "a-0"
CONFIG = TopicConfig(cleanup_policy="compact", segment_bytes=500, delete_retention_ms=100)
VALUES = [(b"k%d" % (n * n % 11), b"v%d" % n if n % 5 else None) for n in range(120)]


class PowerCut(BaseException):
    """Raised by the disk in the middle of something."""


def open_log(disk, config=CONFIG):
    folder = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "c")
    log = folder.open_log(NAME, config, 1000)
    assert log.damage is None, log.damage
    return folder, log


def append(log, rows, now_ms=1000, **options):
    batch = encode_batch([(now_ms, key, value, ()) for key, value in rows], **options)
    (result,) = log.append([(read_header(batch), batch)], leader_epoch=0, now_ms=now_ms)
    return result


def seal(log):
    log.roll_if_old(10**15)
    job = log.start_flush()
    job.run()
    log.finish_flush(job)


def full(disk, config=CONFIG):
    """A log with many records of a few keys, all sealed and flushed."""
    folder, log = open_log(disk, config)
    for start in range(0, len(VALUES), 3):
        append(log, VALUES[start : start + 3])
    seal(log)
    folder.write_checkpoints()
    return folder, log


def clean(log, now_ms=1000, memory_bytes=1 << 20):
    cleaning = log.start_cleaning(now_ms=now_ms, high_watermark=log.log_end_offset, memory_bytes=memory_bytes)
    while cleaning is not None and not cleaning.is_done:
        work = cleaning.step(lambda: True)
        if work is not None:
            work()
    return cleaning


def stored(log):
    return {r.offset: (r.key, r.value) for batch in read_all(log) for r in decode_batch(batch)}


def check(log, values=VALUES):
    found = stored(log)
    assert log.log_end_offset == len(values)
    assert all(values[offset] == pair for offset, pair in found.items())
    last = {key: offset for offset, (key, _) in enumerate(values)}
    assert found.keys() >= set(last.values())
    return found, last


def test_the_last_record_of_each_key_stays_where_it_was():
    disk = MemoryDisk()
    folder, log = full(disk)
    segments, size = log.segments_count, log.size_bytes
    clean(log)
    found, last = check(log)
    assert found.keys() == set(last.values())
    assert log.size_bytes < size / 2
    assert log.first_dirty_offset == len(VALUES)
    folder.close(clean=True)
    _, log = open_log(disk)
    assert log.first_dirty_offset == len(VALUES)
    assert stored(log) == found
    assert clean(log) is None
    append(log, [(b"new", b"x" * 300)])
    seal(log)
    log.reconfigure(TopicConfig(cleanup_policy="compact", segment_bytes=2000, min_cleanable_dirty_ratio=0.0))
    clean(log)
    assert log.segments_count < segments, "small neighbours become one"
    assert stored(log) == {**found, len(VALUES): (b"new", b"x" * 300)}


@pytest.mark.parametrize("seed", range(3))
def test_a_power_cut_at_any_operation(seed):
    disk = MemoryDisk()
    _, log = full(disk)
    operations = []
    disk.fault = lambda operation, path: operations.append((operation, path))
    clean(log)
    for count in range(len(operations) + 1):
        disk = MemoryDisk()
        _, log = full(disk)
        left = [count]

        def fault(_operation, _path, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise PowerCut

        disk.fault = fault
        with contextlib.suppress(PowerCut):
            clean(log)
        disk.crash(Random(seed * 1000 + count))
        _, log = open_log(disk)
        check(log)
        assert not [name for name in disk.list(f"/data/{NAME}") if not name.endswith(("log", "index", "snapshot", "t"))]
        clean(log)
        found, last = check(log)
        assert found.keys() == set(last.values())


def test_deletions_go_when_their_time_has_come():
    _, log = full(MemoryDisk())
    clean(log, now_ms=2000)
    deleted = [key for key, value in stored(log).values() if value is None]
    assert deleted
    append(log, [(b"new", b"1")])
    seal(log)
    always = TopicConfig(cleanup_policy="compact", segment_bytes=500, min_cleanable_dirty_ratio=0.0)
    log.reconfigure(always)
    clean(log, now_ms=2099)
    assert [key for key, value in stored(log).values() if value is None] == deleted
    append(log, [(b"new", b"2")])
    seal(log)
    clean(log, now_ms=2100)
    assert {value for _, value in stored(log).values() if value is None} == set()
    assert [record.timestamp for batch in read_all(log) for record in decode_batch(batch)][:3] == [1000] * 3


def test_the_last_batch_of_a_producer_stays_empty():
    disk = MemoryDisk()
    folder, log = open_log(disk)
    for sequence in range(3):
        append(log, [(b"k", b"%d" % sequence)], producer_id=7, producer_epoch=0, base_sequence=sequence)
    append(log, [(b"k", b"last")])
    seal(log)
    clean(log)
    assert stored(log) == {3: (b"k", b"last")}
    folder.write_checkpoints()
    for name in disk.list(f"/data/{NAME}"):
        if name.endswith(".snapshot"):
            disk.remove(f"/data/{NAME}/{name}")
    disk.crash(Random(0))
    _, log = open_log(disk)
    assert append(log, [(b"k", b"2")], producer_id=7, producer_epoch=0, base_sequence=2).duplicate
    assert append(log, [(b"k", b"3")], producer_id=7, producer_epoch=0, base_sequence=3).base_offset == 4


def test_a_pass_that_does_not_fit_into_memory_cleans_as_far_as_it_got():
    _, log = full(MemoryDisk())
    ends = []
    while (cleaning := clean(log, memory_bytes=1000)) is not None:
        ends.append(cleaning.end_offset)
        check(log)
    assert ends == sorted(set(ends))
    assert len(ends) > 1


def test_lags_put_compaction_off_and_on():
    lagging = TopicConfig(cleanup_policy="compact", segment_bytes=500, min_compaction_lag_ms=5000)
    _, log = full(MemoryDisk(), lagging)
    assert clean(log, now_ms=5999) is None
    assert clean(log, now_ms=6000) is not None
    append(log, [(b"k1", b"x")], now_ms=6000)
    seal(log)
    assert clean(log, now_ms=90_000) is None
    log.reconfigure(TopicConfig(cleanup_policy="compact", segment_bytes=500, max_compaction_lag_ms=5000))
    assert clean(log, now_ms=11_000) is None
    assert clean(log, now_ms=11_001) is not None
