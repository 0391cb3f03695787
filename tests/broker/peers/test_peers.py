"""Links between nodes: which there are, who is greeted as what, and what the other actors are told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from zmqbroker.actors import peers as peers_module
from zmqbroker.actors.context import CONTROLLER, PEERS, QUORUM, fetcher_address, peer_address
from zmqbroker.actors.peer_commands import KnownNodes, UnknownCaller
from zmqbroker.errors import (
    DuplicateBrokerRegistrationError,
    NetworkError,
)
from zmqbroker.transport.envelope import encode_error, encode_reply
from zmqbroker.transport.messages import ApiVersionsRequest
from zmqbroker.transport.network import LinkState

OWN, OTHER, THIRD = 1, 2, 3
CLUSTER = "the-cluster"
UP, DOWN, REFUSED = LinkState.UP, LinkState.DOWN, LinkState.REFUSED


def test_a_node_that_calls_and_is_not_known_is_called_back(node):
    """It may have joined, and lead the quorum by now, while this one was away: only it has the metadata that say so."""
    node.know(n2=9292)
    node.reactor.tell(PEERS, UnknownCaller(THIRD, "10.0.0.1", 9293))
    node.run()
    assert [link.address for link in node.open_links()] == ["tcp://10.0.0.1:9292", "tcp://10.0.0.1:9293"]
    node.know(n2=9292)
    assert len(node.open_links()) == 2, "metadata that are older than its registration do not end the link"
    node.know(n2=9292, n3=9293)
    node.know(n2=9292)
    assert [link.address for link in node.open_links()] == ["tcp://10.0.0.1:9292"], "it was removed"


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
    link.hear([encode_reply(ApiVersionsRequest.API, number, node.welcome())])
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
    link.hear([encode_reply(ApiVersionsRequest.API, number, node.welcome())])
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
