"""Put jobs into a queue: the workers of `queue_worker.py` share them, each job goes to one worker.

Try it: `zmqbroker start` in one terminal, `python examples/queue_worker.py --name A` and `--name B` in two others, and
then `python examples/queue_producer.py --count 20`. Stop one of the workers with kill -9: the other one gets its jobs.
"""

from __future__ import annotations

from argparse import ArgumentParser

from zmqbroker import Producer


def produce(servers: str, topic: str, count: int) -> None:
    """Send that many jobs and wait until the broker has them all on disk."""
    with Producer(bootstrap_servers=servers, value_serializer=str.encode) as producer:
        producer.send_many(topic, [f"job {number}" for number in range(1, count + 1)]).get(timeout=30)
    print(f"{count} jobs wait in {topic}")


def main() -> None:
    """Read the command line and send."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9292")
    parser.add_argument("--topic", default="jobs")
    parser.add_argument("--count", type=int, default=10, help="how many jobs")
    args = parser.parse_args()
    produce(args.bootstrap_server, args.topic, args.count)


if __name__ == "__main__":
    main()
