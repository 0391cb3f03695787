"""Row: how fast a log is compacted, from the disk to the disk, in the steps that a broker does it in."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from zmqbroker.log.batch import read_header
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.log.real_disk import RealDisk
from zmqbroker.log.records import encode_batch
from zmqbroker.settings import TopicConfig

from .basics import Figure
from .row import Row

if TYPE_CHECKING:
    from .row import Bench, Measured

LOG_BYTES = 200_000_000
VALUE_BYTES = 100
RECORDS_A_BATCH = 500
KEYS = 100_000
BATCHES_A_TURN = 16
SEGMENT_BYTES = 16 << 20
MEMORY_BYTES = 128 << 20
STEP_BATCHES = 4


def compact(bench: Bench) -> Measured:
    """Write a log in which each key stands many times, and compact it once."""
    folder = bench.folder / "compaction"
    config = TopicConfig(cleanup_policy="compact", segment_bytes=SEGMENT_BYTES)
    log = PartitionLog.open(RealDisk(), str(folder), config, now_ms=0)
    try:
        _fill(log, bench.scaled(LOG_BYTES))
        before = log.size_bytes
        cleaning = log.start_cleaning(now_ms=0, high_watermark=log.log_end_offset, memory_bytes=MEMORY_BYTES)
        assert cleaning is not None, "there is nothing to compact"
        longest = 0.0
        begun = time.perf_counter()
        while not cleaning.is_done:
            left = iter(range(STEP_BATCHES))
            step_begun = time.perf_counter()
            work = cleaning.step(lambda left=left: next(left, None) is None)  # type: ignore[misc]
            longest = max(longest, time.perf_counter() - step_begun)
            if work is not None:
                work()
        seconds = time.perf_counter() - begun
        assert log.size_bytes < before, "nothing was compacted"
    finally:
        log.abandon()
        shutil.rmtree(folder)
    return {
        "compacted": cleaning.bytes_before / seconds / 1e6,
        "left": log.size_bytes / 1e6,
        "longest step": longest * 1e3,
    }


def _fill(log: PartitionLog, size: int) -> None:
    value = b"v" * VALUE_BYTES
    number = 0
    while log.size_bytes < size:
        turn = []
        for _ in range(BATCHES_A_TURN):
            rows = [(1000, b"%08d" % (n * 7919 % KEYS), value, ()) for n in range(number, number + RECORDS_A_BATCH)]
            number += RECORDS_A_BATCH
            batch = encode_batch(rows)
            turn.append((read_header(batch), batch))
        log.append(turn, leader_epoch=0, now_ms=1000)
    log.roll_if_old(10**15)
    job = log.start_flush()
    assert job is not None
    job.run()
    log.finish_flush(job)


ROWS = (
    Row(
        "compaction",
        f"{VALUE_BYTES}-byte values, {KEYS:,} keys, fsync of each segment",
        (Figure("compacted", "MB/s"), Figure("left", "MB"), Figure("longest step", "ms")),
        compact,
    ),
)
