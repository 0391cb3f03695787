"""What the admin client says of a cluster's nodes, and of partitions that are being moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import TopicPartition


@dataclass(frozen=True)
class NodeState:
    """A node as the controller knows it."""

    node_id: int
    host: str
    port: int
    rack: str
    epoch: int
    """The metadata offset of its registration."""
    state: str
    """`active`, `fenced` (not heard of), `stopping`, `draining` or `drained`."""
    is_voter: bool
    is_controller: bool
    leaders: int
    replicas: int


@dataclass(frozen=True)
class Move:
    """The replicas that a partition shall have, the preferred leader first."""

    partition: TopicPartition
    replicas: list[int]


@dataclass(frozen=True)
class MoveUnderWay:
    """A partition that is being moved: its replicas now, those that come and those that go."""

    partition: TopicPartition
    replicas: list[int]
    adding: list[int]
    removing: list[int]


@dataclass(frozen=True)
class QuorumNode:
    """A node as the leader of the metadata quorum sees it; times in ms since 1970, -1: not since it leads."""

    node_id: int
    end_offset: int
    last_fetch_ms: int
    last_caught_up_ms: int


@dataclass(frozen=True)
class QuorumDescription:
    """The metadata quorum."""

    leader_id: int
    epoch: int
    high_watermark: int
    voters: list[QuorumNode]
    observers: list[QuorumNode]
