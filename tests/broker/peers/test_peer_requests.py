"""Requests to other nodes: each is answered once, whatever becomes of the link, the node, or the time."""

from __future__ import annotations

import pytest
from zmqbroker.actors import peers as peers_module
from zmqbroker.actors.context import CONTROLLER, peer_address
from zmqbroker.actors.peer_commands import AskPeer, PeerAnswer, PeerChanged
from zmqbroker.actors.peers import MAX_OPEN_REQUESTS, ask_peer
from zmqbroker.errors import (
    BrokerNotAvailableError,
    MessageTooLargeError,
    NetworkError,
    NotControllerError,
    RequestTimedOutError,
    UnsupportedVersionError,
)
from zmqbroker.transport.envelope import encode_error, encode_reply
from zmqbroker.transport.messages import ApiRange, ApiVersionsRequest
from zmqbroker.transport.network import LinkState, SendResult
from zmqbroker.transport.peer_messages import HeartbeatNodeReply, HeartbeatNodeRequest
from zmqbroker.transport.quorum_messages import QuorumFetchReply, QuorumFetchRequest, Voter

OWN, OTHER = 1, 2
UP, DOWN = LinkState.UP, LinkState.DOWN
HEARTBEAT = HeartbeatNodeRequest(OWN, 7, 99)
ALIVE = HeartbeatNodeReply(is_caught_up=True, is_fenced=False, should_shut_down=False)


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
