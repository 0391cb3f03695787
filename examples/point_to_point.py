"""Point to point: a message is received by exactly one receiver, once, also when several of them listen.

The opposite of `pubsub_subscriber.py`, and from the same topics: what decides is how one reads. Two receivers of one
group share the messages; the producer knows of neither.
"""

from __future__ import annotations

import threading
import time
from argparse import ArgumentParser

from zmqbroker import Producer, ShareConsumer


class Receiver(threading.Thread):
    """Takes messages until there have been no more for a second. A program of its own would do just the same."""

    def __init__(self, name: str, servers: str, topic: str) -> None:
        super().__init__(name=name)
        self.received: list[str] = []
        self._servers = servers
        self._topic = topic

    def run(self) -> None:
        """Receive. A message counts as done when the next poll or the end of the `with` is reached."""
        with ShareConsumer(
            self._topic, bootstrap_servers=self._servers, group_id="receivers", max_poll_records=5
        ) as consumer:
            patience_ms = 10_000  # the group is new to the broker
            while messages := consumer.poll(timeout_ms=patience_ms):
                patience_ms = 1_000
                for message in messages:
                    self.received.append(message.value.decode())
                    time.sleep(0.01)  # the work


def main() -> None:
    """Read the command line, send to one receiver, then to two."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9292")
    parser.add_argument("--topic", default=f"letters-{time.time_ns()}", help="a new topic (default: one of its own)")
    parser.add_argument("--count", type=int, default=100, help="how many messages two receivers share")
    args = parser.parse_args()
    servers, topic = args.bootstrap_server, args.topic

    with Producer(bootstrap_servers=servers, value_serializer=str.encode) as producer:
        producer.send(topic, "a letter").get(timeout=10)
        alone = Receiver("Alice", servers, topic)
        alone.start()
        alone.join()
        print(f"one message, one receiver: {alone.name} has {alone.received}")

        producer.send_many(topic, [f"letter {number}" for number in range(args.count)]).get(timeout=10)
    both = [Receiver(name, servers, topic) for name in ("Alice", "Bob")]
    for receiver in both:
        receiver.start()
    for receiver in both:
        receiver.join()
        print(f"two receivers share {args.count}: {receiver.name} has {len(receiver.received)}")
    received = [letter for receiver in both for letter in receiver.received]
    print(f"received in all: {len(received)}, different ones: {len(set(received))}")


if __name__ == "__main__":
    main()
