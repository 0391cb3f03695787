"""Nodes that have moved to other ports while others were away, and nodes that are stopped while they look for them."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from zmqbroker.actors import node as node_module
from zmqbroker.errors import BrokerNotAvailableError, error_for
from zmqbroker.transport.cluster_messages import DescribeClusterRequest
from zmqbroker.transport.join import JoinError
from zmqbroker.transport.messages import (
    ApiVersionsRequest,
    CloseRequest,
    FetchRequest,
    MetadataRequest,
    NodeStatusRequest,
)


@pytest.fixture
def held_ports():
    """Three ports that nobody else is given; who binds with SO_REUSEADDR, as nodes do, may listen there."""
    with ExitStack() as holding:
        sockets = [holding.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in sockets]


@pytest.fixture
def silent():
    """A listener that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_node_finds_the_others_that_have_moved_while_it_was_away(make_cluster, eventually):
    """Two of three voters are left, and each moves in turn: the other hears of it by its call, and not by metadata."""
    cluster = make_cluster(3, broker_session_timeout_ms=1_000)
    cluster.create("t", min_insync_replicas=1)
    assert cluster.leader("t").client().produce("t", b"before").error_code == 0
    old = cluster.servers(1, 2)
    cluster[3].stop()
    for node_id in (1, 2):
        cluster[node_id].stop()
        cluster[node_id].start()  # at another port
        eventually(lambda: cluster.state("t").leader != -1, "a leader")
    assert not set(old.split(",")) & set(cluster.servers(1, 2).split(","))
    leader = cluster.leader("t")
    eventually(lambda: leader.client().produce("t", b"meanwhile").error_code == 0, "its role")
    cluster[3].settings["join"] = cluster.servers(2)
    cluster[3].start()
    eventually(lambda: 3 in cluster.state("t").isr, "it follows")
    assert cluster.settled().nodes[3].epoch == cluster[3].context.node_epoch


def test_a_whole_cluster_that_has_moved_finds_itself(cluster, held_ports, eventually):
    """None of them knows a present address: the settings do, and who is there says who it is."""
    cluster.create("t")
    assert cluster.leader("t").client().produce("t", b"before").error_code == 0
    for node in cluster.nodes.values():
        node.node.stop(hand_over=False)
    for node in cluster.nodes.values():
        node.wait()
    join = ",".join(f"127.0.0.1:{port}" for port in held_ports)
    for node, port in zip(cluster.nodes.values(), held_ports, strict=True):
        node.settings |= {"listen": f"tcp://127.0.0.1:{port}", "join": join}
        node.begin()
    eventually(lambda: all(node.ready.is_set() for node in cluster.nodes.values()), "they have found one another")
    assert all(node.listens() for node in cluster.nodes.values())
    eventually(lambda: cluster.leader("t").client().values("t") == [b"before"], "the leader knows what is committed")
    assert {node.port for node in cluster.settled().nodes.values()} == set(held_ports)


def test_nobody_waits_for_an_address_that_does_not_answer(make_cluster, monkeypatch):
    """The start asks in the background: it is over while the question is still open."""
    cluster = make_cluster(2)
    cluster[2].stop()
    asked, started = threading.Event(), threading.Event()

    def no_answer(*_):
        asked.set()
        assert started.wait(30)
        return {}

    monkeypatch.setattr(node_module, "find_nodes", no_answer)
    cluster[2].settings["join"] = "127.0.0.1:1"
    cluster[2].start()
    assert asked.is_set()
    started.set()


def test_a_node_does_not_say_that_it_is_ready_before_it_knows_that_it_was_told_its_own_cluster(
    make_cluster, monkeypatch, eventually
):
    """If the address to join at answers soon."""
    monkeypatch.setattr(node_module, "_HELD_BACK_MS", 60_000.0)
    cluster = make_cluster(1)
    cluster[1].stop()
    asked, answered = threading.Event(), threading.Event()

    def another_cluster(*_):
        asked.set()
        assert answered.wait(30)
        message = "another one is there"
        raise JoinError(message)

    monkeypatch.setattr(node_module, "find_nodes", another_cluster)
    node = cluster[1]
    node.settings["join"] = "127.0.0.1:1"
    node.begin()
    eventually(lambda: node.listens() and node.context.active, "it takes clients")
    assert asked.is_set()
    assert not node.ready.is_set()
    answered.set()
    assert isinstance(node.wait(), JoinError)
    assert not node.ready.is_set()


def test_a_node_that_looks_for_a_cluster_to_join_can_be_stopped(make_cluster, silent, unused_port, eventually):
    cluster = make_cluster(1)
    before = cluster.everything()
    for address in (silent, f"127.0.0.1:{unused_port}"):
        node = cluster.make(2, str(cluster.folder / f"new-{address}".replace(":", "-")), join=address).begin()
        eventually(lambda node=node: Path(node.folder, ".lock").exists(), "it has its folder")
        node.node.stop()
        assert node.wait() is None, "and not that nobody has answered for a minute"
        assert not Path(node.folder, "meta.properties").exists(), "the folder is as it was"
    assert cluster.everything() == before


def test_a_node_that_finds_no_majority_can_be_stopped(make_cluster):
    cluster = make_cluster(3)
    for node in cluster.nodes.values():
        node.node.stop(hand_over=False)
    for node in cluster.nodes.values():
        node.wait()
    alone = cluster[1].begin()
    cluster.eventually(alone.listens, "it listens")
    alone.node.stop()
    assert alone.wait() is None


def test_a_node_that_finds_no_majority_answers_its_clients_that_they_may_try_again(make_cluster, eventually):
    cluster = make_cluster(3)
    for node in cluster.nodes.values():
        node.node.stop(hand_over=False)
    for node in cluster.nodes.values():
        node.wait()
    alone = cluster[1].begin()
    eventually(alone.listens, "it listens")
    client, leaving = alone.client(), alone.client()
    assert client.call(ApiVersionsRequest("c", "test")).node_id == 1, "who it is, it says at once"
    requests = [MetadataRequest(None), DescribeClusterRequest(), FetchRequest(0, 0, 1000, []), NodeStatusRequest()]
    last_words = leaving.send(MetadataRequest(None))
    leaving.send(CloseRequest())
    for number in [client.send(request) for request in requests for _ in range(2)]:
        reply = client.reply_to(number)
        error = error_for(reply.error_code, reply.error_message)
        assert isinstance(error, BrokerNotAvailableError), error
        assert error.retriable
        assert error.message.startswith("node 1 does not serve clients yet: it knows of no controller; a majority ")
    assert leaving.reply_to(last_words).error_code == BrokerNotAvailableError.code, "also after a goodbye"
    eventually(lambda: alone.on_reactor(lambda: alone.context.open_requests) == 0, "nobody waits for anything")
    cluster[2].settings["join"] = cluster.servers(1)
    cluster[2].begin()  # and it takes clients after all
    eventually(lambda: not client.ask(MetadataRequest(None)).error_code, "there is a majority")
