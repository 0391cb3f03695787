"""Dead letters: what no worker can do leaves the queue and waits, with the reason, until somebody sends it back.

A worker rejects an order that it cannot read. The broker moves it to the topic `dlq.GROUP`; headers say where it comes
from and why. This program shows them, mends the order and sends it back. Where there is nothing to mend,
`zmqbroker queues redrive` does the same for all dead letters at once.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser

from zmqbroker import Consumer, ConsumerRecord, Producer, ShareConsumer

ORDERS = [b'{"coffees": 2}', b"{coffees: 1}", b'{"coffees": 4}']
IDLE_MS = 3_000


def work(servers: str, topic: str, group: str) -> None:
    """Handle orders until there have been none for a moment; reject what is no JSON."""
    with ShareConsumer(topic, bootstrap_servers=servers, group_id=group, acknowledgement_mode="explicit") as queue:
        while orders := queue.poll(timeout_ms=IDLE_MS):
            for order in orders:
                try:
                    coffees = json.loads(order.value)["coffees"]
                except ValueError as error:
                    queue.reject(order, reason=f"not JSON: {error}")
                    print(f"rejected: {order.value!r}")
                else:
                    queue.acknowledge(order)
                    print(f"served: {coffees} coffees")


def dead_letters(servers: str, group: str) -> list[ConsumerRecord]:
    """The group's dead letters. Their topic is an ordinary one, read like any other."""
    with Consumer(
        f"dlq.{group}", bootstrap_servers=servers, auto_offset_reset="earliest", consumer_timeout_ms=IDLE_MS
    ) as consumer:
        return list(consumer)


def send_back(producer: Producer, letter: ConsumerRecord) -> None:
    """Show a dead letter, mend it, and put it into its queue again."""
    why = {name.removeprefix("__dlq.errors."): value.decode() for name, value in letter.headers}
    print(f"dead letter: {letter.value!r} of {why['topic']}-{why['partition']} at offset {why['offset']}")
    print(f"             {why['message']}, delivered {why['delivery.count']} times")
    producer.send(why["topic"], letter.value.replace(b"coffees", b'"coffees"'), key=letter.key)


def main() -> None:
    """Read the command line; send orders, handle them, and then those that failed once more."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9292")
    parser.add_argument("--topic", default=f"orders-{time.time_ns()}", help="a new topic (default: one of its own)")
    args = parser.parse_args()
    servers, group = args.bootstrap_server, f"baristas-of-{args.topic}"
    with Producer(bootstrap_servers=servers) as producer:
        producer.send_many(args.topic, ORDERS).get(timeout=10)
        work(servers, args.topic, group)
        for letter in dead_letters(servers, group):
            send_back(producer, letter)
        producer.flush(timeout=10)
    work(servers, args.topic, group)


if __name__ == "__main__":
    main()
