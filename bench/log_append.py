"""How fast a partition log takes batches, and gives them back from the page cache.

    python bench/log_append.py [seconds of each part, 3 if not given]

Bounded and in a temporary folder that is removed at the end. No flush is part of the figures: that is the disk's.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time

from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.log.real_disk import RealDisk
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.log_model import make_batch

BYTES_MAX = 4 << 30


def measure_append(folder: str, name: str, records: int, turn: int, seconds: float) -> PartitionLog:
    """Append the same batch again and again; returns the log."""
    config = TopicConfig(segment_bytes=256 << 20)
    log = PartitionLog.open(RealDisk(), f"{folder}/{name}", config, now_ms=0)
    made = make_batch([1000] * records, value_bytes=100)
    turns = [made] * turn
    count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds and log.size_bytes < BYTES_MAX:
        log.append(turns, leader_epoch=0, now_ms=1000)
        count += turn
    taken = time.perf_counter() - start
    size = count * made[0].size
    print(
        f"append, {records:4} records a batch, {turn:3} batches a turn: {taken / count * 1e6:6.2f} us a batch, "
        f"{count * records / taken:12,.0f} records/s, {size / taken / 1e6:8,.0f} MB/s"
    )
    return log


def measure_read(log: PartitionLog, what: str, max_bytes: int, seconds: float) -> None:
    """At the tail, or through the whole log from its start."""
    tail = log.log_end_offset - 400
    offset = tail if what == "tail" else log.log_start_offset
    count = size = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        data = log.read(offset, max_bytes)
        count += 1
        size += len(data)
        if what != "tail":
            # What the next offset is, a consumer knows from the batches; here from the same records in each of them.
            offset += len(data) // BATCH_SIZE * BATCH_RECORDS
            if offset >= log.log_end_offset:
                offset = log.log_start_offset
    taken = time.perf_counter() - start
    print(
        f"read {what:10} {max_bytes >> 10:5} KiB: {taken / count * 1e6:6.2f} us a read of {size // count:,} bytes, "
        f"{size / taken / 1e6:8,.0f} MB/s"
    )


BATCH_RECORDS = 130
BATCH_SIZE = make_batch([1000] * BATCH_RECORDS, value_bytes=100)[0].size


def main() -> None:
    """Print the figures."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    folder = tempfile.mkdtemp(prefix="zmqbroker-bench-")
    try:
        for number, (records, turn) in enumerate([(1, 1), (1, 64), (10, 64)]):
            measure_append(folder, f"a-{number}", records, turn, seconds).close()
            shutil.rmtree(f"{folder}/a-{number}")
        log = measure_append(folder, "a-9", BATCH_RECORDS, 4, seconds)
        for what, max_bytes in [("tail", 65536), ("sequential", 65536), ("sequential", 1 << 20)]:
            measure_read(log, what, max_bytes, seconds)
        log.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
