"""Subscribe to a topic: every subscriber sees every message, because none of them is in a group.

A subscriber hears what is published after it has begun to listen; with --from-beginning also everything before, since
the broker keeps messages whether somebody listens or not.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from contextlib import suppress

from zmqbroker import Consumer


def subscribe(servers: str, topic: str, name: str, *, count: int | None, from_beginning: bool) -> None:
    """Print messages as they come; for ever, or until there were that many."""
    with Consumer(
        topic,
        bootstrap_servers=servers,
        auto_offset_reset="earliest" if from_beginning else "latest",
        value_deserializer=bytes.decode,
    ) as consumer:
        wait_until_positioned(consumer)
        print(f"{name} listens to {topic}", flush=True)
        for seen, message in enumerate(consumer, start=1):
            print(f"{name} got {message.value!r} (partition {message.partition}, offset {message.offset})", flush=True)
            if seen == count:
                break


def wait_until_positioned(consumer: Consumer) -> None:
    """Return when the consumer knows its partitions and where "latest" is: what is published from now on is seen."""
    deadline = time.monotonic() + 30
    while not consumer.assignment():
        if time.monotonic() > deadline:
            message = "no broker has answered for half a minute"
            raise SystemExit(message)
        time.sleep(0.01)
    for partition in consumer.assignment():
        consumer.position(partition)


def main() -> None:
    """Read the command line and listen until Ctrl-C."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9292")
    parser.add_argument("--topic", default="news")
    parser.add_argument("--name", default="subscriber", help="how this one calls itself in what it prints")
    parser.add_argument("--count", type=int, help="stop after that many messages")
    parser.add_argument("--from-beginning", action="store_true")
    args = parser.parse_args()
    with suppress(KeyboardInterrupt):
        subscribe(args.bootstrap_server, args.topic, args.name, count=args.count, from_beginning=args.from_beginning)


if __name__ == "__main__":
    main()
