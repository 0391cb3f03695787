"""Messages a second through an actor's mailbox: the reactor's actors against pykka's ThreadingActor, in one run.

Loads: "flood" tells one actor from outside before or while it works; "self" has an actor tell itself each next message;
"ping-pong" has two actors tell one another, so that each message is a turn (or a thread switch) of its own.

    python bench/actor_message.py [messages]
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pykka
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.reactor import Reactor
from zmqbroker.clock import SystemClock
from zmqbroker.transport.poller import ZmqPoller

if TYPE_CHECKING:
    from collections.abc import Callable


class Relay(pykka.Actor):
    """Tells what it gets to the next, until the count has come down to nought."""

    def __init__(self, done: Callable[[], Any]) -> None:
        super().__init__()
        self.done = done
        self.next: pykka.ActorRef[Any] = self.actor_ref

    def on_receive(self, message: Any) -> None:
        """Count down, or take the next actor's reference."""
        if message.__class__ is not int:
            self.next = message
        elif message == 0:
            self.done()
        else:
            self.next.tell(message - 1)


class Sink(pykka.Actor):
    """Takes what it gets, until the nought comes."""

    def __init__(self, done: Callable[[], Any]) -> None:
        super().__init__()
        self.done = done

    def on_receive(self, message: Any) -> None:
        """Wait for nought."""
        if message == 0:
            self.done()


class ReactorRelay(Relay, ReactorActor):
    """On a reactor."""


class ReactorSink(Sink, ReactorActor):
    """On a reactor."""


class ThreadRelay(Relay, pykka.ThreadingActor):
    """On a thread of its own."""


class ThreadSink(Sink, pykka.ThreadingActor):
    """On a thread of its own."""


def flood(sink: pykka.ActorRef[Any], messages: int) -> None:
    """Tell all from outside."""
    for left in range(messages - 1, -1, -1):
        sink.tell(left)


def on_reactor(load: str, messages: int) -> float:
    """Seconds that the reactor's actors take."""
    poller = ZmqPoller()
    reactor = Reactor(SystemClock(), poller)
    if load == "flood":
        first = reactor.spawn(ReactorSink, reactor.stop, address="sink")
    else:
        first = reactor.spawn(ReactorRelay, reactor.stop, address="first")
    if load == "ping-pong":
        second = reactor.spawn(ReactorRelay, reactor.stop, address="second")
        first.tell(second)
        second.tell(first)
    reactor.run_pass()  # this thread owns the reactor from here on
    start = time.perf_counter()
    if load == "flood":
        flood(first, messages)
    else:
        first.tell(messages - 1)
    reactor.run()
    seconds = time.perf_counter() - start
    poller.close()
    return seconds


def on_threads(load: str, messages: int) -> float:
    """Seconds that ThreadingActor takes."""
    done = threading.Event()
    first = ThreadSink.start(done.set) if load == "flood" else ThreadRelay.start(done.set)
    if load == "ping-pong":
        second = ThreadRelay.start(done.set)
        first.tell(second)
        second.tell(first)
    start = time.perf_counter()
    if load == "flood":
        flood(first, messages)
    else:
        first.tell(messages - 1)
    done.wait()
    seconds = time.perf_counter() - start
    pykka.ActorRegistry.stop_all()
    return seconds


def main() -> None:
    """Print one line for each load: the best of three, taken alternately."""
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    for load in ("flood", "self", "ping-pong"):
        times = [(on_reactor(load, messages), on_threads(load, messages)) for _ in range(3)]
        reactor, threads = (min(column) for column in zip(*times, strict=True))
        print(
            f"{load:>9}: reactor {messages / reactor:>9,.0f}/s ({reactor / messages * 1e6:.2f} us)"
            f"   threads {messages / threads:>9,.0f}/s ({threads / messages * 1e6:.2f} us)"
            f"   ratio {threads / reactor:.1f}"
        )


if __name__ == "__main__":
    main()
