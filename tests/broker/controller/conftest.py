"""Several nodes' controllers on virtual time: the quorum and the links between the nodes do what a test says."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.commands import Answer, ControllerCall, Refusal
from zmqbroker.actors.context import CONTROLLER, MEMBERSHIP, QUORUM, NodeContext, peer_address
from zmqbroker.actors.controller import Controller
from zmqbroker.actors.forwarding import passed_back, unwrapped
from zmqbroker.actors.membership import Membership, NodeStart
from zmqbroker.actors.peer_commands import (
    AppendMetadata,
    AskPeer,
    ForwardedCall,
    ImageApplied,
    MetadataCommitted,
    PeerAnswer,
    PeerChanged,
    QuorumCall,
    QuorumLeader,
    StartLeading,
)
from zmqbroker.actors.reactor import Reactor
from zmqbroker.errors import NetworkError
from zmqbroker.quorum.image import MetadataImage, apply
from zmqbroker.quorum.records import LeaderChange, MetadataRecord, SetVoters
from zmqbroker.settings import broker_config
from zmqbroker.transport.config_messages import TOPIC_RESOURCE
from zmqbroker.transport.envelope import (
    convert_body,
    decode_request,
    encode_reply,
    encode_request,
    split_reply,
    split_request,
)
from zmqbroker.transport.messages import CreateTopicsRequest, NewTopic
from zmqbroker.transport.network import LinkState
from zmqbroker.transport.peer_messages import ForwardReply, HeartbeatNodeRequest, RegisterNodeRequest
from zmqbroker.transport.quorum_messages import DescribeQuorumReply, DescribeQuorumRequest, QuorumReplica

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CLUSTER_ID = "cluster"
FORWARD_API = 58


class VirtualClock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now_ms = 1_000.0

    def wall_ms(self) -> int:
        return int(self.now_ms)

    def monotonic_ms(self) -> float:
        return self.now_ms


class NoPoller:
    """I/O that is never ready, and never waited for."""

    def wait(self, timeout_ms: float | None) -> None:
        pass

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass


class Asker(ReactorActor):
    """Who asks the controller of its node; it keeps what it is told."""

    def __init__(self, node: FakeNode) -> None:
        super().__init__()
        self.node = node

    def on_receive(self, message: Any) -> None:
        asked: Asked = message.call
        assert asked.outcome is None, f"{asked.request!r} is answered twice: {asked.outcome!r} and {message!r}"
        asked.outcome = message.error if isinstance(message, Refusal) else message
        asked.answered_ms = self.node.cluster.clock.now_ms
        asked.known = self.node.context.image


class Asked:
    """A request and what came of it."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.outcome: Any = None
        self.answered_ms = -1.0
        self.known = MetadataImage()

    @property
    def body(self) -> Any:
        """The reply; fails if there is none yet, or an error."""
        assert isinstance(self.outcome, Answer), self.outcome
        return self.outcome.body

    @property
    def metadata_offset(self) -> int:
        assert isinstance(self.outcome, Answer), self.outcome
        return self.outcome.metadata_offset


class FakeQuorum(ReactorActor):
    """One node's part of the quorum: the log is the cluster's."""

    def __init__(self, node: FakeNode) -> None:
        super().__init__()
        self.node = node
        self.held: list[AppendMetadata] | None = None

    def on_receive(self, message: Any) -> None:
        cluster = self.node.cluster
        if isinstance(message, AppendMetadata):
            if self.held is not None:
                self.held.append(message)
            elif (cluster.leader_id, cluster.epoch) == (self.node.id, message.epoch):
                cluster.append(message)
            return
        assert isinstance(message, QuorumCall), message
        cluster.quorum_calls.append(message.request)
        if cluster.refusal is not None:
            message.reply_to.tell(Refusal(message.call, message.index, cluster.refusal))
            return
        body = cluster.describe() if isinstance(message.request, DescribeQuorumRequest) else message.request.REPLY()
        message.reply_to.tell(PeerAnswer(message.call, message.index, body))

    def release(self) -> None:
        """Take what was held back."""
        held, self.held = self.held or [], None
        for message in held:
            self.on_receive(message)


class FakeLink(ReactorActor):
    """The link to another node: requests and replies go over the wire's own encoding, or stay until released."""

    def __init__(self, node: FakeNode, other: FakeNode) -> None:
        super().__init__()
        self.node, self.other = node, other
        self.state = LinkState.DOWN
        self.held = False
        self.open: list[AskPeer] = []
        self.waiting: list[AskPeer] = []
        self.seen = 0

    def on_receive(self, message: Any) -> None:
        if isinstance(message, AskPeer):
            self.seen += 1
            if self.state is not LinkState.UP:
                message.reply_to.tell(Refusal(message.call, message.index, NetworkError("the link is down")))
                return
            self.open.append(message)
            if self.held:
                self.waiting.append(message)
            else:
                self.deliver(message)
            return
        ask = message.call  # what the other node has said
        if ask in self.open:  # else the link broke
            self.open.remove(ask)
            if isinstance(message, Refusal):
                ask.reply_to.tell(Refusal(ask.call, ask.index, message.error))
                return
            frame = encode_reply(FORWARD_API, 1, passed_back(message.body, message.metadata_offset))
            ask.reply_to.tell(PeerAnswer(ask.call, ask.index, convert_body(split_reply(frame).body, ForwardReply)))

    def deliver(self, ask: AskPeer) -> None:
        request = unwrapped(decode_request(split_request(encode_request(ask.request, 1))))
        self.other.reactor.tell(CONTROLLER, ForwardedCall(self.actor_ref, ask, 0, request))

    def release(self) -> None:
        """Let what was held go on its way."""
        self.held = False
        waiting, self.waiting = self.waiting, []
        for ask in waiting:
            self.deliver(ask)

    def change(self, state: LinkState) -> None:
        """Break or mend the link."""
        self.state = state
        if state is not LinkState.UP:
            lost, self.open, self.waiting = self.open, [], []
            for ask in lost:
                ask.reply_to.tell(Refusal(ask.call, ask.index, NetworkError("the link broke")))
        self.node.reactor.tell(CONTROLLER, PeerChanged(self.other.id, state))


class FakeNode:
    """One node: its controller, and fakes around it."""

    def __init__(self, cluster: Cluster, node_id: int, settings: dict[str, Any]) -> None:
        self.cluster, self.id = cluster, node_id
        self.reactor = Reactor(cluster.clock, NoPoller())
        config = broker_config({"node.id": node_id, **settings})
        nothing: Any = None
        self.context = NodeContext(
            config, self.reactor, cluster.clock, nothing, nothing, nothing, CLUSTER_ID, 1, nothing, Random(node_id)
        )
        self.context.incarnation = f"process-{node_id}"
        self.reactor.spawn(Controller, self.context, address=CONTROLLER)
        self.reactor.spawn(FakeQuorum, self, address=QUORUM)
        self.quorum = self.reactor._actors[QUORUM]
        self.asker = self.reactor.spawn(Asker, self, address="asker")
        self.links: dict[int, FakeLink] = {}
        self.follows = True
        """Whether it learns of commits."""
        self.active = 0
        self.refused: list[Any] = []

    def ask(self, request: Any) -> Asked:
        """Ask this node's controller."""
        asked = Asked(request)
        self.reactor.tell(CONTROLLER, ControllerCall(self.asker, asked, 0, request))
        self.cluster.asked.append(asked)
        return asked

    def apply(self) -> None:
        """Take in what is committed."""
        image = self.cluster.committed_image()
        assert image.end_offset >= self.context.image.end_offset
        self.context.image = image
        for address in (CONTROLLER, MEMBERSHIP):
            self.reactor.tell(address, ImageApplied(image.end_offset))

    def registration(self, incarnation: str | None = None, **changes: Any) -> RegisterNodeRequest:
        """What the node says of itself when it has started."""
        fields: dict[str, Any] = {
            "cluster_id": CLUSTER_ID,
            "node_id": self.id,
            "directory_id": f"folder-{self.id}",
            "incarnation": incarnation or self.context.incarnation,
            "host": "host",
            "port": 9000 + self.id,
            "rack": "",
            "clean": True,
            "min_version": 0,
            "max_version": 0,
            "previous_epoch": self.cluster.image.nodes[self.id].epoch if self.id in self.cluster.image.nodes else -1,
            **changes,
        }
        return RegisterNodeRequest(**fields)

    def heartbeat(self, epoch: int | None = None, **options: Any) -> Asked:
        """One heartbeat, of the latest registration or of another."""
        if epoch is None:
            epoch = self.cluster.image.nodes[self.id].epoch
        return self.ask(HeartbeatNodeRequest(self.id, epoch, self.context.image.end_offset, **options))

    def start_membership(self, **changes: Any) -> None:
        """Let the real actor see to registration and heartbeats."""
        start = NodeStart("host", 9000 + self.id, "", True, f"folder-{self.id}", self.context.incarnation)  # noqa: FBT003

        def on_active() -> None:
            self.active += 1

        start = start._replace(**changes)
        self.reactor.spawn(Membership, self.context, start, on_active, self.refused.append, address=MEMBERSHIP)


class Cluster:
    """The nodes, the metadata log, and time."""

    def __init__(self, nodes: int, settings: dict[str, Any]) -> None:
        self.clock = VirtualClock()
        self.log: list[MetadataRecord] = []
        self.images = [MetadataImage(voters=tuple((n, f"folder-{n}") for n in range(1, nodes + 1)))]
        """The image at each offset."""
        self._batch_ends = [0]
        self.committed = 0
        self.epoch = 0
        self.basis = 0
        self.leader_id = -1
        self.auto_commit = True
        self.asked: list[Asked] = []
        self.quorum_calls: list[Any] = []
        self.refusal: Any = None
        """What the quorum answers, if it shall refuse."""
        self.observers: list[QuorumReplica] = []
        self.appends: list[AppendMetadata] = []
        self.nodes = {node_id: FakeNode(self, node_id, settings) for node_id in range(1, nodes + 1)}
        for node in self.nodes.values():
            for other in self.nodes.values():
                if other is not node:
                    node.reactor.spawn(FakeLink, node, other, address=peer_address(other.id))
                    node.links[other.id] = node.reactor._actors[peer_address(other.id)]
                    node.links[other.id].change(LinkState.UP)

    def __getitem__(self, node_id: int) -> FakeNode:
        return self.nodes[node_id]

    @property
    def image(self) -> MetadataImage:
        """The image of all that is in the log."""
        return self.images[-1]

    def committed_image(self) -> MetadataImage:
        return self.images[self.committed]

    # ---- the quorum

    def append(self, message: AppendMetadata) -> None:
        if message.basis == self.basis:
            assert message.offset == len(self.log)
            self.appends.append(message)
            self.write(message.records)

    @property
    def batch_ends(self) -> list[int]:
        """Where the log may be cut, and what may be committed."""
        return [end for end in self._batch_ends if self.committed <= end <= len(self.log)]

    def write(self, records: Sequence[MetadataRecord]) -> None:
        del self._batch_ends[bisect_right(self._batch_ends, len(self.log)) :]
        self._batch_ends.append(len(self.log) + len(records))
        for record in records:
            self.log.append(record)
            self.images.append(apply(self.images[-1], [record], TOPIC_RESOURCE))

    def write_voters(self, *node_ids: int) -> None:
        """The quorum appends a record of its own."""
        self.write([SetVoters([(node_id, f"folder-{node_id}") for node_id in node_ids])])
        self._start_leading()

    def elect(self, leader_id: int, *, keep: int | None = None, told: Sequence[int] | None = None) -> None:
        """Another leader, whose log has the first `keep` records (None: all that is committed)."""
        keep = self.committed if keep is None else keep
        assert keep >= self.committed
        del self.log[keep:], self.images[keep + 1 :]
        self.epoch += 1
        self.leader_id = leader_id
        self.write([LeaderChange(leader_id, self.epoch)])
        self.tell_leader(told)
        self._start_leading()

    def _start_leading(self) -> None:
        self.basis += 1
        self.nodes[self.leader_id].reactor.tell(CONTROLLER, StartLeading(self.epoch, self.image, self.basis))

    def tell_leader(self, told: Sequence[int] | None = None, leader_id: int | None = None) -> None:
        leader_id = self.leader_id if leader_id is None else leader_id
        for node_id in self.nodes if told is None else told:
            self.nodes[node_id].reactor.tell(CONTROLLER, QuorumLeader(leader_id, self.epoch))

    def nobody_leads(self) -> None:
        """The quorum has no majority."""
        self.epoch += 1
        self.leader_id = -1
        self.tell_leader()

    def commit(self, offset: int | None = None) -> None:
        """A majority has what is below the offset; all that follow take it in."""
        self.committed = max(self.committed, len(self.log) if offset is None else offset)
        if self.leader_id != -1:
            told = MetadataCommitted(self.epoch, self.committed)
            self.nodes[self.leader_id].reactor.tell(CONTROLLER, told)
        for node in self.nodes.values():
            if node.follows and node.context.image.end_offset < self.committed:
                node.apply()

    def describe(self) -> DescribeQuorumReply:
        return DescribeQuorumReply(self.leader_id, self.epoch, self.committed, [], self.observers)

    # ---- time

    def run(self) -> None:
        """Let everything happen that takes no time."""
        busy = True
        for _ in range(10_000):
            if not busy:
                return
            busy = False
            for node in self.nodes.values():
                busy = node.reactor.run_pass(0.0) or busy
            if self.auto_commit and self.leader_id != -1 and self.committed < len(self.log):
                self.commit()
                busy = True
            busy = busy or any(node.reactor._run_queue for node in self.nodes.values())
        pytest.fail("the nodes do not come to rest")

    def run_for(self, duration_ms: float) -> None:
        """Let virtual time go by."""
        end_ms = self.clock.now_ms + duration_ms
        self.run()
        while True:
            due = [node.reactor.next_due_ms() for node in self.nodes.values()]
            next_ms = min((at for at in due if at is not None), default=end_ms)
            if next_ms > end_ms:
                break
            self.clock.now_ms = max(self.clock.now_ms, next_ms)
            self.run()
            if next_ms == end_ms and all(at is None or at > end_ms for at in self._due()):
                break
        self.clock.now_ms = end_ms
        self.run()

    def _due(self) -> list[float | None]:
        return [node.reactor.next_due_ms() for node in self.nodes.values()]

    # ---- shorthands

    def join(self, *node_ids: int) -> None:
        """Register and unfence nodes."""
        for node_id in node_ids:
            node = self.nodes[node_id]
            registered = node.ask(node.registration())
            self.run()
            node.context.node_epoch = registered.body.node_epoch
            node.heartbeat()
            self.run()
            assert not self.image.nodes[node_id].fenced

    def answers(self) -> Counter[str]:
        """How many requests have which outcome."""
        return Counter(type(asked.outcome).__name__ for asked in self.asked)


def new_topic(name: str, partitions: int = 1, factor: int = -1, **options: Any) -> CreateTopicsRequest:
    """Create one topic."""
    timeout_ms = options.pop("timeout_ms", 30_000)
    configs = [(key.replace("_", "."), str(value)) for key, value in options.items()]
    return CreateTopicsRequest([NewTopic(name, partitions, factor, configs)], timeout_ms)


@pytest.fixture
def cluster() -> Callable[..., Cluster]:
    """Make a cluster of so many nodes, led by node 1 with all of them registered, unless told otherwise."""

    def make(nodes: int = 3, *, joined: bool = True, **settings: Any) -> Cluster:
        made = Cluster(nodes, settings)
        made.run()
        if joined:
            made.elect(1)
            made.run()
            made.join(*made.nodes)
        return made

    return make


@pytest.fixture
def topic() -> Callable[..., CreateTopicsRequest]:
    return new_topic
