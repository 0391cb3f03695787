"""The metadata log: committed and not, taken back, cut short by a crash, begun from a snapshot, refused if damaged."""

from __future__ import annotations

from random import Random

import pytest
from zmqbroker.actors import metadata_snapshots
from zmqbroker.actors.metadata_log import MetadataDamagedError, MetadataLog
from zmqbroker.actors.metadata_snapshots import MetadataSnapshots, Snapshot, file_name
from zmqbroker.errors import BrokerError, CorruptMessageError, InvalidRequestError
from zmqbroker.log.data_folder import DataFolder
from zmqbroker.quorum.image import MetadataImage
from zmqbroker.quorum.kraft_types import SnapshotId
from zmqbroker.quorum.records import CreateTopic, LeaderChange, RegisterNode, SetConfig, SetPartition, SetVoters
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.transport.config_messages import TOPIC_RESOURCE
from zmqbroker.transport.quorum_messages import Voter

FOLDER = "/data/__cluster_metadata-0"


def put(key: str) -> SetConfig:
    return SetConfig(TOPIC_RESOURCE, "t", key, "v")


class Store:
    """A metadata log on a disk in memory, opened and closed."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.log: MetadataLog
        self.open()

    def open(self) -> MetadataLog:
        self.folder = DataFolder.open(self.disk, "/data", node_id=1, cluster_id="c", make_id=lambda: "d")
        self.log = MetadataLog(self.disk, self.folder, 0)
        return self.log

    def close(self) -> None:
        self.folder.close(clean=True)

    def kill(self) -> None:
        self.disk.locked.clear()

    def put(self, *keys: str, epoch: int = 1) -> int:
        self.log.append([put(key) for key in keys], 0, epoch)
        return self.log.end_offset

    def flush(self) -> None:
        job = self.log.start_flush()
        if job is not None:
            job.run()
            self.log.finish_flush(job)

    def snapshot(self) -> SnapshotId:
        """Take one of what is committed."""
        started = self.log.start_snapshot(1)
        assert started is not None
        snapshot, work = started
        work()
        self.log.finish_snapshot(snapshot)
        return snapshot

    def keys(self, image: MetadataImage) -> str:
        return "".join(image.config_of(TOPIC_RESOURCE, "t"))


@pytest.fixture
def store() -> Store:
    return Store()


def test_what_is_appended_counts_when_it_is_committed(store):
    store.put("a")
    store.put("b", "c")
    assert (store.keys(store.log.committed), store.keys(store.log.image)) == ("", "abc")
    assert store.log.commit(2) is True, "the first decision; the second only as a whole"
    assert (store.keys(store.log.committed), store.log.committed.end_offset) == ("a", 1)
    assert store.log.commit(2) is False
    assert store.log.commit(3) is True
    assert store.log.committed == store.log.image


def test_what_is_cut_off_is_taken_back_with_its_voters(store):
    one, two = [(1, "x")], [(1, "x"), (2, "y")]
    store.log.append([SetVoters(one)], 0, 1)
    store.log.commit(1)
    store.put("a")
    store.log.append([put("b"), SetVoters(two)], 0, 2)
    store.put("c", epoch=2)
    assert [(at.offset, len(at.voters)) for at in store.log.voters] == [(0, 1), (3, 2)]
    store.log.truncate_to(3)
    assert store.log.end_offset == 2, "a decision is cut off as a whole"
    assert [tuple(at) for at in store.log.voters] == [(0, [Voter(1, "x")])]
    assert (store.keys(store.log.image), store.log.last_epoch) == ("a", 1)
    with pytest.raises(AssertionError, match="committed metadata would be cut"):
        store.log.truncate_to(0)


def test_a_follower_takes_what_follows_and_nothing_else(store):
    leader = Store()
    leader.put("a")
    leader.log.append([LeaderChange(1, 3), SetVoters([(1, "x")])], 0, 3)
    data = leader.log.read(0, 3, 10_000)
    for offset, epoch in ((1, 3), (0, 2)):
        with pytest.raises(CorruptMessageError):
            store.log.append_as_follower(data, offset, epoch)
    with pytest.raises(BrokerError):
        store.log.append_as_follower(data[:-1] + bytes([data[-1] ^ 1]), 0, 3)
    assert (store.log.end_offset, store.log.voters) == (0, [])
    store.log.append_as_follower(data, 0, 3)
    assert store.log.image == leader.log.image
    assert (store.log.last_epoch, len(store.log.voters)) == (3, 1)
    with pytest.raises(CorruptMessageError):
        store.log.append_as_follower(data, 0, 3)
    later = Store()
    later.put("z", epoch=4)
    with pytest.raises(CorruptMessageError):
        later.log.append_as_follower(leader.log.read(1, 3, 10_000), 1, 4)


def test_one_decision_that_is_too_large_is_refused_and_changes_nothing(store):
    with pytest.raises(InvalidRequestError, match="split it"):
        store.log.append([SetConfig(2, "t", "k", "v" * 9_000_000)], 0, 1)
    assert store.put("a") == 1


def test_it_is_read_back_as_it_was(store):
    store.log.append([SetVoters([(1, "x")])], 0, 2)
    store.put("a", epoch=2)
    store.close()
    log = store.open()
    assert (store.keys(log.image), log.last_epoch, log.end_offset, log.flushed_offset) == ("a", 2, 2, 2)
    assert (log.committed.end_offset, [tuple(at) for at in log.voters]) == (0, [(0, [Voter(1, "x")])])


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_leaves_whole_decisions_and_all_that_was_flushed(store, seed):
    for key in "abc":
        store.put(key, key.upper())
    store.flush()
    for key in "def":
        store.put(key, key.upper())
    store.disk.crash(Random(seed))
    log = store.open()
    keys = store.keys(log.image)
    assert keys.startswith("aAbBcC")
    assert "aAbBcCdDeEfF".startswith(keys)
    assert len(keys) % 2 == 0
    assert log.end_offset == len(keys)


def test_what_was_read_but_not_flushed_before_is_not_called_flushed(store):
    """After kill -9 what recovery reads may stand in the system's memory alone."""
    store.put("a")
    store.kill()
    assert store.open().end_offset == 1
    assert store.log.flushed_offset == 0
    store.flush()
    assert store.log.flushed_offset == 1


# ---- snapshots


def filled(store: Store) -> SnapshotId:
    """A log that begins with a snapshot at 4."""
    store.log.append([SetVoters([(1, "x")]), CreateTopic("t", "id")], 0, 1)
    store.log.append([RegisterNode(1, "h", 1, "", clean=True), SetPartition("t", 0, [1], [1], 1, 5)], 0, 2)
    store.log.commit(4)
    store.flush()
    return store.snapshot()


def test_a_snapshot_holds_the_image_with_its_offsets(store):
    image = store.log.committed
    snapshot = filled(store)
    assert snapshot == (4, 2)
    assert (store.log.snapshot, store.log.start_offset) == (snapshot, 4)
    store.put("a", epoch=3)
    image = store.log.committed
    store.close()
    log = store.open()
    assert log.committed == image
    assert log.committed.end_offset == 4
    assert log.committed.nodes[1].epoch == 2, "the offset of its record, not its place in the snapshot"
    assert [tuple(at) for at in log.voters] == [(3, [Voter(1, "x")])]
    assert (store.keys(log.image), log.end_offset) == ("a", 5)
    assert log.epoch_end(1) == (-1, -1)
    assert log.epoch_end(2) == (2, 4)
    assert log.epoch_end(9) == (3, 5)


def test_it_is_taken_when_enough_is_committed_and_replaces_the_older_one(store):
    filled(store)
    size = len(store.log.read(4, 5, 10_000)) or 80
    assert store.log.start_snapshot(size) is None
    for key in "abcdef":
        store.put(key, epoch=2)
    assert store.log.start_snapshot(size) is None, "what is not committed does not count"
    store.log.commit(store.log.end_offset)
    store.flush()
    snapshot = store.snapshot()
    assert MetadataSnapshots(store.disk, FOLDER).ids() == [snapshot]
    assert store.log.start_offset == snapshot.offset == 10


def test_what_comes_while_a_snapshot_is_written_stays_in_the_log(store):
    store.put("a")
    store.log.commit(1)
    snapshot, work = store.log.start_snapshot(1)
    store.put("b")
    work()
    store.flush()
    store.log.finish_snapshot(snapshot)
    store.kill()
    assert store.keys(store.open().image) == "ab"


@pytest.mark.parametrize("seed", range(10))
def test_a_power_cut_around_a_snapshot_loses_nothing(store, seed):
    random = Random(seed)
    for key in "abcd":
        store.put(key)
    store.flush()
    store.log.commit(4)
    snapshot, work = store.log.start_snapshot(1)
    work()
    if random.random() < 0.7:
        store.log.finish_snapshot(snapshot)
        store.put("e")
        if random.random() < 0.5:
            store.flush()
    store.disk.crash(random)
    assert store.keys(store.open().image)[:4] == "abcd"


def test_the_leaders_snapshot_takes_the_place_of_the_log(store):
    leader = Store()
    snapshot = filled(leader)
    for key in "xyz":
        store.put(key)
    download = store.log.begin_snapshot_fetch(snapshot)
    size, position = leader.log.snapshot_size(snapshot), 0
    while position < size:
        download.append(leader.log.read_snapshot(snapshot, position, 50))
        position += 50
    assert download.position == size
    download.finish()
    download.close()
    store.log.install(Snapshot(snapshot, download.image))
    assert store.log.committed == leader.log.committed
    assert (store.log.start_offset, store.log.end_offset, store.log.last_epoch) == (4, 4, 2)
    assert store.log.epoch_end(7) == (2, 4)
    leader.put("a", epoch=3)
    store.log.append_as_follower(leader.log.read(4, 5, 1000), 4, 3)
    store.flush()
    store.disk.crash(Random(1))
    assert store.open().image == leader.log.image


@pytest.mark.parametrize("keys", ["xyz", "vwxyz"], ids=["shorter", "longer"])
def test_a_crash_between_storing_and_installing_is_made_good(store, keys):
    """The log is not the one that the snapshot stands for, and gives way."""
    leader = Store()
    filled(leader)
    for key in keys:
        store.put(key)
    store.flush()
    MetadataSnapshots(store.disk, FOLDER).write(leader.log.snapshot, leader.log.committed)
    store.disk.crash(Random(2))
    log = store.open()
    assert log.committed == log.image == leader.log.committed
    assert log.start_offset == log.end_offset == 4


def test_a_part_of_a_snapshot_is_gone_after_a_crash(store):
    snapshot = filled(Store())
    store.log.begin_snapshot_fetch(snapshot).append(b"half")
    store.kill()
    store.open()
    assert not [name for name in store.disk.list(FOLDER) if "checkpoint" in name and "epoch" not in name]


@pytest.mark.parametrize("position", [0, 10, 20, 40, -1])
def test_a_broken_snapshot_that_is_needed_refuses_the_start(store, position):
    snapshot = filled(store)
    store.close()
    path = f"{FOLDER}/{file_name(snapshot)}"
    store.disk.flip_bit(path, position % store.disk.size(path))
    with pytest.raises(MetadataDamagedError, match="begins at offset 4, and there is no good snapshot"):
        store.open()


def test_a_log_that_starts_above_0_without_a_snapshot_refuses_the_start(store):
    snapshot = filled(store)
    store.close()
    store.disk.remove(f"{FOLDER}/{file_name(snapshot)}")
    with pytest.raises(MetadataDamagedError, match="begins at offset 4, and there is no good snapshot"):
        store.open()


def test_a_broken_snapshot_past_the_logs_end_refuses_the_start(store):
    """What it held is in no other place: the node has acknowledged it."""
    leader = Store()
    filled(leader)
    store.put("x")
    store.flush()
    MetadataSnapshots(store.disk, FOLDER).write(leader.log.snapshot, leader.log.committed)
    store.disk.flip_bit(f"{FOLDER}/{file_name(leader.log.snapshot)}", 50)
    store.close()
    with pytest.raises(MetadataDamagedError, match="ends at offset 1, and the snapshot"):
        store.open()


def test_a_broken_snapshot_of_what_the_log_still_has_is_thrown_away(store):
    for key in "abc":
        store.put(key)
    store.log.commit(3)
    snapshot, work = store.log.start_snapshot(1)
    work()
    store.disk.flip_bit(f"{FOLDER}/{file_name(snapshot)}", 50)
    store.close()
    assert store.keys(store.open().image) == "abc"
    assert MetadataSnapshots(store.disk, FOLDER).ids() == []


def test_a_flipped_bit_below_the_flushed_end_refuses_the_start(store):
    for key in "abc":
        store.put(key)
    store.flush()
    store.folder.write_checkpoints()
    store.disk.flip_bit(f"{FOLDER}/{0:020d}.log", 70)
    store.kill()
    with pytest.raises(MetadataDamagedError, match="the metadata log is damaged"):
        store.open()


def test_a_snapshot_is_only_what_was_written():
    image = MetadataImage(end_offset=7, next_node_id=3)
    snapshot = SnapshotId(7, 2)
    content = metadata_snapshots.encode(snapshot, image)
    assert metadata_snapshots.decode(snapshot, content) == image
    for bad in (b"", content[:-1], content[: len(content) // 2], content + b"x"):
        with pytest.raises(CorruptMessageError):
            metadata_snapshots.decode(snapshot, bad)
    with pytest.raises(CorruptMessageError):
        metadata_snapshots.decode(SnapshotId(7, 3), content)
    for position in range(len(content)):
        with pytest.raises(CorruptMessageError):
            metadata_snapshots.decode(
                snapshot, content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
            )
