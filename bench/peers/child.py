"""What runs beside the benchmark in processes of its own: `python child.py VERB CLIENT SERVERS ACKS TOPIC ...`.

CLIENT is `ours` or `confluent`: both send the same records at the same times. What was found is printed as JSON.
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE = bytes(100)
PACE_SECONDS = 0.005
STREAM_RECORDS = 10
END_SECONDS = 120.0


class Sender(Protocol):
    """One client, as the verbs use it."""

    def first(self, topic: str) -> None:
        """Send one record and wait for its acknowledgement."""

    def load(self, topic: str, count: int) -> None:
        """Send so many records."""

    def stream(self, topic: str, acked: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Send one record; say what becomes of it."""

    def flush(self) -> None:
        """Wait for all acknowledgements."""


class OurSender:
    """Our own client."""

    def __init__(self, servers: str, acks: str) -> None:
        from zmqbroker import Producer  # noqa: PLC0415 - a child imports one of the clients

        self._producer = Producer(bootstrap_servers=servers, acks="all" if acks == "-1" else int(acks))

    def first(self, topic: str) -> None:
        """Send one record and wait for its acknowledgement."""
        self._producer.send(topic, VALUE).get(END_SECONDS)

    def load(self, topic: str, count: int) -> None:
        """Send so many records in one call."""
        self._producer.send_many(topic, [VALUE] * count)

    def stream(self, topic: str, acked: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Send one record; say what becomes of it."""
        future = self._producer.send(topic, VALUE)
        future.add_callback(lambda _: acked())
        future.add_errback(lambda error: failed(repr(error)))

    def flush(self) -> None:
        """Wait for all acknowledgements."""
        self._producer.flush(END_SECONDS)


class ConfluentSender:
    """confluent-kafka."""

    def __init__(self, servers: str, acks: str) -> None:
        from peers.kafka_clients import producer  # noqa: PLC0415

        self._producer = producer(servers, int(acks), 5)

    def first(self, topic: str) -> None:
        """Send one record and wait for its acknowledgement."""
        self._producer.produce(topic, VALUE)
        self.flush()

    def load(self, topic: str, count: int) -> None:
        """Send so many records in one call."""
        self._producer.produce_batch(topic, [{"value": VALUE}] * count)
        self._producer.poll(0)

    def stream(self, topic: str, acked: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Send one record; say what becomes of it."""

        def delivered(error: Any, _message: Any) -> None:
            if error is None:
                acked()
            else:
                failed(str(error))

        self._producer.produce(topic, VALUE, on_delivery=delivered)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait for all acknowledgements."""
        left = self._producer.flush(END_SECONDS)
        assert not left, f"{left} records were not acknowledged"


def load(sender: Sender, topic: str, rate: str) -> None:
    """Send so many records a second until there is a word; says how many it were a second."""
    count = max(1, int(float(rate) * PACE_SECONDS))
    words = select.poll()
    words.register(sys.stdin, select.POLLIN)
    sender.first(topic)
    print("loading", flush=True)
    begun = time.perf_counter()
    turns = 0
    while not words.poll(0):
        sender.load(topic, count)
        turns += 1
        time.sleep(max(0.0, begun + turns * PACE_SECONDS - time.perf_counter()))
    sender.flush()
    print(json.dumps(turns * count / (time.perf_counter() - begun)))


def stream(sender: Sender, topic: str) -> None:
    """Send a few records every few milliseconds until there is a word; prints when acknowledgements came."""
    acks: list[float] = []
    failures: list[str] = []
    words = select.poll()
    words.register(sys.stdin, select.POLLIN)
    sender.first(topic)
    print("streaming", flush=True)
    while not words.poll(PACE_SECONDS * 1000):
        for _ in range(STREAM_RECORDS):
            sender.stream(topic, lambda: acks.append(time.perf_counter()), failures.append)
    sender.flush()
    print(json.dumps({"acks": acks, "failures": failures}))


def main() -> None:
    """Read the command line and work."""
    verb, client, servers, acks, *words = sys.argv[1:]
    sender: Sender = OurSender(servers, acks) if client == "ours" else ConfluentSender(servers, acks)
    verbs: dict[str, Callable[..., None]] = {"load": load, "stream": stream}
    verbs[verb](sender, *words)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)
    main()
