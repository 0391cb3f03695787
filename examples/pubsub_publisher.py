"""Publish messages for whoever listens: each subscriber of `pubsub_subscriber.py` sees every one of them.

Try it: `zmqbroker start` in one terminal, `python examples/pubsub_subscriber.py` in as many others as you like, and
then `python examples/pubsub_publisher.py --count 10`.
"""

from __future__ import annotations

from argparse import ArgumentParser

from zmqbroker import Producer


def publish(servers: str, topic: str, count: int) -> None:
    """Send that many messages and wait until the broker has them all on disk."""
    with Producer(bootstrap_servers=servers, value_serializer=str.encode) as producer:
        sent = [producer.send(topic, f"news number {number}") for number in range(1, count + 1)]
        producer.flush()
        for future in sent:
            where = future.get(timeout=10)
            print(f"published to {where.topic}, partition {where.partition}, offset {where.offset}")


def main() -> None:
    """Read the command line and publish."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9292")
    parser.add_argument("--topic", default="news")
    parser.add_argument("--count", type=int, default=3, help="how many messages")
    args = parser.parse_args()
    publish(args.bootstrap_server, args.topic, args.count)


if __name__ == "__main__":
    main()
