"""Plans of moves: in the end the cluster is even, racks are apart, a drained node is empty; and no move was in vain."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.quorum.balance import drain_moves, rebalance_moves
from zmqbroker.quorum.image import MetadataImage, NodeImage, PartitionImage, TopicImage


def image_of(assignments, racks):
    """Nodes 0, 1, ... in these racks, and a topic with these replicas."""
    nodes = {node: NodeImage(node, "h", 1, rack, 0, fenced=False) for node, rack in enumerate(racks)}
    partitions = tuple(PartitionImage(tuple(replicas), tuple(replicas), replicas[0], 0) for replicas in assignments)
    return MetadataImage(nodes=nodes, topics={"a": TopicImage("a", "1", partitions)})


def after(assignments, moves):
    changed = {move.partition: move.replicas for move in moves}
    return [changed.get(index, list(replicas)) for index, replicas in enumerate(assignments)]


def spread(counts, nodes):
    return max(counts[node] for node in nodes) - min(counts[node] for node in nodes)


@st.composite
def clusters(draw, racks="abc"):
    nodes = draw(st.lists(st.sampled_from(racks), min_size=1, max_size=7))
    factor = draw(st.integers(1, min(3, len(nodes))))
    replicas = st.permutations(range(len(nodes))).map(lambda order: order[:factor])
    return draw(st.lists(replicas, min_size=1, max_size=12)), "".join(nodes)


def racks_of(replicas, racks):
    return len({racks[node] for node in replicas})


@given(clusters("a"))
def test_replicas_and_preferred_leaders_become_even(cluster):
    assignments, racks = cluster
    moved = after(assignments, rebalance_moves(image_of(assignments, racks)))
    nodes = range(len(racks))
    assert all(len(set(new)) == len(new) == len(old) for new, old in zip(moved, assignments, strict=True))
    assert spread(Counter(node for replicas in moved for node in replicas), nodes) <= 1
    leaders = Counter(replicas[0] for replicas in moved)
    assert max(leaders.values()) <= -(-len(moved) // len(racks)) + 1
    assert rebalance_moves(image_of(moved, racks)) == [], "an even cluster stays as it is"


@given(clusters())
def test_racks_are_kept_apart(cluster):
    assignments, racks = cluster
    moved = after(assignments, rebalance_moves(image_of(assignments, racks)))
    for replicas in moved:
        assert racks_of(replicas, racks) == min(len(replicas), len(set(racks)))


@given(clusters("a"))
def test_no_replica_moves_in_vain(cluster):
    """As many replicas move as the fullest nodes have too many, and not one more."""
    assignments, racks = cluster
    moved = after(assignments, rebalance_moves(image_of(assignments, racks)))
    copied = sum(len(set(new) - set(old)) for new, old in zip(moved, assignments, strict=True))
    loads = Counter(node for replicas in assignments for node in replicas)
    total, nodes = sum(loads.values()), range(len(racks))
    low, more = divmod(total, len(racks))
    ordered = sorted((loads[node] for node in nodes), reverse=True)
    assert copied == sum(max(0, load - low - (at < more)) for at, load in enumerate(ordered))


def test_leaders_are_passed_along_a_chain():
    """Node 0 leads five and node 2 three, and they share no partition: one goes over node 1, which has four."""
    shared = [[0, 1], [0, 1], [1, 0], [1, 2], [1, 2], [1, 2]]
    assignments = [*shared, *[[0]] * 3, *[[2]] * 3]
    moved = after(assignments, rebalance_moves(image_of(assignments, "aaa")))
    assert [sorted(replicas) for replicas in moved] == [sorted(replicas) for replicas in assignments]
    assert Counter(replicas[0] for replicas in moved) == {0: 4, 1: 4, 2: 4}


def test_only_the_topics_that_are_named_move_and_the_others_count():
    image = image_of([[0], [0], [0], [0]], "aa")
    other = TopicImage("b", "2", tuple(PartitionImage((1,), (1,), 1, 0) for _ in range(2)))
    image = MetadataImage(nodes=image.nodes, topics={**image.topics, "b": other})
    assert rebalance_moves(image, ["b"]) == []
    assert len(rebalance_moves(image, ["a"])) == 1


def test_nodes_that_may_not_have_replicas_get_none():
    image = image_of([[0], [0], [0]], "aaa")
    nodes = {**image.nodes, 1: NodeImage(1, "h", 1, "a", 0, fenced=True)}
    moves = rebalance_moves(MetadataImage(nodes=nodes, topics=image.topics))
    assert [move.replicas for move in moves] == [[2]]


@given(clusters())
def test_a_drained_node_is_empty_and_the_others_are_not_full(cluster):
    assignments, racks = cluster
    if len(racks) <= max(len(replicas) for replicas in assignments):
        return
    others = range(1, len(racks))
    moves = drain_moves(image_of(assignments, racks), 0)
    moved = after(assignments, moves)
    assert all(0 not in replicas and len(set(replicas)) == len(replicas) for replicas in moved)
    assert len(moves) == sum(0 in replicas for replicas in assignments), "nothing else moves"
    for old, new in zip(assignments, moved, strict=True):
        if old != new:
            kept = [node for node in new if node in old]
            possible = min(racks_of(kept, racks) + 1, len({racks[node] for node in others}))
            assert racks_of(new, racks) == possible


def test_a_large_cluster_is_planned_in_time():
    assignments = [[index % 3, (index + 1) % 3, (index + 2) % 3] for index in range(3000)]
    image = image_of(assignments, "abcabc")
    began = time.process_time()
    moved = after(assignments, rebalance_moves(image))
    assert time.process_time() - began < 5
    assert spread(Counter(node for replicas in moved for node in replicas), range(6)) <= 1
    assert spread(Counter(replicas[0] for replicas in moved), range(6)) <= 1


def test_a_busy_topic_gets_its_share_of_new_nodes_beside_a_large_one():
    """Three nodes host fifty partitions of one topic and six of another; two more come."""
    image = image_of([], "aaaaa")
    topics = {
        name: TopicImage(
            name,
            name,
            tuple(PartitionImage((n % 3, (n + 1) % 3, (n + 2) % 3), (n % 3,), n % 3, 0) for n in range(count)),
        )
        for name, count in (("busy", 6), ("large", 50))
    }
    moves = rebalance_moves(replace(image, topics=topics))
    for name in ("busy", "large"):
        moved = after(
            [state.replicas for state in topics[name].partitions], [move for move in moves if move.topic == name]
        )
        hosted = Counter(node for replicas in moved for node in replicas)
        assert spread(hosted, range(5)) <= 2, f"{name}: {hosted}"
