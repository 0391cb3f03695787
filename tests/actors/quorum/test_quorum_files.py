"""What a node remembers of the quorum: kept through a power cut, never guessed; and who founds a quorum."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from zmqbroker.actors.quorum_files import NotYetJoinedError, QuorumFiles, QuorumStateError, decode, encode
from zmqbroker.errors import CorruptMessageError, StorageError
from zmqbroker.log.data_folder import DataFolder
from zmqbroker.quorum.kraft_types import QuorumState
from zmqbroker.quorum.records import LeaderChange, RegisterNode, SetVoters
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.transport.quorum_messages import Voter

PATH = "/data/__cluster_metadata-0/quorum-state"
ME = Voter(1, "d")
STATES = [
    QuorumState(),
    QuorumState(3, Voter(2, "other"), 2),
    QuorumState(2**31 - 1, ME, -1),
]


class Store:
    """The files of node 1, in memory."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()

    def open(self, *, joins: bool = False, join: Any = None) -> QuorumFiles:
        self.disk.locked.clear()
        folder = DataFolder.open(self.disk, "/data", node_id=1, cluster_id="c", make_id=lambda: "d", join=join)
        self.folder = folder
        return QuorumFiles(self.disk, folder, joins=joins, now_ms=0)

    def write(self, *records: object, epoch: int, joins: bool = False) -> None:
        """Put records into the log, flushed."""
        self.open(joins=joins).log.append(records, 0, epoch)
        self.folder.close(clean=True)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.mark.parametrize("state", STATES)
def test_the_file_is_read_as_it_was_written_or_not_at_all(state):
    content = encode(state)
    assert decode(content) == state
    for position in range(len(content)):
        for bit in (1, 2, 16):
            with pytest.raises(CorruptMessageError):
                decode(content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :])
        with pytest.raises(CorruptMessageError):
            decode(content[:position])
    with pytest.raises(CorruptMessageError):
        decode(content + b"\n")


@pytest.mark.parametrize("seed", range(5))
def test_a_vote_survives_a_power_cut(store, seed):
    store.open().save(STATES[1])
    store.disk.crash(Random(seed))
    assert store.open().state == STATES[1]


class Forgetful(Random):
    """Of what was not synced a crash keeps nothing."""

    def choice(self, seq):
        return seq[0]


def test_a_vote_that_a_killed_process_did_not_sync_does_not_go_once_another_has_read_it(store):
    files = store.open()
    store.disk.fail_once("sync_folder")
    with pytest.raises(StorageError, match="injected"):
        files.save(STATES[1])
    told = store.open().state
    store.disk.crash(Forgetful())
    assert store.open().state == told


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\x00" * 80, encode(STATES[1])[:-3], b"[" * 100_000])
def test_a_broken_file_is_a_refusal_and_never_no_vote(store, content):
    store.open()
    store.disk.replace_file(PATH, content)
    with pytest.raises(QuorumStateError, match=r"quorum-state cannot be used .* only a cluster of one node may"):
        store.open()


def test_a_missing_file_is_a_refusal_where_there_was_one(store):
    store.write(LeaderChange(1, 1), epoch=1)
    with pytest.raises(QuorumStateError, match="it is missing, and the metadata log has records of epoch 1"):
        store.open()


def test_a_file_from_before_the_log_is_a_refusal(store):
    store.open().save(QuorumState(4))
    store.write(LeaderChange(1, 4), epoch=4)
    store.disk.replace_file(PATH, encode(QuorumState(3)))
    with pytest.raises(QuorumStateError, match="it says epoch 3, and the metadata log has records of epoch 4"):
        store.open()


def test_a_full_disk_takes_no_vote(store):
    files = store.open()
    store.disk.fail_once("replace", "quorum-state")
    with pytest.raises(StorageError, match=r"could not write .*quorum-state"):
        files.save(STATES[1])


def test_an_empty_folder_founds_a_quorum_unless_it_joins(store):
    assert store.open(joins=True).voters == []
    assert store.open().voters == [(-1, [ME])]


def test_a_folder_that_has_joined_never_founds_a_quorum(store):
    assert store.open(joins=True, join=lambda node_id: ("c", node_id)).voters == []
    assert b"joined=true" in store.disk.read_file("/data/meta.properties")
    with pytest.raises(NotYetJoinedError, match=r"has joined cluster c .*: start it with --join "):
        store.open()
    assert store.open(joins=True).voters == []
    store.open(joins=True).save(QuorumState(1, None, 2))
    store.write(LeaderChange(1, 2), SetVoters([(2, "e")]), epoch=1, joins=True)
    assert store.open().voters == [(1, [Voter(2, "e")])]


def test_what_was_begun_is_finished_whatever_the_settings_say_now(store):
    store.open().save(QuorumState(1, ME, 1))
    assert store.open(joins=True).voters == [(-1, [ME])]


def test_who_follows_others_founds_nothing(store):
    store.open(joins=True).save(QuorumState(1, None, 2))
    assert store.open().voters == []


def test_an_old_log_without_voters_is_taken_over(store):
    store.write(RegisterNode(1, "h", 1, "", clean=True), epoch=0)
    for joins in (False, True):
        files = store.open(joins=joins)
        assert files.voters == [(-1, [ME])]
        assert files.state == QuorumState()


def test_the_voters_of_the_log_count(store):
    store.open().save(QuorumState(1, ME, 1))
    store.write(LeaderChange(1, 1), SetVoters([(1, "d"), (2, "e")]), epoch=1)
    assert store.open(joins=True).voters == [(1, [ME, Voter(2, "e")])]
