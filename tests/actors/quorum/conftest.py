"""The quorum actors of several nodes on one thread, in virtual time; links, disks and flushes are played here."""

from __future__ import annotations

from collections import Counter
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.commands import ImageCommitted, Refusal
from zmqbroker.actors.context import CONTROLLER, METADATA_KEEPER, PEERS, QUORUM, NodeContext, peer_address
from zmqbroker.actors.flush_pool import attempt
from zmqbroker.actors.peer_commands import (
    AppendMetadata,
    AppendRefused,
    KnownNodes,
    MetadataCommitted,
    PeerAnswer,
    PeerChanged,
    QuorumCall,
    QuorumLeader,
    StartLeading,
)
from zmqbroker.actors.quorum_member import QuorumMember
from zmqbroker.actors.reactor import Reactor
from zmqbroker.errors import NetworkError
from zmqbroker.log.data_folder import DataFolder
from zmqbroker.quorum.image import apply
from zmqbroker.quorum.records import RegisterNode, SetConfig
from zmqbroker.settings import BrokerConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.transport.config_messages import TOPIC_RESOURCE
from zmqbroker.transport.network import LinkState
from zmqbroker.transport.quorum_messages import AddVoterRequest, DescribeQuorumRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLER = "caller"
"""Where requests of other nodes are answered to."""
HOP_MS = 0.5
FLUSH_MS = 1.0
FOLDER = "/data"
METADATA_FOLDER = f"{FOLDER}/__cluster_metadata-0"


class Clock:
    """Virtual time, for all nodes."""

    def __init__(self) -> None:
        self.now_ms = 1000.0

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.now_ms)

    def monotonic_ms(self) -> float:
        return self.now_ms


class Poller:
    """Nothing comes from outside, and time moves by itself."""

    def wait(self, timeout_ms: float | None) -> None:
        pass

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass


class Controller(ReactorActor):
    """Stands for the controller: decides what it is told to, and keeps what it hears."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self.leader = (-2, -1)
        self.image: Any = None
        self.epoch = -1
        self.basis = -1
        self.committed = 0
        self.refused: list[AppendRefused] = []
        self.awaited: list[tuple[int, int, str]] = []

    def on_receive(self, message: Any) -> None:
        match message:
            case QuorumLeader(leader_id, epoch):
                assert epoch >= self.leader[1], "the quorum's epoch went back"
                self.leader = (leader_id, epoch)
                if self.leader != (self.node.id, self.epoch):
                    self.epoch = -1
            case StartLeading(epoch, image, basis):
                assert self.node.cluster.leaders.setdefault(epoch, self.node.id) == self.node.id, "two leaders"
                self.epoch, self.image, self.basis = epoch, image, basis
            case MetadataCommitted(epoch, offset):
                if epoch == self.epoch:
                    self.committed = offset
                    done = [key for when, end, key in self.awaited if when == epoch and end <= offset]
                    self.node.cluster.put_keys.update(dict.fromkeys(done))
            case AppendRefused():
                self.refused.append(message)
                self.image, self.basis = message.image, message.basis
            case _:
                raise AssertionError(message)

    def append(self, *records: Any) -> int:
        """Append a decision; the offset that makes it committed."""
        assert self.epoch >= 0, "this node does not lead"
        assert self.reactor.tell(QUORUM, AppendMetadata(self.epoch, list(records), self.image.end_offset, self.basis))
        self.image = apply(self.image, records, TOPIC_RESOURCE)
        return self.image.end_offset


class Keeper(ReactorActor):
    """Stands for the metadata keeper."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.context = node.context

    def on_receive(self, message: Any) -> None:
        assert isinstance(message, ImageCommitted)
        assert message.image.end_offset > self.context.image.end_offset, "committed metadata went back"
        self.context.image = message.image


class Peers(ReactorActor):
    """Stands for the actor that keeps the links."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[str, int]] = {}

    def on_receive(self, message: Any) -> None:
        assert isinstance(message, KnownNodes)
        self.known = message.nodes


class Link(ReactorActor):
    """Stands for the link to one other node."""

    def __init__(self, node: Node, to: int) -> None:
        super().__init__()
        self.node = node
        self.to = to

    def on_receive(self, message: Any) -> None:
        self.node.cluster.ask(self.node, self.to, message)


class Caller(ReactorActor):
    """Gets the answers to the requests of other nodes."""

    def on_receive(self, message: Any) -> None:
        message.call(message)


class Flusher:
    """Does what other threads would, a little later."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.jobs = 0

    def submit(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        self.jobs += 1
        reactor = self.node.reactor

        def run() -> None:
            if self.node.reactor is reactor and not reactor.stopped:
                error = attempt(work)
                reactor.call_from_thread(lambda: done(error))

        self.node.cluster.later(self.node.flush_ms, run)

    def close(self) -> None:
        pass


class Node:
    """One node, over all of its lives."""

    def __init__(self, cluster: Cluster, node_id: int, settings: dict[str, Any]) -> None:
        self.cluster = cluster
        self.id = node_id
        self.settings = settings
        self.disk = MemoryDisk()
        self.flush_ms = FLUSH_MS
        self.reactor: Reactor
        self.alive = False

    def start(self) -> Node:
        """Start the process, on what its disk holds."""
        cluster, disk = self.cluster, self.disk
        random = Random(f"{cluster.seed}/{self.id}/{cluster.clock.now_ms}")
        folder = DataFolder.open(
            disk, FOLDER, node_id=self.id, cluster_id="c", make_id=lambda: f"{random.getrandbits(64):x}"
        )
        config = BrokerConfig(node_id=self.id, data_dir=FOLDER, **self.settings)
        self.reactor = Reactor(cluster.clock, Poller())
        self.flusher = Flusher(self)
        network: Any = None
        self.context = NodeContext(
            config, self.reactor, cluster.clock, disk, folder, self.flusher, folder.cluster_id, 1, network, random
        )

        def spawn(cls: Any, *args: Any, address: str) -> Any:
            self.reactor.spawn(cls, *args, address=address)
            return self.reactor._actors[address]

        self.peers: Peers = spawn(Peers, address=PEERS)
        spawn(Keeper, self, address=METADATA_KEEPER)
        self.controller: Controller = spawn(Controller, self, address=CONTROLLER)
        spawn(Caller, address=CALLER)
        for other in cluster.nodes.values():
            if other is not self:
                spawn(Link, self, other.id, address=peer_address(other.id))
                if other.alive and peer_address(self.id) not in other.reactor.addresses():
                    other.reactor.spawn(Link, other, self.id, address=peer_address(self.id))
        try:
            self.member: QuorumMember = spawn(QuorumMember, self.context, address=QUORUM)
        except BaseException:
            self.reactor.abort()
            disk.locked.clear()
            raise
        self.alive = True
        cluster.link_news(self, LinkState.UP)
        return self

    def end(self) -> None:
        """The process is gone, killed; its operating system lives."""
        self.reactor.abort()
        self.disk.locked.clear()
        self.alive = False
        self.cluster.lose_requests(self)
        self.cluster.link_news(self, LinkState.REFUSED)

    def power_cut(self) -> None:
        """The process is gone, and with it what was not flushed."""
        self.end()
        self.disk.crash(Random(f"{self.cluster.seed}/{self.cluster.clock.now_ms}"))

    def stop(self) -> None:
        """Stop in good order."""
        self.reactor.stop()
        self.cluster.run_until(lambda: self.reactor.stopped)
        self.context.folder.close(clean=True)
        self.alive = False
        self.cluster.link_news(self, LinkState.REFUSED)

    @property
    def voter(self) -> tuple[int, str]:
        """As which it votes."""
        return self.id, self.context.folder.directory_id

    @property
    def config_keys(self) -> set[str]:
        """What `put` has put, and this node knows for committed."""
        return set(self.context.image.config_of(TOPIC_RESOURCE, "t"))

    def ask(self, request: Any) -> list[Any]:
        """Where the quorum's answer will be."""
        answers: list[Any] = []
        to = self.reactor.lookup(CALLER)
        self.reactor.tell(QUORUM, QuorumCall(to, answers.append, 0, request))
        return answers

    def call(self, request: Any) -> Any:
        """What the quorum answers; an error as it is."""
        answers = self.ask(request)
        self.cluster.run_until(lambda: answers)
        (answer,) = answers
        return answer.error if isinstance(answer, Refusal) else answer.body


class Cluster:
    """Nodes, the network between them, and the time."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.clock = Clock()
        self.nodes: dict[int, Node] = {}
        self.leaders: dict[int, int] = {}
        self.put_keys: dict[str, None] = {}
        self.cut: set[tuple[int, int]] = set()
        self.asked = 0
        self.asked_by: Counter[int] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._under_way: dict[int, tuple[Node, int, Any]] = {}

    def node(self, node_id: int, **settings: Any) -> Node:
        """Add a node, and start it. All but the first join the cluster."""
        if self.nodes:
            settings = {"join": "somewhere:1", **settings}
        self.nodes[node_id] = node = Node(self, node_id, settings)
        return node.start()

    def three(self, **settings: Any) -> list[Node]:
        """Three voters, grown out of one."""
        nodes = [self.node(1, **settings)]
        nodes += [self.node(2, **settings), self.node(3, **settings)]
        for node in nodes[1:]:
            self.add_voter(node)
        for node in nodes:
            self.commit(RegisterNode(node.id, f"host{node.id}", 9292, "", clean=True))
        self.run_until(lambda: all(len(node.member.machine.voters) == 3 for node in nodes))
        return nodes

    def add_voter(self, node: Node) -> None:
        """Let a node vote, as soon as it has caught up."""
        for _ in range(50):
            answer = self.leader().call(AddVoterRequest(*node.voter))
            if not isinstance(answer, Exception):
                return
            self.run_for(20)
        raise answer

    # ---- the metadata

    def leader(self) -> Node:
        """The node that leads and says so to its controller, once there is one."""

        def find() -> list[Node]:
            alive = [node for node in self.nodes.values() if node.alive and node.controller.epoch >= 0]
            top = max((node.controller.epoch for node in alive), default=-1)
            return [node for node in alive if node.controller.epoch == top and node.member.machine.is_leader]

        self.run_until(find)
        return find()[0]

    def commit(self, *records: Any, by: Node | None = None) -> None:
        """Append by the leader, and wait until that is committed."""
        leader = by or self.leader()
        offset = leader.controller.append(*records)
        self.run_until(lambda: leader.controller.committed >= offset)

    def put(self, *keys: str, by: Node | None = None, size: int = 1) -> None:
        """Commit something small that can be found again."""
        self.commit(*(SetConfig(TOPIC_RESOURCE, "t", key, "v" * size) for key in keys), by=by)
        self.put_keys.update(dict.fromkeys(keys))

    def append_soon(self, node: Node, key: str, size: int) -> None:
        """Append by a node that leads, and take note if its controller hears that this is committed."""
        controller = node.controller
        offset = controller.append(SetConfig(TOPIC_RESOURCE, "t", key, "v" * size))
        controller.awaited.append((controller.epoch, offset, key))

    def check_nothing_lost(self) -> None:
        """Wait until every node that lives knows all that was put."""
        living = [node for node in self.nodes.values() if node.alive]
        self.run_until(lambda: all(node.config_keys >= self.put_keys.keys() for node in living))

    def voters(self) -> list[int]:
        """The ids of those that vote, as the leader describes it."""
        described = self.leader().call(DescribeQuorumRequest())
        return [voter.node_id for voter in described.voters]

    # ---- the network

    def ask(self, asker: Node, to: int, message: Any) -> None:
        """Carry a question to another node, and its answer back."""
        self.asked += 1
        self.asked_by[asker.id] += 1
        number = self.asked
        self._under_way[number] = (asker, to, message)
        target = self.nodes.get(to)
        if target is None or not target.alive or self._is_cut(asker.id, to):
            delay_ms = HOP_MS if target is None or not target.alive else message.timeout_ms
            self.later(delay_ms, lambda: self._fail(number))
            return
        reactor = target.reactor
        request = msgspec.msgpack.decode(msgspec.msgpack.encode(message.request), type=type(message.request))

        def answered(answer: Any) -> None:
            self.later(HOP_MS, lambda: self._answer(number, answer))

        def deliver() -> None:
            if target.reactor is reactor and target.alive:
                reactor.tell(QUORUM, QuorumCall(reactor.lookup(CALLER), answered, 0, request))

        self.later(HOP_MS, deliver)
        self.later(message.timeout_ms, lambda: self._fail(number))

    def _is_cut(self, one: int, other: int) -> bool:
        return (one, other) in self.cut or (other, one) in self.cut

    def _answer(self, number: int, answer: Any) -> None:
        asker, to, message = self._under_way.get(number, (None, 0, None))
        if asker is None or self._is_cut(asker.id, to):
            return
        del self._under_way[number]
        if isinstance(answer, Refusal):
            self._tell(asker, message, Refusal(message.call, message.index, answer.error))
            return
        body = msgspec.msgpack.decode(msgspec.msgpack.encode(answer.body), type=message.request.REPLY)
        self._tell(asker, message, PeerAnswer(message.call, message.index, body, frames=answer.frames))

    def _fail(self, number: int) -> None:
        asker, to, message = self._under_way.pop(number, (None, 0, None))
        if asker is not None:
            self._tell(asker, message, Refusal(message.call, message.index, NetworkError(f"node {to} is away")))

    def _tell(self, asker: Node, message: Any, answer: Any) -> None:
        if asker.alive and message.reply_to.is_alive():
            message.reply_to.tell(answer)

    def lose_requests(self, node: Node) -> None:
        """What a node was asked, or asked, is lost with it."""
        for number, (asker, to, _) in list(self._under_way.items()):
            if asker is node:
                del self._under_way[number]
            elif to == node.id:
                self.later(HOP_MS, partial(self._fail, number))

    def link_news(self, node: Node, state: LinkState) -> None:
        """Tell the others how the links to a node are, and a node that is up of the others."""
        for other in self.nodes.values():
            if other is node or not other.alive or self._is_cut(node.id, other.id):
                continue
            self.later(HOP_MS, partial(_tell_if_alive, other, PeerChanged(node.id, state)))
            if state is LinkState.UP:
                self.later(HOP_MS, partial(_tell_if_alive, node, PeerChanged(other.id, state)))

    # ---- the time

    def later(self, delay_ms: float, what: Callable[[], Any]) -> None:
        """Do something in so many ms."""
        self._sequence += 1
        heappush(self._events, (self.clock.now_ms + delay_ms, self._sequence, what))

    def _run_ready(self) -> None:
        busy = True
        while busy:
            busy = False
            for node in list(self.nodes.values()):
                if not node.alive or node.reactor.stopped:
                    continue
                busy = node.reactor.run_pass(0.0) or busy

    def _advance(self, until_ms: float) -> bool:
        """Do what is ready, and go on to the next event; False if there is none up to then."""
        self._run_ready()
        dues = [self._events[0][0]] if self._events else []
        for node in self.nodes.values():
            due_ms = node.reactor.next_due_ms() if node.alive and not node.reactor.stopped else None
            if due_ms is not None:
                dues.append(due_ms)
        next_ms = min(dues, default=until_ms + 1)
        if next_ms > until_ms:
            self.clock.now_ms = until_ms
            return False
        self.clock.now_ms = max(self.clock.now_ms, next_ms)
        while self._events and self._events[0][0] <= self.clock.now_ms:
            heappop(self._events)[2]()
        self._run_ready()
        return True

    def run_until(self, condition: Callable[[], Any], within_ms: float = 20_000) -> None:
        """Let time pass until something is the case."""
        end_ms = self.clock.now_ms + within_ms
        self._run_ready()
        while not condition():
            assert self._advance(end_ms), f"it did not come to that within {within_ms} ms"

    def run_for(self, duration_ms: float) -> None:
        """Let time pass."""
        end_ms = self.clock.now_ms + duration_ms
        while self._advance(end_ms):
            pass
        self._run_ready()


def _tell_if_alive(node: Node, message: Any) -> None:
    if node.alive:
        node.reactor.tell(QUORUM, message)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """An empty cluster."""
    made = Cluster()
    yield made
    for node in made.nodes.values():
        if node.alive:
            node.reactor.abort()
