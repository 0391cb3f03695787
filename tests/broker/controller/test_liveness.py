"""Who lives: fencing by silence and by refused links, registrations in place of others, what comes of a new leader."""

from __future__ import annotations

import logging

import pytest
from zmqbroker.errors import (
    DuplicateBrokerRegistrationError,
    InconsistentClusterIdError,
    PolicyViolationError,
    StaleBrokerEpochError,
)
from zmqbroker.transport.cluster_messages import RemoveNodeRequest
from zmqbroker.transport.network import LinkState


def fenced(nodes):
    return {node.node_id for node in nodes.image.nodes.values() if node.fenced}


def keep_alive(nodes, duration_ms, *node_ids):
    """Let time go by while only some nodes send heartbeats."""
    for _ in range(int(duration_ms // 500)):
        for node_id in node_ids:
            nodes[node_id].heartbeat()
        nodes.run_for(500)


def test_a_silent_node_is_fenced_when_its_session_is_over_and_not_before(cluster, topic, caplog):
    caplog.set_level(logging.INFO)
    nodes = cluster(3)
    nodes[1].ask(topic("t", 3, 3))
    keep_alive(nodes, 5_500, 1, 2)
    assert fenced(nodes) == set()
    keep_alive(nodes, 1_500, 1, 2)
    assert fenced(nodes) == {3}
    for state in nodes.image.topics["t"].partitions:
        assert state.leader in (1, 2)
        assert 3 not in state.isr
    lines = [record.message for record in caplog.records if "node 3 " in record.message]
    assert "node 3 was not heard of for 6000 ms" in lines
    assert lines.count("node 3 is fenced") == 1
    assert any(record.message.startswith("elections: 1 partitions have another leader") for record in caplog.records)


def test_a_fenced_node_that_is_heard_of_again_comes_back(cluster):
    nodes = cluster(3)
    keep_alive(nodes, 7_000, 1, 2)
    assert fenced(nodes) == {3}
    nodes[3].heartbeat()
    nodes.run()
    assert fenced(nodes) == set()


def test_a_new_leader_gives_everyone_a_full_session(cluster):
    nodes = cluster(3)
    keep_alive(nodes, 4_000, 1)
    nodes.elect(3, keep=len(nodes.log))
    keep_alive(nodes, 5_500, 3)
    assert fenced(nodes) == set()
    keep_alive(nodes, 1_500, 3)
    assert fenced(nodes) == {1, 2}


def test_a_time_in_which_the_leader_itself_stood_still_is_nobody_s_silence(cluster):
    nodes = cluster(3)
    keep_alive(nodes, 1_000, 1, 2, 3)
    nodes.clock.now_ms += 60_000  # its process was stopped; heartbeats wait in its queues
    nodes.run()
    assert fenced(nodes) == set()
    keep_alive(nodes, 7_000, 1, 2)
    assert fenced(nodes) == {3}


def test_a_node_whose_process_is_gone_is_fenced_at_once(cluster, topic):
    nodes = cluster(3)
    nodes[1].ask(topic("t", 3, 3))
    nodes.run()
    nodes[1].links[2].change(LinkState.DOWN)  # says nothing
    nodes[1].links[3].change(LinkState.REFUSED)
    nodes.run_for(0)
    assert fenced(nodes) == {3}
    assert all(state.leader in (1, 2) for state in nodes.image.topics["t"].partitions)


def test_a_new_leader_fences_at_once_whose_process_it_knows_to_be_gone(cluster):
    nodes = cluster(3)
    nodes[2].links[1].change(LinkState.REFUSED)
    nodes.run()
    assert fenced(nodes) == set()
    nodes.elect(2, keep=len(nodes.log))
    nodes.run_for(0)
    assert fenced(nodes) == {1}


def test_a_heartbeat_that_was_on_its_way_does_not_bring_a_dead_node_back(cluster):
    nodes = cluster(3)
    nodes[1].links[3].change(LinkState.REFUSED)
    beat = nodes[3].heartbeat()  # arrives after the news of its end
    nodes.run()
    assert beat.body.is_fenced
    assert fenced(nodes) == {3}
    nodes[1].links[3].change(LinkState.UP)  # it lives after all
    nodes[3].heartbeat()
    nodes.run()
    assert fenced(nodes) == set()


def test_a_process_in_place_of_one_that_is_gone_needs_no_link_to_come_back(cluster):
    nodes = cluster(3)
    nodes[1].links[3].change(LinkState.REFUSED)
    nodes.run()
    again = nodes[3].ask(nodes[3].registration("second"))
    nodes.run()
    nodes[3].heartbeat(again.body.node_epoch)
    nodes.run()
    assert fenced(nodes) == set()
    assert nodes.image.nodes[3].incarnation == "second"


def test_a_restart_at_the_same_address_on_the_same_folder_is_not_kept_waiting(cluster, topic):
    nodes = cluster(3)
    nodes[1].ask(topic("t", 3, 3))
    nodes.run()
    old = nodes.image.nodes[3].epoch
    again = nodes[3].ask(nodes[3].registration("second"))
    nodes.run()
    assert again.body.node_epoch > old
    assert fenced(nodes) == {3}
    assert all(3 not in state.isr for state in nodes.image.topics["t"].partitions)
    late = nodes[3].heartbeat(old)
    nodes.run()
    assert isinstance(late.outcome, StaleBrokerEpochError)


@pytest.mark.parametrize("first", ["a link", "a registration", "a removal"])
def test_whatever_a_controller_that_hung_hears_first_it_blames_nobody(cluster, first):
    """News of a link may come before its own timer, and before the heartbeats that wait in its queues."""
    nodes = cluster(4)
    nodes.run_for(1_000)
    nodes.clock.now_ms += 60_000
    if first == "a link":
        nodes[1].links[4].change(LinkState.REFUSED)
    elif first == "a removal":
        removed = nodes[1].ask(RemoveNodeRequest(4))
    else:
        second = nodes[1].ask(nodes[4].registration("second", port=1))
    nodes.run()
    assert fenced(nodes) == ({4} if first == "a link" else set())
    if first == "a removal":
        assert isinstance(removed.outcome, PolicyViolationError)
    if first == "a registration":
        assert isinstance(second.outcome, DuplicateBrokerRegistrationError)
    keep_alive(nodes, 7_000, 1, 2)
    assert fenced(nodes) == {3, 4}, "who is silent from now on is fenced after all"


@pytest.mark.parametrize("different", [{"port": 1}, {"host": "other"}, {"directory_id": "copy"}])
def test_a_second_process_is_refused_while_the_first_one_lives(cluster, different):
    nodes = cluster(3)
    second = nodes[2].ask(nodes[3].registration("second", **different))
    nodes.run()
    assert isinstance(second.outcome, DuplicateBrokerRegistrationError)
    keep_alive(nodes, 7_000, 1, 2)
    second = nodes[2].ask(nodes[3].registration("second", **different))
    nodes.run()
    assert second.body.node_epoch == nodes.image.nodes[3].epoch


@pytest.mark.parametrize("different", [{"port": 1}, {"host": "other"}, {"directory_id": "wiped"}])
def test_a_node_that_has_asked_for_leave_to_stop_is_not_waited_for(cluster, different):
    """Its process may have ended a moment ago, and be started again at another port."""
    nodes = cluster(3)
    nodes[3].heartbeat(want_shut_down=True)
    nodes.run()
    before = nodes.image.nodes[3]
    assert before.stopping
    assert not before.fenced
    second = nodes[2].ask(nodes[3].registration("second", **different))
    nodes.run()
    now = nodes.image.nodes[3]
    assert second.body.node_epoch == now.epoch > before.epoch
    assert (now.incarnation, now.stopping) == ("second", False)


def test_a_second_process_with_the_leader_s_own_id_is_refused(cluster):
    nodes = cluster(3)
    second = nodes[2].ask(nodes[1].registration("second", port=1))
    nodes.run()
    assert isinstance(second.outcome, DuplicateBrokerRegistrationError)


def test_the_leader_s_own_restart_is_not_kept_waiting(cluster):
    nodes = cluster(1)
    nodes[1].context.incarnation = "restarted"
    nodes.elect(1)
    again = nodes[1].ask(nodes[1].registration(port=1))
    nodes.run()
    assert again.body.node_epoch == nodes.image.nodes[1].epoch


def test_a_registration_that_is_repeated_has_the_same_epoch(cluster):
    nodes = cluster(3)
    epoch = nodes.image.nodes[2].epoch
    again = nodes[2].ask(nodes[2].registration())
    nodes.run()
    assert again.body.node_epoch == epoch == nodes.image.nodes[2].epoch


def test_a_node_of_another_cluster_is_refused(cluster):
    nodes = cluster(3)
    stranger = nodes[2].ask(nodes[2].registration("x", cluster_id="another"))
    nodes.run()
    assert isinstance(stranger.outcome, InconsistentClusterIdError)
    assert "another" in stranger.outcome.message


def test_a_living_node_is_not_removed(cluster):
    nodes = cluster(3)
    removed = nodes[1].ask(RemoveNodeRequest(3))
    nodes.run()
    assert isinstance(removed.outcome, PolicyViolationError)
    nodes[1].links[3].change(LinkState.REFUSED)
    removed = nodes[1].ask(RemoveNodeRequest(3))
    nodes.run()
    assert removed.body is not None
    assert 3 not in nodes.image.nodes
