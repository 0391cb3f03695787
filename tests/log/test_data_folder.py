"""Whose a data folder is, who holds it, and how it was left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading

import pytest
from zmqbroker.errors import StorageError
from zmqbroker.log.checkpoints import CheckpointFormatError, decode_offsets, encode_offsets
from zmqbroker.log.data_folder import DataFolder, DataFolderError, split_folder_name
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.log.real_disk import RealDisk
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.log_model import make_batch, read_all

CONFIG = TopicConfig()


def open_folder(path, node_id=1, cluster_id=None):
    return DataFolder.open(
        RealDisk(), str(path), node_id=node_id, cluster_id=cluster_id, make_cluster_id=lambda: "fresh-cluster"
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


def test_files_are_kafkas(path):
    folder = open_folder(path)
    fill(folder)
    folder.close(clean=True)
    assert (path / "meta.properties").read_text() == "version=1\ncluster.id=fresh-cluster\nnode.id=1\n"
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
        "    DataFolder.open(RealDisk(), sys.argv[1], node_id=1, make_cluster_id=lambda: 'x')\n"
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


def test_a_folder_that_does_not_say_whose_it_is_is_taken(path):
    folder = open_folder(path)
    fill(folder, "t-0")
    folder.close(clean=True)
    folder = open_folder(path)
    assert folder.open_log("t-0", CONFIG, 0, "new").log_end_offset == 3
    folder.close(clean=True)
    assert b"topic_id: new" in (path / "t-0" / "partition.metadata").read_bytes()
