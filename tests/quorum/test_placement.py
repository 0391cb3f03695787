"""Placement of replicas: different nodes, different racks where there are enough, leaders spread evenly."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.errors import InvalidReplicationFactorError
from zmqbroker.quorum.image import NodeImage
from zmqbroker.quorum.placement import place


def nodes_in(*racks):
    return [NodeImage(index, "h", 1, rack, 0, fenced=False) for index, rack in enumerate(racks)]


@given(
    racks=st.lists(st.sampled_from("abc"), min_size=1, max_size=9),
    first=st.integers(0, 50),
    count=st.integers(1, 40),
    data=st.data(),
)
def test_replicas_are_different_nodes_and_leaders_are_spread(racks, first, count, data):
    factor = data.draw(st.integers(1, len(racks)))
    nodes = nodes_in(*racks)
    placed = place(data.draw(st.permutations(nodes)), first, count, factor)
    assert len(placed) == count
    for replicas in placed:
        assert len(replicas) == len(set(replicas)) == factor
        assert set(replicas) <= {node.node_id for node in nodes}
    leaders = Counter(replicas[0] for replicas in placed)
    most, least = max(leaders.values()), min(leaders.get(node.node_id, 0) for node in nodes)
    assert most - least <= 1
    assert placed == place(nodes, first, count, factor), "the order in which nodes registered does not matter"


@given(
    racks=st.lists(st.sampled_from("aaabbc"), min_size=1, max_size=9),
    first=st.integers(0, 50),
    count=st.integers(1, 40),
    data=st.data(),
)
def test_racks_of_any_size_share_every_partition_as_evenly_as_they_can(racks, first, count, data):
    factor = data.draw(st.integers(1, len(racks)))
    nodes = nodes_in(*racks)
    sizes = Counter(racks)
    load = Counter()
    for replicas in place(nodes, first, count, factor):
        load.update(replicas)
        inside = Counter(nodes[node].rack for node in replicas)
        assert len(inside) == min(factor, len(sizes))
        for rack, others in itertools.permutations(sizes, 2):
            assert inside[rack] <= inside[others] + 1 or inside[others] == sizes[others]
    if len(sizes) == 1:
        assert max(load.values()) - min(load[node.node_id] for node in nodes) <= 1


def test_a_rack_of_one_node_is_not_left_out():
    placed = place(nodes_in("a", "a", "b"), 0, 6, 2)
    assert all(2 in replicas for replicas in placed)
    assert Counter(node for replicas in placed for node in replicas) == {0: 3, 1: 3, 2: 6}


@given(each=st.integers(1, 4), first=st.integers(0, 20), count=st.integers(1, 20))
def test_racks_of_one_size_share_every_partition(each, first, count):
    nodes = nodes_in(*"abc" * each)
    for replicas in place(nodes, first, count, 3):
        assert len({nodes[node].rack for node in replicas}) == 3


def test_where_one_topic_ends_the_next_begins():
    nodes = nodes_in("a", "b", "c")
    one = place(nodes, 0, 4, 1)
    assert one + place(nodes, 4, 4, 1) == place(nodes, 0, 8, 1)


@pytest.mark.parametrize("factor", [0, -1, 3])
def test_a_factor_that_is_not_possible_names_the_number_of_nodes(factor):
    with pytest.raises(InvalidReplicationFactorError, match=f"factor of {factor}.* which is 2 of 2 registered"):
        place(nodes_in("a", "b"), 0, 1, factor)


@pytest.mark.parametrize("state", ["fenced", "stopping", "draining"])
def test_a_node_that_may_not_have_replicas_gets_none(state):
    nodes = nodes_in("a", "b", "c")
    nodes[1] = replace(nodes[1], **{state: True})
    assert place(nodes, 0, 3, 2) == [[0, 2], [2, 0], [0, 2]]
    with pytest.raises(InvalidReplicationFactorError, match=r"factor of 3.* which is 2 of 3 registered"):
        place(nodes, 0, 1, 3)
