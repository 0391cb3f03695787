"""What a crash tore is cut off; what was flushed and is wrong is damage; what can be rebuilt is."""

from __future__ import annotations

from random import Random

import pytest
from zmqbroker.errors import CorruptMessageError, OffsetOutOfRangeError, StorageError
from zmqbroker.log.batch import read_header
from zmqbroker.log.inspect import dump, verify
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.simulation.log_model import make_batch, read_all, split_batches

FOLDER = "/t-0"
CONFIG = TopicConfig(segment_bytes=2000, index_interval_bytes=200)


def open_log(disk, config=CONFIG, **options):
    return PartitionLog.open(disk, FOLDER, config, now_ms=1000, **options)


def fill(log, count=40, records=2, first_sequence=0):
    for i in range(count):
        made = make_batch(
            [1000 + i] * records, producer_id=5, producer_epoch=0, sequence=first_sequence + i * records, value_bytes=20
        )
        (result,) = log.append([made], leader_epoch=max(i // 15, log.leader_epoch), now_ms=1000)
        assert result.base_offset == log.log_end_offset - records
    return log


@pytest.fixture
def disk():
    return MemoryDisk()


def last_segment(log):
    return log._segments[-1]


def state(log):
    indexes = [(s.offset_index.entries(), s.max_timestamp) for s in log._segments]
    return log.log_end_offset, log.epochs.entries(), log.producers.entries(), indexes, read_all(log)


def test_clean_reopen_scans_nothing_and_has_the_same_state(disk):
    log = fill(open_log(disk))
    before = state(log)
    log.close()
    again = open_log(disk, clean=True, recovery_point=80)
    assert (again.recovery.scanned_bytes, again.recovery.truncated_bytes, again.recovery.rebuilt) == (0, 0, [])
    assert state(again) == before
    assert again.recovery_point == 80


def test_after_a_crash_only_what_lies_past_the_recovery_point_is_scanned(disk):
    log = fill(open_log(disk))
    job = log.start_flush()
    job.run()
    log.finish_flush(job)
    log.checkpoint()
    before = log.size_bytes
    fill(log, 3, first_sequence=80)
    expected = state(log)
    again = open_log(disk, recovery_point=80)
    assert again.recovery.scanned_bytes == log.size_bytes - before
    assert state(again) == expected


def flush(log):
    job = log.start_flush()
    assert job is not None
    job.run()
    log.finish_flush(job)


@pytest.mark.parametrize("failing", [0, -1])
@pytest.mark.parametrize("flushed_before", [0, 10, 24])
@pytest.mark.parametrize("seed", range(8))
def test_what_a_failed_flush_left_in_memory_alone_is_on_the_medium_once_it_counts(failing, flushed_before, seed):
    disk = MemoryDisk()
    log = open_log(disk)
    if flushed_before:
        flush(fill(log, flushed_before))
    fill(log, 40 - flushed_before, first_sequence=2 * flushed_before)
    assert log.segments_count > 2
    unflushed = [segment.path for segment in log._segments if segment.next_offset > log.recovery_point]
    disk.fail_once("flush", unflushed[failing])
    with pytest.raises(OSError, match="injected"):
        log.start_flush().run()
    log.abandon()
    again = open_log(disk, recovery_point=2 * flushed_before)
    expected = state(again)
    assert expected[0] == 80
    flush(again)
    disk.crash(Random(seed))
    last = open_log(disk, recovery_point=again.recovery_point)
    assert last.damage is None
    assert state(last) == expected
    assert again.recovery.rewritten_bytes == again.recovery.scanned_bytes
    assert last.recovery.rewritten_bytes == 0


def test_a_flush_that_fails_after_the_restart_too_counts_nothing(disk):
    log = fill(open_log(disk), 10)
    for _ in range(3):
        disk.fail_once("flush")
        with pytest.raises(OSError, match="injected"):
            log.start_flush().run()
        log.abandon()
        log = open_log(disk)
        assert (log.flushed_offset, log.log_end_offset) == (0, 20)
    expected = state(log)
    flush(log)
    disk.crash(Random(2))
    assert state(open_log(disk, recovery_point=20)) == expected


def test_torn_tail_at_every_byte(disk):
    log = fill(open_log(disk), 12)
    segment = last_segment(log)
    batches = read_all(log)
    path, size, base = segment.path, segment.size, segment.base_offset
    first = read_header(batches[-1])
    log.close()
    content = disk.read_file(path)
    for cut in range(size):
        disk.replace_file(path, content[:cut])
        again = open_log(disk, recovery_point=base)
        assert again.damage is None
        kept = read_all(again)
        assert kept == batches[: len(kept)]
        assert again.recovery.truncated_bytes == cut - last_segment(again).size
        assert (again.recovery.reasons != []) == (again.recovery.truncated_bytes > 0)
        assert (again.append([make_batch([1])], leader_epoch=9, now_ms=1)[0]).base_offset == again.log_end_offset - 1
    assert first.last_offset == 23


def test_a_flipped_bit_past_the_recovery_point_is_torn(disk):
    log = fill(open_log(disk), 50)
    segment = log._segments[1]
    log.close()
    disk.flip_bit(segment.path, 100)
    again = open_log(disk, recovery_point=segment.base_offset)
    assert again.damage is None
    assert again.log_end_offset == segment.base_offset
    assert again.segments_count == 2
    assert again.recovery.truncated_bytes > segment.size
    assert "CRC" in again.recovery.reasons[0]
    assert fill(again, 1, first_sequence=again.log_end_offset).log_end_offset == segment.base_offset + 2


@pytest.mark.parametrize("at", [16, 17, 20, 23, 26, 61, -1])
def test_a_bit_that_flips_anywhere_in_an_old_batch_is_found_when_it_is_read(disk, at):
    log = fill(open_log(disk), 30)
    batches = read_all(log)
    segment = log._segments[1]
    log.close()
    bad = next(b for b in dump(disk, segment.path) if b.position > 300)
    again = open_log(disk, recovery_point=60, clean=True)
    disk.flip_bit(segment.path, bad.position + at % bad.size, 3)
    data = again.read(segment.base_offset, 1 << 20)
    assert split_batches(data) == [
        b for b in batches if segment.base_offset <= read_header(b).base_offset < bad.base_offset
    ]
    assert again.damage is None, "nobody has asked for it yet"
    with pytest.raises(
        CorruptMessageError, match=rf"offset {bad.base_offset} \({segment.path}, position {bad.position}"
    ):
        again.read(bad.base_offset + 1, 1 << 20)
    assert again.damage.offset == bad.base_offset


@pytest.mark.parametrize("earlier", [0, 3])
def test_a_cut_at_damage_takes_damage_before_it_along(disk, earlier):
    log = fill(open_log(disk), 30)
    (*_, segment) = log._segments
    log.close()
    batches = list(dump(disk, segment.path))
    again = open_log(disk, recovery_point=60, clean=True)
    for number in (earlier, earlier + 3):
        disk.flip_bit(segment.path, batches[number].position + 16, 3)
    with pytest.raises(CorruptMessageError):
        again.read(batches[earlier + 3].base_offset, 1)
    again.truncate_to(again.log_end_offset)
    assert (again.damage, again.log_end_offset) == (None, batches[earlier].base_offset)
    assert again.recovery_point <= again.log_end_offset
    assert fill(again, 1, first_sequence=again.log_end_offset).log_end_offset == batches[earlier].base_offset + 2


def test_a_flipped_bit_in_a_flushed_header_is_damage_served_up_to_it(disk):
    log = fill(open_log(disk), 30)
    batches = read_all(log)
    segment = log._segments[1]
    log.close()
    bad = next(b for b in dump(disk, segment.path) if b.position > 300)
    disk.flip_bit(segment.path, bad.position + 7, 2)  # the base offset, which the CRC leaves out
    again = open_log(disk, recovery_point=60, clean=True)
    good = []
    offset = 0
    while offset < bad.base_offset:
        good += split_batches(again.read(offset, 1))
        offset = read_header(good[-1]).next_offset
    place = rf"offset {bad.base_offset} \({segment.path}, position {bad.position}"
    with pytest.raises(CorruptMessageError, match=place):
        again.read(offset, 1)
    assert good == [b for b in batches if read_header(b).base_offset < bad.base_offset]
    assert again.damage.offset == bad.base_offset
    assert again.log_end_offset == 60
    refused = again.append([make_batch([1])], leader_epoch=9, now_ms=1)[0]
    assert isinstance(refused, StorageError)
    assert str(bad.base_offset) in refused.message
    with pytest.raises(StorageError, match="damaged"):
        again.append_as_follower(batches[0])
    assert disk.size(segment.path) == segment.size, "nothing was cut"
    again.truncate_to(again.damage.offset)
    assert again.damage is None
    assert again.append_as_follower(b"".join(batches[len(good) :])) == 60
    assert read_all(again) == batches


def test_a_log_that_is_shorter_than_what_was_flushed_is_damaged(disk):
    log = fill(open_log(disk), 10)
    log.close()
    again = open_log(disk, recovery_point=25)
    assert again.damage.offset == 20
    assert "25" in again.damage.reason
    with pytest.raises(CorruptMessageError):
        again.read(20, 100)
    assert open_log(MemoryDisk(), recovery_point=7).damage.offset == 0


def test_without_a_recovery_point_damage_in_the_middle_is_not_taken_for_a_torn_tail(disk):
    log = fill(open_log(disk), 60)
    middle, last = log._segments[1], last_segment(log)
    log.close()
    flipped = next(b for b in dump(disk, last.path) if b.position > 100)
    disk.flip_bit(last.path, flipped.position + 80)
    again = open_log(disk, recovery_point=None)
    assert again.damage.offset == flipped.base_offset
    disk.flip_bit(middle.path, 8)  # a length
    assert open_log(disk, recovery_point=None).damage.offset == middle.base_offset


def test_without_a_recovery_point_a_torn_tail_is_still_cut(disk):
    log = fill(open_log(disk), 30)
    last = last_segment(log)
    log.close()
    content = disk.read_file(last.path)
    disk.replace_file(last.path, content[:-10])
    again = open_log(disk, recovery_point=None)
    assert again.damage is None
    assert again.log_end_offset == 58


def spoil_missing(_data):
    return None


def spoil_empty(_data):
    return b""


def spoil_short(data):
    return data[: len(data) // 2]


def spoil_odd(data):
    return data[:-3]


def spoil_zero(data):
    return bytes(len(data))


def spoil_noise(data):
    return Random(1).randbytes(len(data))


def spoil_bit(data):
    return bytes([*data[:-1], data[-1] ^ 4]) if data else data


SPOILS = [spoil_missing, spoil_empty, spoil_short, spoil_odd, spoil_zero, spoil_noise, spoil_bit]


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("suffix", [".index", ".timeindex", ".snapshot", "leader-epoch-checkpoint"])
def test_spoiled_metadata_is_rebuilt(disk, suffix, spoil, clean):
    log = fill(open_log(disk))
    before = state(log)
    found = [log.offset_for_timestamp(1000 + i) for i in range(41)]
    log.close()
    for name in disk.list(FOLDER):
        if name.endswith(suffix):
            path = f"{FOLDER}/{name}"
            data = spoil(disk.read_file(path))
            disk.remove(path)
            if data is not None:
                disk.replace_file(path, data)
    again = open_log(disk, recovery_point=70, clean=clean)
    assert [again.offset_for_timestamp(1000 + i) for i in range(41)] == found
    assert again.damage is None
    if suffix != "leader-epoch-checkpoint" or spoil is not spoil_bit:
        assert state(again) == before
    again.truncate_to(33)
    assert again.log_end_offset == 32
    assert read_all(again) == before[4][:16]


def test_left_over_files_are_removed(disk):
    log = fill(open_log(disk))
    log.close()
    leftovers = ["00000000000000000000.log.deleted", "x.cleaned", "y.swap", "z.tmp", "00000000000000000999.index"]
    for name in leftovers:
        disk.replace_file(f"{FOLDER}/{name}", b"rubbish")
    again = open_log(disk, clean=True, recovery_point=80)
    assert not set(leftovers) & set(disk.list(FOLDER))
    assert len(again.recovery.removed) == len(leftovers)


def test_verify_and_dump(disk):
    log = fill(open_log(disk))
    log.close()
    findings = list(verify(disk, FOLDER))
    assert [f.problem for f in findings] == [""] * log.segments_count
    assert findings[-1].next_offset == 80
    assert sum(f.batches for f in findings) == 40
    infos = list(dump(disk, FOLDER))
    assert [i.base_offset for i in infos] == list(range(0, 80, 2))
    assert all(i.crc_valid for i in infos)
    disk.flip_bit(infos[-1].path, infos[-1].position + 70)
    assert [i.crc_valid for i in dump(disk, infos[-1].path)][-1] is False
    assert f"at offset {infos[-1].base_offset}" in list(verify(disk, FOLDER))[-1].problem


def test_reads_outside_of_the_log_name_both_ends(disk):
    log = fill(open_log(disk), 3)
    with pytest.raises(OffsetOutOfRangeError, match=r"offset 7 .* 0 to 6"):
        log.read(7, 100)
    with pytest.raises(OffsetOutOfRangeError):
        log.read(-1, 100)
    assert log.read(6, 100) == b""


def test_a_batch_larger_than_max_bytes_is_read_whole(disk):
    log = open_log(disk)
    made = make_batch([1], value_bytes=1500)
    log.append([made], leader_epoch=0, now_ms=0)
    assert len(log.read(0, 1)) == made[0].size
    assert len(log.read(0, 100)) == made[0].size
