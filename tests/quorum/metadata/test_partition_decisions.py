"""Leaders change their ISRs, and leaders are elected on demand."""

from __future__ import annotations

import pytest
from zmqbroker.errors import (
    BrokerIdNotRegisteredError,
    EligibleLeadersNotAvailableError,
    InvalidRequestError,
    NewLeaderElectedError,
    StaleBrokerEpochError,
)
from zmqbroker.quorum import partition_decisions
from zmqbroker.quorum.records import SetNodeState
from zmqbroker.transport.cluster_messages import ElectLeadersRequest
from zmqbroker.transport.peer_messages import AlterPartitionRequest, PartitionChange


def code(entry):
    return entry.error_code


def test_an_isr_shrinks_and_grows(metadata):
    cluster = metadata(3).topic([1, 2, 3])
    entry = cluster.alter([1, 3])
    assert (code(entry), entry.leader, entry.leader_epoch, entry.isr, entry.partition_epoch) == (0, 1, 0, [1, 3], 1)
    entry = cluster.alter([3, 2, 1])
    assert (code(entry), entry.isr, entry.partition_epoch) == (0, [1, 2, 3], 2)


def test_an_isr_proposed_as_it_is_voids_the_proposals_before(metadata):
    cluster = metadata(3).topic([1, 2, 3])
    cluster.alter([1, 2])
    late = {"isr": [1, 2, 3], "partition_epoch": 1}
    entry = cluster.alter([1, 2])
    assert (code(entry), entry.isr, entry.leader_epoch, entry.partition_epoch) == (0, [1, 2], 0, 2)
    assert code(cluster.alter(**late)) == 95, "it was sent before, and its sender has given it up"
    assert cluster.state().isr == (1, 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"isr": [1, 2], "leader_epoch": 0}, 74),
        ({"isr": [1, 2], "leader_epoch": 2}, 75),
        ({"isr": [1, 2], "partition_epoch": 1}, 95),
        ({"isr": [1, 2], "partition_epoch": 9}, 95),
        ({"isr": [1, 2], "sender": 2}, 6),
        ({"isr": [1], "sender": 2}, 6),
        ({"isr": [2]}, 42),
        ({"isr": []}, 42),
        ({"isr": [1, 2, 2]}, 42),
        ({"isr": [1, 4]}, 107),
        ({"isr": [1, 9]}, 107),
        ({"isr": [1, 3]}, 107),
        ({"isr": [1, 5]}, 107),
        ({"isr": [1, 2], "member_epochs": {2: 1}}, 107),
        ({"isr": [1, 2], "member_epochs": {1: 5}}, 107),
    ],
)
def test_what_is_refused_changes_nothing_and_shows_the_state(metadata, given, expected):
    """Node 1 leads in leader epoch 1 and partition epoch 3; 3 is fenced, 4 hosts nothing, 5 is stopping."""
    cluster = metadata(5).topic([2, 1, 3, 5])
    cluster.fence(2)
    cluster.beat(2)
    cluster.fence(3)
    cluster.beat(5, want_shut_down=True)
    before, state = cluster.image, cluster.state()
    assert (state.leader, state.leader_epoch, state.partition_epoch) == (1, 1, 3)
    entry = cluster.alter(**given)
    assert code(entry) == expected
    assert entry.error_message
    assert cluster.image == before
    shown = (entry.leader, entry.leader_epoch, entry.isr, entry.partition_epoch)
    assert shown == (1, state.leader_epoch, list(state.isr), state.partition_epoch)


def test_who_has_lost_records_is_in_neither_isr_nor_elr(metadata):
    image = metadata(3).topic([1, 2, 3], **{"min.insync.replicas": 2})
    image.alter([1, 2])
    image.alter([1], lost=[2])
    assert image.summary() == (1, [1], [])
    image.fence(1)
    assert image.summary() == (-1, [1], []), "nobody else has all that is committed"
    image = metadata(3).topic([1, 2, 3], **{"min.insync.replicas": 2})
    image.alter([1])
    assert image.summary() == (1, [1], [2, 3])
    image.alter([1], lost=[3])
    assert image.summary() == (1, [1], [2])


def test_a_leader_that_has_lost_records_gives_way(metadata):
    image = metadata(3).topic([1, 2, 3], **{"min.insync.replicas": 2})
    before = image.state()
    entry = image.alter([2, 3], lost=[1])
    assert (entry.error_code, image.summary()) == (NewLeaderElectedError.code, (2, [2, 3], []))
    assert image.state().leader_epoch == before.leader_epoch + 1


def test_a_leader_that_is_alone_in_sync_gives_way_to_an_eligible_one(metadata):
    image = metadata(3).topic([1, 2, 3], **{"min.insync.replicas": 2})
    image.alter([1])
    image.fence(2)
    image.alter([], lost=[1])
    assert image.summary() == (3, [3], [2])


@pytest.mark.parametrize(
    ("isr", "lost", "fenced", "error"),
    [
        ([2, 3], [], [], InvalidRequestError),
        ([1, 2], [2], [], InvalidRequestError),
        ([], [1], [2, 3], EligibleLeadersNotAvailableError),
    ],
)
def test_a_leader_leaves_only_for_one_that_has_what_it_lacks(metadata, isr, lost, fenced, error):
    image = metadata(3).topic([1, 2, 3], **{"min.insync.replicas": 2})
    image.fence(*fenced)
    before = image.state()
    assert image.alter(isr, lost=lost).error_code == error.code
    assert image.state() == before


def test_a_partition_that_is_not_there_is_an_entry(metadata):
    cluster = metadata(1).topic([1])
    node = cluster.image.nodes[1]
    changes = [PartitionChange(*place, 0, 0, [(1, node.epoch)]) for place in (("a", 1), ("b", 0), ("a", 0))]
    request = AlterPartitionRequest(1, node.epoch, changes)
    reply = cluster.commit(partition_decisions.alter_partition(cluster.image, request, cluster.config))
    assert [entry.error_code for entry in reply.partitions] == [3, 3, 0]


def test_a_process_of_before_is_refused_as_a_whole(metadata):
    cluster = metadata(2).topic([1, 2])
    for node_id, epoch, error in ((1, 9999, StaleBrokerEpochError), (9, 0, BrokerIdNotRegisteredError)):
        with pytest.raises(error):
            partition_decisions.alter_partition(
                cluster.image, AlterPartitionRequest(node_id, epoch, []), cluster.config
            )


def test_one_request_changes_a_partition_once(metadata):
    cluster = metadata(2).topic([1, 2])
    node = cluster.image.nodes[1]
    change = PartitionChange("a", 0, 0, 0, [(1, node.epoch)])
    request = AlterPartitionRequest(1, node.epoch, [change, change])
    reply = cluster.commit(partition_decisions.alter_partition(cluster.image, request, cluster.config))
    assert [(entry.error_code, entry.partition_epoch) for entry in reply.partitions] == [(0, 1), (95, 1)]


# ---- elections on demand


def preferred_is_back(metadata, partitions=2):
    """Node 2 leads all, though 1 is preferred and in sync again."""
    cluster = metadata(3).topic(*[[1, 2, 3]] * partitions)
    cluster.fence(1)
    cluster.beat(1)
    for index in range(partitions):
        cluster.alter([1, 2, 3], partition=index)
        assert cluster.summary(index) == (2, [1, 2, 3], [])
    return cluster


def test_preferred_leaders_come_back(metadata):
    cluster = preferred_is_back(metadata)
    cluster.commit(partition_decisions.preferred_elections(cluster.image, cluster.config))
    assert [cluster.summary(index)[0] for index in range(2)] == [1, 1]
    assert partition_decisions.preferred_elections(cluster.image, cluster.config) == []


@pytest.mark.parametrize("state", ["fenced", "out of sync", "stopping", "draining"])
def test_a_preferred_leader_comes_back_only_if_it_can_lead(metadata, state):
    cluster = metadata(3).topic([1, 2, 3])
    cluster.fence(1)
    if state != "fenced":
        cluster.beat(1)
    if state in ("stopping", "draining"):
        cluster.alter([1, 2, 3])
    if state == "stopping":
        cluster.beat(1, want_shut_down=True)
    if state == "draining":
        cluster.commit([SetNodeState(1, fenced=False, stopping=False, draining=True)])
    assert cluster.state().leader == 2
    assert partition_decisions.preferred_elections(cluster.image, cluster.config) == []
    assert cluster.elect(0) == {0: 80}


def test_elections_are_asked_for(metadata):
    cluster = preferred_is_back(metadata, 3)
    assert cluster.elect(1) == {1: 0}
    assert cluster.elect(1, 7) == {1: 84, 7: 3}
    assert cluster.elect() == {0: 0, 2: 0}, "only those that need it have entries"
    assert cluster.elect() == {}


def test_one_request_elects_once(metadata):
    cluster = preferred_is_back(metadata, 1)
    request = ElectLeadersRequest([("a", 0), ("a", 0)])
    reply = cluster.commit(partition_decisions.elect_leaders(cluster.image, request, cluster.config))
    assert [entry.error_code for entry in reply.partitions] == [0, 84]


def test_an_unclean_election_is_for_partitions_without_a_leader(metadata):
    cluster = metadata(3).topic([1, 2, 3], **{"min.insync.replicas": 1})
    cluster.alter([1])
    assert cluster.elect(0, unclean=True) == {0: 84}
    cluster.fence(1, 2, 3)
    assert cluster.elect(0, unclean=True) == {0: 83}
    assert cluster.elect(0) == {0: 80}
    cluster.beat(3)
    assert cluster.summary() == (-1, [1], [])
    assert cluster.elect(unclean=True) == {0: 0}
    assert cluster.summary() == (3, [3], [])
