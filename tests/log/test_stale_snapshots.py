"""Snapshots of producers that a power cut leaves behind: those of a log that is gone are not the next one's."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.simulation.log_model import make_batch

FOLDER = "/t-0"
CONFIG = TopicConfig(segment_bytes=2000, index_interval_bytes=200)


def open_log(disk, config=CONFIG, **options):
    return PartitionLog.open(disk, FOLDER, config, now_ms=1000, **options)


class PowerCut(BaseException):
    """Ends whatever is under way."""


def power_cut_after(operations):
    """A fault of the disk that comes after so many operations."""
    left = operations

    def fault(_operation, _path):
        nonlocal left
        left -= 1
        if left < 0:
            raise PowerCut

    return fault


@pytest.mark.parametrize("operations", range(14))
def test_a_power_cut_while_a_log_starts_anew_leaves_no_snapshot_of_what_is_gone(operations):
    for seed in range(6):
        disk = MemoryDisk()
        log = open_log(disk)
        log.append([make_batch([1000] * 2, producer_id=5, producer_epoch=0, sequence=0)], leader_epoch=0, now_ms=1000)
        log.checkpoint()
        disk.fault = power_cut_after(operations)
        with suppress(PowerCut):
            log.truncate_and_start_at(0)
        disk.fault = None
        disk.crash(Random(seed))
        again = open_log(disk)
        end = again.log_end_offset
        for sequence in range(2):
            made = make_batch([1000], producer_id=7, producer_epoch=0, sequence=sequence)
            again.append([made, make_batch([1000])], leader_epoch=0, now_ms=1000)
        again.truncate_to(end + 2)
        assert again.producers.get(7) is not None, (operations, seed, disk.list(FOLDER))
        assert (again.producers.get(5) is not None) == (end > 0)
