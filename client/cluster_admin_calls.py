"""The admin calls about the cluster as flows: its nodes, its quorum, and where partitions are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BrokerIdNotRegisteredError, ElectionNotNeededError, UnknownTopicOrPartitionError
from ..transport import cluster_messages as c
from ..transport.message_base import Body
from ..transport.quorum_messages import DescribeQuorumReply, DescribeQuorumRequest, QuorumReplica
from .admin_calls import raise_first
from .cluster_admin_types import Move, MoveUnderWay, NodeState, QuorumDescription, QuorumNode
from .group_admin_calls import GroupAdminCalls
from .types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .io import Flow


_NOT_THERE = (BrokerIdNotRegisteredError, UnknownTopicOrPartitionError)
"""From the controller this is the last word; other nodes may be behind."""


class ClusterAdminCalls(GroupAdminCalls):
    """Each method is a flow; any node is asked, and passes on what is the controller's to decide."""

    # ---- nodes

    def list_nodes(self) -> Flow[list[NodeState]]:
        """All registered nodes."""
        reply = yield from self._ask(c.DescribeClusterRequest(), c.DescribeClusterReply)
        return [
            NodeState(
                *(o.node_id, o.host, o.port, o.rack, o.epoch),
                *(o.state, o.is_voter, o.is_controller, o.leaders, o.replicas),
            )
            for o in reply.nodes
        ]

    def drain_node(self, node_id: int, *, cancel: bool) -> Flow[None]:
        """Begin to move everything off a node, or stop that."""
        yield from self._ask(c.DrainNodeRequest(node_id, cancel), Body, final=_NOT_THERE)

    def remove_node(self, node_id: int) -> Flow[None]:
        """Forget a node."""
        yield from self._ask(c.RemoveNodeRequest(node_id), Body, final=_NOT_THERE)

    def upgrade_cluster(self, version: int) -> Flow[None]:
        """Use a protocol version from now on."""
        yield from self._ask(c.UpgradeClusterRequest(version), Body)

    def describe_quorum(self) -> Flow[QuorumDescription]:
        """The metadata quorum."""
        r = yield from self._ask(DescribeQuorumRequest(), DescribeQuorumReply)
        return QuorumDescription(
            r.leader_id,
            r.epoch,
            r.high_watermark,
            [_quorum_node(o) for o in r.voters],
            [_quorum_node(o) for o in r.observers],
        )

    # ---- partitions

    def alter_partition_reassignments(
        self, moves: Mapping[TopicPartition, Sequence[int] | None], replication_factor: int
    ) -> Flow[None]:
        """Begin moves, or end them."""
        entries = [
            c.Reassignment(*partition, None if replicas is None else list(replicas))
            for partition, replicas in moves.items()
        ]
        request = c.AlterPartitionReassignmentsRequest(entries, self._request_timeout_ms(), replication_factor)
        reply = yield from self._ask(request, c.PartitionOutcomesReply)
        raise_first(reply.partitions, "topic")

    def list_partition_reassignments(self, topics: Iterable[str] | None) -> Flow[list[MoveUnderWay]]:
        """Moves under way."""
        request = c.ListPartitionReassignmentsRequest(None if topics is None else list(topics))
        reply = yield from self._ask(request, c.ListPartitionReassignmentsReply)
        return [
            MoveUnderWay(TopicPartition(o.topic, o.partition), o.replicas, o.adding, o.removing)
            for o in reply.partitions
        ]

    def rebalance(self, topics: Iterable[str] | None, *, validate_only: bool) -> Flow[list[Move]]:
        """Begin the moves that make the cluster even."""
        request = c.RebalanceRequest(None if topics is None else list(topics), validate_only)
        reply = yield from self._ask(request, c.RebalanceReply, final=_NOT_THERE)
        return [Move(TopicPartition(o.topic, o.partition), o.replicas or []) for o in reply.moves]

    def elect_leaders(
        self, partitions: Iterable[TopicPartition] | None, *, unclean: bool
    ) -> Flow[list[TopicPartition]]:
        """Elect leaders; returns the partitions that have another one now."""
        wanted = None if partitions is None else [(topic, partition) for topic, partition in partitions]
        reply = yield from self._ask(c.ElectLeadersRequest(wanted, unclean), c.PartitionOutcomesReply)
        needed = [o for o in reply.partitions if o.error_code != ElectionNotNeededError.code]
        raise_first(needed, "topic")
        return [TopicPartition(o.topic, o.partition) for o in needed]


def _quorum_node(o: QuorumReplica) -> QuorumNode:
    return QuorumNode(o.node_id, o.end_offset, o.last_fetch_ms, o.last_caught_up_ms)
