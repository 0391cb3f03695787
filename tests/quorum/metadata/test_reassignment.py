"""Partitions move: begun, changed, taken back, done; the number of replicas and min.insync.replicas change with it."""

from __future__ import annotations

import pytest
from zmqbroker.errors import InvalidReplicationFactorError, UnknownTopicOrPartitionError
from zmqbroker.quorum import balance, decisions, reassignment
from zmqbroker.transport import cluster_messages as c
from zmqbroker.transport.internal_topics import OFFSETS_TOPIC
from zmqbroker.transport.messages import CreatePartitionsRequest, PartitionCount


def moving(cluster, partition=0):
    state = cluster.state(partition)
    return list(state.replicas), list(state.adding), list(state.removing)


def test_a_move_ends_when_all_that_were_added_are_in_sync(metadata):
    cluster = metadata(4).topic([1, 2, 3])
    assert cluster.move([4, 2, 1]).error_code == 0
    assert moving(cluster) == ([4, 2, 1, 3], [4], [3])
    assert cluster.summary() == (1, [2, 1, 3], [])
    entry = cluster.alter([1, 2, 3, 4])
    assert (entry.error_code, entry.isr) == (0, [4, 2, 1])
    assert moving(cluster) == ([4, 2, 1], [], [])
    assert cluster.summary() == (1, [4, 2, 1], []), "the leader stays until somebody asks for the preferred one"


def test_a_leader_that_is_moved_away_hands_over_in_the_end(metadata):
    cluster = metadata(4).topic([1, 2, 3])
    cluster.move([2, 3, 4])
    assert cluster.summary()[0] == 1
    epoch = cluster.state().leader_epoch
    entry = cluster.alter([1, 2, 3, 4])
    assert (entry.error_code, entry.leader, entry.leader_epoch) == (108, 2, epoch + 1)
    assert cluster.summary() == (2, [2, 3, 4], [])


def test_all_replicas_may_move(metadata):
    cluster = metadata(4).topic([1, 2])
    cluster.move([3, 4])
    assert cluster.alter([1, 2, 3]).error_code == 0
    assert moving(cluster) == ([3, 4, 1, 2], [3, 4], [1, 2])
    assert cluster.alter([1, 2, 3, 4]).error_code == 108
    assert cluster.summary() == (3, [3, 4], [])


def test_a_dead_replica_that_stays_does_not_hold_up_a_move(metadata):
    cluster = metadata(4).topic([1, 2, 3])
    cluster.fence(3)
    cluster.move([4, 2, 3])
    cluster.alter([1, 2, 4])
    assert moving(cluster) == ([4, 2, 3], [], [])
    assert cluster.summary() == (4, [4, 2], [])


def test_a_move_that_would_leave_too_few_in_sync_waits(metadata):
    cluster = metadata(4).topic([1, 2, 3])
    cluster.fence(3, 2)
    assert cluster.summary() == (1, [1], [2])
    cluster.move([4, 2, 3])
    assert cluster.alter([1, 4]).error_code == 0
    assert moving(cluster) == ([4, 2, 3, 1], [4], [1])
    cluster.beat(2)
    assert cluster.alter([1, 2, 4]).error_code == 108
    assert cluster.summary() == (4, [4, 2], [])


def test_fewer_replicas_are_there_at_once(metadata):
    cluster = metadata(3).topic([1, 2, 3])
    cluster.move([3, 2])
    assert moving(cluster) == ([3, 2], [], [])
    assert cluster.summary() == (3, [3, 2], [])


def test_the_order_alone_may_change(metadata):
    cluster = metadata(2).topic([1, 2])
    cluster.move([2, 1])
    assert (moving(cluster), cluster.summary()) == (([2, 1], [], []), (1, [2, 1], []))
    image = cluster.image
    assert cluster.move([2, 1]).error_code == 0
    assert cluster.image == image, "it is there already"


def test_a_move_is_taken_back(metadata):
    cluster = metadata(4).topic([1, 2])
    assert cluster.move(None).error_code == 85
    cluster.move([3, 4])
    cluster.alter([1, 2, 4])
    assert cluster.move(None).error_code == 0
    assert (moving(cluster), cluster.summary()) == (([1, 2], [], []), (1, [1, 2], []))
    assert cluster.move(None).error_code == 85


def test_a_move_is_changed_while_it_is_under_way(metadata):
    cluster = metadata(5).topic([1, 2])
    cluster.move([3, 4])
    cluster.alter([1, 2, 4])
    cluster.move([4, 5])
    assert moving(cluster) == ([4, 5, 1, 2], [4, 5], [1, 2])
    assert cluster.summary() == (1, [4, 1, 2], [])
    cluster.move([1, 2])
    assert (moving(cluster), cluster.summary()) == (([1, 2], [], []), (1, [1, 2], []))


def test_a_move_taken_back_leaves_nothing_behind_that_only_new_replicas_have(metadata):
    cluster = metadata(3).topic([1, 2])
    cluster.move([3, 2])
    cluster.alter([1, 3])
    cluster.fence(1)
    # Node 2 is not in sync: what node 3 has must not go before node 2 has it.
    assert cluster.summary() == (3, [3], [])
    cluster.move(None)
    assert cluster.summary()[0] in (3, 2)
    assert 3 in cluster.state().replicas


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ([], "cannot have 0 replicas"),
        (list(range(1, 102)), "cannot have 101 replicas"),
        ([1, 1], "node 1 is named more than once"),
        ([1, 9], "node 9 is not in the cluster"),
        ([1, -1], "node -1 is not in the cluster"),
        ([1, 4], "node 4 is fenced"),
        ([1, 5], "node 5 is about to stop"),
        ([1, 6], "node 6 is being drained"),
    ],
)
def test_a_target_that_cannot_be_is_refused_by_name(metadata, target, sentence):
    cluster = metadata(6).topic([1, 2])
    cluster.fence(4)
    cluster.beat(5, want_shut_down=True)
    cluster.drain(6)
    image = cluster.image
    entry = cluster.move(target)
    assert entry.error_code == 39
    assert sentence in entry.error_message
    assert cluster.image == image


def test_dead_replicas_may_stay(metadata):
    cluster = metadata(3).topic([1, 2])
    cluster.fence(2)
    assert cluster.move([1, 2, 3]).error_code == 0


def test_fewer_replicas_are_those_that_live_and_are_in_sync(metadata):
    cluster = metadata(4).topic([1, 2, 3, 4])
    cluster.fence(1)
    cluster.alter([2, 4])
    leader, isr, _ = cluster.summary()
    assert cluster.move([], factor=2).error_code == 0
    assert (cluster.summary()[0], sorted(cluster.state().replicas)) == (leader, sorted(isr))
    assert cluster.move([], factor=1).error_code == 0
    assert cluster.state().replicas == (leader,)


def test_fewer_replicas_leave_a_rack_with_others_and_a_node_with_much_load_first(metadata):
    cluster = metadata(4, racks="aabb").topic([1, 2, 3], [1, 2, 3])
    for partition in (0, 1):
        assert cluster.move([], partition=partition, factor=2).error_code == 0
    assert [cluster.state(partition).replicas for partition in (0, 1)] == [(1, 3), (1, 3)]
    cluster.drain(3)
    assert cluster.move([], partition=0, factor=1).error_code == 0
    assert cluster.state(0).replicas == (1,)


def test_more_replicas_are_in_other_racks_and_where_there_are_few(metadata):
    cluster = metadata(5, racks="aabbb").topic([1], [1], [1], [3], [3])
    moves = [c.Reassignment("a", partition, []) for partition in range(3)]
    request = c.AlterPartitionReassignmentsRequest(moves, 1000, 2)
    reply = cluster.commit(reassignment.alter_partition_reassignments(cluster.image, request, cluster.config))
    assert [entry.error_code for entry in reply.partitions] == [0, 0, 0]
    assert [set(cluster.state(partition).replicas) for partition in range(3)] == [{1, 4}, {1, 5}, {1, 4}]
    cluster.fence(2)
    image = cluster.image
    with pytest.raises(InvalidReplicationFactorError, match="factor of 5 needs as many nodes, and 4 can be used"):
        cluster.move([], factor=5)
    assert cluster.move([], partition=9, factor=2).error_code == 3
    assert cluster.image == image


def test_each_entry_stands_for_itself(metadata):
    cluster = metadata(3).topic([1], [1], [1])
    moves = [("a", 0, [2]), ("a", 1, [9]), ("b", 0, [1]), ("a", 7, [1]), ("a", 2, [2]), ("a", 2, [3])]
    request = c.AlterPartitionReassignmentsRequest([c.Reassignment(*move) for move in moves], 1000)
    decision = reassignment.alter_partition_reassignments(cluster.image, request, cluster.config)
    reply = cluster.commit(decision)
    assert [entry.error_code for entry in reply.partitions] == [0, 39, 3, 3, 42, 42]
    listed = reassignment.list_partition_reassignments(cluster.image, c.ListPartitionReassignmentsRequest())
    assert listed.partitions == [c.ReassignmentState("a", 0, [2, 1], [2], [1])]


def test_moves_are_listed_by_topic(metadata):
    cluster = metadata(2).topic([1]).topic([2], name="b")
    cluster.move([2])
    cluster.move([1], name="b")

    def listed(topics):
        request = c.ListPartitionReassignmentsRequest(topics)
        reply = reassignment.list_partition_reassignments(cluster.image, request)
        return [entry.topic for entry in reply.partitions]

    assert [listed(None), listed(["b"]), listed(["b", "b", "none"]), listed([])] == [["a", "b"], ["b"], ["b"], []]


def test_new_partitions_have_as_many_replicas_as_the_move_will_leave(metadata):
    cluster = metadata(4).topic([1, 2])
    cluster.move([3, 4])
    request = CreatePartitionsRequest([PartitionCount("a", 2)], 1000)
    cluster.commit(decisions.create_partitions(cluster.image, request))
    assert len(cluster.state(1).replicas) == 2


# ---- min.insync.replicas


def test_more_replicas_raise_min_insync_replicas_when_all_are_there(metadata):
    cluster = metadata(3).topic([1], [2])
    cluster.move([1, 2, 3], partition=0)
    cluster.move([2, 3, 1], partition=1)
    cluster.alter([1, 2, 3], partition=0)
    assert cluster.setting("min.insync.replicas") == "1", "partition 1 has one replica in sync"
    cluster.alter([2, 3, 1], partition=1)
    assert cluster.setting("min.insync.replicas") == "2"


def test_fewer_replicas_lower_it_and_end_eligibility(metadata):
    cluster = metadata(4).topic([1, 2, 3], [1, 2, 3])
    cluster.move([1, 2], partition=0)
    assert cluster.setting("min.insync.replicas") == "2", "partition 1 has three replicas"
    cluster.alter([1], partition=0)
    assert cluster.summary(0) == (1, [1], [2])
    cluster.move([2, 1], partition=1)
    assert cluster.setting("min.insync.replicas") == "1"
    assert cluster.summary(0) == (1, [1], []), "node 1 commits alone now"


@pytest.mark.parametrize(("setting", "fewer"), [(1, [1, 2, 3]), (3, [1, 2])])
def test_what_somebody_has_set_stays(metadata, setting, fewer):
    cluster = metadata(4).topic([1, 2, 3], **{"min.insync.replicas": setting})
    cluster.move(fewer)
    assert cluster.setting("min.insync.replicas") == str(setting)
    cluster.move([1, 2, 3, 4])
    cluster.catch_up()
    assert cluster.setting("min.insync.replicas") == str(setting)


def test_moving_without_another_number_of_replicas_leaves_it(metadata):
    cluster = metadata(4).topic([1, 2, 3], **{"min.insync.replicas": 2})
    cluster.move([2, 3, 4])
    cluster.catch_up()
    assert cluster.setting("min.insync.replicas") == "2"


# ---- the planners' moves


def test_the_cluster_is_rebalanced(metadata):
    cluster = metadata(2).topic(*[[1, 2]] * 6)
    cluster.start(3)

    def rebalance(**given):
        request = c.RebalanceRequest(**given)
        return cluster.commit(reassignment.rebalance(cluster.image, request, cluster.config)).moves

    image = cluster.image
    moves = rebalance(validate_only=True)
    assert cluster.image == image
    assert rebalance() == moves != []
    assert rebalance() == [], "what is under way counts as done"
    cluster.catch_up()
    assert [node.replicas for node in cluster.describe().values()] == [4, 4, 4]
    assert rebalance(topics=["a"]) == []
    with pytest.raises(UnknownTopicOrPartitionError, match="'none'"):
        rebalance(topics=["none"])


def test_internal_topics_grow_with_the_cluster(metadata):
    cluster = metadata(1)
    name = OFFSETS_TOPIC
    topic = decisions.internal_topic(name, cluster.config)
    request = decisions.CreateTopicsRequest([topic], 1000)
    cluster.commit(decisions.create_topics(cluster.image, request, cluster.config, lambda name, at: f"{name}@{at}"))
    cluster.topic([1])
    assert balance.grow_internal_topics(cluster.image, cluster.config) == []
    cluster.start(2)
    cluster.start(3)
    cluster.start(4)
    moves = balance.grow_internal_topics(cluster.image, cluster.config)
    assert {move.topic for move in moves} == {name}
    assert all(len(move.replicas) == 3 and move.replicas[0] == 1 for move in moves)
    cluster.commit(reassignment.begin(cluster.image, cluster.config, moves))
    assert balance.grow_internal_topics(cluster.image, cluster.config) == []
    cluster.catch_up()
    assert cluster.setting("min.insync.replicas", name) == "2"
    loads = [node.replicas for node in cluster.describe().values()]
    assert max(loads[1:]) - min(loads[1:]) <= 1
