"""A flipped bit in a replica's log: it leaves the ISR, nobody elects it, and it fetches what it lacks again."""

from __future__ import annotations

import pytest
from zmqbroker.errors import CorruptMessageError
from zmqbroker.simulation.probe import Eyes

MAGIC = 16
"""Where a batch has its magic number."""
GOOD = 6
"""So many records are before the damage."""


@pytest.fixture
def cluster(machines):
    return machines((("flush", "ack"), ("min.insync.replicas", "2")), replica_lag_time_max_ms=2_000)


def flip(cluster, node, offset=GOOD):
    """Damage the batch with one of the records on a node's disk."""
    log = cluster.replica(node).log
    (segment,) = log._segments
    position = segment.locate(offset)
    node.disk.flip_bit(segment.file.path, position + MAGIC)


def find(cluster, node, offset=GOOD):
    """Let the node come across it."""
    replica = cluster.replica(node)
    with pytest.raises(CorruptMessageError):
        replica.log.read(offset, 1)
    assert replica.log.damage.offset == offset


def check_whole(cluster):
    cluster.run_until(cluster.is_whole)
    for number, node in enumerate(cluster.cluster, 10):
        assert cluster.replica(node).log.damage is None
        assert cluster.produce(number).base_offset == number
    for node in cluster.cluster:
        assert [len(cluster.replica(node).log.read(offset, 1)) > 0 for offset in range(12)] == [True] * 12


def test_a_leader_that_reads_damage_lets_another_one_lead_and_is_whole_again(cluster):
    leader = cluster.leader
    flip(cluster, leader)
    state, _ = cluster.fetch(GOOD)
    assert state.error_code == CorruptMessageError.code
    cluster.run_until(lambda: cluster.leader is not leader)
    assert cluster.fetch(GOOD)[0].error_code == 0
    check_whole(cluster)


def test_a_follower_that_finds_damage_leaves_the_isr_before_it_cuts_its_log(cluster):
    node = cluster.followers[0]
    flip(cluster, node)
    seen = []
    node_id, replica = node.node_id, cluster.replica(node)

    def look():
        state = cluster.state()
        seen.append((node_id in (*state.isr, *state.elr), replica.log.log_end_offset >= 10))

    find(cluster, node)
    cluster.world.after_event.append(look)
    cluster.produce(10)
    cluster.run_until(lambda: cluster.is_whole() and cluster.logs() == [(0, 11)] * 3)
    assert (True, False) not in seen
    assert (False, False) in seen


def test_a_replica_that_opens_damaged_is_repaired_though_its_leader_does_not_know_what_is_committed(machines, caplog):
    """It is eligible to lead until it says so; the leader, alone in sync, cannot move its high watermark."""
    cluster = machines((("flush", "ack"), ("min.insync.replicas", "2")), (1, 2))
    leader, other = cluster.node(1), cluster.node(2)
    flip(cluster, other, 9)
    cluster.hold(other)
    cluster.restart(leader)
    cluster.run_until(lambda: cluster.state().leader == 1)
    assert (cluster.state().isr, cluster.state().elr) == ((1,), (2,))
    cluster.let_go(other)
    cluster.run_until(lambda: cluster.is_whole() and cluster.logs() == [(0, 10)] * 2)
    assert "fetches again what is damaged" in caplog.text
    assert cluster.produce(10).base_offset == 10
    assert cluster.fetch(9)[0].error_code == 0


def test_two_damaged_replicas_do_not_hand_over_to_each_other(machines):
    cluster = machines((("flush", "ack"), ("min.insync.replicas", "2")), (1, 2))
    leader, other = cluster.node(1), cluster.node(2)
    flip(cluster, other, 3)
    flip(cluster, leader, 7)
    find(cluster, other, 3)
    find(cluster, leader, 7)
    cluster.run_for(5_000)
    assert cluster.state().leader == 1, "it has more"
    state, data = cluster.fetch(5)
    assert (state.error_code, len(data) > 0) == (0, True)
    assert cluster.fetch(7)[0].error_code == CorruptMessageError.code


def test_the_simulator_sees_the_last_mark_of_a_leader_that_finds_damage(cluster):
    """It advances and finds damage within one pass, after which its log is looked into no more."""
    leader = cluster.leader
    eyes = Eyes(leader.life, leader.node_id)
    eyes.changed()
    assert cluster.produce(10).base_offset == 10
    flip(cluster, leader)
    find(cluster, leader)
    eyes.changed()
    ((key, mark),) = eyes.departed()
    assert (key.topic, mark) == ("data", 11)
