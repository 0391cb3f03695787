"""Whose a data folder is, who holds it, and how it was left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from errno import EIO
from random import Random

import pytest
from zmqbroker.errors import StorageError
from zmqbroker.log.checkpoints import CheckpointFormatError, decode_offsets, encode_offsets
from zmqbroker.log.data_folder import DataFolder, DataFolderError, split_folder_name
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.log.real_disk import RealDisk
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.simulation.log_model import make_batch, read_all

CONFIG = TopicConfig()


def open_folder(path, node_id=1, cluster_id=None, join=None):
    ids = iter(["fresh-id"] if cluster_id or join else ["fresh-cluster", "fresh-id"])
    return DataFolder.open(
        RealDisk(), str(path), node_id=node_id, cluster_id=cluster_id, make_id=lambda: next(ids), join=join
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data"


def fill(folder, name="my-topic-3", count=3):
    log = folder.open_log(name, CONFIG, 0)
    log.append([make_batch([1])] * count, leader_epoch=0, now_ms=0)
    return log


def test_a_clean_stop_is_known_once(path):
    folder = open_folder(path)
    assert not folder.was_clean
    assert folder.cluster_id == "fresh-cluster"
    fill(folder)
    folder.close(clean=True)
    assert (path / ".kafka_cleanshutdown").exists()
    folder = open_folder(path, cluster_id="fresh-cluster")
    assert folder.was_clean
    assert not (path / ".kafka_cleanshutdown").exists()
    assert folder.partition_folders() == ["my-topic-3"]
    log = folder.open_log("my-topic-3", CONFIG, 0)
    assert (log.log_end_offset, log.recovery_point, log.recovery.scanned_bytes) == (3, 3, 0)
    folder.close(clean=False)
    assert not open_folder(path).was_clean


def test_the_marker_names_the_processes_that_were_told_no_epoch(path):
    said = []
    for epoch, incarnation in ((5, "a"), (-1, "b-_1"), (-1, "c"), (5, ""), (9, "d"), (-1, "e")):
        open_folder(path).close(clean=True, epoch=epoch, incarnation=incarnation)
        folder = open_folder(path)
        said.append((folder.clean_epoch, folder.clean_incarnations))
        folder.close(folder.was_clean, folder.clean_epoch)
    folder = open_folder(path)
    folder.close(clean=False)
    folder = open_folder(path)
    said.append((folder.clean_epoch, folder.clean_incarnations))
    both = ("b-_1", "c")
    assert said == [(5, ()), (5, both[:1]), (5, both), (5, both), (9, ()), (9, ("e",)), (-1, ())]


@pytest.mark.parametrize("opened", [False, True])
def test_a_stop_is_not_clean_before_what_an_unclean_end_left_is_recovered(path, opened):
    folder = open_folder(path)
    fill(folder)
    folder.close(clean=False)
    folder = open_folder(path)
    if opened:
        folder.open_log("my-topic-3", CONFIG, 0)
    folder.close(clean=True)
    assert open_folder(path).was_clean is opened


def test_a_log_that_was_given_up_and_not_opened_again_makes_no_clean_stop(path):
    folder = open_folder(path)
    fill(folder)
    folder.abandon_log("my-topic-3")
    folder.close(clean=True)
    assert not open_folder(path).was_clean


def test_the_processes_that_had_the_folder_are_known(path):
    folder = open_folder(path)
    assert folder.note_start("p-0") == ()
    for number in range(1, 30):
        folder.close(clean=False)
        folder = open_folder(path)
        assert folder.note_start(f"p-{number}") == tuple(f"p-{n}" for n in range(max(0, number - 16), number))
    (path / "incarnations").write_bytes(b"\xff\x00 p-1\n{}\n")
    assert folder.note_start("last") == ("p-1",)


def test_files_are_kafkas(path):
    folder = open_folder(path)
    fill(folder)
    folder.close(clean=True)
    meta = "version=1\ncluster.id=fresh-cluster\nnode.id=1\ndirectory.id=fresh-id\n"
    assert (path / "meta.properties").read_text() == meta
    assert (path / "recovery-point-offset-checkpoint").read_text() == "0\n1\nmy-topic 3 3\n"
    assert (path / "log-start-offset-checkpoint").read_text() == "0\n1\nmy-topic 3 0\n"
    assert (path / "my-topic-3" / "leader-epoch-checkpoint").read_text() == "0\n1\n0 0\n"


def test_a_second_process_is_refused_in_one_sentence(path):
    folder = open_folder(path)
    script = (
        "import sys\n"
        "from zmqbroker.log.data_folder import DataFolder, DataFolderError\n"
        "from zmqbroker.log.real_disk import RealDisk\n"
        "try:\n"
        "    DataFolder.open(RealDisk(), sys.argv[1], node_id=1, make_id=lambda: 'x')\n"
        "except DataFolderError as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "in use by another process" in done.stdout
    folder.close(clean=True)
    open_folder(path).close(clean=True)


def test_a_folder_of_another_cluster_or_node_is_refused(path):
    open_folder(path).close(clean=True)
    with pytest.raises(DataFolderError, match=r"fresh-cluster.*other"):
        open_folder(path, cluster_id="other")
    with pytest.raises(DataFolderError, match=r"node 1.*node 2"):
        open_folder(path, node_id=2)
    open_folder(path).close(clean=True)


def test_a_folder_keeps_its_own_id(path):
    folder = open_folder(path)
    assert folder.directory_id == "fresh-id"
    folder.close(clean=True)
    folder = DataFolder.open(RealDisk(), str(path), node_id=1, make_id=lambda: "another")
    assert (folder.cluster_id, folder.directory_id) == ("fresh-cluster", "fresh-id")
    folder.close(clean=True)


@pytest.mark.parametrize("end", ["\n", ""])
def test_an_old_folder_gets_an_id_once_and_keeps_what_else_it_says(path, end):
    open_folder(path).close(clean=True)
    old = "#\n#Thu Jan 01\nnode.id = 1\nversion=1\ncluster.id=old-cluster\nextra=kept"
    (path / "meta.properties").write_text(old + end)
    ids = iter(["made-once"])
    for _ in range(2):
        folder = DataFolder.open(RealDisk(), str(path), node_id=1, make_id=lambda: next(ids))
        assert (folder.cluster_id, folder.node_id, folder.directory_id) == ("old-cluster", 1, "made-once")
        folder.close(clean=True)
    assert (path / "meta.properties").read_text() == old + "\ndirectory.id=made-once\n"


def test_a_refused_folder_gets_no_id(path):
    open_folder(path).close(clean=True)
    old = "version=1\ncluster.id=fresh-cluster\nnode.id=1\n"
    (path / "meta.properties").write_text(old)
    with pytest.raises(DataFolderError, match=r"node 1.*node 2"):
        open_folder(path, node_id=2)
    assert (path / "meta.properties").read_text() == old


def test_a_crash_leaves_the_old_identity_or_the_new_one():
    for seed in range(20):
        disk = MemoryDisk()
        DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "c").close(clean=True)
        disk.replace_file("/data/meta.properties", b"version=1\ncluster.id=c\nnode.id=1\n")
        folder = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "first")
        told = folder.directory_id
        disk.crash(Random(seed))
        folder = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "second")
        assert folder.directory_id == told, "an id that was told does not change"


class Forgetful(Random):
    """Of what was not synced a crash keeps nothing."""

    def choice(self, seq):
        return seq[0]


def killed_before_the_sync(disk):
    """Open the folder with a process that is killed before it has synced what it did first."""
    disk.fail_once("sync_folder")
    with pytest.raises(OSError, match="injected"):
        DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "id")
    assert disk.fault is None


def test_a_marker_that_a_killed_process_took_away_does_not_come_back():
    disk = MemoryDisk()
    DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "id").close(clean=True)
    killed_before_the_sync(disk)
    folder = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "id")
    assert not folder.was_clean
    fill(folder)
    disk.crash(Forgetful())
    assert not DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "id").was_clean


def test_an_identity_that_a_killed_process_did_not_sync_does_not_go_once_it_was_told():
    disk = MemoryDisk()
    ids = iter("abcdefgh")

    def fault(operation, path):
        if operation == "sync_folder" and disk.exists("/data/meta.properties"):
            raise OSError(EIO, "injected fault", path)

    disk.fault = fault
    with pytest.raises(OSError, match="injected"):
        DataFolder.open(disk, "/data", node_id=1, make_id=lambda: next(ids))
    disk.fault = None
    told = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: next(ids))
    disk.crash(Forgetful())
    again = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: next(ids))
    assert (again.cluster_id, again.directory_id) == (told.cluster_id, told.directory_id)


def test_a_new_folder_joins_once_and_then_knows_who_it_is(path):
    asked = []

    def join(node_id):
        asked.append(node_id)
        return "joined-cluster", 7

    for _ in range(2):
        folder = open_folder(path, node_id=-1, join=join)
        assert (folder.cluster_id, folder.node_id, folder.directory_id) == ("joined-cluster", 7, "fresh-id")
        folder.close(clean=True)
    assert asked == [-1]
    open_folder(path, node_id=7).close(clean=True)
    with pytest.raises(DataFolderError, match=r"node 7.*node 8"):
        open_folder(path, node_id=8, join=join)


def test_a_failed_join_leaves_the_folder_empty_and_free(path):
    def fail(_):
        raise StorageError

    with pytest.raises(StorageError):
        open_folder(path, node_id=-1, join=fail)
    assert not (path / "meta.properties").exists()
    open_folder(path).close(clean=True)


def test_a_second_process_does_not_join_with_the_same_folder(path):
    def join(node_id):
        with pytest.raises(DataFolderError, match="in use by another process"):
            open_folder(path, join=lambda _: pytest.fail("joined twice"))
        return "joined-cluster", node_id

    open_folder(path, join=join).close(clean=True)


def test_a_new_folder_without_a_node_id_is_refused(path):
    with pytest.raises(DataFolderError, match=r"set node\.id"):
        open_folder(path, node_id=-1)
    assert not (path / "meta.properties").exists()


@pytest.mark.parametrize(
    "text",
    [
        "version=1\ncluster.id=a\nnode.id=1\ndirectory.id=\n",
        "version=1\ncluster.id=a\nnode.id=-1\n",
    ],
)
def test_an_identity_that_cannot_be_is_refused(path, text):
    open_folder(path).close(clean=True)
    (path / "meta.properties").write_text(text)
    with pytest.raises(DataFolderError, match=r"meta.properties"):
        open_folder(path)


@pytest.mark.parametrize(
    "text", ["", "rubbish", "version=1\ncluster.id=a\n", "version=7\ncluster.id=a\nnode.id=1\n", None]
)
def test_lost_meta_properties_never_means_a_new_folder(path, text):
    folder = open_folder(path)
    fill(folder)
    folder.close(clean=True)
    if text is None:
        (path / "meta.properties").unlink()
    else:
        (path / "meta.properties").write_text(text)
    with pytest.raises(DataFolderError, match=r"meta.properties"):
        open_folder(path)
    assert (path / "my-topic-3").exists()


@pytest.mark.parametrize("spoil", ["", "0\n5\na 0 1\n", None])
def test_lost_recovery_points_cut_nothing(path, spoil):
    folder = open_folder(path)
    log = fill(folder, count=5)
    size = log.size_bytes
    folder.close(clean=False)
    checkpoint = path / "recovery-point-offset-checkpoint"
    if spoil is None:
        checkpoint.unlink()
    else:
        checkpoint.write_text(spoil)
    data = bytearray((path / "my-topic-3" / f"{0:020d}.log").read_bytes())
    data[size // 2] ^= 1
    (path / "my-topic-3" / f"{0:020d}.log").write_bytes(data)
    folder = open_folder(path)
    assert folder.warnings
    log = folder.open_log("my-topic-3", CONFIG, 0)
    assert log.damage is not None
    assert (path / "my-topic-3" / f"{0:020d}.log").stat().st_size == size
    folder.close(clean=True)
    assert not (path / ".kafka_cleanshutdown").exists(), "a damaged log is no clean end"


def test_checkpoints_keep_logs_that_are_not_open(path):
    folder = open_folder(path)
    fill(folder, "a-0", 4)
    fill(folder, "b-0", 2)
    folder.close(clean=True)
    folder = open_folder(path)
    folder.open_log("b-0", CONFIG, 0)
    folder.write_checkpoints()
    points = decode_offsets((path / "recovery-point-offset-checkpoint").read_bytes())
    assert points == {"a-0": 4, "b-0": 2}
    folder.delete_log("b-0")()
    folder.write_checkpoints()
    assert folder.partition_folders() == ["a-0"]
    assert decode_offsets((path / "recovery-point-offset-checkpoint").read_bytes()) == {"a-0": 4}
    folder.close(clean=True)


def test_left_over_deletions_are_removed(path):
    folder = open_folder(path)
    fill(folder, "a-0")
    folder.close(clean=True)
    (path / "a-0").rename(path / "a-0.4-delete")
    folder = open_folder(path)
    assert not (path / "a-0.4-delete").exists()
    assert folder.partition_folders() == []


def test_folder_names():
    assert split_folder_name("a-b-12") == ("a-b", 12)
    for name in ("a", "a-", "a-01", "-1", "a/b-1", "a-1.0-delete", "a" * 250 + "-1"):
        assert split_folder_name(name) is None, name


def test_checkpoint_files_are_read_whole_or_not_at_all():
    data = encode_offsets({"a-b-0": 5, "c-1": 7})
    assert decode_offsets(data) == {"a-b-0": 5, "c-1": 7}
    for cut in range(len(data)):
        with pytest.raises(CheckpointFormatError):
            decode_offsets(data[:cut])


def test_a_short_write_of_the_real_disk_leaves_nothing(path):
    disk = RealDisk()
    log = PartitionLog.open(disk, str(path / "t-0"), CONFIG, now_ms=0)
    log.append([make_batch([1])], leader_epoch=0, now_ms=0)
    size = log.size_bytes
    made = make_batch([1], value_bytes=5000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 3000, hard))
    try:
        (result,) = log.append([made], leader_epoch=0, now_ms=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert isinstance(result, StorageError)
    assert "too large" in result.message
    assert (path / "t-0" / f"{0:020d}.log").stat().st_size == size
    assert log.append([made], leader_epoch=0, now_ms=0)[0].base_offset == 1
    assert len(read_all(log)) == 2
    log.close()


def test_more_buffers_than_one_write_takes(path):
    log = PartitionLog.open(RealDisk(), str(path / "t-0"), CONFIG, now_ms=0)
    results = log.append([make_batch([1])] * 1500, leader_epoch=0, now_ms=0)
    assert results[-1].base_offset == 1499
    assert len(read_all(log)) == 1500
    log.close()


def test_a_file_can_be_written_again_as_it_is_and_no_further(path):
    path.mkdir()
    file = RealDisk().open(f"{path}/file", create=True)
    file.append([b"0123456789"])
    file.rewrite(3, file.read(3, 4))
    assert (file.size(), file.read(0, 20)) == (10, b"0123456789")
    with pytest.raises(AssertionError):
        file.rewrite(8, b"890")
    file.flush()
    file.close()
    assert (path / "file").read_bytes() == b"0123456789"


def test_a_file_closes_after_the_flush_that_is_in_it(tmp_path, monkeypatch):
    file = RealDisk().open(str(tmp_path / "f"), create=True)
    file.append([b"abc"])
    entered, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow(fd):
        entered.set()
        assert go_on.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    thread = threading.Thread(target=file.flush)
    thread.start()
    assert entered.wait(10)
    file.close()
    assert file._fd >= 0
    go_on.set()
    thread.join(10)
    assert file._fd == -1
    file.flush()


def test_a_folder_that_a_deleted_topic_left_is_not_the_new_topics(path):
    folder = open_folder(path)
    log = folder.open_log("t-0", CONFIG, 0, "old")
    log.append([make_batch([1])] * 3, leader_epoch=0, now_ms=0)
    folder.close(clean=True)
    folder = open_folder(path)
    assert folder.open_log("t-0", CONFIG, 0, "new").log_end_offset == 0
    assert (path / "t-0.0-stray" / "00000000000000000000.log").stat().st_size > 0
    assert "t-0.0-stray" in folder.warnings[0]
    folder.close(clean=True)


def test_a_recovery_point_of_what_was_set_aside_does_not_outlive_it():
    """A new log of the name that a power cut takes again is not damaged: nothing of it was flushed."""
    disk = MemoryDisk()
    folder = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "id")
    fill(folder, "t-0")
    folder.close(clean=True)
    folder = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "id")
    folder.set_aside("t-0")
    folder.open_log("t-0", CONFIG, 0, "new")
    disk.crash(Forgetful())
    folder = DataFolder.open(disk, "/data", node_id=1, make_id=lambda: "id")
    log = folder.open_log("t-0", CONFIG, 0, "new")
    assert (log.damage, log.log_end_offset) == (None, 0)


def test_a_folder_that_does_not_say_whose_it_is_is_taken(path):
    folder = open_folder(path)
    fill(folder, "t-0")
    folder.close(clean=True)
    folder = open_folder(path)
    assert folder.open_log("t-0", CONFIG, 0, "new").log_end_offset == 3
    folder.close(clean=True)
    assert b"topic_id: new" in (path / "t-0" / "partition.metadata").read_bytes()


def test_a_flush_that_failed_is_not_made_good_by_another_one(tmp_path, monkeypatch):
    file = RealDisk().open(f"{tmp_path}/file", create=True)
    file.append([b"data"])
    answers = [OSError(EIO, "Input/output error"), None]

    def flush(_fd):
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    monkeypatch.setattr(os, "fdatasync", flush)
    for _ in range(2):
        with pytest.raises(OSError, match=r"Input/output error"):
            file.flush()
    assert answers == [None], "the system was asked again, and would have said that all is well"
    file.close()
