"""Which change of the quorum's voters is due: 1, 3 or 5 of them, by the number of nodes. Pure.

One change at a time, as KIP-853 has it; each is decided anew from what the one before has made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .image import MetadataImage


class AddVoter(NamedTuple):
    """Let this observer vote."""

    node_id: int
    directory_id: str


class RemoveVoter(NamedTuple):
    """Let this one vote no more."""

    node_id: int
    directory_id: str


VoterChange: TypeAlias = AddVoter | RemoveVoter


def voters_wanted(nodes: int, voters_max: int) -> int:
    """How many vote in a cluster of so many nodes: an odd number, as one more could not miss more of them."""
    most = min(max(nodes, 1), max(voters_max, 1), 5)
    return most if most % 2 else most - 1


def due_change(
    image: MetadataImage, caught_up: Mapping[int, str], leader_id: int, voters_max: int
) -> VoterChange | None:
    """The next change; None: all is as it should be, or nobody fit is there.

    Void voters go first: of nodes that were removed, or that have another folder now; the only one waits for another.
    Then a voter that is drained gives its place to another node, and what is missing or too much is made good. A node
    that is merely not heard of keeps its vote: it mostly comes back.

    caught_up: nodes whose metadata log is (nearly) the leader's, by node id, with their directory ids.
    """
    void = [voter for voter in image.voters if _is_void(image, *voter)]
    if void and len(image.voters) > 1:
        return RemoveVoter(*void[0])
    voting = {node_id for node_id, _ in image.voters}
    fit = [
        AddVoter(node_id, directory_id)
        for node_id, directory_id in sorted(caught_up.items())
        if node_id not in voting and _is_fit(image, node_id, directory_id)
    ]
    wanted, now = voters_wanted(len(image.nodes), voters_max), len(image.voters)
    drained = [voter for voter in image.voters if voter[0] in image.nodes and image.nodes[voter[0]].draining]
    if now < wanted:
        # Two voters are worse than one: the step to an even number is taken if the next one can follow.
        return fit[0] if len(fit) >= 1 + now % 2 else None
    if now == wanted:
        return fit[0] if (drained or void) and fit else None
    return RemoveVoter(*_dispensable(image, drained, leader_id))


def _is_void(image: MetadataImage, node_id: int, directory_id: str) -> bool:
    node = image.nodes.get(node_id)
    if node is None:
        return node_id < image.next_node_id  # else it has founded the cluster, and is not registered yet
    return node.directory_id not in ("", directory_id)


def _is_fit(image: MetadataImage, node_id: int, directory_id: str) -> bool:
    node = image.nodes.get(node_id)
    return (
        node is not None and not (node.fenced or node.stopping or node.draining) and node.directory_id == directory_id
    )


def _dispensable(image: MetadataImage, drained: list[tuple[int, str]], leader_id: int) -> tuple[int, str]:
    """Who loses its vote where there are too many: the drained, then the dead, and the leader last."""

    def worth(voter: tuple[int, str]) -> tuple[bool, bool, bool, int]:
        node = image.nodes.get(voter[0])
        return voter not in drained, voter[0] == leader_id, node is not None and not node.fenced, -voter[0]

    return min(image.voters, key=worth)
