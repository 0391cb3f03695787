"""A node's way into the cluster, its life there, and its way out."""

from __future__ import annotations

import logging

import pytest
from zmqbroker.actors.context import MEMBERSHIP
from zmqbroker.actors.peer_commands import ShutDown
from zmqbroker.errors import (
    BrokerIdNotRegisteredError,
    DuplicateBrokerRegistrationError,
    InconsistentClusterIdError,
)
from zmqbroker.transport.cluster_messages import RemoveNodeRequest
from zmqbroker.transport.network import LinkState


def started(cluster, nodes=3, **settings):
    """A cluster whose nodes have registered by themselves."""
    made = cluster(nodes, joined=False, **settings)
    made.elect(1)
    for node in made.nodes.values():
        node.start_membership()
    made.run()
    return made


def leave(node, within_ms=10_000.0, siblings=()):
    """Ask a node to give up its leaders; the list has the times when it was allowed to stop."""
    left = []
    clock = node.cluster.clock
    node.reactor.tell(MEMBERSHIP, ShutDown(clock.now_ms + within_ms, lambda: left.append(clock.now_ms), siblings))
    return left


def test_a_node_is_registered_and_unfenced_without_waiting_for_any_time(cluster):
    nodes = started(cluster, 1)
    assert nodes.clock.now_ms == 1_000.0
    assert nodes[1].active == 1
    me = nodes.image.nodes[1]
    assert not me.fenced
    assert nodes[1].context.node_epoch == me.epoch
    nodes.run_for(20_000)
    assert nodes[1].active == 1
    assert not nodes.image.nodes[1].fenced
    assert nodes[1].refused == []


def test_nodes_stay_unfenced_by_their_heartbeats(cluster):
    nodes = started(cluster)
    end = len(nodes.log)
    nodes.run_for(60_000)
    assert [node.active for node in nodes.nodes.values()] == [1, 1, 1]
    assert len(nodes.log) == end  # heartbeats leave no records


def test_a_node_is_active_only_once_its_own_image_says_so(cluster):
    nodes = started(cluster, 1)
    nodes = cluster(2, joined=False)
    nodes.elect(1)
    nodes[2].start_membership()
    nodes[2].follows = False
    nodes.run_for(3_000)
    assert 2 in nodes.committed_image().nodes
    assert nodes[2].active == 0
    nodes[2].follows = True
    nodes[2].apply()
    nodes.run_for(0)
    assert nodes[2].active == 1


def test_a_node_waits_for_a_controller_however_long_that_takes(cluster):
    nodes = cluster(3, joined=False)
    nodes[2].start_membership()
    nodes.run_for(200_000)
    assert nodes[2].refused == []
    nodes.elect(3)
    nodes.run_for(500)
    assert nodes[2].active == 1


def test_heartbeats_go_to_the_next_leader_at_once(cluster):
    nodes = started(cluster)
    for leader in (2, 3, 1):
        for link in nodes[leader].links.values():
            link.held = True  # the last leader hangs
        nodes.run_for(4_000)
        nodes.elect(leader, keep=len(nodes.log))
        for node in nodes.nodes.values():
            for link in node.links.values():
                link.release()
        nodes.run_for(10_000)
        assert not any(node.fenced for node in nodes.image.nodes.values())


def test_a_restarted_process_registers_anew_and_the_old_one_ends(cluster):
    nodes = started(cluster)
    old = nodes.image.nodes[3].epoch
    again = nodes[3].ask(nodes[3].registration("second"))
    nodes.run()
    assert again.body.node_epoch > old
    nodes.run_for(1_000)
    (error,) = nodes[3].refused
    assert isinstance(error, DuplicateBrokerRegistrationError)
    assert "another process has registered as node 3" in error.message


def test_a_later_registration_of_its_own_is_taken_over(cluster):
    nodes = started(cluster)
    nodes[3].context.node_epoch -= 1  # as if the answer to a repeated registration had been lost
    nodes.run_for(1_000)
    assert nodes[3].refused == []
    assert nodes[3].context.node_epoch == nodes.image.nodes[3].epoch


def test_a_second_process_gives_up_after_the_first_one_s_session(cluster):
    nodes = started(cluster)
    second = nodes[2]  # a process on another machine that has node 3's id by mistake
    nodes.run()
    second.reactor.stop_actor(MEMBERSHIP)
    nodes.run()
    second.context.config = nodes[3].context.config
    second.start_membership(incarnation="copy", port=1)
    nodes.run_for(6_000)
    assert second.refused == []
    nodes.run_for(2_000)
    (error,) = second.refused
    assert isinstance(error, DuplicateBrokerRegistrationError)
    assert "two processes cannot be one node" in error.message
    nodes.run_for(60_000)
    assert nodes[3].refused == []
    assert nodes.image.nodes[3].incarnation == "process-3"


def test_a_killed_node_whose_end_nobody_saw_waits_for_the_end_of_its_session(cluster):
    nodes = started(cluster)
    nodes[3].reactor.stop_actor(MEMBERSHIP)
    nodes.run()
    nodes[3].context.incarnation = "second"
    nodes[3].start_membership(port=1)  # at another address
    nodes.run_for(5_000)
    assert nodes[3].active == 1
    nodes.run_for(2_500)
    assert nodes[3].active == 2
    assert nodes[3].refused == []


def test_a_removed_node_ends(cluster):
    nodes = started(cluster)
    nodes[1].links[3].change(LinkState.REFUSED)
    nodes[3].links[1].change(LinkState.DOWN)
    nodes.run()
    nodes[1].ask(RemoveNodeRequest(3))
    nodes.run()
    assert 3 not in nodes.image.nodes
    nodes[3].links[1].change(LinkState.UP)
    nodes.run_for(1_000)
    (error,) = nodes[3].refused
    assert isinstance(error, BrokerIdNotRegisteredError)
    assert "was removed from the cluster" in error.message


def test_a_node_of_another_cluster_ends(cluster):
    nodes = started(cluster, 2)
    nodes[2].reactor.stop_actor(MEMBERSHIP)
    nodes.run()
    nodes[2].context.cluster_id = "another"
    nodes[2].start_membership(incarnation="x")
    nodes.run()
    assert isinstance(nodes[2].refused[0], InconsistentClusterIdError)


def test_a_node_that_was_fenced_by_mistake_says_so_and_comes_back(cluster, caplog):
    nodes = started(cluster)
    nodes[3].links[1].held = True
    nodes.run_for(8_000)
    assert nodes.image.nodes[3].fenced
    assert any("has fenced this node" in record.message for record in caplog.records)
    nodes[3].links[1].release()
    nodes.run_for(3_000)
    assert not nodes.image.nodes[3].fenced
    assert nodes[3].active == 1


# ---- the end


def test_a_stopping_node_hands_over_its_leaders_first(cluster, topic):
    nodes = started(cluster)
    nodes[1].ask(topic("t", 6, 3))
    nodes.run()
    left = leave(nodes[3])
    nodes.run()
    assert left == [nodes.clock.now_ms]
    assert nodes.image.nodes[3].stopping
    for state in nodes.image.topics["t"].partitions:
        assert state.leader in (1, 2)
        assert 3 not in state.isr
    end = len(nodes.log)
    nodes.run_for(3_000)
    assert len(nodes.log) == end  # it says nothing any more


def test_the_controller_s_own_node_hands_over_its_leaders_too(cluster, topic):
    nodes = started(cluster)
    nodes[1].ask(topic("t", 6, 3))
    nodes.run()
    left = leave(nodes[1])
    nodes.run()
    assert left
    assert all(state.leader in (2, 3) for state in nodes.image.topics["t"].partitions)


@pytest.mark.parametrize(("count", "settings"), [(1, {}), (3, {"controlled.shutdown.enable": False})])
def test_a_node_that_has_nobody_to_hand_over_to_stops_at_once(cluster, count, settings):
    nodes = started(cluster, count, **settings)
    nodes.auto_commit = False
    end = len(nodes.log)
    left = leave(nodes[1])
    nodes.run()
    assert left
    assert len(nodes.log) == end


def test_nodes_that_stop_together_hand_over_only_if_the_cluster_has_others(cluster, topic):
    nodes = started(cluster)
    nodes[1].ask(topic("t", 6, 3))
    nodes.run()
    left = leave(nodes[2], siblings=(2, 3))
    nodes.run()
    assert left
    assert all(state.leader != 2 for state in nodes.image.topics["t"].partitions)
    end = len(nodes.log)
    left = leave(nodes[3], siblings=(1, 2, 3))
    nodes.auto_commit = False
    nodes.run()
    assert left
    assert len(nodes.log) == end


def test_a_node_that_is_not_registered_stops_at_once(cluster):
    nodes = cluster(3, joined=False)
    nodes[2].start_membership()
    nodes.run_for(1_000)
    left = leave(nodes[2])
    nodes.run()
    assert left


def test_a_node_stops_at_its_deadline_without_a_controller(cluster, caplog):
    caplog.set_level(logging.WARNING)
    nodes = started(cluster)
    nodes.nobody_leads()
    nodes.run()
    start_ms = nodes.clock.now_ms
    left = leave(nodes[3], 2_000)
    nodes.run_for(1_900)
    assert left == []
    nodes.run_for(10_000)
    assert left == [start_ms + 2_000]
    assert any("its time to move them is over" in record.message for record in caplog.records)


def test_a_node_waits_for_the_commit_of_what_it_hands_over(cluster, topic):
    nodes = started(cluster)
    nodes[1].ask(topic("t", 6, 3))
    nodes.run()
    nodes.auto_commit = False
    left = leave(nodes[3])
    nodes.run()
    assert left == []
    nodes.elect(2)  # the records are lost
    nodes.auto_commit = True
    nodes.run_for(1_000)
    assert len(left) == 1
    assert all(state.leader != 3 for state in nodes.image.topics["t"].partitions)


def test_one_that_is_refused_while_it_stops_stops(cluster):
    nodes = started(cluster)
    nodes.nobody_leads()
    nodes.run()
    left = leave(nodes[3])
    nodes.run()
    nodes.elect(1)
    nodes[1].ask(nodes[3].registration("second"))
    nodes.run_for(1_000)
    assert len(left) == 1
