"""Which nodes host the replicas of a new topic's partitions. Pure."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from typing import TYPE_CHECKING

from ..errors import InvalidReplicationFactorError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..settings import BrokerConfig
    from .image import MetadataImage, NodeImage

DEFAULT_FACTOR = 3
"""Replicas of a partition where nobody says otherwise and there are as many nodes."""


def usable(nodes: Iterable[NodeImage]) -> list[NodeImage]:
    """The nodes that get new replicas, by id: they are heard of, and neither stop nor are drained."""
    return sorted((node for node in nodes if node.may_lead), key=lambda node: node.node_id)


def default_factor(image: MetadataImage, config: BrokerConfig) -> int:
    """How many replicas a new partition has where the topic's creator does not say."""
    if config.default_replication_factor != -1:
        return config.default_replication_factor
    return max(1, min(DEFAULT_FACTOR, len(usable(image.nodes.values()))))


def place(nodes: Iterable[NodeImage], first: int, count: int, factor: int) -> list[list[int]]:
    """Replicas of `count` partitions, the leader-to-be first, on usable nodes.

    Nodes of different racks are dealt in turn, and each partition is led one node further in this order than the one
    before; `first` (the number of partitions that exist already) says where, so that leaders stay spread as topics
    come. The other replicas go, one by one, to the rack that has the fewest of the partition, there to the node that
    has the fewest of all of these partitions, and of such nodes to the next in order.

    Raises InvalidReplicationFactorError if there are fewer usable nodes than replicas.
    """
    registered = list(nodes)
    racks: dict[str, list[int]] = {}
    for node in usable(registered):
        racks.setdefault(node.rack, []).append(node.node_id)
    order = [node_id for turn in zip_longest(*racks.values()) for node_id in turn if node_id is not None]
    if not 1 <= factor <= len(order):
        message = (
            f"a replication factor of {factor} is not possible: it has to be at least 1 and at most the number of"
            f" nodes that can get replicas now, which is {len(order)} of {len(registered)} registered"
        )
        raise InvalidReplicationFactorError(message)
    turns = [order[turn:] + order[:turn] for turn in range(len(order))]
    dealt = [turns[(first + partition) % len(order)] for partition in range(count)]
    rack_of = {node.node_id: node.rack for node in registered}
    load = Counter(turn[0] for turn in dealt)
    return [_beside(turn, factor, rack_of, load) for turn in dealt]


def _beside(turn: list[int], factor: int, rack_of: dict[int, str], load: Counter[int]) -> list[int]:
    """The first of these nodes, and those that get the other replicas; they are counted."""
    replicas = turn[:1]
    in_rack = Counter([rack_of[turn[0]]])
    free = turn[1:]
    for _ in range(factor - 1):
        chosen = min(free, key=lambda node: (in_rack[rack_of[node]], load[node]))
        free.remove(chosen)
        replicas.append(chosen)
        in_rack[rack_of[chosen]] += 1
        load[chosen] += 1
    return replicas
