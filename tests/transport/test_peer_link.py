"""Links to other nodes on real sockets: up, down and refused are told apart, and nothing outlives its connection."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from random import Random

import pytest
import zmq
from zmqbroker.actors.reactor import Reactor
from zmqbroker.clock import SystemClock
from zmqbroker.transport import peer_link
from zmqbroker.transport.dealer import Dealer, DealerError, DealerLimits, DealerState
from zmqbroker.transport.listener import ListenerLimits
from zmqbroker.transport.network import LinkState, SendResult
from zmqbroker.transport.peer_link import RETRY_MS_MAX, RETRY_MS_MIN, look_up
from zmqbroker.transport.poller import ZmqPoller
from zmqbroker.transport.zmq_network import ZmqNetwork

DEADLINE_S = 10.0
UP, DOWN, REFUSED = LinkState.UP, LinkState.DOWN, LinkState.REFUSED
PEER = """
import sys, zmq
router = zmq.Context().socket(zmq.ROUTER)
print(router.bind_to_random_port("tcp://127.0.0.1"), flush=True)
while True:
    router.send_multipart(router.recv_multipart())
"""


class Host:
    """A reactor with a network, run by the test's own thread."""

    def __init__(self, handshake_ivl_ms=200):
        self.poller = ZmqPoller()
        self.reactor = Reactor(SystemClock(), self.poller)
        self.network = ZmqNetwork(self.poller, ListenerLimits(200_000, handshake_ivl_ms, 0), self.reactor, Random(0))
        self.messages: list[list[bytes]] = []
        self.states: list[LinkState] = []
        self.ends = []
        self.closed = False

    def link(self, address):
        link = self.network.link(address, self.messages.append, self.states.append)
        self.ends.append(link.close)
        return link

    def listen(self, address="tcp://127.0.0.1:0"):
        """A listener that sends everything back."""

        def send_back(routing_id, frames):
            assert listener.send(routing_id, frames) is not SendResult.FULL

        listener = self.network.listen(address, send_back)
        self.ends.append(lambda: listener.close(0))
        return listener

    def run_until(self, condition, what):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {DEADLINE_S} s; states {self.states}, {len(self.messages)} messages")
            self.reactor.run_pass(20)

    def run_for(self, seconds):
        """Nothing is waited for: what must not happen has this long to happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.reactor.run_pass(5)

    def until_state(self, link, state):
        self.run_until(lambda: link.state is state, f"state {state}")

    def echo(self, link, frames):
        assert link.send(frames) is SendResult.SENT
        self.run_until(lambda: self.messages, "the echo")
        assert self.messages.pop(0) == frames

    def close(self):
        if not self.closed:
            self.closed = True
            for end in self.ends:
                end()
            self.network.close()
            self.poller.close()
            assert self.poller.callback_errors == 0


@pytest.fixture
def make_host():
    made = []

    def make(*args):
        made.append(Host(*args))
        return made[-1]

    yield make
    for host in made:
        host.close()


@pytest.fixture
def host(make_host):
    return make_host()


@pytest.fixture
def held():
    """A socket whose port nobody listens on, and nobody else is given."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held


def address_of(bound):
    return "tcp://{}:{}".format(*bound.getsockname())


@pytest.fixture
def black_hole():
    """A port whose host drops what comes: its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()


@pytest.fixture
def peer():
    """Another process that sends everything back, and its port."""
    process = subprocess.Popen([sys.executable, "-c", PEER], stdout=subprocess.PIPE, text=True)
    yield process, int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_link_comes_up_and_carries_messages_in_order(host):
    link = host.link(host.listen().address)
    assert link.state is DOWN
    assert link.send([b"too early"]) is SendResult.GONE
    host.until_state(link, UP)
    for number in range(90):
        assert link.send([b"%d" % number, b"", b"x" * 100_000 if number % 30 == 0 else b"y"]) is SendResult.SENT
    host.run_until(lambda: len(host.messages) == 90, "all messages")
    assert [int(frames[0]) for frames in host.messages] == list(range(90))
    assert [len(frames[2]) for frames in host.messages[:2]] == [100_000, 1]
    assert host.states == [UP]


def test_a_link_by_name_comes_up_and_is_refused(host):
    listener = host.listen()
    link = host.link(listener.address.replace("127.0.0.1", "localhost"))
    host.until_state(link, UP)
    host.echo(link, [b"hello"])
    listener.close(0)
    host.ends.pop(0)
    host.until_state(link, REFUSED)


def test_names_are_looked_up_and_numbers_are_not():
    assert look_up("127.0.0.1", "5", socket.AI_NUMERICHOST) == "tcp://127.0.0.1:5"
    assert look_up("::0:1", "5", socket.AI_NUMERICHOST) == "tcp://[::1]:5"
    assert look_up("localhost", "5", socket.AI_NUMERICHOST) is None
    assert look_up("localhost", "5") == "tcp://127.0.0.1:5"
    assert look_up("no-such-host.invalid", "5") is None
    assert look_up("a" * 300, "5") is None


def test_an_unknown_name_is_down_and_said_once(host, caplog):
    link = host.link("tcp://no-such-host.invalid:9292")
    host.run_until(lambda: caplog.records, "a log line")
    host.run_for(0.1)
    assert [record.getMessage() for record in caplog.records] == [
        "the name in tcp://no-such-host.invalid:9292 is not known"
    ]
    assert (link.state, host.states) == (DOWN, [])


def test_a_killed_process_is_refused_at_once(host, peer):
    process, port = peer
    link = host.link(f"tcp://127.0.0.1:{port}")
    host.until_state(link, UP)
    host.echo(link, [b"hello"])
    process.kill()
    process.wait()
    killed = time.monotonic()
    host.until_state(link, REFUSED)
    assert time.monotonic() - killed < 2.0, "some 20 ms where nothing else runs"
    assert host.states == [UP, DOWN, REFUSED]
    assert link.send([b"late"]) is SendResult.GONE


def test_nobody_there_from_the_start_is_refused_until_somebody_is(make_host, held):
    host = make_host(60_000)
    link = host.link(address_of(held))
    host.until_state(link, REFUSED)
    host.run_for(0.2)
    assert host.states == [REFUSED]
    held.listen()  # takes the connection and says nothing
    host.until_state(link, DOWN)
    assert host.states == [REFUSED, DOWN]


def test_somebody_who_hangs_is_down(host, held):
    held.listen()
    link = host.link(address_of(held))
    host.run_until(lambda: link._retry_ms > RETRY_MS_MIN, "the end of the handshake's time")
    assert (link.state, host.states) == (DOWN, [])


def test_an_ipv6_address_is_refused_too(host):
    with socket.socket(socket.AF_INET6) as held:
        try:
            held.bind(("::1", 0))
        except OSError:
            pytest.skip("this host has no IPv6")
        link = host.link(f"tcp://[::1]:{held.getsockname()[1]}")
        host.until_state(link, REFUSED)


def test_a_host_out_of_reach_is_down_and_never_refused(host, black_hole, monkeypatch):
    monkeypatch.setattr("zmqbroker.transport.zmq_network._CONNECT_TIMEOUT_MS", 30)
    network = ZmqNetwork(host.poller, ListenerLimits(200_000, 200, 0), host.reactor, Random(0))
    tries = []
    link = network.link(f"tcp://127.0.0.1:{black_hole}", host.messages.append, host.states.append)
    connect = link._connect
    link._connect = lambda: tries.append(connect())
    host.run_until(lambda: len(tries) > 3, "a few attempts")
    assert (link.state, host.states) == (DOWN, [])
    link.close()
    network.close()


def test_after_a_restart_on_the_same_port_nothing_of_before_arrives(host):
    heard = []
    first = host.network.listen("tcp://127.0.0.1:0", lambda _, frames: heard.append(frames))
    address = first.address
    link = host.link(address)
    host.until_state(link, UP)
    first.pause()
    for number in range(50):
        assert link.send([b"before %d" % number]) is SendResult.SENT
    first.close(0)
    host.run_until(lambda: link.state is not UP, "the break")
    assert link.send([b"between"]) is SendResult.GONE
    second = host.listen(address)
    host.until_state(link, UP)
    host.echo(link, [b"after"])
    host.run_for(0.05)
    assert (heard, host.messages) == ([], [])
    assert second.address == address
    assert host.states[0] is UP
    assert host.states[-1] is UP
    assert DOWN in host.states


def test_an_answer_that_came_before_the_break_is_an_answer(host):
    replies = []
    listener = host.network.listen("tcp://127.0.0.1:0", lambda routing_id, _: replies.append(routing_id))
    events = []
    link = host.network.link(listener.address, lambda frames: events.append(frames[0]), events.append)
    host.ends.append(link.close)
    host.until_state(link, UP)
    link.send([b"ask"])
    host.run_until(lambda: replies, "the request")
    data = link._dealer.sockets[0]
    host.poller.unregister(data)
    host.poller.register(data, lambda: None)  # the news of the break comes first
    for number in range(5):
        listener.send(replies[0], [b"%d" % number])
    listener.close(1000)
    host.run_until(lambda: len(events) > 1 and link.state is not UP, "the break")
    assert events[:7] == [UP, b"0", b"1", b"2", b"3", b"4", DOWN]


def test_a_full_queue_is_said_and_the_link_lives(host):
    heard = itertools.count()
    listener = host.network.listen("tcp://127.0.0.1:0", lambda *_: next(heard))
    host.ends.append(lambda: listener.close(0))
    link = host.link(listener.address)
    host.until_state(link, UP)
    listener.pause()
    sent = 0
    while link.send([b"x" * 50_000]) is SendResult.SENT:
        sent += 1
        assert sent < 5000, "the queue has no limit"
    assert link.send([b"x", b"y"]) is SendResult.FULL
    listener.resume()
    host.run_until(lambda: link.send([b"x"]) is SendResult.SENT, "room")
    assert host.states == [UP]


def test_strangers_and_huge_frames_end_the_connection_only(host):
    listener = host.listen()
    other = host.network.listen("tcp://127.0.0.1:0", lambda routing_id, _: other.send(routing_id, [b"x" * 300_000]))
    host.ends.append(lambda: other.close(0))
    good, bad = host.link(listener.address), host.link(other.address)
    host.until_state(good, UP)
    host.until_state(bad, UP)
    bad.send([b"give me more than I take"])
    host.run_until(lambda: bad.state is not UP, "the break")
    host.until_state(bad, UP)
    host.echo(good, [b"still here"])


def test_retries_slow_down(host, held):
    delays = []
    real = host.reactor.call_later
    host.reactor.call_later = lambda delay, callback: delays.append(delay) or real(min(delay, 1.0), callback)
    host.link(address_of(held))
    host.run_until(lambda: len(delays) > 20, "retries")
    retries = [delay for delay in delays if delay != 3.0]
    assert 5.0 <= retries[0] <= 10.0
    assert all(5.0 * 2**step <= delay <= 10.0 * 2**step for step, delay in enumerate(retries[:6]))
    assert all(250.0 <= delay <= 500.0 for delay in retries[6:])


def test_a_closed_link_tells_nothing(host):
    listener = host.listen()
    link = host.link(listener.address)
    host.until_state(link, UP)
    link.send([b"x"])
    link.close()
    link.close()
    assert link.send([b"x"]) is SendResult.GONE
    host.run_for(0.05)
    assert (host.states, host.messages) == ([UP], [])


def test_a_link_closed_while_it_waits_connects_no_more(host, held):
    link = host.link(address_of(held))
    host.until_state(link, REFUSED)
    opened = []
    link._open = opened.append
    link.close()
    host.run_for(0.05)
    assert opened == []


def test_who_hears_a_message_may_close_the_link(host):
    listener = host.listen()
    heard = []
    link = host.network.link(listener.address, lambda frames: (heard.append(frames), link.close()), host.states.append)
    host.until_state(link, UP)
    link.send([b"1"])
    link.send([b"2"])
    host.run_until(lambda: heard, "a message")
    host.run_for(0.05)
    assert heard == [[b"1"]]


def test_retries_are_quick_again_after_a_connection_that_stood(host, monkeypatch):
    monkeypatch.setattr(peer_link, "_STEADY_AFTER_MS", 50.0)
    listener = host.listen()
    link = host.link(listener.address)
    link._retry_ms = RETRY_MS_MAX
    host.until_state(link, UP)
    assert link._retry_ms == RETRY_MS_MAX
    host.run_until(lambda: link._retry_ms == RETRY_MS_MIN, "a steady connection")


def test_a_port_that_was_connected_to_itself_counts_as_refused(held):
    end = address_of(held).removeprefix("tcp://")
    held.close()
    with zmq.Context() as context:
        dealer = Dealer(context, f"tcp://{end};{end}", DealerLimits())
        deadline = time.monotonic() + DEADLINE_S
        while dealer.check() is DealerState.CONNECTING:
            assert time.monotonic() < deadline
            dealer.sockets[1].poll(20)
        assert (dealer.state, dealer.was_refused) == (DealerState.BROKEN, True)
        assert "itself" in dealer.reason
        dealer.close()


@pytest.mark.parametrize("by_name", [False, True])
def test_a_link_that_finds_no_file_descriptor_tries_again_until_there_are_some(host, monkeypatch, caplog, by_name):
    listener = host.listen()
    missing = ["socket", "socket", "thread", "thread"] if by_name else ["socket", "socket"]

    def no_dealer(*args):
        if "socket" in missing:
            missing.remove("socket")
            raise DealerError(os.strerror(errno.EMFILE))
        return Dealer(*args)

    class Thread(threading.Thread):
        def start(self):
            if "thread" in missing:
                missing.remove("thread")
                raise RuntimeError
            super().start()

    monkeypatch.setattr(peer_link, "Dealer", no_dealer)
    monkeypatch.setattr(peer_link.threading, "Thread", Thread)
    link = host.link(listener.address.replace("127.0.0.1", "localhost") if by_name else listener.address)
    host.until_state(link, UP)
    assert missing == []
    assert host.states == [UP]
    assert caplog.text.count("Too many open files") == 1


@pytest.mark.parametrize("fails_at", ["socket 0", "socket 1", "monitor", "connect"])
def test_a_dealer_that_cannot_be_made_leaves_no_socket_open(fails_at):
    made = []

    class Full(zmq.Context):
        def socket(self, kind):
            self.fail(f"socket {len(made)}")
            made.append(super().socket(kind, socket_class=Socket))
            return made[-1]

        @staticmethod
        def fail(where):
            if where == fails_at:
                raise zmq.ZMQError(errno.EMFILE)

    class Socket(zmq.Socket):
        def monitor(self, *args):
            Full.fail("monitor")
            super().monitor(*args)

        def connect(self, address):
            if address.startswith("tcp"):
                Full.fail("connect")
            super().connect(address)

    with Full() as context:
        with pytest.raises(DealerError, match=r"cannot connect to tcp://127\.0\.0\.1:5: Too many open files"):
            Dealer(context, "tcp://127.0.0.1:5", DealerLimits())
        assert [socket.closed for socket in made] == [True] * len(made)


def test_a_network_closes_the_links_that_are_left(host):
    link = host.network.link(host.listen().address, host.messages.append, host.states.append)
    host.until_state(link, UP)
    host.close()
    assert link.closed
