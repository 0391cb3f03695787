"""Links between nodes: who is greeted as what, what becomes of requests, and what the other actors are told."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from zmqbroker.actors import peers as peers_module
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.commands import Refusal
from zmqbroker.actors.context import CONTROLLER, PEERS, QUORUM, fetcher_address, peer_address
from zmqbroker.actors.peer_commands import AskPeer, KnownNodes, PeerAnswer, PeerChanged
from zmqbroker.actors.peers import MAX_OPEN_REQUESTS, Peers, ask_peer
from zmqbroker.actors.reactor import Reactor
from zmqbroker.errors import (
    BrokerNotAvailableError,
    DuplicateBrokerRegistrationError,
    MessageTooLargeError,
    NetworkError,
    NotControllerError,
    RequestTimedOutError,
    UnsupportedVersionError,
)
from zmqbroker.settings import BrokerConfig
from zmqbroker.transport.catalogue import REQUESTS
from zmqbroker.transport.envelope import decode_request, encode_error, encode_reply, split_request
from zmqbroker.transport.messages import ApiRange, ApiVersionsReply, ApiVersionsRequest
from zmqbroker.transport.network import LinkState, SendResult
from zmqbroker.transport.peer_messages import HeartbeatNodeReply, HeartbeatNodeRequest
from zmqbroker.transport.quorum_messages import QuorumFetchReply, QuorumFetchRequest, Voter

OWN, OTHER, THIRD = 1, 2, 3
CLUSTER = "the-cluster"
UP, DOWN, REFUSED = LinkState.UP, LinkState.DOWN, LinkState.REFUSED
HEARTBEAT = HeartbeatNodeRequest(OWN, 7, 99)
ALIVE = HeartbeatNodeReply(is_caught_up=True, is_fenced=False, should_shut_down=False)


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
        link.hear([encode_reply(ApiVersionsRequest.API, number, welcome(**changes))])
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


def welcome(**changes):
    apis = [ApiRange(api, cls.MIN_VERSION, cls.MAX_VERSION) for api, cls in REQUESTS.items()]
    return msgspec.structs.replace(ApiVersionsReply(CLUSTER, OTHER, apis, 1 << 20, 1 << 20, "zmqbroker"), **changes)


@pytest.fixture
def node():
    made = Node()
    yield made
    if not made.reactor.stopped:
        made.reactor.stop()
        made.reactor.run()
        assert all(link.closed for link in made.links)


# ---- the greeting


def test_a_link_is_up_for_others_only_after_the_greeting(node):
    node.know(n1=9291, n2=9292)
    (link,) = node.open_links()
    assert link.address == "tcp://10.0.0.1:9292"
    link.become(UP)
    node.run()
    assert node.states() == []
    node.ask()
    assert isinstance(node.refusal(), NetworkError)
    request, _, number, frames = link.take()
    assert (request.client_id, request.software) == ("node-1", "zmqbroker-node")
    assert (request.cluster_id, request.node_id, frames) == (CLUSTER, OWN, [])
    link.hear([encode_reply(ApiVersionsRequest.API, number, welcome())])
    node.run()
    for address in (CONTROLLER, QUORUM, fetcher_address(OTHER)):
        assert node.states(address) == [(OTHER, UP)]
    node.ask()
    assert len(link.sent) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"cluster_id": "foreign"}, "cluster foreign"), ({"node_id": THIRD}, "it is node 3, not node 2")],
)
def test_another_than_is_meant_stays_down_and_is_logged_once(node, caplog, changes, reason):
    node.know(n2=9292)
    for tries in range(1, 4):
        assert len(node.links) == tries
        node.greet(node.links[-1], **changes)
        assert node.links[-1].closed
        node.ask()
        assert isinstance(node.refusal(), NetworkError)
        node.run(4000)
        assert len(node.links) == tries, "tried again too soon"
        node.run(2000)
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert reason in errors[0]
    assert "tcp://10.0.0.1:9292" in errors[0]
    assert node.states() == []
    node.greet(node.links[-1])
    assert node.states() == [(OTHER, UP)]
    node.greet(node.links[-1], **changes)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2, "what went wrong again is said again"


def test_a_node_that_refuses_the_greeting_says_why(node, caplog):
    node.know(n2=9292)
    link = node.links[0]
    link.become(UP)
    node.run()
    *_, number, _ = link.take()
    clone = DuplicateBrokerRegistrationError("node 1 is called by another process with the same node id")
    link.hear([encode_error(ApiVersionsRequest.API, number, clone)])
    node.run()
    assert link.closed
    assert "DUPLICATE_BROKER_REGISTRATION: node 1 is called by another process" in caplog.text
    assert node.states() == []


def test_no_answer_to_the_greeting_and_no_node_at_all_are_tried_again(node, caplog):
    node.know(n2=9292)
    node.links[0].become(UP)
    node.run(4999)
    assert not node.links[0].closed
    node.run(1)
    assert node.links[0].closed
    assert "did not answer this node's greeting in 5000 ms" in caplog.text
    node.run(500)
    link = node.links[1]
    link.become(UP)
    node.run()
    link.hear(link.sent[0])  # TCP connected the port to itself: the greeting comes back
    node.run()
    assert link.closed
    assert "does not answer as a node does" in caplog.text
    node.run(500)
    node.greet(node.links[2])
    assert node.states() == [(OTHER, UP)]


def test_a_greeting_of_a_connection_that_is_gone_counts_for_nothing(node):
    node.know(n2=9292)
    (link,) = node.links
    link.become(UP)
    node.run()
    *_, number, _ = link.take()
    link.hear([encode_reply(ApiVersionsRequest.API, number, welcome())])
    link.become(DOWN)
    link.become(UP)  # all of this before the actor's turn
    node.run()
    assert (OTHER, UP) not in node.states()
    node.ask()
    assert isinstance(node.refusal(), NetworkError)
    request, *_ = link.take()
    assert isinstance(request, ApiVersionsRequest)


# ---- states


def test_every_change_is_told_and_nothing_twice(node):
    link = node.connected()
    link.become(DOWN)
    node.run()
    link.become(REFUSED)
    node.run()
    link.become(DOWN)
    node.run()
    link.become(REFUSED)
    node.run()
    link.become(UP)  # somebody is there, but who?
    node.run()
    assert node.states() == [(OTHER, state) for state in (UP, DOWN, REFUSED, DOWN, REFUSED, DOWN)]
    link.sent.clear()
    link.become(DOWN)
    node.greet(link)
    assert node.states()[-1] == (OTHER, UP)
    assert node.states() == node.states(QUORUM) == node.states(fetcher_address(OTHER))


def test_refused_from_the_start_is_told(node):
    node.know(n2=9292)
    node.links[0].become(REFUSED)
    node.run()
    assert node.states() == [(OTHER, REFUSED)]
    node.ask()
    assert "nobody listens there" in node.refusal().message


# ---- which links there are


def test_links_follow_the_nodes(node):
    node.know(n1=1, n2=2, n3=3)
    second, third = node.links
    node.greet(second)
    node.know(n1=1, n2=2, n3=33)
    assert (second.closed, third.closed) == (False, True)
    assert node.links[-1].address == "tcp://10.0.0.1:33"
    node.know(n1=1, n3=33)
    assert second.closed
    assert node.states() == [(OTHER, UP), (OTHER, DOWN)]
    node.ask()
    assert "no link to node 2" in node.refusal().message
    node.know(n2=2, n3=33)
    assert [link.address for link in node.open_links()] == ["tcp://10.0.0.1:33", "tcp://10.0.0.1:2"]


def test_a_node_that_is_removed_and_back_at_once_has_a_link(node):
    node.connected()
    node.reactor.tell(PEERS, KnownNodes({}))
    node.know(n2=9999)
    node.run(50)
    assert [link.address for link in node.open_links()] == ["tcp://10.0.0.1:9999"]


def test_what_the_old_address_refuses_says_nothing_of_the_new_one(node):
    link = node.connected()
    node.reactor.tell(peer_address(OTHER), peers_module._Moved())
    link.become(REFUSED)  # before the actor has its turn
    node.run()
    assert link.closed
    assert node.states()[1:] == [(OTHER, DOWN)]


def test_an_ipv6_address_has_brackets(node):
    node.reactor.tell(PEERS, KnownNodes({OTHER: ("::1", 9292)}))
    node.run()
    assert node.links[0].address == "tcp://[::1]:9292"


def test_hints_count_until_the_metadata_know_this_start(node):
    node.know(hints=True, n2=22, n3=33)
    # Metadata of the past: node 2 was elsewhere, node 3 had not joined.
    node.know(n2=21)
    assert [link.address for link in node.open_links()] == ["tcp://10.0.0.1:22", "tcp://10.0.0.1:33"]
    node.context.image = SimpleNamespace(nodes={OWN: SimpleNamespace(incarnation="an earlier start")})
    node.know(n1=11, n2=21)
    assert len(node.open_links()) == 2
    node.context.image = SimpleNamespace(nodes={OWN: SimpleNamespace(incarnation="this start")})
    node.know(n1=11, n2=23)
    assert [link.address for link in node.open_links()] == ["tcp://10.0.0.1:23"]


# ---- requests


def test_an_answer_finds_who_asked_with_its_frames(node):
    link = node.connected()
    fetch = QuorumFetchRequest(Voter(OWN, "d"), 1, 0, -1, 0, 100, 1000)
    node.ask(4, fetch, frames=[b"extra"])
    node.ask(5)
    request, version, first, frames = link.take()
    assert (request, version, frames) == (fetch, 0, [b"extra"])
    *_, second, _ = link.take()
    link.hear([encode_reply(HEARTBEAT.API, second, ALIVE)])
    link.hear([encode_reply(fetch.API, first, QuorumFetchReply(3, 2)), b"batch"])
    node.run()
    answers = [(type(answer), answer.index, answer.body, answer.frames) for answer in node.answers]
    assert answers == [(PeerAnswer, 5, ALIVE, []), (PeerAnswer, 4, QuorumFetchReply(3, 2), [b"batch"])]


def test_errors_and_misfits_are_refusals(node):
    link = node.connected()
    node.ask()
    link.hear([encode_error(HEARTBEAT.API, link.take()[2], NotControllerError("node 3 is"))])
    node.run()
    error = node.refusal()
    assert (type(error), error.message) == (NotControllerError, "node 3 is")
    node.ask()
    link.hear([encode_reply(HEARTBEAT.API, link.take()[2], QuorumFetchReply(1, 1))])
    node.run()
    assert "HeartbeatNodeReply" in node.refusal().message
    assert not link.closed


def test_a_break_refuses_all_that_waits_and_late_replies_are_nobodys(node):
    link = node.connected()
    for index in range(3):
        node.ask(index)
    numbers = [link.take()[2] for _ in range(3)]
    link.become(DOWN)
    node.run()
    assert [answer.index for answer in node.answers] == [0, 1, 2]
    assert all(isinstance(answer.error, NetworkError) for answer in node.answers)
    assert "unknown" in node.answers[0].error.message
    node.answers.clear()
    node.ask()
    assert isinstance(node.refusal(), NetworkError)
    node.greet(link)
    link.hear([encode_reply(HEARTBEAT.API, numbers[0], ALIVE)])
    node.run(60_000)
    assert node.answers == []
    assert node.context.counters["peer-replies-late"] == 1


def test_nothing_goes_out_by_a_connection_that_broke_unnoticed(node):
    link = node.connected()
    ask_peer(node.reactor, OTHER, AskPeer(node.asker, "call", 0, HEARTBEAT))
    link.become(DOWN)
    link.become(UP)  # before the actor has its turn
    node.run()
    assert isinstance(node.refusal(), NetworkError)
    assert [type(link.take()[0]) for _ in link.sent[:]] == [ApiVersionsRequest]


def test_each_request_has_its_own_deadline(node):
    link = node.connected()
    node.ask(0, timeout_ms=3000)
    node.ask(1, timeout_ms=1000)
    node.ask(2, timeout_ms=2000)
    numbers = [link.take()[2] for _ in range(3)]
    node.run(999)
    assert node.answers == []
    node.run(1)
    assert [answer.index for answer in node.answers] == [1]
    assert isinstance(node.answers[0].error, RequestTimedOutError)
    assert "HeartbeatNodeRequest in 1000 ms" in node.answers[0].error.message
    link.hear([encode_reply(HEARTBEAT.API, numbers[2], ALIVE)])
    node.run(1000)
    assert [answer.index for answer in node.answers] == [1, 2]
    node.run(1000)
    assert [answer.index for answer in node.answers] == [1, 2, 0]
    link.hear([encode_reply(HEARTBEAT.API, numbers[1], ALIVE)])  # late
    node.run(10_000)
    assert len(node.answers) == 3
    assert node.context.counters["peer-replies-late"] == 1
    assert not link.closed


def test_a_full_queue_and_too_many_requests_name_the_limit(node):
    link = node.connected()
    link.result = SendResult.FULL
    node.ask()
    error = node.refusal()
    assert isinstance(error, BrokerNotAvailableError)
    assert "1000 messages" in error.message
    link.result = SendResult.SENT
    for index in range(MAX_OPEN_REQUESTS):
        node.reactor.tell(peer_address(OTHER), AskPeer(node.asker, "call", index, HEARTBEAT))
    node.run()
    assert node.answers == []
    node.ask()
    error = node.refusal()
    assert isinstance(error, BrokerNotAvailableError)
    assert str(MAX_OPEN_REQUESTS) in error.message
    assert len(link.sent) == MAX_OPEN_REQUESTS


def test_what_the_peer_does_not_take_is_not_sent(node):
    node.know(n2=9292)
    node.greet(node.links[0], max_request_bytes=100)
    node.ask(frames=[b"x" * 101])
    error = node.refusal()
    assert isinstance(error, MessageTooLargeError)
    assert "100 bytes" in error.message
    assert node.links[0].sent == []


@pytest.mark.parametrize(
    ("theirs", "names"),
    [([], "no version of Heartbeat"), ([ApiRange(HEARTBEAT.API, 3, 5)], "versions 3 to 5 of HeartbeatNodeRequest")],
)
def test_an_api_that_the_peer_does_not_offer_is_refused(node, theirs, names):
    node.know(n2=9292)
    node.greet(node.links[0], apis=theirs)
    assert node.states() == [(OTHER, UP)]
    node.ask()
    error = node.refusal()
    assert isinstance(error, UnsupportedVersionError)
    assert names in error.message
    assert "this node speaks versions 0 to 0" in error.message


def test_the_newest_version_that_both_speak_is_used(node, monkeypatch):
    monkeypatch.setattr(HeartbeatNodeRequest, "MAX_VERSION", 4)
    for theirs, used in ((ApiRange(HEARTBEAT.API, 0, 9), 4), (ApiRange(HEARTBEAT.API, 0, 2), 2)):
        node.know(n2=9290 + used)
        link = node.open_links()[0]
        node.greet(link, apis=[theirs])
        node.ask()
        assert link.take()[1] == used


# ---- failures of its own


def test_a_link_that_fails_answers_and_starts_again(node, monkeypatch):
    link = node.connected()
    node.ask(1)

    def fail(_):
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(peers_module, "split_reply", fail)
        link.hear([b""])
        node.run()
    assert isinstance(node.refusal(), NetworkError)
    assert link.closed
    assert node.states()[-1] == (OTHER, DOWN)
    node.ask()
    assert "no link to node 2" in node.refusal().message
    node.know(n2=7777)
    node.run(200)
    assert [link.address for link in node.open_links()] == ["tcp://10.0.0.1:7777"]


def test_a_stop_answers_what_waits(node):
    link = node.connected()
    node.ask()
    node.reactor.stop_actor(peer_address(OTHER))
    node.run()
    assert isinstance(node.refusal(), NetworkError)
    assert link.closed


def test_who_asks_may_be_gone(node):
    link = node.connected()
    node.ask()
    node.reactor.stop_actor("asker")
    node.run()
    link.hear([encode_reply(HEARTBEAT.API, link.take()[2], ALIVE)])
    node.run()
    ask_peer(node.reactor, 77, AskPeer(node.asker, "call", 0, HEARTBEAT))
    assert isinstance(node.told[CONTROLLER][0], PeerChanged)
