"""What the controller that leads does by itself: voters, preferred leaders, internal topics, nodes that come and go."""

from __future__ import annotations

import logging

from zmqbroker.errors import InvalidUpdateVersionError
from zmqbroker.transport.cluster_messages import DrainNodeRequest
from zmqbroker.transport.internal_topics import OFFSETS_TOPIC
from zmqbroker.transport.messages import CreateTopicsRequest
from zmqbroker.transport.network import LinkState
from zmqbroker.transport.peer_messages import AlterPartitionRequest, PartitionChange
from zmqbroker.transport.quorum_messages import (
    AddVoterRequest,
    DescribeQuorumRequest,
    QuorumReplica,
    RemoveVoterRequest,
)


def all_in_sync(nodes, *topics):
    """Let the leaders take all replicas that live into their ISRs, as they do when these have caught up."""
    for name in topics or list(nodes.image.topics):
        for partition, state in enumerate(nodes.image.topics[name].partitions):
            living = [n for n in state.replicas if not nodes.image.nodes[n].fenced]
            if state.leader == -1 or set(living) == set(state.isr):
                continue
            leader = nodes.image.nodes[state.leader]
            isr = [(n, nodes.image.nodes[n].epoch) for n in living]
            change = PartitionChange(name, partition, state.leader_epoch, state.partition_epoch, isr)
            nodes[leader.node_id].ask(AlterPartitionRequest(leader.node_id, leader.epoch, [change]))
    nodes.run()


def live(nodes, duration_ms, *node_ids):
    for _ in range(int(duration_ms // 500)):
        for node_id in node_ids or list(nodes.image.nodes):
            nodes[node_id].heartbeat()
        nodes.run_for(500)


def changes(nodes):
    return [call for call in nodes.quorum_calls if not isinstance(call, DescribeQuorumRequest)]


def observer(nodes, node_id, end_offset, fetched_ago_ms=0):
    at = nodes.clock.wall_ms() - fetched_ago_ms
    return QuorumReplica(node_id, f"folder-{node_id}", end_offset, at, at)


def test_a_single_voter_is_left_alone(cluster):
    nodes = cluster(1)
    live(nodes, 3_000)
    assert nodes.quorum_calls == []


def test_observers_that_have_caught_up_become_voters_one_at_a_time(cluster):
    nodes = cluster(3, joined=False)
    nodes.elect(1)
    nodes.write_voters(1)
    nodes.run()
    nodes.join(1, 2, 3)
    nodes.observers = [observer(nodes, 2, 0), observer(nodes, 3, len(nodes.log), 60_000)]
    live(nodes, 1_000)
    assert changes(nodes) == []  # one lags behind, and one is not heard of any more
    nodes.observers = [observer(nodes, 2, 1_000_000), observer(nodes, 3, 1_000_000)]
    live(nodes, 500)
    assert changes(nodes) == [AddVoterRequest(2, "folder-2")]
    nodes.write_voters(1, 2)
    nodes.quorum_calls.clear()
    nodes.observers = [observer(nodes, 3, 1_000_000)]
    live(nodes, 500)
    assert changes(nodes)[0] == AddVoterRequest(3, "folder-3")
    nodes.write_voters(1, 2, 3)
    nodes.quorum_calls.clear()
    live(nodes, 1_000)
    assert nodes.quorum_calls == []


def test_a_refused_change_of_voters_is_tried_again(cluster):
    nodes = cluster(3, joined=False)
    nodes.elect(1)
    nodes.write_voters(1)
    nodes.run()
    nodes.join(1, 2, 3)
    nodes.refusal = InvalidUpdateVersionError("another change is not committed yet")
    live(nodes, 1_000)
    asked = len(nodes.quorum_calls)
    assert asked == 2
    nodes.refusal = None
    nodes.observers = [observer(nodes, 2, 1_000_000), observer(nodes, 3, 1_000_000)]
    live(nodes, 500)
    assert changes(nodes)[0] == AddVoterRequest(2, "folder-2")


def test_a_voter_with_another_folder_loses_its_vote(cluster):
    nodes = cluster(3)
    nodes[1].links[3].change(LinkState.REFUSED)
    nodes.run()
    nodes[3].ask(nodes[3].registration("second", directory_id="new-disk", clean=False))
    live(nodes, 1_000, 1, 2)
    assert changes(nodes)[0] == RemoveVoterRequest(3, "folder-3")


def test_partitions_go_back_to_their_preferred_leaders_once_these_are_in_sync(cluster, topic):
    nodes = cluster(3)
    nodes[1].ask(topic("t", 3, 3))
    nodes.run()
    (preferred,) = [p for p, state in enumerate(nodes.image.topics["t"].partitions) if state.replicas[0] == 3]
    nodes[1].links[3].change(LinkState.REFUSED)
    nodes.run()
    nodes[1].links[3].change(LinkState.UP)
    live(nodes, 12_000)
    assert nodes.image.topics["t"].partitions[preferred].leader != 3  # it is not in sync
    all_in_sync(nodes)
    live(nodes, 12_000)
    assert nodes.image.topics["t"].partitions[preferred].leader == 3


def test_leaders_stay_where_they_are_if_that_is_what_the_settings_say(cluster, topic):
    nodes = cluster(3, **{"auto.leader.rebalance.enable": False})
    nodes[1].ask(topic("t", 3, 3))
    nodes.run()
    nodes[1].links[3].change(LinkState.REFUSED)
    nodes.run()
    nodes[1].links[3].change(LinkState.UP)
    live(nodes, 1_000)
    all_in_sync(nodes)
    live(nodes, 25_000)
    assert all(state.leader != 3 for state in nodes.image.topics["t"].partitions)


def test_a_node_that_has_come_gets_its_share_and_internal_topics_grow(cluster, topic, caplog):
    from zmqbroker.quorum.internal_topics import internal_topic

    caplog.set_level(logging.INFO)
    nodes = cluster(3, joined=False)
    nodes.elect(1)
    nodes.write_voters(1)
    nodes.run()
    nodes.join(1)
    nodes[1].ask(topic("t", 6, 1))
    nodes[1].ask(CreateTopicsRequest([internal_topic(OFFSETS_TOPIC, nodes[1].context.config)], 1_000))
    live(nodes, 1_000)
    assert all(state.replicas == (1,) for state in nodes.image.topics[OFFSETS_TOPIC].partitions)
    nodes.join(2, 3)
    live(nodes, 1_000)
    for _ in range(3):
        all_in_sync(nodes)
        live(nodes, 500)
    hosts = [node for state in nodes.image.topics["t"].partitions for node in state.replicas]
    assert {hosts.count(node) for node in (1, 2, 3)} <= {1, 2, 3}
    assert set(hosts) == {1, 2, 3}
    assert all(len(state.replicas) == 3 for state in nodes.image.topics[OFFSETS_TOPIC].partitions)
    assert any("nodes [2, 3] have come" in record.message for record in caplog.records)


def test_a_node_that_has_come_and_gone_again_moves_nothing(cluster, topic, caplog):
    caplog.set_level(logging.INFO)
    nodes = cluster(3, joined=False)
    nodes.elect(1)
    nodes.write_voters(1)
    nodes.run()
    nodes.join(1, 2)
    live(nodes, 1_000)
    by_hand = topic("t")
    by_hand.topics[0].partitions = by_hand.topics[0].replication_factor = -1
    by_hand.topics[0].assignments = [[1]] * 6  # not even, but nobody has come since
    nodes[1].ask(by_hand)
    live(nodes, 1_000)
    caplog.clear()
    nodes.join(3)
    nodes[1].links[3].change(LinkState.REFUSED)
    nodes.run()
    assert nodes.image.nodes[3].fenced
    live(nodes, 1_000, 1, 2)
    assert all(state.replicas == (1,) for state in nodes.image.topics["t"].partitions)
    assert not any("have come" in record.message for record in caplog.records)


def test_nothing_is_spread_if_that_is_what_the_settings_say(cluster, topic):
    nodes = cluster(2, joined=False, **{"auto.rebalance.on.join.enable": False})
    nodes.elect(1)
    nodes.write_voters(1)
    nodes.run()
    nodes.join(1)
    nodes[1].ask(topic("t", 6, 1))
    nodes.run()
    nodes.join(2)
    live(nodes, 2_000)
    assert all(state.replicas == (1,) for state in nodes.image.topics["t"].partitions)


def test_a_node_is_emptied_even_if_more_comes_to_it_by_hand(cluster, topic, caplog):
    caplog.set_level(logging.INFO)
    nodes = cluster(3)
    nodes[1].ask(topic("t", 3, 2))
    nodes.run()
    nodes[2].ask(DrainNodeRequest(3))
    nodes.run()
    by_hand = topic("late")
    by_hand.topics[0].partitions = by_hand.topics[0].replication_factor = -1
    by_hand.topics[0].assignments = [[3]]
    nodes[2].ask(by_hand)
    live(nodes, 1_000)
    for _ in range(3):
        all_in_sync(nodes)
        live(nodes, 1_000)
    assert not any(3 in state.replicas for topic in nodes.image.topics.values() for state in topic.partitions)
    drained = [record.message for record in caplog.records if "node 3 is drained" in record.message]
    assert len(drained) == 1


def test_the_upkeep_ends_with_the_lead(cluster):
    nodes = cluster(3)
    nodes.elect(2, keep=len(nodes.log))
    nodes.run()
    before = len(nodes.appends)
    assert nodes[1].reactor.next_due_ms() is None
    live(nodes, 2_000, 1, 2, 3)
    assert len(nodes.appends) == before
