"""Epochs that are over, that are yet to come, and that cannot be: each is refused by its name, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.groups.consumer_protocol import Subscription, encode_subscription
from zmqbroker.transport.cluster_messages import AlterPartitionReassignmentsRequest, ElectLeadersRequest, Reassignment
from zmqbroker.transport.group_messages import (
    DescribeGroupsRequest,
    FindCoordinatorRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    OffsetToCommit,
    SyncGroupRequest,
)
from zmqbroker.transport.messages import (
    FetchRequest,
    InitProducerIdRequest,
    ListOffsetsRequest,
    OffsetForLeaderEpochRequest,
    PartitionData,
    PartitionEpoch,
    PartitionFetch,
    PartitionTimestamp,
    ProduceRequest,
)
from zmqbroker.transport.peer_messages import (
    AlterPartitionRequest,
    ClaimGroupRequest,
    ForwardRequest,
    HeartbeatNodeRequest,
    PartitionChange,
    RegisterNodeRequest,
    ReleaseGroupRequest,
    ReplicaFetchRequest,
    ReplicaPosition,
)
from zmqbroker.transport.quorum_messages import (
    AddVoterRequest,
    BeginQuorumEpochRequest,
    EndQuorumEpochRequest,
    FetchSnapshotRequest,
    QuorumFetchRequest,
    RemoveVoterRequest,
    Voter,
    VoteRequest,
)

FENCED, UNKNOWN = "FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH"
STALE, NOT_REGISTERED = "STALE_BROKER_EPOCH", "BROKER_ID_NOT_REGISTERED"
INVALID = "INVALID_REQUEST"
STRANGER = 99
SUBSCRIPTION = encode_subscription(Subscription(("t",)))


class Facts:
    """What is so in the cluster: with it a test says what is not."""

    def __init__(self, cluster: Any, topic: str) -> None:
        state = cluster.state(topic)
        nodes = cluster.image.nodes
        self.cluster, self.topic = cluster, topic
        self.leader, self.epoch, self.partition_epoch = state.leader, state.leader_epoch, state.partition_epoch
        self.follower = next(node for node in state.isr if node != state.leader)
        self.node_epochs = {node_id: node.epoch for node_id, node in nodes.items()}
        self.isr = [(node_id, nodes[node_id].epoch) for node_id in state.isr]
        controller = cluster.controller
        self.controller = controller.context.config.node_id
        self.quorum_epoch = controller.on_reactor(lambda: controller.actor("quorum").machine.epoch)
        self.voters = {node_id: Voter(node_id, directory) for node_id, directory in cluster.image.voters}


@pytest.fixture
def facts(cluster, eventually):
    """Three nodes, a topic of theirs in its second leader epoch, with a record of each."""
    cluster.assign("t", [1, 2, 3])
    eventually(lambda: len(cluster.state("t").isr) == 3, "an ISR")
    assert cluster.leader("t").client().produce("t", b"first").error_code == 0
    client = cluster.controller.client()
    moved = AlterPartitionReassignmentsRequest([Reassignment("t", 0, [2, 3, 1])], 10_000)
    assert client.call(moved).partitions[0].error_code == 0
    client.call(ElectLeadersRequest([("t", 0)]))
    eventually(lambda: cluster.state("t").leader == 2 and cluster.state("t").leader_epoch == 1, "the second epoch")
    eventually(lambda: cluster[2].client().produce("t", b"second").error_code == 0, "the new leader's role")
    cluster.settled()
    return Facts(cluster, "t")


def all_refused(facts: Facts, error_of: Any, cases: list[tuple[Any, Any, tuple[bytes, ...], str]]) -> None:
    """Every request, from its client, is refused by the error of this name; nothing has changed after all of them."""
    before = facts.cluster.everything("t")
    for client, request, batches, name in cases:
        found, sentence = error_of(client.ask(request, *batches))
        assert found == name, (request, found, sentence)
        assert len(sentence.split()) > 3, sentence
    assert facts.cluster.everything("t") == before


def test_the_leader_epoch_of_a_client(facts, error_of, batch):
    client = facts.cluster[facts.leader].client()
    cases = []
    for epoch, name in ((0, FENCED), (2, UNKNOWN), (2**31 - 1, UNKNOWN)):
        cases += [
            (client, ProduceRequest(-1, 5000, [PartitionData("t", 0, epoch)]), (batch(b"x"),), name),
            (client, FetchRequest(0, 0, 1000, [PartitionFetch("t", 0, 0, 1000, epoch)]), (), name),
            (client, ListOffsetsRequest([PartitionTimestamp("t", 0, -1, epoch)]), (), name),
            (client, OffsetForLeaderEpochRequest([PartitionEpoch("t", 0, 0, epoch)]), (), name),
        ]
    all_refused(facts, error_of, cases)
    # Who does not lead says so, whatever the epoch.
    follower = facts.cluster[facts.follower].client()
    names = {
        error_of(follower.ask(ProduceRequest(-1, 5000, [PartitionData("t", 0, epoch)]), batch(b"x")))[0]
        for epoch in (-1, 1)
    }
    assert names == {"NOT_LEADER_OR_FOLLOWER"}
    # What is right still works, and what is asked of an epoch to come is answered for the latest that there is.
    assert client.produce("t", b"right", leader_epoch=1).error_code == 0
    answer = client.call(OffsetForLeaderEpochRequest([PartitionEpoch("t", 0, 7, 1)])).partitions[0]
    assert (answer.error_code, answer.leader_epoch, answer.end_offset) == (0, 1, 3)


def replica_fetch(facts: Facts, **changes: Any) -> ReplicaFetchRequest:
    request = ReplicaFetchRequest(facts.follower, facts.node_epochs[facts.follower], 2**60, 0, 0, 1000, [])
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def test_the_node_epoch_and_the_session_of_a_replicas_fetch(facts, error_of):
    cluster, follower = facts.cluster, facts.follower
    voice = cluster.voice(follower, to=facts.leader)
    now = facts.node_epochs[follower]
    server = cluster[facts.leader].actor(f"replica-server/{follower}")
    session = server._session
    cases = [
        (replica_fetch(facts, node_epoch=now - 1), STALE),
        (replica_fetch(facts, node_epoch=-1), STALE),
        (replica_fetch(facts, node_epoch=-(2**63)), STALE),
        (replica_fetch(facts, node_epoch=now + 1), NOT_REGISTERED),
        (replica_fetch(facts, node_epoch=2**63 - 1), NOT_REGISTERED),
        (replica_fetch(facts, node_id=STRANGER), NOT_REGISTERED),
        (replica_fetch(facts, node_id=-1), NOT_REGISTERED),
        (replica_fetch(facts, node_id=facts.leader), INVALID),
        (replica_fetch(facts, number=3), "FETCH_SESSION_ID_NOT_FOUND"),
        (replica_fetch(facts, session=-1, number=-1), "FETCH_SESSION_ID_NOT_FOUND"),
        (replica_fetch(facts, session=session, number=0), "INVALID_FETCH_SESSION_EPOCH"),
        (replica_fetch(facts, session=session - 1, number=0), "INVALID_FETCH_SESSION_EPOCH"),
        (replica_fetch(facts, session=session, number=-1), "INVALID_FETCH_SESSION_EPOCH"),
        (replica_fetch(facts, session=session, number=2**62), "INVALID_FETCH_SESSION_EPOCH"),
    ]
    all_refused(facts, error_of, [(voice, request, (), name) for request, name in cases])


@pytest.mark.parametrize(("epoch", "name"), [(0, FENCED), (2, UNKNOWN), (-1, FENCED), (2**31 - 1, UNKNOWN)])
def test_the_leader_epoch_of_a_replicas_fetch(facts, error_of, epoch, name):
    """Said under a valid node epoch: it takes the place of the real fetcher's session, which begins another."""
    cluster = facts.cluster
    voice = cluster.voice(facts.follower, to=facts.leader)
    before = cluster.everything("t")
    position = ReplicaPosition("t", 0, epoch, 0, -1)
    reply = voice.ask(replica_fetch(facts, changed=[position], max_wait_ms=5000))
    assert error_of(reply)[0] == name
    assert voice.ask(replica_fetch(facts, number=9)).error_code
    assert cluster.leader("t").client().produce("t", b"more").error_code == 0
    assert cluster.everything()[:2] == before[:2], "the ISR is as it was"


def test_the_node_epoch_of_heartbeats_and_registrations(facts, error_of):
    cluster, follower = facts.cluster, facts.follower
    now, cluster_id = facts.node_epochs[follower], cluster[1].context.cluster_id

    def registration(node_id: int, **changes: Any) -> RegisterNodeRequest:
        request = RegisterNodeRequest(cluster_id, node_id, "d", "i", "h", 1, "", False, 0, 0)  # noqa: FBT003
        for name, value in changes.items():
            setattr(request, name, value)
        return request

    requests = [
        (HeartbeatNodeRequest(follower, now - 1, 2**40), STALE),
        (HeartbeatNodeRequest(follower, now + 1, 2**40), STALE),
        (HeartbeatNodeRequest(follower, -1, -1, want_shut_down=True), STALE),
        (HeartbeatNodeRequest(follower, 2**63 - 1, 2**63 - 1, want_shut_down=True), STALE),
        (HeartbeatNodeRequest(STRANGER, now, 2**40), NOT_REGISTERED),
        (HeartbeatNodeRequest(-1, now, 2**40), NOT_REGISTERED),
        (registration(follower), "DUPLICATE_BROKER_REGISTRATION"),
        (registration(facts.controller), "DUPLICATE_BROKER_REGISTRATION"),
        (registration(STRANGER, cluster_id="other"), "INCONSISTENT_CLUSTER_ID"),
        (registration(STRANGER, min_version=1, max_version=9), "UNSUPPORTED_VERSION"),
        (registration(STRANGER, was_member=True), NOT_REGISTERED),
        (registration(STRANGER, port=2**16), INVALID),
        (registration(STRANGER, incarnation=""), INVALID),
        (registration(-1), INVALID),
        (registration(-(2**31)), INVALID),
    ]
    cases = []
    for to in (facts.controller, next(node for node in cluster.nodes if node != facts.controller)):
        voice = cluster.voice(STRANGER, to=to)
        cases += [(voice, request, (), name) for request, name in requests]
    all_refused(facts, error_of, cases)


def test_the_epochs_of_a_change_of_the_isr(facts, error_of):
    cluster, leader = facts.cluster, facts.leader
    now, isr = facts.node_epochs[leader], facts.isr
    follower = facts.follower

    def change(sender: int = leader, node_epoch: int = now, **changes: Any) -> AlterPartitionRequest:
        entry = PartitionChange("t", 0, facts.epoch, facts.partition_epoch, isr[:1] if isr[0][0] == leader else isr)
        entry.new_isr = [(leader, now)]
        for name, value in changes.items():
            setattr(entry, name, value)
        return AlterPartitionRequest(sender, node_epoch, [entry])

    other = (follower, facts.node_epochs[follower])
    requests = [
        (change(node_epoch=now - 1), STALE),
        (change(node_epoch=now + 1), STALE),
        (change(node_epoch=-(2**63)), STALE),
        (change(sender=STRANGER), NOT_REGISTERED),
        (change(leader_epoch=facts.epoch - 1), FENCED),
        (change(leader_epoch=-(2**31)), FENCED),
        (change(leader_epoch=facts.epoch + 1), UNKNOWN),
        (change(leader_epoch=2**31 - 1), UNKNOWN),
        (change(partition_epoch=facts.partition_epoch - 1), "INVALID_UPDATE_VERSION"),
        (change(partition_epoch=facts.partition_epoch + 1), "INVALID_UPDATE_VERSION"),
        (change(partition_epoch=-1), "INVALID_UPDATE_VERSION"),
        (change(follower, facts.node_epochs[follower]), "NOT_LEADER_OR_FOLLOWER"),
        (change(new_isr=[]), INVALID),
        (change(new_isr=[other]), INVALID),
        (change(new_isr=[(leader, now), (leader, now)]), INVALID),
        (change(new_isr=[(leader, now), (follower, other[1] - 1)]), "INELIGIBLE_REPLICA"),
        (change(new_isr=[(leader, now), (follower, 2**62)]), "INELIGIBLE_REPLICA"),
        (change(new_isr=[(leader, now), (STRANGER, now)]), "INELIGIBLE_REPLICA"),
        (change(topic="none"), "UNKNOWN_TOPIC_OR_PARTITION"),
        (change(partition=2**31 - 1), "UNKNOWN_TOPIC_OR_PARTITION"),
    ]
    voice = cluster.voice(leader, to=next(node for node in cluster.nodes if node != leader))
    all_refused(facts, error_of, [(voice, request, (), name) for request, name in requests])


def test_the_epochs_of_the_quorum(facts, error_of):
    cluster, me = facts.cluster, facts.controller
    epoch, mine = facts.quorum_epoch, facts.voters[facts.controller]
    voice = cluster.voice(STRANGER, to=me)
    sender = next(voter for node_id, voter in facts.voters.items() if node_id != me)
    wrong_disk = Voter(me, "another")

    def vote(voter: Voter = mine, candidate: Voter = sender, at: int = epoch, *, pre: bool = False) -> VoteRequest:
        return VoteRequest(voter, candidate, at, 2**20, 2**40, pre)

    requests = [
        (vote(at=-1), INVALID),
        (vote(at=2**31 - 1), INVALID),
        (vote(at=2**30), INVALID),
        (vote(at=epoch + 2**20 + 1, pre=True), INVALID),
        (vote(wrong_disk, at=epoch + 1), "INCONSISTENT_VOTER_SET"),
        (vote(Voter(STRANGER, "d"), at=epoch + 1), "INCONSISTENT_VOTER_SET"),
        (vote(candidate=mine, at=epoch + 1), INVALID),
        (BeginQuorumEpochRequest(mine, sender.node_id, epoch), INVALID),
        (BeginQuorumEpochRequest(mine, me, epoch + 1), INVALID),
        (BeginQuorumEpochRequest(wrong_disk, sender.node_id, epoch + 1), "INCONSISTENT_VOTER_SET"),
        (BeginQuorumEpochRequest(mine, sender.node_id, -1), INVALID),
        (BeginQuorumEpochRequest(mine, sender.node_id, 2**31 - 1), INVALID),
        (BeginQuorumEpochRequest(mine, sender.node_id, 2**30), INVALID),
        (EndQuorumEpochRequest(sender.node_id, epoch, [sender.node_id]), INVALID),
        (EndQuorumEpochRequest(me, epoch, [me]), INVALID),
        (EndQuorumEpochRequest(STRANGER, 2**31 - 1, []), INVALID),
        (QuorumFetchRequest(mine, epoch, 0, -1, 0, 0, 1000), INVALID),
        (QuorumFetchRequest(sender, -1, 0, -1, 0, 0, 1000), INVALID),
        (QuorumFetchRequest(sender, 2**30, 0, -1, 0, 0, 1000), INVALID),
        (FetchSnapshotRequest(sender, epoch, 10, 1, 0, 1000), "SNAPSHOT_NOT_FOUND"),
        (FetchSnapshotRequest(sender, -5, 10, 1, 0, 1000), INVALID),
        (AddVoterRequest(sender.node_id, sender.directory_id), "DUPLICATE_VOTER"),
        (AddVoterRequest(STRANGER, "d"), "REQUEST_TIMED_OUT"),
        (RemoveVoterRequest(sender.node_id, "another"), "VOTER_NOT_FOUND"),
        (RemoveVoterRequest(STRANGER, "d"), "VOTER_NOT_FOUND"),
    ]
    all_refused(facts, error_of, [(voice, request, (), name) for request, name in requests])
    # What is of the past is answered by who knows better.
    before = cluster.everything()
    assert not voice.call(vote(at=epoch - 1)).granted
    assert not voice.call(vote(at=epoch)).granted
    assert not voice.call(vote(at=epoch, pre=True)).granted
    for answer in (
        voice.call(BeginQuorumEpochRequest(mine, sender.node_id, epoch - 1)),
        voice.call(EndQuorumEpochRequest(sender.node_id, epoch - 1, [])),
        voice.call(QuorumFetchRequest(sender, epoch - 1, 0, -1, 0, 0, 1000)),
        voice.call(FetchSnapshotRequest(sender, epoch - 1, 10, 1, 0, 1000)),
    ):
        assert (answer.epoch, answer.leader_id) == (epoch, me)
    assert cluster.everything() == before


def test_an_election_that_a_future_epoch_forces_loses_nothing(facts, eventually):
    """It has been asked for by who says it is a voter, and nobody can know better: the quorum elects, and goes on."""
    cluster = facts.cluster
    before = cluster.everything("t")
    sender = next(voter for node_id, voter in facts.voters.items() if node_id != facts.controller)
    voice = cluster.voice(sender.node_id, to=facts.controller)
    mine = facts.voters[facts.controller]
    answer = voice.call(VoteRequest(mine, sender, facts.quorum_epoch + 5, 0, 0, False))  # noqa: FBT003
    assert not answer.granted, "its log is too short"
    eventually(lambda: len({node.context.controller_id for node in cluster.alive()} - {-1}) == 1, "one controller")
    cluster.create("after")
    after = cluster.everything("t")
    assert after[2] == before[2]
    assert after[0].voters == before[0].voters


def test_nobody_but_nodes_may_ask_what_nodes_ask(facts, error_of):
    """However right its epochs are: a client that has not said that it is a node of this cluster changes nothing."""
    cluster, leader, follower = facts.cluster, facts.leader, facts.follower
    now = facts.node_epochs
    epoch, mine = facts.quorum_epoch, facts.voters[facts.controller]
    sender = next(voter for node_id, voter in facts.voters.items() if node_id != facts.controller)
    change = PartitionChange("t", 0, facts.epoch, facts.partition_epoch, [(leader, now[leader])])
    inner = HeartbeatNodeRequest(follower, now[follower], 2**40, want_shut_down=True)
    registration = RegisterNodeRequest(
        cluster[1].context.cluster_id, STRANGER, "d", "i", "h", 1, "", clean=True, min_version=0, max_version=0
    )
    requests = [
        replica_fetch(facts, changed=[ReplicaPosition("t", 0, 1, 2, 1)]),
        registration,
        inner,
        AlterPartitionRequest(leader, now[leader], [change]),
        ForwardRequest(inner.API, [follower, now[follower], 2**40, True]),
        ClaimGroupRequest("g"),
        ReleaseGroupRequest("g"),
        VoteRequest(mine, sender, epoch + 1, 2**20, 2**40, pre_vote=False),
        BeginQuorumEpochRequest(mine, sender.node_id, epoch + 1),
        EndQuorumEpochRequest(sender.node_id, epoch + 1, []),
        QuorumFetchRequest(sender, epoch, 2**40, epoch, 0, 0, 1000),
        FetchSnapshotRequest(sender, epoch, 10, 1, 0, 1000),
        AddVoterRequest(STRANGER, "d"),
        RemoveVoterRequest(sender.node_id, sender.directory_id),
    ]
    cases = []
    for to in cluster.nodes:
        client = cluster[to].client()
        cases += [(client, request, (), "CLUSTER_AUTHORIZATION_FAILED") for request in requests]
    all_refused(facts, error_of, cases)


def test_producers_of_the_past_are_refused_by_a_new_leader_too(facts, error_of, batch, eventually):
    cluster = facts.cluster
    client = cluster[facts.leader].client()
    given = client.call(InitProducerIdRequest(-1, -1))
    newer = client.call(InitProducerIdRequest(given.producer_id, given.producer_epoch))
    assert newer.producer_epoch == given.producer_epoch + 1

    def produce(epoch: int, sequence: int = 0) -> tuple[ProduceRequest, tuple[bytes]]:
        made = batch(b"x", producer_id=given.producer_id, producer_epoch=epoch, base_sequence=sequence)
        return ProduceRequest(-1, 5000, [PartitionData("t", 0)]), (made,)

    request, batches = produce(1)
    assert client.call(request, *batches).partitions[0].error_code == 0
    client.call(
        AlterPartitionReassignmentsRequest([Reassignment("t", 0, [3, 1, 2])], 10_000),
    )
    client.call(ElectLeadersRequest([("t", 0)]))
    eventually(lambda: cluster.state("t").leader == 3, "another leader")
    cluster.settled()
    client = cluster[3].client()
    eventually(lambda: client.fetch("t")[0].error_code == 0, "its role")
    cases = [
        (client, *produce(0), "INVALID_PRODUCER_EPOCH"),
        (client, *produce(1, 7), "OUT_OF_ORDER_SEQUENCE_NUMBER"),
        (client, *produce(-1), "INVALID_RECORD"),
        (client, *produce(1, -3), "INVALID_RECORD"),
    ]
    all_refused(facts, error_of, cases)


def join(client: Any) -> Any:
    """One member of a group that is stable."""
    request = JoinGroupRequest("g", 10_000, 30_000, "", None, "consumer", [("range", SUBSCRIPTION)], None)
    joined = client.call(request)
    if joined.error_code:
        request.member_id = joined.member_id
        joined = client.call(request)
    assert joined.error_code == 0, joined
    mine = [(joined.member_id, b"")]
    client.call(SyncGroupRequest("g", joined.generation_id, joined.member_id, None, "consumer", "range", mine))
    return joined


def test_generations_of_a_group(make_cluster, error_of, eventually):
    cluster = make_cluster(3, group_initial_rebalance_delay_ms=10)
    cluster.create("t")
    found = eventually(
        lambda: next(
            (
                entry
                for entry in cluster[1].client().call(FindCoordinatorRequest(["g"])).coordinators
                if not entry.error_code
            ),
            None,
        ),
        "a coordinator",
    )
    client = cluster[found.node_id].client()
    eventually(lambda: not client.ask(OffsetFetchRequest("g")).error_code, "its role")
    joined = join(client)
    member, now = joined.member_id, joined.generation_id

    def commit(generation: int, who: str = member, offset: int = 9) -> OffsetCommitRequest:
        return OffsetCommitRequest("g", generation, who, None, [OffsetToCommit("t", 0, offset)])

    assert client.call(commit(now, offset=1)).partitions[0].error_code == 0

    def group() -> Any:
        offsets = client.call(OffsetFetchRequest("g"))
        return offsets, client.call(DescribeGroupsRequest(["g"])), cluster.everything()[0].topics["t"]

    before = group()
    for generation in (now - 1, now + 1, 2**31 - 1, -1, -(2**31)):
        for request in (
            commit(generation),
            HeartbeatRequest("g", generation, member, None),
            SyncGroupRequest("g", generation, member, None, "consumer", "range", []),
        ):
            assert error_of(client.ask(request))[0] == "ILLEGAL_GENERATION", request
    for request in (
        commit(now, "nobody"),
        HeartbeatRequest("g", now, "nobody", None),
        SyncGroupRequest("g", now, "nobody", None, "consumer", "range", []),
    ):
        assert error_of(client.ask(request))[0] == "UNKNOWN_MEMBER_ID", request
    # A node that does not coordinate the group does not pretend to know.
    other = next(node for node_id, node in cluster.nodes.items() if node_id != found.node_id)
    assert error_of(other.client().ask(commit(now)))[0] == "NOT_COORDINATOR"
    assert group() == before
    client.call(HeartbeatRequest("g", now, member, None))
