"""The calls of requests between nodes, and about the cluster: each hands its request to the actor that it is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BrokerError, BrokerIdNotRegisteredError, BrokerNotAvailableError, InvalidRequestError
from ..quorum.node_decisions import describe_cluster
from ..transport.cluster_messages import DescribeClusterRequest
from ..transport.internal_topics import OFFSETS_TOPIC
from ..transport.peer_messages import (
    PEER_REQUESTS,
    ClaimGroupRequest,
    ForwardRequest,
    JoinClusterRequest,
    ReleaseGroupRequest,
    ReplicaFetchRequest,
)
from ..transport.quorum_messages import QUORUM_REQUESTS, DescribeQuorumRequest
from .calls import Call
from .commands import ClaimGroup, ReleaseGroup
from .context import CONTROLLER, QUORUM, replica_server_address
from .forwarding import passed_back, unwrapped
from .group_requests import coordinator_of
from .peer_commands import ControllerAnswer, ForwardedCall, PeerAnswer, QuorumCall, ReplicaFetchCommand
from .replica_server import ReplicaServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.message_base import Request
    from .calls import CallOwner
    from .commands import Answer


class HandedOnCall(Call):
    """A request that one actor of this node answers."""

    def __init__(self, session: CallOwner, request: Any, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self._request = request

    def timeout_ms(self, request: Request) -> float:
        """The time that the request allows for waiting, and some more."""
        return float(getattr(request, "max_wait_ms", 0)) + super().timeout_ms(request)

    def start(self) -> None:
        """Hand the request on, or say why not."""
        try:
            self.hand_on()
        except BrokerError as error:
            self.fail(error)

    def hand_on(self) -> None:
        """Tell the actor. Raises a BrokerError."""
        raise NotImplementedError

    def on_answer(self, answer: Answer) -> None:
        """Reply with what the actor said."""
        self.reply(answer.body, answer.frames if isinstance(answer, PeerAnswer) else None)

    def drain(self) -> None:
        """The node stops, and what it waits for may never come: the other node asks again, or another one."""
        self.fail(BrokerNotAvailableError(f"node {self.session.context.config.node_id} stops"))


class QuorumRequestCall(HandedOnCall):
    """A request to the metadata quorum."""

    def hand_on(self) -> None:
        """Ask the node's member of the quorum."""
        self.session.reactor.tell(QUORUM, QuorumCall(self.session.actor_ref, self, 0, self._request))


class ReplicaFetchCall(HandedOnCall):
    """The fetch of another node, of all partitions that it follows here."""

    def hand_on(self) -> None:
        """Ask the server of that node's fetches."""
        session = self.session
        request: ReplicaFetchRequest = self._request
        me = session.context.config.node_id
        if request.node_id == me:
            message = f"node {request.node_id} fetches from itself: two processes have one node id"
            raise InvalidRequestError(message)
        if request.node_id not in session.context.image.nodes:
            message = f"node {request.node_id} is not one of this cluster, as far as node {me} knows"
            raise BrokerIdNotRegisteredError(message)
        address = replica_server_address(request.node_id)
        server = session.reactor.lookup(address)
        if server is None:
            server = session.reactor.spawn(ReplicaServer, session.context, request.node_id, address=address)
        server.tell(ReplicaFetchCommand(session.actor_ref, self, 0, request))


class ForwardCall(HandedOnCall):
    """A request for the controller that another node passes on (KIP-590)."""

    def hand_on(self) -> None:
        """Ask the controller, if it is this node's."""
        inner = unwrapped(self._request)
        told = self.session.reactor.tell(CONTROLLER, ForwardedCall(self.session.actor_ref, self, 0, inner))
        assert told, "a node without a controller takes no requests"

    def on_answer(self, answer: Answer) -> None:
        """Reply with the answer and the metadata that it goes with."""
        assert isinstance(answer, ControllerAnswer)
        self.reply(passed_back(answer.body, answer.metadata_offset))


class GroupIdCall(HandedOnCall):
    """A ShareCoordinator of another node takes a group's id, or gives it back."""

    def hand_on(self) -> None:
        """Ask the coordinator of consumer groups."""
        request = self._request
        session = self.session
        command = ClaimGroup if isinstance(request, ClaimGroupRequest) else ReleaseGroup
        coordinator = coordinator_of(session, OFFSETS_TOPIC, request.group_id)
        coordinator.tell(command(session.actor_ref, self, 0, request.group_id))


class DescribeClusterCall(Call):
    """List the cluster's nodes."""

    def start(self) -> None:
        """Reply from the image."""
        context = self.session.context
        self.reply(describe_cluster(context.image, context.cluster_id, context.controller_id))


NODES_ONLY = frozenset({*PEER_REQUESTS, *QUORUM_REQUESTS} - {JoinClusterRequest, DescribeQuorumRequest})
"""Requests that are taken only from who has said that it is a node of this cluster."""

PEER_CALLS: dict[type[Request], Callable[[CallOwner, Any, int, int], Call]] = {
    **dict.fromkeys(QUORUM_REQUESTS, QuorumRequestCall),
    ReplicaFetchRequest: ReplicaFetchCall,
    ForwardRequest: ForwardCall,
    ClaimGroupRequest: GroupIdCall,
    ReleaseGroupRequest: GroupIdCall,
    DescribeClusterRequest: DescribeClusterCall,
}
"""The call of each request between nodes; those about transactions are transaction_requests.py's."""
