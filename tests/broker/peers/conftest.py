"""A node of which only the links to other nodes run, on virtual time; the test is the other nodes."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.commands import Refusal
from zmqbroker.actors.context import CONTROLLER, PEERS, QUORUM, fetcher_address
from zmqbroker.actors.peer_commands import AskPeer, KnownNodes
from zmqbroker.actors.peers import Peers, ask_peer
from zmqbroker.actors.reactor import Reactor
from zmqbroker.settings import BrokerConfig
from zmqbroker.transport.catalogue import REQUESTS
from zmqbroker.transport.envelope import decode_request, encode_reply, split_request
from zmqbroker.transport.messages import ApiRange, ApiVersionsReply, ApiVersionsRequest
from zmqbroker.transport.network import LinkState, SendResult
from zmqbroker.transport.peer_messages import HeartbeatNodeRequest

OWN, OTHER = 1, 2
CLUSTER = "the-cluster"
UP, DOWN = LinkState.UP, LinkState.DOWN
HEARTBEAT = HeartbeatNodeRequest(OWN, 7, 99)


class FakeClock:
    now_ms = 1000.0

    def wall_ms(self):
        return int(self.now_ms)

    def monotonic_ms(self):
        return self.now_ms


class FakePoller:
    """No I/O: waiting moves the clock on."""

    def __init__(self, clock):
        self.clock = clock

    def wait(self, timeout_ms):
        self.clock.now_ms += timeout_ms or 0.0

    def wake(self):
        pass

    def close(self):
        pass


class FakeLink:
    """One link, whose other end is the test."""

    def __init__(self, address, on_message, on_state):
        self.address = address
        self.state = DOWN
        self.result = SendResult.SENT
        self.sent: list[list[bytes]] = []
        self.closed = False
        self.hear, self._on_state = on_message, on_state

    def become(self, state):
        self.state = state
        self._on_state(state)

    def send(self, frames):
        if self.state is not UP:
            return SendResult.GONE
        if self.result is SendResult.SENT:
            self.sent.append(frames)
        return self.result

    def close(self):
        self.closed = True
        self.state = DOWN

    def take(self):
        """The oldest message sent: (request, version, correlation id, frames)."""
        envelope, *frames = self.sent.pop(0)
        raw = split_request(envelope)
        return decode_request(raw), raw.version, raw.correlation_id, frames


class Listening(ReactorActor):
    """Keeps what it is told."""

    def __init__(self, told):
        super().__init__()
        self.told = told

    def on_receive(self, message: Any):
        self.told.append(message)


class Node:
    """The links of one node, on virtual time and a network that the test plays."""

    def __init__(self):
        self.clock = FakeClock()
        self.reactor = Reactor(self.clock, FakePoller(self.clock))
        self.links: list[FakeLink] = []
        self.context = SimpleNamespace(
            config=BrokerConfig(node_id=OWN),
            clock=self.clock,
            cluster_id=CLUSTER,
            incarnation="this start",
            counters=Counter(),
            advertised=("", 0),
            image=SimpleNamespace(nodes={}),
            network=SimpleNamespace(link=self.link),
        )
        self.answers: list[Any] = []
        self.asker = self.reactor.spawn(Listening, self.answers, address="asker")
        self.told: dict[str, list[Any]] = {}
        for address in (CONTROLLER, QUORUM, fetcher_address(OTHER)):
            self.told[address] = []
            self.reactor.spawn(Listening, self.told[address], address=address)
        self.reactor.spawn(Peers, self.context, address=PEERS)

    def link(self, address, on_message, on_state):
        self.links.append(FakeLink(address, on_message, on_state))
        return self.links[-1]

    @staticmethod
    def welcome(**changes):
        """What the other node answers to the greeting."""
        apis = [ApiRange(api, cls.MIN_VERSION, cls.MAX_VERSION) for api, cls in REQUESTS.items()]
        reply = ApiVersionsReply(CLUSTER, OTHER, apis, 1 << 20, 1 << 20, "zmqbroker")
        return msgspec.structs.replace(reply, **changes)

    def run(self, ms=0.0):
        end_ms = self.clock.now_ms + ms
        while self.reactor.run_pass(end_ms - self.clock.now_ms) or self.clock.now_ms < end_ms:
            pass
        while self.reactor.run_pass(0.0):
            pass

    def know(self, *, hints=False, **ports):
        """Tell of nodes: n2=9292."""
        nodes = {int(name[1:]): ("10.0.0.1", port) for name, port in ports.items()}
        self.reactor.tell(PEERS, KnownNodes(nodes, are_hints=hints))
        self.run()

    def open_links(self):
        return [link for link in self.links if not link.closed]

    def states(self, address=CONTROLLER):
        return [(message.node_id, message.state) for message in self.told[address]]

    def greet(self, link, **changes):
        """Let a connection stand, and answer the greeting."""
        link.become(UP)
        self.run()
        request, _, number, _ = link.take()
        link.hear([encode_reply(ApiVersionsRequest.API, number, self.welcome(**changes))])
        self.run()
        return request

    def connected(self):
        """A node with a link to another that is up."""
        self.know(n2=9292)
        (link,) = self.open_links()
        self.greet(link)
        return link

    def ask(self, index=0, request=HEARTBEAT, node_id=OTHER, **more):
        ask_peer(self.reactor, node_id, AskPeer(self.asker, "call", index, request, **more))
        self.run()

    def refusal(self):
        """The error of the one answer there is."""
        (answer,) = self.answers
        self.answers.clear()
        assert isinstance(answer, Refusal), answer
        assert answer.call == "call"
        return answer.error


@pytest.fixture
def node():
    """A node whose links the test plays."""
    made = Node()
    yield made
    if not made.reactor.stopped:
        made.reactor.stop()
        made.reactor.run()
        assert all(link.closed for link in made.links)
