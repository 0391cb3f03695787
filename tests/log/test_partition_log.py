"""Appends, disk errors, flush, rolls and retention of one log."""

from __future__ import annotations

import dataclasses
from errno import EIO, ENOSPC
from random import Random

import pytest
from zmqbroker.errors import (
    CorruptMessageError,
    DuplicateSequenceError,
    InvalidProducerEpochError,
    OutOfOrderSequenceError,
    RecordListTooLargeError,
    StorageError,
)
from zmqbroker.log.batch import computed_crc, gap_batch, read_header
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.simulation.log_model import make_batch, read_all

FOLDER = "/t-0"
CONFIG = TopicConfig(segment_bytes=1000, index_interval_bytes=200)


@pytest.fixture
def disk():
    return MemoryDisk()


@pytest.fixture
def log(disk):
    return PartitionLog.open(disk, FOLDER, CONFIG, now_ms=0)


def produced(sequence, records=1, epoch=0, **options):
    return make_batch([1000] * records, producer_id=9, producer_epoch=epoch, sequence=sequence, **options)


def append(log, *made, leader_epoch=0, now_ms=1000):
    return log.append(list(made), leader_epoch=leader_epoch, now_ms=now_ms)


def flush(log):
    job = log.start_flush()
    job.run()
    log.finish_flush(job)


def test_checks_see_what_is_staged_in_the_same_turn(log):
    results = append(log, produced(0, 2), produced(2), produced(0, 2), produced(7), produced(3, epoch=1))
    assert results[0] == (0, 1, -1, False)
    assert results[1] == (2, 2, -1, False)
    assert results[2] == (0, 1, -1, True)
    assert isinstance(results[3], OutOfOrderSequenceError)
    assert "expected 3" in results[3].message
    assert "sequence 7" in results[3].message
    assert isinstance(results[4], OutOfOrderSequenceError)
    assert log.log_end_offset == 3


def test_epochs_of_producers(log):
    append(log, produced(0), produced(0, epoch=1))
    assert isinstance(append(log, produced(1))[0], InvalidProducerEpochError)
    assert append(log, produced(1, epoch=1))[0].base_offset == 2


def test_a_repeat_older_than_five_batches_is_known_as_one_but_not_its_offset(log):
    append(log, *[produced(i) for i in range(7)])
    results = append(log, *[produced(i) for i in range(7)])
    assert all(isinstance(r, DuplicateSequenceError) for r in results[:2])
    assert [r.base_offset for r in results[2:]] == [2, 3, 4, 5, 6]
    assert isinstance(append(log, produced(6, 3))[0], OutOfOrderSequenceError), "partly new: not a repeat"


def test_sequences_wrap(log):
    top = 2**31 - 1
    log.producers.update(produced(top - 2)[0], 0, timestamp=0, now_ms=0)
    assert [r.base_offset for r in append(log, produced(top - 1, 3), produced(1), produced(top - 1, 3))] == [0, 3, 0]
    assert log.log_end_offset == 4


def test_the_retry_of_a_refused_first_batch_is_no_repeat_of_a_later_one(log):
    """A second batch that overtakes a refused first one waits: else the first one's retry would be called stored."""
    assert isinstance(append(log, produced(3))[0], OutOfOrderSequenceError)
    assert [r.base_offset for r in append(log, produced(0, 3), produced(3))] == [0, 3]


def test_log_append_time_is_stamped_with_a_valid_crc(disk):
    config = dataclasses.replace(CONFIG, message_timestamp_type="LogAppendTime")
    log = PartitionLog.open(disk, FOLDER, config, now_ms=0)
    assert append(log, make_batch([5, 6]), now_ms=777)[0].log_append_time_ms == 777
    (batch,) = read_all(log)
    header = read_header(batch)
    assert (header.max_timestamp, header.attributes & 8, header.base_timestamp) == (777, 8, 5)
    assert computed_crc(batch) == header.crc
    assert log.offset_for_timestamp(700) == (0, 777, 0)


def test_a_full_disk_changes_nothing(disk, log):
    append(log, produced(0))
    before = (log.log_end_offset, log.producers.entries(), log.epochs.entries(), log.size_bytes)
    disk.fault = lambda op, path: raise_if(op == "append", ENOSPC, path)
    results = append(log, produced(1), produced(1), produced(9), leader_epoch=4)
    assert [type(r) for r in results] == [StorageError] * 3
    assert FOLDER in results[0].message
    assert "injected" in results[0].message
    assert (log.log_end_offset, log.producers.entries(), log.epochs.entries(), log.size_bytes) == before
    disk.fault = None
    assert append(log, produced(1))[0].base_offset == 1


def raise_if(condition, code, path):
    if condition:
        raise OSError(code, "injected", path)


def test_what_was_written_before_a_failing_segment_stays(disk, log):
    made = [produced(i, value_bytes=300) for i in range(5)]
    left = [1]

    def fault(operation, path):
        if operation == "append":
            left[0] -= 1
            raise_if(left[0] < 0, ENOSPC, path)

    disk.fault = fault
    results = append(log, *made)
    assert [getattr(r, "base_offset", None) for r in results] == [0, 1, None, None, None]
    disk.fault = None
    assert [r.base_offset for r in append(log, *made)] == [0, 1, 2, 3, 4]
    assert [r.duplicate for r in append(log, *made)] == [True] * 5


def test_a_roll_that_fails_is_tried_again(disk, log):
    append(log, produced(0, value_bytes=800))
    disk.fail_once("open", ".log")
    assert isinstance(append(log, produced(1, value_bytes=800))[0], StorageError)
    assert append(log, produced(1, value_bytes=800))[0].base_offset == 1
    assert log.segments_count == 2


def test_a_batch_larger_than_a_segment_is_refused_alone(log):
    results = append(log, produced(0, value_bytes=2000), produced(0))
    assert isinstance(results[0], RecordListTooLargeError)
    assert "1000" in results[0].message
    assert results[1].base_offset == 0


def test_a_failed_flush_ends_appends(disk, log):
    append(log, produced(0))
    job = log.start_flush()
    disk.fail_once("flush", code=EIO)
    with pytest.raises(OSError, match="injected"):
        job.run()
    log.fail("the flush failed: injected")
    assert log.start_flush() is None
    assert log.recovery_point == 0
    assert "flush failed" in append(log, produced(1))[0].message
    assert len(read_all(log)) == 1
    log.close()


def test_one_flush_at_a_time_covers_what_it_found(log):
    append(log, *[produced(i, value_bytes=300) for i in range(4)])
    first = log.start_flush()
    append(log, produced(4))
    assert log.start_flush() is None
    first.run()
    log.finish_flush(first)
    assert log.recovery_point == 4
    flush(log)
    assert log.recovery_point == 5
    assert log.start_flush() is None


def test_truncation_lowers_a_flush_under_way(log):
    append(log, *[produced(i) for i in range(4)])
    job = log.start_flush()
    log.truncate_to(2)
    append(log, make_batch([1] * 5), leader_epoch=3)
    job.run()
    log.finish_flush(job)
    assert log.recovery_point == 2


def test_rolls_by_age_of_the_first_record(disk):
    config = dataclasses.replace(CONFIG, segment_ms=100, segment_bytes=10_000)
    log = PartitionLog.open(disk, FOLDER, config, now_ms=0)
    append(log, make_batch([1000]), make_batch([1100]), make_batch([1101]))
    assert log._bases == [0, 2]
    assert not log.roll_if_old(1201)
    assert log.roll_if_old(1202)
    assert not log.roll_if_old(9999), "an empty segment has no age"


def test_retention_by_time_and_size_stops_at_the_high_watermark(disk, log):
    for i in range(6):
        append(log, make_batch([1000 + i], value_bytes=800))
    assert log.segments_count == 6
    log.reconfigure(dataclasses.replace(CONFIG, retention_ms=100, retention_bytes=-1))
    assert log.apply_retention(1102, 6) == 2
    assert log.log_start_offset == 2
    assert log.apply_retention(9999, 3) == 1
    log.reconfigure(dataclasses.replace(CONFIG, retention_ms=-1, retention_bytes=1700))
    assert log.apply_retention(9999, 6) == 1
    assert log.log_start_offset == 4
    log.reconfigure(dataclasses.replace(CONFIG, retention_ms=100, retention_bytes=-1))
    assert log.apply_retention(9999, 6) == 2
    assert (log.log_start_offset, log.log_end_offset, log.segments_count) == (6, 6, 1)
    assert [name for name in disk.list(FOLDER) if name.endswith(".log")] == ["00000000000000000006.log"]


def test_a_follower_refuses_what_does_not_fit_and_appends_none_of_it(log):
    other = PartitionLog.open(MemoryDisk(), FOLDER, CONFIG, now_ms=0)
    append(other, *[produced(i) for i in range(4)])
    data = other.read(0, 10_000)
    batches = read_all(other)
    spoiled = bytearray(data)
    spoiled[-1] ^= 1
    for bad in (bytes(spoiled), data[:-1], batches[1], batches[0] + batches[2]):
        with pytest.raises(CorruptMessageError):
            log.append_as_follower(bad)
        assert log.log_end_offset == 0
    assert log.append_as_follower(data) == 4
    assert log.producers.entries() == other.producers.entries()
    assert read_all(log) == batches


def test_a_follower_within_what_the_leader_has_compacted_away_goes_on_from_there(log):
    append(log, *[produced(i) for i in range(5)])
    gap = gap_batch(0, 8, log.leader_epoch)
    assert log.append_as_follower(gap) == 8
    batches = read_all(log)
    assert len(batches) == 6
    assert batches[5] == gap_batch(5, 8, log.leader_epoch)


def test_a_batch_with_records_that_begins_before_the_end_is_refused(log):
    append(log, make_batch([1] * 3))
    other = PartitionLog.open(MemoryDisk(), FOLDER, CONFIG, now_ms=0)
    append(other, make_batch([1] * 5))
    with pytest.raises(CorruptMessageError, match="begins at offset 0, the log ends at 3"):
        log.append_as_follower(other.read(0, 10_000))
    assert log.log_end_offset == 3


def test_a_follower_may_start_within_a_batch(log):
    other = PartitionLog.open(MemoryDisk(), FOLDER, CONFIG, now_ms=0)
    append(other, make_batch([1] * 10), make_batch([2]))
    other.delete_records_before(4)
    log.truncate_and_start_at(4)
    assert log.append_as_follower(other.read(4, 10_000)) == 11
    assert log.log_start_offset == 4


def test_epoch_ends(log):
    append(log, make_batch([1] * 3), leader_epoch=2)
    append(log, make_batch([1] * 3), leader_epoch=5)
    assert log.epoch_end_offset(1) == (-1, -1)
    assert log.epoch_end_offset(2) == (2, 3)
    assert log.epoch_end_offset(4) == (2, 3)
    assert log.epoch_end_offset(9) == (5, 6)


def test_producers_expire_by_when_they_were_seen(log):
    append(log, produced(0), now_ms=5000)
    assert log.expire_producers(6000, 1000) == 0
    assert log.expire_producers(6001, 1000) == 1
    assert isinstance(append(log, produced(1))[0], OutOfOrderSequenceError), "a forgotten producer begins anew"
    assert append(log, produced(0, epoch=1))[0].base_offset == 1


def test_a_closed_log_is_flushed(log):
    append(log, produced(0))
    log.close()
    assert log.recovery_point == 1


def test_retention_that_the_disk_refuses_is_tried_again(disk, log):
    for i in range(3):
        append(log, make_batch([1000 + i], value_bytes=800))
    log.reconfigure(dataclasses.replace(CONFIG, retention_ms=1, retention_bytes=-1))
    log.before_cut = lambda: raise_if(condition=True, code=ENOSPC, path="checkpoint")
    with pytest.raises(OSError, match="injected"):
        log.apply_retention(9999, 2)
    assert (log.log_start_offset, log.segments_count, len(read_all(log))) == (0, 3, 3)
    log.before_cut = None
    disk.fail_once("remove", ".log.deleted")
    with pytest.raises(OSError, match="injected"):
        log.apply_retention(9999, 2)
    assert (log.log_start_offset, log.segments_count, len(read_all(log))) == (2, 1, 1)


def test_a_truncation_that_the_disk_refuses_ends_appends(disk, log):
    append(log, produced(0), produced(1))
    disk.fail_once("truncate")
    with pytest.raises(StorageError, match="truncate"):
        log.truncate_to(1)
    assert isinstance(append(log, produced(2))[0], StorageError)


@pytest.mark.parametrize("codec", range(5))
def test_records_are_found_by_time_in_compressed_batches(log, codec):
    from zmqbroker.log.records import encode_batch

    records = [(1000 + i * 10, b"k", b"v" * 50, [("h", b"x")]) for i in range(5)]
    batch = encode_batch(records, compression=codec)
    append(log, (read_header(batch), batch), (read_header(batch), batch))
    assert log.offset_for_timestamp(1025) == (3, 1030, 0)
    assert log.offset_for_timestamp(1041) is None
    assert log.offset_of_max_timestamp() == (4, 1040, 0)
    log.delete_records_before(4)
    assert log.offset_for_timestamp(1025) == (4, 1040, 0)


def test_a_disk_too_full_for_small_files_holds_back_the_recovery_point_and_no_record(disk, log):
    append(log, *(produced(sequence) for sequence in range(40)))
    assert log.segments_count > 1
    disk.fail_once("replace", "index", ENOSPC)
    job = log.start_flush()
    job.run()
    log.finish_flush(job)
    assert job.small_files_error is not None
    assert (log.flushed_offset, log.recovery_point) == (40, 0)
    flush(log)
    assert (log.flushed_offset, log.recovery_point) == (40, 40)


def test_sealed_segments_that_recovery_found_are_flushed_like_the_active_one(disk, log):
    append(log, *(produced(sequence) for sequence in range(40)))
    log.abandon()  # the process is killed; what it wrote stays in the system's memory
    reopened = PartitionLog.open(disk, FOLDER, CONFIG, now_ms=0)
    assert reopened.segments_count > 1
    flush(reopened)
    assert reopened.recovery_point == 40
    disk.crash(Random(1))
    assert PartitionLog.open(disk, FOLDER, CONFIG, now_ms=0, recovery_point=40).log_end_offset == 40
