"""The messages by which a cluster is operated: its nodes, and where partitions are."""

from __future__ import annotations

from .message_base import Body, Count, Int32, Int64, Name, Request

# ---- nodes


class NodeInfo(Body):
    """A node, as the controller knows it."""

    node_id: Int32
    host: Name
    port: Count
    rack: Name
    epoch: Int64
    state: Name
    """`active`, `fenced` (not heard of), `stopping` (in controlled shutdown), or `draining`, or `drained`."""
    is_voter: bool
    is_controller: bool
    leaders: int
    replicas: int


class DescribeClusterReply(Body):
    """All registered nodes, by id."""

    cluster_id: Name
    controller_id: Int32
    protocol_version: int
    nodes: list[NodeInfo]


class DescribeClusterRequest(Request):
    """List the nodes, alive or not; answered by any node from the metadata that it has."""

    API = 60
    REPLY = DescribeClusterReply


class DrainNodeRequest(Request):
    """Move all leaders and replicas off a node, and give it no new ones; with cancel let it have some again.

    Answered when the moves are begun; DescribeCluster says `drained` when they are done.
    """

    API = 1103
    REPLY = Body

    node_id: Int32
    cancel: bool = False
    timeout_ms: Count = 30_000


class RemoveNodeRequest(Request):
    """Forget a node that hosts nothing (any more) and is not alive, or is drained; it has to join anew to come back."""

    API = 64
    REPLY = Body

    node_id: Int32
    timeout_ms: Count = 30_000


class UpgradeClusterRequest(Request):
    """Let the cluster use this protocol version from now on; every registered node has to speak it."""

    API = 57
    REPLY = Body

    version: Int32
    timeout_ms: Count = 30_000


# ---- where partitions are


class Reassignment(Body):
    """The replicas that a partition shall have, the preferred leader first; nil: stop moving it and go back."""

    topic: Name
    partition: Count
    replicas: list[Int32] | None


class PartitionOutcome(Body):
    """What became of one partition."""

    topic: Name
    partition: Count
    error_code: int = 0
    error_message: str | None = None


class PartitionOutcomesReply(Body):
    """One entry for each partition of the request."""

    partitions: list[PartitionOutcome]


class AlterPartitionReassignmentsRequest(Request):
    """Move partitions; the number of replicas may change too. Answered when the moves are begun.

    An entry with an empty list gets replication_factor replicas, unless that is 0: which ones go and where new ones
    come is for the controller to choose. INVALID_REPLICATION_FACTOR of the whole request: there are too few nodes.
    """

    API = 45
    REPLY = PartitionOutcomesReply

    partitions: list[Reassignment]
    timeout_ms: Count
    replication_factor: Count = 0


class ReassignmentState(Body):
    """A partition that is being moved; sizes come from DescribeLogDirs of the nodes."""

    topic: Name
    partition: Count
    replicas: list[Int32]
    adding: list[Int32]
    removing: list[Int32]


class ListPartitionReassignmentsReply(Body):
    """The moves under way."""

    partitions: list[ReassignmentState]


class ListPartitionReassignmentsRequest(Request):
    """List the moves under way; topics nil: of all."""

    API = 46
    REPLY = ListPartitionReassignmentsReply

    topics: list[Name] | None = None


class RebalanceReply(Body):
    """The moves that make the cluster even; begun already unless only validated."""

    moves: list[Reassignment]


class RebalanceRequest(Request):
    """Spread replicas and leaders over the nodes evenly, racks kept apart, with as few moves as that takes."""

    API = 1104
    REPLY = RebalanceReply

    topics: list[Name] | None = None
    validate_only: bool = False
    timeout_ms: Count = 30_000


class ElectLeadersRequest(Request):
    """Give partitions back to their preferred leaders; partitions nil: all that need it.

    Errors of an entry: PREFERRED_LEADER_NOT_AVAILABLE, ELECTION_NOT_NEEDED. With unclean a partition without a leader
    gets any living replica, and what that one lacks is lost.
    """

    API = 43
    REPLY = PartitionOutcomesReply

    partitions: list[tuple[Name, Count]] | None = None
    unclean: bool = False
    timeout_ms: Count = 30_000


CLUSTER_REQUESTS: tuple[type[Request], ...] = (
    DescribeClusterRequest,
    DrainNodeRequest,
    RemoveNodeRequest,
    UpgradeClusterRequest,
    AlterPartitionReassignmentsRequest,
    ListPartitionReassignmentsRequest,
    RebalanceRequest,
    ElectLeadersRequest,
)
"""All but DescribeCluster and ListPartitionReassignments are the controller's to answer."""
