"""The quorum's actor: one node founds, three elect and fail over, and what is committed stays, whatever happens."""

from __future__ import annotations

from errno import ENOSPC

import pytest
from zmqbroker.actors.commands import Drain
from zmqbroker.actors.context import QUORUM
from zmqbroker.actors.metadata_log import MetadataDamagedError, MetadataLog
from zmqbroker.actors.peer_commands import AppendMetadata
from zmqbroker.actors.quorum_files import QuorumStateError
from zmqbroker.actors.reactor import NodeFatalError
from zmqbroker.errors import (
    NotControllerError,
    PositionOutOfRangeError,
    SnapshotNotFoundError,
    StorageError,
)
from zmqbroker.log.data_folder import DataFolder
from zmqbroker.log.plain_records import decode_batch
from zmqbroker.quorum.records import LeaderChange, RegisterNode, SetConfig, SetVoters, decode
from zmqbroker.transport.quorum_messages import (
    AddVoterRequest,
    DescribeQuorumRequest,
    FetchSnapshotRequest,
    RemoveVoterRequest,
    Voter,
)

METADATA_FOLDER = "/data/__cluster_metadata-0"


def put(key):
    return SetConfig(2, "t", key, "v")


def full(node, part_of_path=METADATA_FOLDER):
    """Let the node's disk take no more of some files."""

    def fault(operation, path):
        if operation in ("append", "replace") and part_of_path in path:
            raise OSError(ENOSPC, "No space left on device", path)

    node.disk.fault = fault


def test_a_node_with_an_empty_folder_founds_a_quorum_of_one_at_once(cluster):
    began_ms = cluster.clock.now_ms
    node = cluster.node(1)
    assert cluster.leader() is node
    cluster.put("a")
    assert node.context.image.voters == (node.voter,)
    assert node.config_keys == {"a"}
    assert cluster.clock.now_ms - began_ms < 5, "nothing waits for a time-out"
    assert node.flusher.jobs <= 2


def test_one_grows_to_three_voters(cluster):
    nodes = cluster.three()
    cluster.put("a", "b")
    cluster.check_nothing_lost()
    assert {node.context.image.voters for node in nodes} == {tuple(node.voter for node in nodes)}
    assert [node.controller.leader for node in nodes] == [(1, nodes[0].controller.epoch)] * 3


def test_a_killed_leader_is_replaced_within_half_a_second_and_nothing_is_lost(cluster):
    nodes = cluster.three()
    for number in range(5):
        cluster.put(f"k{number}")
    nodes[0].end()
    began_ms = cluster.clock.now_ms
    new = cluster.leader()
    assert new is not nodes[0]
    cluster.put("after")
    assert cluster.clock.now_ms - began_ms < 500
    nodes[0].start()
    cluster.check_nothing_lost()
    assert nodes[0].controller.leader == (new.id, new.controller.epoch)


def test_a_leader_that_stops_in_good_order_hands_over(cluster):
    nodes = cluster.three()
    cluster.put("a")
    began_ms = cluster.clock.now_ms
    nodes[0].reactor.tell(QUORUM, Drain())
    cluster.run_until(lambda: any(node.controller.epoch > nodes[0].controller.epoch for node in nodes[1:]))
    assert cluster.clock.now_ms - began_ms < 50
    cluster.put("b")
    nodes[0].stop()
    cluster.put("c")
    nodes[0].start()
    cluster.check_nothing_lost()


def test_a_leader_that_is_alone_decides_until_it_has_stopped(cluster):
    node = cluster.node(1)
    node.reactor.tell(QUORUM, Drain())
    cluster.put("a")
    node.stop()
    node.start()
    cluster.check_nothing_lost()


def test_without_a_majority_nothing_is_committed_and_the_leader_resigns(cluster):
    nodes = cluster.three()
    cluster.put("a")
    cluster.cut = {(1, 2), (1, 3)}
    offset = nodes[0].controller.append(put("lost"))
    cluster.run_until(lambda: nodes[0].controller.epoch == -1, within_ms=4000)
    assert nodes[0].controller.committed < offset
    cluster.put("b", by=cluster.leader())
    cluster.cut = set()
    cluster.check_nothing_lost()
    assert "lost" not in nodes[0].config_keys
    assert "lost" not in nodes[0].member._log.image.config_of(2, "t")


def test_all_nodes_lose_power_at_once_and_find_one_another_again(cluster):
    nodes = cluster.three()
    cluster.put("a", "b")
    for node in nodes:
        node.power_cut()
    for node in nodes:
        node.start()
    cluster.run_for(0)
    assert nodes[0].peers.known == {2: ("host2", 9292), 3: ("host3", 9292)}
    cluster.leader()
    cluster.put("c")
    cluster.check_nothing_lost()


def test_a_node_that_was_away_for_long_gets_a_snapshot(cluster):
    nodes = cluster.three(metadata_log_max_record_bytes_between_snapshots=1000)
    cluster.put("a")
    nodes[2].end()
    for number in range(30):
        cluster.put(f"k{number}", size=200)
    leader = cluster.leader()
    cluster.run_until(lambda: leader.member._log.start_offset > 20)
    nodes[2].start()
    cluster.check_nothing_lost()
    log = nodes[2].member._log
    assert log.start_offset > 20
    assert nodes[2].context.image == leader.context.image
    assert nodes[2].disk.list("/data/__cluster_metadata-0").count(f"{log.snapshot.offset:020d}-0000000001.checkpoint")
    nodes[2].power_cut()
    nodes[2].start()
    cluster.put("z")
    cluster.check_nothing_lost()


def test_a_wiped_disk_does_not_vote_for_what_it_has_forgotten(cluster):
    nodes = cluster.three()
    cluster.put("a")
    old = nodes[2].voter
    nodes[2].power_cut()
    nodes[2].disk = type(nodes[2].disk)()
    nodes[2].start()
    cluster.put("b")
    cluster.check_nothing_lost()
    assert nodes[2].voter != old
    assert nodes[2].member.machine.is_voter is False
    nodes[0].end()  # with one true voter left there is no majority, whatever the wiped one would say
    cluster.run_for(5000)
    assert all(node.controller.epoch == -1 for node in nodes[1:])


def test_an_observer_finds_the_leader_by_asking_whom_it_knows(cluster):
    cluster.three()
    observer = cluster.node(9)
    cluster.put("a")
    cluster.check_nothing_lost()
    assert observer.controller.leader[0] == cluster.leader().id
    assert observer.member.machine.is_voter is False
    assert 9 in [replica.node_id for replica in cluster.leader().call(DescribeQuorumRequest()).observers]


# ---- the disk


def test_decisions_of_one_turn_share_one_flush(cluster):
    node = cluster.node(1)
    cluster.put("a")
    jobs = node.flusher.jobs
    offsets = [node.controller.append(put(f"k{number}")) for number in range(10)]
    cluster.run_until(lambda: node.controller.committed >= offsets[-1])
    assert node.flusher.jobs == jobs + 1


def test_followers_have_it_before_the_leader_has_flushed_but_then_it_counts_without_it(cluster):
    nodes = cluster.three()
    cluster.put("a")
    nodes[0].flush_ms = 300.0
    offset = nodes[0].controller.append(put("b"))
    cluster.run_for(20)
    assert nodes[0].member._log.flushed_offset < offset
    assert [node.member._log.flushed_offset for node in nodes[1:]] == [offset, offset]
    assert nodes[0].controller.committed == offset, "a majority has it on the medium"


def test_what_only_the_leader_and_a_memory_have_is_not_committed(cluster):
    nodes = cluster.three()
    cluster.put("a")
    nodes[2].end()
    nodes[1].flush_ms = 1000.0
    offset = nodes[0].controller.append(put("b"))
    cluster.run_for(500)
    assert nodes[1].member._log.end_offset == offset
    assert nodes[0].member._log.flushed_offset == offset
    assert nodes[0].controller.committed < offset
    cluster.run_until(lambda: nodes[0].controller.committed == offset)


def test_a_full_disk_refuses_the_decision_and_what_is_built_on_it(cluster):
    node = cluster.node(1)
    cluster.put("a")
    end = node.controller.image.end_offset
    full(node)
    for key in "bc":
        node.controller.append(put(key))
    cluster.run_for(50)
    (refused,) = node.controller.refused
    assert isinstance(refused.error, StorageError)
    assert "No space left on device" in refused.error.message
    assert (refused.epoch, refused.image.end_offset) == (node.controller.epoch, end)
    node.disk.fault = None
    cluster.put("d")
    assert node.config_keys == {"a", "d"}


def test_a_full_disk_refuses_a_change_of_the_voters(cluster):
    nodes = [cluster.node(1), cluster.node(2)]
    cluster.put("a")
    cluster.run_for(50)
    full(nodes[0])
    answer = nodes[0].call(AddVoterRequest(*nodes[1].voter))
    assert isinstance(answer, StorageError)
    nodes[0].disk.fault = None
    cluster.add_voter(nodes[1])
    assert cluster.voters() == [1, 2]


def test_a_decision_of_an_epoch_that_is_over_is_dropped(cluster):
    node = cluster.node(1)
    cluster.put("a")
    end = node.member._log.end_offset
    for epoch in (0, 2, 7):
        node.reactor.tell(QUORUM, AppendMetadata(epoch, [put("x")], end, node.controller.basis))
    cluster.run_for(50)
    assert node.member._log.end_offset == end


def test_what_was_decided_before_the_controller_heard_of_new_voters_is_void_to_the_last_decision(cluster):
    """The voters stand where the first decision should, so that the second one would fit again."""
    nodes = [cluster.node(1), cluster.node(2)]
    cluster.put("a")
    cluster.run_for(50)
    controller = nodes[0].controller
    answers = nodes[0].ask(AddVoterRequest(*nodes[1].voter))
    for key in ("first", "second"):
        controller.append(put(key))
    cluster.run_until(lambda: answers)
    assert cluster.voters() == [1, 2]
    assert nodes[0].member._log.end_offset == controller.image.end_offset
    cluster.put("b")
    assert nodes[0].config_keys == {"a", "b"}


def test_a_follower_whose_disk_is_full_goes_on_when_there_is_room(cluster):
    nodes = cluster.three()
    full(nodes[2], "log")
    cluster.put("a", "b")
    cluster.run_for(1000)
    assert "a" not in nodes[2].config_keys
    nodes[2].disk.fault = None
    cluster.check_nothing_lost()


def test_a_follower_whose_disk_is_full_asks_less_and_less_often_and_says_once_why(cluster, caplog):
    nodes = cluster.three()
    full(nodes[2], "log")
    cluster.put("a")
    cluster.run_for(5000)
    asked = cluster.asked_by[3]
    cluster.run_for(10_000)
    assert cluster.asked_by[3] - asked <= 25
    assert caplog.text.count("were not appended") == 1
    nodes[2].disk.fault = None
    cluster.put("b")
    cluster.check_nothing_lost()
    full(nodes[2], "log")
    cluster.put("c")
    cluster.run_for(100)
    assert caplog.text.count("were not appended") == 2
    cluster.run_until(lambda: cluster.asked_by[3] - asked > 8)  # soon again, as the last time went well
    nodes[2].disk.fault = None
    cluster.check_nothing_lost()


@pytest.mark.parametrize("part_of_path", ["checkpoint", "spoilt"])
def test_a_snapshot_that_cannot_be_kept_is_asked_for_less_and_less_often(cluster, caplog, part_of_path):
    nodes = cluster.three(metadata_log_max_record_bytes_between_snapshots=500)
    nodes[2].end()
    for number in range(12):
        cluster.put(f"k{number}", size=60)
    cluster.run_until(lambda: all(node.member._log.start_offset > 0 for node in nodes[:2]))
    full(nodes[2], part_of_path)
    if part_of_path == "spoilt":
        for node in nodes[:2]:
            read = node.member._snapshots.read
            node.member._snapshots.read = lambda *args, read=read: (read(*args)[0], bytes(len(read(*args)[1])))
    nodes[2].start()
    cluster.run_for(5000)
    asked = cluster.asked_by[3]
    cluster.run_for(10_000)
    assert 5 <= cluster.asked_by[3] - asked <= 50  # each time what there is, and then its parts
    assert caplog.text.count("snapshot of the leader's could not be stored") == (part_of_path == "checkpoint")
    assert caplog.text.count("the snapshot that the leader has sent is not used") == (part_of_path == "spoilt")


def test_a_disk_that_is_full_at_the_start_is_a_reason_not_to_start(cluster):
    node = cluster.node(1)
    cluster.put("a")
    node.end()
    full(node)
    with pytest.raises(StorageError, match="No space left on device"):
        node.start()
    node.disk.fault = None
    node.start()
    cluster.check_nothing_lost()


def test_a_flush_that_fails_ends_the_node(cluster):
    node = cluster.node(1)
    cluster.put("a")
    node.disk.fail_once("flush", METADATA_FOLDER)
    node.controller.append(put("b"))
    with pytest.raises(NodeFatalError, match="flushing the metadata log failed"):
        cluster.run_for(50)


def test_a_vote_that_cannot_be_kept_ends_the_node(cluster):
    nodes = cluster.three()
    for node in nodes:
        full(node, "quorum-state")
    nodes[0].end()
    with pytest.raises(NodeFatalError, match=r"could not write .*quorum-state"):
        cluster.run_for(5000)


def test_broken_files_refuse_the_start(cluster):
    node = cluster.node(1, metadata_log_max_record_bytes_between_snapshots=1)
    cluster.put("a")
    cluster.run_until(lambda: node.member._log.start_offset > 0)
    cluster.run_for(20)
    snapshot = max(name for name in node.disk.list(METADATA_FOLDER) if name.endswith(".checkpoint"))
    node.stop()
    for name, error in (("quorum-state", QuorumStateError), (snapshot, MetadataDamagedError)):
        path = f"{METADATA_FOLDER}/{name}"
        node.disk.flip_bit(path, 12)
        with pytest.raises(error):
            node.start()
        node.disk.flip_bit(path, 12)
    node.start()
    cluster.check_nothing_lost()


def test_an_old_folder_of_a_single_node_is_taken_over(cluster):
    node = cluster.node(1)
    node.end()
    node.disk = type(node.disk)()
    folder = DataFolder.open(node.disk, "/data", node_id=1, cluster_id="c", make_id=lambda: "d")
    log = MetadataLog(node.disk, folder, 0)
    log.append([RegisterNode(1, "h", 1, "", clean=True), put("old")], 0, 0)
    folder.close(clean=True)
    cluster.leaders.clear()
    node.start()
    cluster.put("new")
    assert node.config_keys == {"old", "new"}
    assert node.context.image.voters == ((1, "d"),)
    assert node.context.was_member
    records = [
        decode(record.value)
        for offset in range(2, node.member._log.end_offset)
        for record in decode_batch(node.member._log.read(offset, offset + 1, 1))
    ]
    assert records == [LeaderChange(1, 1), SetVoters([(1, "d")]), put("new")]
    node.power_cut()
    node.start()
    cluster.check_nothing_lost()


# ---- snapshots, voters, descriptions


def test_a_snapshot_that_is_spoilt_on_its_way_is_fetched_again(cluster):
    nodes = cluster.three(metadata_log_max_record_bytes_between_snapshots=500)
    nodes[2].end()
    for number in range(10):
        cluster.put(f"k{number}", size=100)
    leader = cluster.leader()
    cluster.run_until(lambda: leader.member._log.start_offset > 10)
    read = leader.member._snapshots.read
    spoilt = []

    def spoil(request, bytes_max):
        size, part = read(request, bytes_max)
        if spoilt:
            return size, part
        spoilt.append(request)
        return size, part[:-9] + b"?" + part[-8:]

    leader.member._snapshots.read = spoil
    nodes[2].start()
    cluster.check_nothing_lost()
    assert len(spoilt) == 1
    assert nodes[2].member._log.start_offset > 10


def test_a_snapshot_comes_in_parts_and_only_the_newest(cluster):
    node = cluster.node(1, metadata_log_max_record_bytes_between_snapshots=300)
    for number in range(10):
        cluster.put(f"k{number}", size=100)
    cluster.run_for(20)
    snapshot = node.member._log.snapshot

    def ask(offset, position, max_bytes=100):
        replica = Voter(9, "z")
        epoch = node.controller.epoch
        return node.call(FetchSnapshotRequest(replica, epoch, offset, snapshot.epoch, position, max_bytes))

    reply = ask(snapshot.offset, 0)
    assert (reply.size, reply.position) == (node.member._log.snapshot_size(snapshot), 0)
    assert isinstance(ask(snapshot.offset - 1, 0), SnapshotNotFoundError)
    for position in (-1, reply.size + 1):
        assert isinstance(ask(snapshot.offset, position), PositionOutOfRangeError)


def test_any_node_describes_the_quorum(cluster):
    nodes = cluster.three()
    described = [node.call(DescribeQuorumRequest()) for node in nodes]
    assert {(reply.leader_id, reply.epoch) for reply in described} == {(1, nodes[0].controller.epoch)}
    assert [voter.node_id for voter in described[2].voters] == [1, 2, 3]
    nodes[0].end()
    nodes[1].end()
    cluster.run_until(lambda: nodes[2].controller.leader[0] == -1)
    assert isinstance(nodes[2].call(DescribeQuorumRequest()), NotControllerError)


def test_a_leader_that_is_removed_from_the_voters_hands_over(cluster):
    nodes = cluster.three()
    assert not isinstance(nodes[0].call(RemoveVoterRequest(*nodes[0].voter)), Exception)
    cluster.run_until(lambda: nodes[0].controller.epoch == -1)
    cluster.put("a")
    assert cluster.leader() is not nodes[0]
    assert cluster.voters() == [2, 3]
    cluster.check_nothing_lost()


def test_the_controller_hears_of_voters_that_the_quorum_has_appended(cluster):
    nodes = [cluster.node(1), cluster.node(2)]
    cluster.put("a")
    cluster.add_voter(nodes[1])
    assert nodes[0].controller.image.voters == tuple(node.voter for node in nodes)
    cluster.put("b")
    cluster.check_nothing_lost()
