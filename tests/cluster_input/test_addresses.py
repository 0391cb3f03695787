"""Nodes that have moved to other ports while others were away, and nodes that are stopped while they look for them."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest


def unused_ports(count):
    """Ports of 127.0.0.1 that are free at the moment."""
    with ExitStack() as holding:
        sockets = [holding.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


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


def test_a_whole_cluster_that_has_moved_finds_itself(cluster, eventually):
    """None of them knows a present address: the settings do, and who is there says who it is."""
    cluster.create("t")
    assert cluster.leader("t").client().produce("t", b"before").error_code == 0
    for node in cluster.nodes.values():
        node.node.stop(hand_over=False)
    for node in cluster.nodes.values():
        node.wait()
    ports = unused_ports(3)
    join = ",".join(f"127.0.0.1:{port}" for port in ports)
    for node, port in zip(cluster.nodes.values(), ports, strict=True):
        node.settings |= {"listen": f"tcp://127.0.0.1:{port}", "join": join}
        node.begin()
    eventually(lambda: all(node.ready.is_set() for node in cluster.nodes.values()), "they have found one another")
    assert all(node.listens() for node in cluster.nodes.values())
    eventually(lambda: cluster.leader("t").client().values("t") == [b"before"], "the leader knows what is committed")
    assert {node.port for node in cluster.settled().nodes.values()} == set(ports)


def test_nobody_waits_for_an_address_that_does_not_answer(make_cluster, silent):
    cluster = make_cluster(2)
    cluster[2].stop()
    cluster[2].settings["join"] = silent
    begun = time.monotonic()
    cluster[2].start()
    assert time.monotonic() - begun < 0.9, "the start asks in the background"


def test_a_node_that_looks_for_a_cluster_to_join_can_be_stopped(make_cluster, silent, unused_port, eventually):
    cluster = make_cluster(1)
    before = cluster.everything()
    for address in (silent, f"127.0.0.1:{unused_port}"):
        node = cluster.make(2, str(cluster.folder / f"new-{address}".replace(":", "-")), join=address).begin()
        eventually(lambda node=node: Path(node.folder, ".lock").exists(), "it has its folder")
        begun = time.monotonic()
        node.node.stop()
        assert node.wait() is None
        assert time.monotonic() - begun < 1.0
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
    begun = time.monotonic()
    alone.node.stop()
    assert alone.wait() is None
    assert time.monotonic() - begun < 2.0
