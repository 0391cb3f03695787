"""The listener on real sockets: strangers, stalled and oversized peers, slow readers; nobody else is affected."""

from __future__ import annotations

import socket
import struct
import time
from random import Random

import pytest
import zmq
from zmqbroker.actors.reactor import Reactor
from zmqbroker.clock import SystemClock
from zmqbroker.transport.listener import ListenerLimits, ListenError
from zmqbroker.transport.network import SendResult
from zmqbroker.transport.poller import ZmqPoller
from zmqbroker.transport.zmq_network import ZmqNetwork

DEADLINE_S = 10.0
MAX_FRAME = 10_000
GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f"
STRANGERS = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x11" * 300,
    "kafka": struct.pack(">ihhih", 30, 18, 3, 1, 8) + b"consumer" + b"\x00" * 40,
    "nothing": b"",
    "half a greeting": GREETING,
}


LIKE_ZMTP_1 = ("http", "tls")
"""Their first bytes pass for the oldest version of ZeroMQ's protocol, which knows no time limit for them."""


class Host:
    """A listener whose messages are kept, run by the test's own thread."""

    def __init__(self, **limits):
        self.poller = ZmqPoller()
        found = {"max_frame_bytes": MAX_FRAME, "handshake_ivl_ms": 200, "heartbeat_ivl_ms": 0, **limits}
        self.network = ZmqNetwork(self.poller, ListenerLimits(**found), Reactor(SystemClock(), self.poller), Random(0))
        self.messages: list[tuple[bytes, list[bytes]]] = []
        self.listener = self.network.listen("tcp://127.0.0.1:0", self._on_message)
        self.clients = zmq.Context()
        self.sockets: list[zmq.Socket] = []
        self.open = True

    def _on_message(self, routing_id, frames):
        self.messages.append((routing_id, frames))

    @property
    def port(self):
        return int(self.listener.address.rpartition(":")[2])

    def run_until(self, condition, what):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {DEADLINE_S} s")
            self.poller.wait(20)

    def next_message(self):
        self.run_until(lambda: self.messages, "a message")
        return self.messages.pop(0)

    def dealer(self, identity=None, **options):
        client = self.clients.socket(zmq.DEALER)
        client.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            client.setsockopt(getattr(zmq, name), value)
        if identity is not None:
            client.setsockopt(zmq.ROUTING_ID, identity)
        client.connect(self.listener.address)
        self.sockets.append(client)
        return client

    def echo(self, client, frames):
        """A round trip."""
        client.send_multipart(frames)
        routing_id, heard = self.next_message()
        assert self.listener.send(routing_id, heard) is SendResult.SENT
        assert client.poll(DEADLINE_S * 1000)
        assert client.recv_multipart() == heard
        return routing_id

    def close(self):
        if self.open:
            self.open = False
            for client in self.sockets:
                client.close(0)
            self.clients.term()
            self.listener.close(0)
            self.network.close()
            self.poller.close()


@pytest.fixture
def make_host():
    hosts = []

    def make(**limits):
        hosts.append(Host(**limits))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def host(make_host):
    return make_host()


def is_closed(connection):
    """Whether the peer has closed: what it sent before is read away."""
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_is_closed_and_logged_and_others_are_served(host, caplog, kind):
    client = host.dealer()
    host.echo(client, [b"before"])
    with socket.create_connection(("127.0.0.1", host.port)) as stranger:
        stranger.setblocking(False)  # noqa: FBT003
        stranger.sendall(STRANGERS[kind])
        # One that is refused at once may be gone before it can be asked for its address.
        name = "" if kind == "kafka" else "{}:{}".format(*stranger.getsockname())
        host.echo(client, [b"while"])
        if kind in LIKE_ZMTP_1:
            stranger.shutdown(socket.SHUT_RDWR)
        else:
            host.run_until(lambda: is_closed(stranger), "the connection is closed")
        host.run_until(lambda: f"closed the connection from {name}" in caplog.text, "the log line")
    assert "did not speak ZeroMQ's protocol" in caplog.text
    host.echo(client, [b"after"])
    assert not host.messages


def test_a_client_that_leaves_is_no_stranger(host, caplog):
    client = host.dealer()
    routing_id = host.echo(client, [b"x"])
    client.close(0)
    host.run_until(lambda: host.listener.send(routing_id, [b"y"]) is SendResult.GONE, "it is gone")
    assert "closed the connection" not in caplog.text


def test_a_frame_larger_than_allowed_disconnects_its_sender_only(host):
    other = host.dealer()
    host.echo(other, [b"before"])
    client = host.dealer(RECONNECT_IVL=-1)
    routing_id = host.echo(client, [b"x" * MAX_FRAME])
    client.send_multipart([b"x" * (MAX_FRAME + 1)])
    host.run_until(lambda: host.listener.send(routing_id, [b"y"]) is SendResult.GONE, "the sender is disconnected")
    host.echo(other, [b"after"])
    assert not host.messages


def test_a_message_of_many_frames_within_the_limit_arrives_whole(host):
    frames = [b"%d" % index for index in range(200)]
    client = host.dealer()
    host.echo(client, frames)
    host.echo(client, [b"", b"", b""])


def test_a_routing_id_that_is_taken_is_refused(host):
    first = host.dealer(identity=b"me")
    host.echo(first, [b"1"])
    second = host.dealer(identity=b"me", RECONNECT_IVL=-1)
    second.send_multipart([b"from the second"])
    host.echo(first, [b"2"])
    host.echo(first, [b"3"])
    assert not host.messages, "the second connection took over"
    assert host.listener.send(b"me", [b"to the first"]) is SendResult.SENT
    assert first.poll(DEADLINE_S * 1000)
    assert not second.poll(0)


def test_nobody_is_behind_an_unknown_routing_id(host):
    assert host.listener.send(b"\0nobody", [b"x"]) is SendResult.GONE


def test_a_client_that_does_not_read_is_reported_as_full(make_host):
    host = make_host(send_queue_messages=10, max_frame_bytes=1 << 20)
    slow = host.dealer(RCVHWM=1, RCVBUF=4096)
    slow.send(b"hello")
    routing_id, _ = host.next_message()
    payload = b"x" * 500_000
    results = []
    for _ in range(200):
        results.append(host.listener.send(routing_id, [payload]))
        if results[-1] is SendResult.FULL:
            break
    assert results[-1] is SendResult.FULL
    host.echo(host.dealer(), [b"another"])
    sent = results.count(SendResult.SENT)
    for _ in range(sent):
        assert slow.poll(DEADLINE_S * 1000)
        assert slow.recv() == payload
    host.run_until(lambda: host.listener.send(routing_id, [b"last"]) is SendResult.SENT, "there is room again")
    assert slow.poll(DEADLINE_S * 1000)
    assert slow.recv() == b"last", "a message that was reported as full was sent nevertheless"


def test_while_paused_nothing_is_heard_and_nothing_lost(host):
    client = host.dealer()
    host.echo(client, [b"before"])
    host.listener.pause()
    host.listener.pause()
    for index in range(500):
        client.send(b"%d" % index)
    for _ in range(10):
        host.poller.wait(1)
    assert not host.messages
    host.listener.resume()
    host.listener.resume()
    heard = [host.next_message()[1][0] for _ in range(500)]
    assert heard == [b"%d" % index for index in range(500)]


def test_a_pause_in_the_midst_of_a_flood_holds_at_once(host):
    client = host.dealer()
    host.listener._on_message = lambda *message: (host.messages.append(message), host.listener.pause())
    for index in range(20):
        client.send(b"%d" % index)
    assert host.next_message()[1] == [b"0"]
    for _ in range(5):
        host.poller.wait(1)
    assert not host.messages
    host.listener.resume()
    assert host.next_message()[1] == [b"1"]


def test_one_call_takes_in_a_bounded_number_of_messages(host):
    client = host.dealer()
    host.echo(client, [b"x"])
    for index in range(1000):
        client.send(b"%d" % index)
    host.run_until(lambda: host.messages, "the first")
    assert len(host.messages) <= 64
    host.run_until(lambda: len(host.messages) == 1000, "all")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://127.0.0.1", "is no address"),
        ("tcp://203.0.113.7:0", "no interface of this host"),
        ("nonsense", "is no address"),
        ("carrier-pigeon://x:1", "cannot listen on"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_said_in_a_sentence(host, address, reason):
    with pytest.raises(ListenError, match=reason):
        host.network.listen(address, host._on_message)


def test_a_port_in_use_is_said_in_a_sentence(host):
    with pytest.raises(ListenError, match="is in use by another process"):
        host.network.listen(host.listener.address, host._on_message)
    host.echo(host.dealer(), [b"x"])
