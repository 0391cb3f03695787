"""A delayed job: it is in the queue at once, on disk, and a worker gets it not before its time.

The time is given when the job is sent (`deliver_at`), by the worker that finds that it cannot do it yet (`release` with
a delay), or by the queue itself, which lets a released job wait longer from one delivery to the next.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser

from zmqbroker import Producer, ShareConsumer


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def send(servers: str, topic: str, delay_ms: int) -> int:
    """Send a job for later, and then one for now; when that was."""
    begun = now_ms()
    with Producer(bootstrap_servers=servers, value_serializer=str.encode) as producer:
        producer.send(topic, "remind me", deliver_at=begun + delay_ms)
        producer.send(topic, "do it now")
        producer.flush(timeout=10)
    return begun


def work(servers: str, topic: str, begun: int, delay_ms: int) -> None:
    """Do both jobs as they become due; put the reminder off when it comes for the first time."""
    with ShareConsumer(
        topic,
        bootstrap_servers=servers,
        group_id="workers",
        acknowledgement_mode="explicit",
        value_deserializer=bytes.decode,
    ) as queue:
        done = 0
        while done < 2:  # noqa: PLR2004 - both
            job = next(queue)
            print(f"after {now_ms() - begun:5} ms: {job.value!r}, ", end="")
            if job.value == "remind me" and job.delivery_count == 1:
                print(f"not now: again in {delay_ms} ms")
                queue.release(job, delay_ms=delay_ms)
            else:
                print("done")
                queue.acknowledge(job)
                done += 1


def main() -> None:
    """Read the command line, send two jobs, and do them."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9292")
    parser.add_argument("--topic", default=f"reminders-{time.time_ns()}", help="a new topic (default: one of its own)")
    parser.add_argument("--delay-ms", type=int, default=2_000)
    args = parser.parse_args()
    begun = send(args.bootstrap_server, args.topic, args.delay_ms)
    work(args.bootstrap_server, args.topic, begun, args.delay_ms)


if __name__ == "__main__":
    main()
