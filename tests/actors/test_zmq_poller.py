"""ZmqPoller: level-triggered callbacks, wake-ups, and the reactor on real sockets."""

from __future__ import annotations

import os
import threading

import pytest
import zmq
from zmqbroker.actors.reactor import Reactor
from zmqbroker.clock import SystemClock
from zmqbroker.transport.poller import ZmqPoller

DEADLINE_S = 10.0


@pytest.fixture
def zmq_poller():
    poller = ZmqPoller()
    yield poller
    poller.close()


@pytest.fixture
def pair():
    context = zmq.Context()
    left, right = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    left.bind("inproc://pair")
    right.connect("inproc://pair")
    yield left, right
    left.close(0)
    right.close(0)
    context.term()


def test_a_zmq_socket_is_called_back_as_long_as_there_is_something_to_read(zmq_poller, pair):
    left, right = pair
    got = []
    zmq_poller.register(left, lambda: got.append(left.recv(zmq.NOBLOCK)))
    right.send(b"1")
    right.send(b"2")
    zmq_poller.wait(DEADLINE_S * 1000)
    assert got == [b"1"]
    zmq_poller.wait(DEADLINE_S * 1000)
    assert got == [b"1", b"2"]
    zmq_poller.wait(0.0)
    assert got == [b"1", b"2"]


def test_a_descriptor_is_called_back(zmq_poller):
    reader, writer = os.pipe()
    got = []
    zmq_poller.register(reader, lambda: got.append(os.read(reader, 10)))
    os.write(writer, b"x")
    zmq_poller.wait(DEADLINE_S * 1000)
    os.close(writer)
    zmq_poller.wait(DEADLINE_S * 1000)
    assert got == [b"x", b""]
    zmq_poller.unregister(reader)
    os.close(reader)


def test_an_unregistered_source_is_not_called_back_even_if_it_was_found_ready(zmq_poller):
    first, second = os.pipe(), os.pipe()
    called = []

    def callback(own, other):
        called.append(own)
        zmq_poller.unregister(other)

    zmq_poller.register(first[0], lambda: callback(first[0], second[0]))
    zmq_poller.register(second[0], lambda: callback(second[0], first[0]))
    for _, writer in (first, second):
        os.write(writer, b"x")
    zmq_poller.wait(0.0)
    assert len(called) == 1
    assert zmq_poller.callback_errors == 0
    for fd in first + second:
        os.close(fd)


def test_a_source_is_registered_once(zmq_poller, pair):
    zmq_poller.register(pair[0], list)
    with pytest.raises(ValueError, match="registered already"):
        zmq_poller.register(pair[0], list)
    zmq_poller.unregister(pair[0])
    with pytest.raises(KeyError):
        zmq_poller.unregister(pair[0])


def test_a_failing_callback_is_logged_and_the_others_run(zmq_poller, caplog):
    pipes = [os.pipe() for _ in range(3)]
    ran = []

    def callback():
        ran.append(1)
        raise ValueError

    for reader, writer in pipes:
        zmq_poller.register(reader, callback)
        os.write(writer, b"x")
    zmq_poller.wait(0.0)
    assert len(ran) == 3
    assert zmq_poller.callback_errors == 3
    assert len([record for record in caplog.records if record.exc_info]) == 3
    for reader, writer in pipes:
        zmq_poller.unregister(reader)
        os.close(reader)
        os.close(writer)


def test_an_assertion_in_a_callback_leaves_wait(zmq_poller, pair):
    left, right = pair

    def callback():
        raise AssertionError

    zmq_poller.register(left, callback)
    right.send(b"1")
    with pytest.raises(AssertionError):
        zmq_poller.wait(DEADLINE_S * 1000)


def test_a_wake_before_the_wait_ends_it_and_many_count_as_one(zmq_poller):
    for _ in range(100_000):  # more than the channel could hold
        zmq_poller.wake()
    zmq_poller.wait(None)
    assert zmq_poller._poller.poll(0) == []


def test_a_wake_ends_a_wait_under_way(zmq_poller):
    ended = threading.Event()

    def wait():
        zmq_poller.wait(None)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    zmq_poller.wake()
    assert ended.wait(DEADLINE_S)
    thread.join(DEADLINE_S)


def test_a_wake_after_close_does_nothing(zmq_poller):
    zmq_poller.close()
    zmq_poller.wake()
    zmq_poller.close()


def test_waits_are_rounded_up_so_that_timers_are_never_early(zmq_poller):
    clock = SystemClock()
    start_ms = clock.monotonic_ms()
    zmq_poller.wait(1.2)
    assert clock.monotonic_ms() - start_ms >= 1.2


def test_a_reactor_on_real_sockets(zmq_poller, pair):
    left, right = pair
    reactor = Reactor(SystemClock(), zmq_poller)
    got = []

    def receive():
        got.append(left.recv(zmq.NOBLOCK))
        if len(got) == 3:
            reactor.stop()

    zmq_poller.register(left, receive)
    reactor.call_soon(lambda: right.send(b"soon"))
    reactor.call_later(2.0, lambda: right.send(b"later"))
    thread = threading.Thread(target=lambda: reactor.call_from_thread(lambda: right.send(b"thread")))
    thread.start()
    reactor.run()
    thread.join(DEADLINE_S)
    assert sorted(got) == [b"later", b"soon", b"thread"]
