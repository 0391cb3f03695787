"""A log that is cut while a flush is under way: what is written after the cut is not what was flushed."""

from __future__ import annotations

from random import Random

import pytest
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.simulation.log_model import make_batch, read_all

FOLDER = "/t-0"
CONFIG = TopicConfig(segment_bytes=700, index_interval_bytes=200)


def flush(log):
    job = log.start_flush()
    job.run()
    log.finish_flush(job)


@pytest.mark.parametrize("seed", range(12))
def test_a_segment_that_was_cut_during_a_flush_and_filled_again_is_flushed(seed):
    disk = MemoryDisk()
    log = PartitionLog.open(disk, FOLDER, CONFIG, now_ms=1000)
    for _ in range(12):
        log.append([make_batch([1000], value_bytes=50)], leader_epoch=0, now_ms=1000)
    cut = log._segments[1]
    assert cut.sealed
    job = log.start_flush()
    job.run()
    log.truncate_to(cut.base_offset + 2)
    while log.segments_count < 4:
        log.append([make_batch([1000], value_bytes=60)], leader_epoch=1, now_ms=1000)
    log.finish_flush(job)
    flush(log)
    assert log.recovery_point == log.log_end_offset
    expected = read_all(log)
    disk.crash(Random(seed))
    again = PartitionLog.open(disk, FOLDER, CONFIG, now_ms=1000, recovery_point=log.recovery_point)
    assert again.damage is None
    assert read_all(again) == expected
