"""ActiveController: decides what changes in the cluster, while its node leads the metadata quorum in one epoch.

It is event-sourced. A request is decided against the working image, which holds all that is appended, committed or not;
its records go to the quorum, and its answer waits until they, and all before them, are committed: nobody hears of what
may yet be lost, or is not true any more. Heartbeats that change nothing do not wait.
"""

from __future__ import annotations

import logging
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import BrokerError, InconsistentClusterIdError, NotControllerError, UnsupportedVersionError
from ..quorum import decisions, node_decisions, partition_decisions, reassignment
from ..quorum.decision import Decision
from ..quorum.image import apply
from ..quorum.records import NoOp
from ..transport.cluster_messages import (
    AlterPartitionReassignmentsRequest,
    DrainNodeRequest,
    ElectLeadersRequest,
    ListPartitionReassignmentsRequest,
    RebalanceRequest,
    RemoveNodeRequest,
    UpgradeClusterRequest,
)
from ..transport.config_messages import TOPIC_RESOURCE, AlterConfigsRequest
from ..transport.messages import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    InitProducerIdReply,
    InitProducerIdRequest,
)
from ..transport.peer_messages import (
    AlterPartitionRequest,
    HeartbeatNodeReply,
    HeartbeatNodeRequest,
    JoinClusterRequest,
    RegisterNodeRequest,
)
from .change_log import log_changes
from .context import QUORUM
from .peer_commands import AppendMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..quorum.image import MetadataImage
    from ..quorum.records import MetadataRecord
    from ..settings import BrokerConfig
    from ..transport.message_base import Request
    from .context import NodeContext
    from .forwarding import Outcome, Respond
    from .liveness import Liveness

logger = logging.getLogger(__name__)


def _list_partition_reassignments(image: MetadataImage, request: ListPartitionReassignmentsRequest) -> Decision:
    return Decision([], reassignment.list_partition_reassignments(image, request))


_BY_IMAGE_AND_SETTINGS: dict[type[Request], Callable[[MetadataImage, Any, BrokerConfig], Decision]] = {
    DeleteTopicsRequest: decisions.delete_topics,
    AlterConfigsRequest: decisions.alter_configs,
    AlterPartitionRequest: partition_decisions.alter_partition,
    ElectLeadersRequest: partition_decisions.elect_leaders,
    AlterPartitionReassignmentsRequest: reassignment.alter_partition_reassignments,
    RebalanceRequest: reassignment.rebalance,
    DrainNodeRequest: node_decisions.drain_node,
}
_BY_IMAGE: dict[type[Request], Callable[[MetadataImage, Any], Decision]] = {
    ListPartitionReassignmentsRequest: _list_partition_reassignments,
    CreatePartitionsRequest: decisions.create_partitions,
    UpgradeClusterRequest: node_decisions.upgrade_cluster,
}


_TRUE_ANYWAY: Final = (HeartbeatNodeRequest, InitProducerIdRequest, AlterPartitionRequest)
"""An id of a block of its own is unique whoever leads; the others are asked again until the metadata agree."""


class _Decided(NamedTuple):
    """A request whose answer waits until the metadata below the offset are committed."""

    offset: int
    respond: Respond
    outcome: Outcome


class ActiveController:
    """The one writer of the cluster's metadata in one epoch of the quorum; part of the Controller actor."""

    def __init__(self, context: NodeContext, epoch: int, image: MetadataImage, basis: int, liveness: Liveness) -> None:
        self.epoch = epoch
        self._basis = basis
        self.image = image
        """All that is appended."""
        self.arrived: set[int] = set()
        """Nodes that were unfenced and hosted nothing, since this was last emptied."""
        config = context.config
        self.interval_ms = min(config.broker_heartbeat_interval_ms, config.broker_session_timeout_ms / 4)
        """How often `fence_lost` has to be called at least."""
        self._context = context
        self._liveness = liveness
        self._committed = -1
        self._decided: deque[_Decided] = deque()
        self._producer_ids = range(0)
        liveness.restart(image.nodes, context.clock.monotonic_ms())

    # ---- requests

    def decide(self, request: Request, respond: Respond) -> None:
        """Decide about a request; the answer comes now or later, once."""
        try:
            if isinstance(request, HeartbeatNodeRequest):
                decision = self._heartbeat(request)
                if not decision.records and not request.want_shut_down:
                    respond(decision.reply, -1)
                    return
            else:
                decision = self._decision(request)
        except BrokerError as error:
            logger.info("%s was refused: %s", type(request).__name__, error.message)
            outcome: Outcome = error
            records: Sequence[MetadataRecord] = ()
        else:
            outcome, records = decision.reply, decision.records
        self.append(list(records) or self._confirmation(request))
        self._decided.append(_Decided(self.image.end_offset, respond, outcome))
        self._answer()

    def _confirmation(self, request: Request) -> list[MetadataRecord]:
        """What to append for a decision that changes nothing, so that its answer is still true when it is told.

        A controller that was cut off or hung may have a successor without knowing it. It commits nothing more; and what
        it has to say of its old metadata ("there is no such topic") it must not say either. A quorum of one has no
        other leader.
        """
        voters = {node_id for node_id, _ in self.image.voters}
        if isinstance(request, _TRUE_ANYWAY) or voters <= {self._context.config.node_id}:
            return []
        return [NoOp()]

    def _decision(self, request: Request) -> Decision:
        kind = type(request)
        if kind in _BY_IMAGE_AND_SETTINGS:
            return _BY_IMAGE_AND_SETTINGS[kind](self.image, request, self._context.config)
        if kind in _BY_IMAGE:
            return _BY_IMAGE[kind](self.image, request)
        return self._special_decision(request)

    def _special_decision(self, request: Request) -> Decision:
        """Decide by more than the image and the settings."""
        image, context = self.image, self._context
        match request:
            case CreateTopicsRequest():
                return decisions.create_topics(image, request, context.config, self._topic_id)
            case InitProducerIdRequest():
                return self._producer_id(request)
            case RegisterNodeRequest():
                return self._register(request)
            case JoinClusterRequest():
                return node_decisions.join_cluster(image, request, context.cluster_id)
            case RemoveNodeRequest(node_id):
                return node_decisions.remove_node(image, request, alive=self._is_alive(node_id))
            case _:
                message = f"{type(request).__name__} is not served by the controller"
                raise UnsupportedVersionError(message)

    def _topic_id(self, name: str, offset: int) -> str:
        """A topic's id: unique, since no two topics begin at one offset of one cluster's metadata log."""
        return blake2b(f"{self._context.cluster_id}/{offset}/{name}".encode(), digest_size=16).hexdigest()

    def _producer_id(self, request: InitProducerIdRequest) -> Decision:
        """The next epoch of an id, or a new id; ids are taken from the log in blocks, so that most need no record."""
        bumped = decisions.bumped_epoch(request.producer_id, request.producer_epoch)
        if bumped is not None:
            return Decision([], bumped)
        changes: list[MetadataRecord] = []
        if not self._producer_ids:
            self._producer_ids, changes = decisions.next_producer_ids(self.image)
        producer_id, self._producer_ids = self._producer_ids[0], self._producer_ids[1:]
        return Decision(changes, InitProducerIdReply(producer_id, 0))

    # ---- the lives of nodes

    def _register(self, request: RegisterNodeRequest) -> Decision:
        context = self._context
        if request.cluster_id != context.cluster_id:
            message = (
                f"node {request.node_id} belongs to cluster {request.cluster_id}, and this is {context.cluster_id}"
            )
            raise InconsistentClusterIdError(message)
        alive = self._is_alive(request.node_id) and not self._takes_place(request)
        decision = node_decisions.register_node(self.image, request, context.config, alive=alive)
        self._liveness.heard(request.node_id, self._now_ms())
        return decision

    def _takes_place(self, request: RegisterNodeRequest) -> bool:
        """Whether the process that registered before cannot live any more: only one has a folder, and one a port.

        One that has asked for leave to stop is not waited for either.
        """
        before = self.image.nodes[request.node_id]
        if before.stopping:
            return True
        if request.node_id == self._context.config.node_id:
            return before.incarnation != self._context.incarnation  # this very process has its place
        there = (before.directory_id, before.host, before.port)
        return there == (request.directory_id, request.host, request.port)

    def _now_ms(self) -> float:
        """The time by which lives are judged: a pause of this process itself is made good for."""
        now_ms = self._context.clock.monotonic_ms()
        self._liveness.awake(now_ms, self.interval_ms)
        return now_ms

    def _is_alive(self, node_id: int) -> bool:
        node, context = self.image.nodes.get(node_id), self._context
        now_ms, timeout_ms = self._now_ms(), context.config.broker_session_timeout_ms
        return node is not None and self._liveness.is_alive(node, now_ms, timeout_ms)

    def _heartbeat(self, request: HeartbeatNodeRequest) -> Decision:
        context = self._context
        decision = node_decisions.heartbeat(self.image, request, context.config)
        self._liveness.heard(request.node_id, self._now_ms())
        node = self.image.nodes[request.node_id]
        if node.fenced and self._liveness.is_gone(node):
            # It was on its way when its process ended. Should the process live after all, its link will say so.
            return Decision([], HeartbeatNodeReply(is_caught_up=False, is_fenced=True, should_shut_down=False))
        if node.fenced and decision.records and not self._hosts(node.node_id):
            self.arrived.add(node.node_id)
        return decision

    def _hosts(self, node_id: int) -> bool:
        return any(node_id in state.replicas for topic in self.image.topics.values() for state in topic.partitions)

    def fence_lost(self) -> None:
        """Fence the nodes whose sessions are over, and those whose processes are gone."""
        context = self._context
        now_ms, timeout_ms = self._now_ms(), context.config.broker_session_timeout_ms
        for node in list(self.image.nodes.values()):
            if node.fenced:
                continue
            if self._liveness.is_gone(node):
                logger.info(
                    "nobody listens at %s:%d any more: the process of node %d is gone",
                    node.host,
                    node.port,
                    node.node_id,
                )
            elif self._liveness.is_silent(node, now_ms, timeout_ms):
                logger.info("node %d was not heard of for %d ms", node.node_id, timeout_ms)
            else:
                continue
            self.append(node_decisions.fence(self.image, node.node_id, context.config))

    # ---- the log

    def append(self, records: list[MetadataRecord]) -> None:
        """Append a decision's records, as one batch; they count in the decisions that follow."""
        if not records:
            return
        log_changes(self.image, records)
        reactor = self._context.reactor
        told = reactor.tell(QUORUM, AppendMetadata(self.epoch, records, self.image.end_offset, self._basis))
        assert told or reactor.stopping, "a node that leads the quorum has a quorum actor"
        self.image = apply(self.image, records, TOPIC_RESOURCE)

    def committed(self, offset: int) -> None:
        """Answer the decisions that cannot be lost any more."""
        assert offset >= self._committed, f"committed metadata go back from {self._committed} to {offset}"
        assert offset <= self.image.end_offset, f"{offset} is committed, and only {self.image.end_offset} was decided"
        self._committed = offset
        self._answer()

    def _answer(self) -> None:
        while self._decided and self._decided[0].offset <= self._committed:
            offset, respond, outcome = self._decided.popleft()
            respond(outcome, offset)

    def rebase(self, image: MetadataImage, basis: int) -> None:
        """Go on from another log: the quorum has appended a record of its own, the image's last.

        What was sent to be appended behind it is not in the log, and is refused; so its producer ids are given up.
        """
        why = "the quorum's voters have changed meanwhile"
        self._go_back(image, basis, image.end_offset - 1, NotControllerError(self._unknown(why)))

    def append_refused(self, image: MetadataImage, basis: int, error: BrokerError) -> None:
        """Go on from the end of this image: what was decided past it could not be appended."""
        logger.error("the metadata log takes no more: %s", error.message)
        self._go_back(image, basis, image.end_offset, error)

    def _go_back(self, image: MetadataImage, basis: int, end: int, error: BrokerError) -> None:
        lost = [decided for decided in self._decided if decided.offset > end]
        self._decided = deque(decided for decided in self._decided if decided.offset <= end)
        self._producer_ids = range(0)
        self.image, self._basis = image, basis
        _refuse(lost, error)

    def lose(self) -> None:
        """Refuse all that is not committed: this node leads no more. What becomes of it is unknown."""
        lost, self._decided = self._decided, deque()
        _refuse(lost, NotControllerError(self._unknown("it has lost the lead of the metadata quorum")))

    def _unknown(self, why: str) -> str:
        return f"node {self._context.config.node_id} cannot say what became of the request: {why}"


def _refuse(lost: Iterable[_Decided], error: BrokerError) -> None:
    for decided in lost:
        decided.respond(error, -1)
