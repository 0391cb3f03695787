"""A burst absorbed: orders come in much faster than they are worked off, and nobody has to wait or is turned away.

The producer is done in a moment, because the broker takes the whole burst; the consumer works at its own rate, and the
depth (records in the topic that it has not read yet) rises at once and falls steadily to nothing.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass

from zmqbroker import Admin, Consumer, NewTopic, Producer, TopicPartition


@dataclass
class Outcome:
    """What happened."""

    burst_seconds: float
    drain_seconds: float
    deepest: int
    worked_off: int


def send_burst(servers: str, topic: str, records: int) -> float:
    """Send everything at once; the seconds until the broker had it all."""
    started = time.perf_counter()
    with Producer(bootstrap_servers=servers) as producer:
        for number in range(records):
            producer.send(topic, b"order %d" % number)
        producer.flush()
    return time.perf_counter() - started


def drain(consumer: Consumer, topic: str, records: int, rate: int, report_every: float) -> tuple[int, int]:
    """Work off the records at that many a second, printing the depth; the deepest it was, and how many were done."""
    partition = TopicPartition(topic, 0)
    done = deepest = 0
    started = time.perf_counter()
    report_at = started
    while done < records:
        for batch in consumer.poll(timeout_ms=10_000, max_records=max(1, rate // 50)).values():
            done += len(batch)
            time.sleep(len(batch) / rate)  # the work
        depth = consumer.end_offsets([partition])[partition] - done
        deepest = max(deepest, depth)
        now = time.perf_counter()
        if now >= report_at or depth == 0:
            report_at = now + report_every
            print(f"{now - started:6.2f} s: {done:>9,} worked off, depth {depth:>9,} {'#' * (60 * depth // records)}")
    return deepest, done


def run(args: Namespace) -> Outcome:
    """Send the burst, then work it off."""
    with Admin(bootstrap_servers=args.bootstrap_server) as admin:
        admin.create_topics([NewTopic(args.topic, num_partitions=1, replication_factor=1)])
    with Consumer(
        args.topic, bootstrap_servers=args.bootstrap_server, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    ) as consumer:
        burst_seconds = send_burst(args.bootstrap_server, args.topic, args.records)
        rate_in = args.records / burst_seconds
        print(f"a burst of {args.records:,} records was taken in {burst_seconds:.2f} s ({rate_in:,.0f} a second)")
        print(f"the consumer works at {args.rate:,} a second:")
        started = time.perf_counter()
        deepest, done = drain(consumer, args.topic, args.records, args.rate, args.report_every)
    return Outcome(burst_seconds, time.perf_counter() - started, deepest, done)


def main() -> None:
    """Read the command line, absorb a burst, and sum up."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9292")
    parser.add_argument("--topic", default=f"orders-{time.time_ns()}", help="a new topic (default: one of its own)")
    parser.add_argument("--records", type=int, default=100_000, help="how large the burst is")
    parser.add_argument("--rate", type=int, default=20_000, help="records a second that the consumer works off")
    parser.add_argument("--report-every", type=float, default=0.5, metavar="SECONDS")
    args = parser.parse_args()
    outcome = run(args)
    print(
        f"absorbed: in after {outcome.burst_seconds:.2f} s, worked off after {outcome.drain_seconds:.2f} s, "
        f"deepest {outcome.deepest:,}, lost {args.records - outcome.worked_off}"
    )


if __name__ == "__main__":
    main()
