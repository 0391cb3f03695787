"""Who votes: 1, 3 or 5, one change at a time, and never a step that makes the quorum weaker for nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqbroker.quorum.image import MetadataImage, NodeImage
from zmqbroker.quorum.voters import AddVoter, RemoveVoter, due_change, voters_wanted


def image_of(nodes, voters, **states):
    """Nodes 1 to `nodes` with directory ids d1, d2, ..., and these voters; states: node ids by state."""
    images = {node: NodeImage(node, "h", 1, "r", 0, fenced=False, directory_id=f"d{node}") for node in nodes}
    for state, members in states.items():
        for node in members:
            images[node] = replace(images[node], **{state: True})
    return MetadataImage(nodes=images, voters=tuple((node, f"d{node}") for node in voters), next_node_id=10)


def due(image, caught_up=None, leader=1, voters_max=5):
    ready = image.nodes if caught_up is None else caught_up
    return due_change(image, {node: f"d{node}" for node in ready}, leader, voters_max)


@pytest.mark.parametrize(
    ("nodes", "voters_max", "wanted"),
    [(1, 5, 1), (2, 5, 1), (3, 5, 3), (4, 5, 3), (5, 5, 5), (9, 5, 5), (9, 3, 3), (9, 1, 1), (9, 4, 3), (0, 5, 1)],
)
def test_how_many_vote(nodes, voters_max, wanted):
    assert voters_wanted(nodes, voters_max) == wanted


def test_voters_are_added_one_at_a_time():
    assert due(image_of([1, 2], [1])) is None
    assert due(image_of([1, 2, 3], [1])) == AddVoter(2, "d2")
    assert due(image_of([1, 2, 3], [1, 2])) == AddVoter(3, "d3")
    assert due(image_of([1, 2, 3, 4], [1, 2, 3])) is None
    assert due(image_of([1, 2, 3, 4, 5], [1, 2, 3])) == AddVoter(4, "d4")
    assert due(image_of([1, 2, 3, 4, 5], [1, 2, 3]), voters_max=3) is None


def test_an_even_number_is_no_place_to_stay():
    assert due(image_of([1, 2, 3], [1]), caught_up=[1, 2]) is None, "two are worse than one"
    assert due(image_of([1, 2, 3], [1, 2]), caught_up=[]) is None
    assert due(image_of([1, 2], [1, 2])) == RemoveVoter(2, "d2")


@pytest.mark.parametrize("state", ["fenced", "stopping", "draining"])
def test_who_is_not_fit_gets_no_vote(state):
    assert due(image_of([1, 2, 3, 4], [1, 2], **{state: [3]})) == AddVoter(4, "d4")
    assert due(image_of([1, 2, 3], [1, 2], **{state: [3]})) is None


def test_an_observer_with_another_folder_than_registered_gets_no_vote():
    assert due_change(image_of([1, 2, 3], [1, 2]), {3: "old"}, 1, 5) is None


def test_void_voters_go_first():
    image = image_of([1, 2, 4, 5], [1, 2, 3])
    assert due(image) == RemoveVoter(3, "d3"), "node 3 was removed"
    image = image_of([1, 2, 3, 4], [1, 2, 3])
    nodes = {**image.nodes, 2: replace(image.nodes[2], directory_id="new")}
    assert due(replace(image, nodes=nodes)) == RemoveVoter(2, "d2"), "node 2 has another folder"


def test_the_founder_votes_before_it_is_registered():
    image = MetadataImage(voters=((1, "d1"),))
    assert due(image) is None
    assert due(replace(image, voters=((1, "d1"), (2, "d2")), next_node_id=3)) == RemoveVoter(1, "d1")


def test_a_dead_voter_keeps_its_vote():
    assert due(image_of([1, 2, 3, 4], [1, 2, 3], fenced=[2])) is None


def test_a_drained_voter_gives_its_place_to_another():
    assert due(image_of([1, 2, 3], [1, 2, 3], draining=[2])) is None, "nobody is there to take it"
    assert due(image_of([1, 2, 3, 4], [1, 2, 3], draining=[2])) == AddVoter(4, "d4")
    assert due(image_of([1, 2, 3, 4], [1, 2, 3, 4], draining=[2])) == RemoveVoter(2, "d2")


def test_a_lone_voter_that_was_removed_gives_its_place_to_another():
    assert due(image_of([2], [1])) == AddVoter(2, "d2")
    assert due(image_of([2], [1, 2])) == RemoveVoter(1, "d1")


def test_too_many_are_made_fewer_from_the_least_useful_on():
    assert due(image_of([1, 2, 3, 4], [1, 2, 3, 4], fenced=[2])) == RemoveVoter(2, "d2")
    assert due(image_of([1, 2, 3, 4], [1, 2, 3, 4]), leader=4) == RemoveVoter(3, "d3")
    assert due(image_of([1, 2, 3, 4], [1, 2, 3, 4], draining=[4]), leader=4) == RemoveVoter(4, "d4")


@given(
    nodes=st.sets(st.integers(1, 7), min_size=1),
    voters=st.sets(st.integers(1, 7), min_size=1),
    draining=st.sets(st.integers(1, 7)),
    fenced=st.sets(st.integers(1, 7)),
    voters_max=st.integers(1, 5),
)
def test_it_comes_to_rest_at_the_wanted_number(nodes, voters, draining, fenced, voters_max):
    image = image_of(sorted(nodes), sorted(voters), draining=draining & nodes, fenced=fenced & nodes)
    seen = set()
    while (change := due(image, voters_max=voters_max)) is not None:
        assert image.voters not in seen, f"round and round: {change}"
        seen.add(image.voters)
        after = set(image.voters)
        (after.add if isinstance(change, AddVoter) else after.remove)((change.node_id, change.directory_id))
        assert after, "somebody always votes"
        image = replace(image, voters=tuple(sorted(after)))
    able = [node for node in nodes if node not in draining | fenced]
    voting = {node for node, _ in image.voters}
    assert voting <= nodes or len(voting) == 1
    assert len(voting) <= voters_wanted(len(nodes), voters_max)
    assert len(voting) == voters_wanted(len(nodes), voters_max) or len(set(able) - voting) <= 1
