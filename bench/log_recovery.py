"""How long a log of 2 GB takes to open: after a clean stop, and after a crash with everything or nothing to scan.

    python bench/log_recovery.py [gigabytes, 2 if not given]

Bounded and in a temporary folder that is removed at the end. The log has just been written, so it is in the page cache:
the figures are those of checking, the disk's come on top after a reboot.
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

GIGABYTES_MAX = 8


def main() -> None:
    """Print the figures."""
    gigabytes = min(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0, GIGABYTES_MAX)
    folder = tempfile.mkdtemp(prefix="zmqbroker-bench-")
    config = TopicConfig(segment_bytes=1 << 30)
    disk = RealDisk()
    try:
        log = PartitionLog.open(disk, f"{folder}/a-0", config, now_ms=0)
        turn = [make_batch([1000] * 130, value_bytes=100)] * 16
        while log.size_bytes < gigabytes * (1 << 30):
            log.append(turn, leader_epoch=0, now_ms=1000)
        end, size = log.log_end_offset, log.size_bytes
        log.close()
        for what, clean, recovery_point in [
            ("after a clean stop", True, end),
            ("after a crash, recovery point at the end", False, end),
            ("after a crash, recovery point at 0", False, 0),
        ]:
            start = time.perf_counter()
            log = PartitionLog.open(disk, f"{folder}/a-0", config, now_ms=0, recovery_point=recovery_point, clean=clean)
            taken = time.perf_counter() - start
            assert log.log_end_offset == end
            scanned = log.recovery.scanned_bytes
            print(
                f"{what:41}: {taken * 1e3:9.2f} ms for {size / 1e6:,.0f} MB, {scanned / 1e6:,.0f} MB scanned"
                + (f" at {scanned / taken / 1e6:,.0f} MB/s" if scanned else "")
            )
            log.abandon()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
