"""What the simulated network promises: order, no single loss, breaks, refusals, silence, back-pressure."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.simulation.conditions import NetworkConditions
from zmqbroker.simulation.connection import Connection
from zmqbroker.simulation.network import NodeNetwork, SimClientConnection, SimNetwork
from zmqbroker.simulation.world import World
from zmqbroker.transport.network import LinkState, SendResult

ADDRESS = "tcp://server:9292"


class Poller:
    """Runs what is added at once, unless it is stopped."""

    def __init__(self) -> None:
        self.stopped = False
        self.waiting: list[Any] = []

    def add(self, callback: Any) -> None:
        if self.stopped:
            self.waiting.append(callback)
        else:
            callback()

    def go_on(self) -> None:
        self.stopped = False
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


class Peer:
    """A process that listens and links, and writes down what it hears."""

    def __init__(self, network: SimNetwork, name: str) -> None:
        self.host = network.host(name)
        self.poller = Poller()
        self.network = NodeNetwork(network, self.host, self.poller)
        self.heard: list[tuple[bytes, bytes]] = []
        self.replies: list[bytes] = []
        self.states: list[LinkState] = []

    def listen(self) -> Any:
        return self.network.listen(ADDRESS, lambda routing_id, frames: self.heard.append((routing_id, frames[0])))

    def link(self) -> Any:
        return self.network.link(ADDRESS, lambda frames: self.replies.append(frames[0]), self.states.append)


@pytest.fixture
def world() -> World:
    return World(7)


@pytest.fixture
def network(world: World) -> SimNetwork:
    return SimNetwork(world, NetworkConditions(jitter_ms=5.0, heartbeat_timeout_ms=300.0, queue_messages=10))


@pytest.fixture
def server(network: SimNetwork) -> Peer:
    return Peer(network, "server")


@pytest.fixture
def client(network: SimNetwork) -> Peer:
    return Peer(network, "client")


def run_for(world: World, duration_ms: float) -> None:
    world.run_until(world.now_ms + duration_ms)


def test_messages_of_a_connection_arrive_in_order_and_are_answered(world: World, server: Peer, client: Peer) -> None:
    listener, link = server.listen(), client.link()
    run_for(world, 100)
    assert client.states == [LinkState.UP]
    for number in range(10):
        assert link.send([b"%d" % number]) is SendResult.SENT
    run_for(world, 200)
    assert [message for _, message in server.heard] == [b"%d" % number for number in range(10)]
    assert listener.send(server.heard[0][0], [b"reply"]) is SendResult.SENT
    run_for(world, 100)
    assert client.replies == [b"reply"]


def test_messages_of_two_connections_overtake_each_other(world: World, network: SimNetwork, server: Peer) -> None:
    server.listen()
    links = [Peer(network, f"client{number}").link() for number in range(2)]
    run_for(world, 100)
    for number in range(20):
        links[number % 2].send([b"%02d" % number])
    run_for(world, 300)
    order = [message for _, message in server.heard]
    assert sorted(order) == [b"%02d" % number for number in range(20)]
    assert order != sorted(order)


def test_a_link_without_a_listener_is_refused_and_comes_up_when_there_is_one(
    world: World, server: Peer, client: Peer
) -> None:
    link = client.link()
    run_for(world, 300)
    assert client.states == [LinkState.REFUSED]
    assert link.send([b"lost"]) is SendResult.GONE
    server.listen()
    run_for(world, 1_000)
    assert client.states == [LinkState.REFUSED, LinkState.UP]


def test_a_process_that_dies_is_noticed_at_once_and_then_refused(world: World, server: Peer, client: Peer) -> None:
    server.listen()
    client.link()
    run_for(world, 100)
    server.network.die(power_cut=False)
    run_for(world, 150)
    assert client.states == [LinkState.UP, LinkState.DOWN, LinkState.REFUSED]


def test_a_machine_without_power_is_silent(world: World, network: SimNetwork, server: Peer, client: Peer) -> None:
    server.listen()
    client.link()
    run_for(world, 100)
    server.network.die(power_cut=True)
    network.set_power(server.host, up=False)
    run_for(world, 250)
    assert client.states == [LinkState.UP]
    run_for(world, 2_000)
    assert client.states == [LinkState.UP, LinkState.DOWN]
    network.set_power(server.host, up=True)
    run_for(world, 2_000)
    assert client.states[-1] is LinkState.REFUSED


def test_an_end_that_vanished_behind_a_cut_is_missed_once_what_it_had_sent_has_come(
    world: World, network: SimNetwork, server: Peer, client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network.random, "randint", lambda _, high: high)  # all that was sent is on its way
    listener = server.listen()
    link = client.link()
    run_for(world, 100)
    link.send([b"asked"])
    run_for(world, 100)
    ((routing_id, _),) = server.heard
    network.block("server", "client")
    listener.send(routing_id, [b"told"])
    run_for(world, 50)
    server.network.die(power_cut=True)
    network.set_power(server.host, up=False)
    network.set_power(server.host, up=True)
    run_for(world, 150)  # its resets are cut off
    network.heal()
    run_for(world, 100)
    assert client.replies == [b"told"]
    run_for(world, 2_000)
    assert client.states[:2] == [LinkState.UP, LinkState.DOWN]


def test_a_partition_holds_messages_back_and_breaks_the_link_after_the_heartbeat_time_out(
    world: World, network: SimNetwork, server: Peer, client: Peer
) -> None:
    server.listen()
    link = client.link()
    run_for(world, 100)
    network.block("client", "server")
    network.block("server", "client")
    assert link.send([b"held"]) is SendResult.SENT
    run_for(world, 100)
    assert not server.heard
    network.heal()
    run_for(world, 100)
    assert [message for _, message in server.heard] == [b"held"]  # TCP sends again
    network.block("client", "server")
    network.block("server", "client")
    link.send([b"vanishes"])
    run_for(world, 1_000)
    assert client.states == [LinkState.UP, LinkState.DOWN]
    assert link.send([b"refused"]) is SendResult.GONE


def test_a_one_way_partition_breaks_the_link_for_both(
    world: World, network: SimNetwork, server: Peer, client: Peer
) -> None:
    listener, link = server.listen(), client.link()
    run_for(world, 100)
    link.send([b"hello"])
    run_for(world, 100)
    routing_id = server.heard[0][0]
    network.block("client", "server")
    assert listener.send(routing_id, [b"still heard"]) is SendResult.SENT
    run_for(world, 100)
    assert client.replies == [b"still heard"]
    run_for(world, 600)
    assert client.states == [LinkState.UP, LinkState.DOWN]  # told by the server's reset
    assert listener.send(routing_id, [b"gone"]) is SendResult.GONE


def test_an_end_that_has_not_heard_of_the_break_sends_into_the_void(
    world: World, network: SimNetwork, server: Peer, client: Peer
) -> None:
    listener, link = server.listen(), client.link()
    run_for(world, 100)
    link.send([b"hello"])
    run_for(world, 100)
    network.block("client", "server")
    client.network.die(power_cut=False)
    assert listener.send(server.heard[0][0], [b"lost"]) is SendResult.SENT
    run_for(world, 100)
    assert client.replies == []


def test_a_stale_request_is_heard_after_the_reconnect(
    world: World, network: SimNetwork, server: Peer, client: Peer
) -> None:
    server.poller.stopped = True
    server.listen()
    link = client.link()
    run_for(world, 100)
    link.send([b"old"])
    run_for(world, 100)
    network.connections()[0].break_both()
    run_for(world, 1_000)
    assert client.states == [LinkState.UP, LinkState.DOWN, LinkState.UP]
    link.send([b"new"])
    run_for(world, 100)
    server.poller.go_on()
    (old_id, old), (new_id, new) = server.heard
    assert (old, new) == (b"old", b"new")
    assert old_id != new_id


def test_no_reply_to_a_request_of_before_the_reconnect_arrives(
    world: World, network: SimNetwork, server: Peer, client: Peer
) -> None:
    listener, link = server.listen(), client.link()
    run_for(world, 100)
    link.send([b"hello"])
    run_for(world, 100)
    listener.send(server.heard[0][0], [b"late"])
    network.connections()[0].break_both()
    run_for(world, 1_000)
    assert client.states[-1] is LinkState.UP
    assert client.replies == []


def test_a_receiver_that_does_not_read_fills_its_queue(world: World, server: Peer, client: Peer) -> None:
    listener, link = server.listen(), client.link()
    run_for(world, 100)
    listener.pause()
    results = [link.send([b"%d" % number]) for number in range(12)]
    assert results == [SendResult.SENT] * 10 + [SendResult.FULL] * 2
    run_for(world, 500)
    assert link.send([b"more"]) is SendResult.FULL
    assert not server.heard
    listener.resume()
    run_for(world, 100)
    assert len(server.heard) == 10
    assert link.send([b"more"]) is SendResult.SENT


def test_a_stopped_process_is_connected_until_the_heartbeat_time_out(
    world: World, network: SimNetwork, server: Peer, client: Peer
) -> None:
    server.listen()
    client.link()
    run_for(world, 100)
    network.set_paused(server.host, paused=True)
    run_for(world, 200)
    assert client.states == [LinkState.UP]
    run_for(world, 1_000)
    assert client.states == [LinkState.UP, LinkState.DOWN]
    network.set_paused(server.host, paused=False)
    run_for(world, 2_000)
    assert client.states[-1] is LinkState.UP


def test_a_closed_link_tells_nothing_and_does_not_come_back(world: World, server: Peer, client: Peer) -> None:
    server.listen()
    link = client.link()
    run_for(world, 100)
    link.close()
    server.network.die(power_cut=False)
    run_for(world, 1_000)
    assert client.states == [LinkState.UP]
    assert link.send([b"?"]) is SendResult.GONE


def test_a_client_hears_of_the_break_once(world: World, network: SimNetwork, server: Peer) -> None:
    server.listen()
    events: list[str] = []
    SimClientConnection(
        network,
        "client",
        ADDRESS,
        on_open=lambda: events.append("open"),
        on_message=lambda _: events.append("message"),
        on_break=lambda: events.append("break"),
    )
    run_for(world, 100)
    for connection in network.connections():
        connection.break_both()
    run_for(world, 1_000)
    assert events == ["open", "break"]


@pytest.mark.parametrize("how", [Connection.close, Connection.reset, Connection.vanish])
def test_connections_that_are_over_are_forgotten(
    world: World, network: SimNetwork, server: Peer, client: Peer, how: Any
) -> None:
    server.listen()
    link = client.link()
    run_for(world, 100)
    link.send([b"hello"])
    link.die(how)
    if how is Connection.vanish:
        network.set_power(client.host, up=False)
    run_for(world, 1_000)
    assert network.connections() == []
