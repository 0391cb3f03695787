"""`zmqbroker bench produce`: measure how fast a broker takes records from one producer.

Prints records and bytes a second, from the first `send` until the last acknowledgement, and how long records took from
`send` to acknowledgement; that is measured on up to 10,000 of them, evenly spread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..client.producer import Producer
from .bench_report import Latencies, payload, report
from .common import add_format, add_producing, add_server, natural, positive, positive64, producer_settings
from .connect import make_topic

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

LATENCIES_MAX = 10_000


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", default="bench", help="where to (default bench); created if it does not exist")
    parser.add_argument("--partitions", type=positive, default=1, metavar="N", help="of a topic that is created")
    parser.add_argument(
        "--num-records", type=positive64, default=1_000_000, metavar="N", help="how many (default 1,000,000)"
    )
    parser.add_argument(
        "--record-size", type=positive, default=100, metavar="BYTES", help="of each value (default 100)"
    )
    parser.add_argument(
        "--throughput", type=natural, default=0, metavar="N", help="records a second at most (default 0: no limit)"
    )
    parser.add_argument("--send-many", action="store_true", help="hand over 1,000 records a call")
    add_producing(parser)
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Send, wait for all acknowledgements, print."""
    make_topic(args)
    latencies = Latencies()
    value = payload(args.record_size)
    with Producer(**producer_settings(args)) as producer:
        producer.send(args.topic, value).get(timeout=args.request_timeout_ms / 1000)  # connections stand from here on
        started = time.perf_counter()
        if args.send_many:
            _send_many(producer, args, value)
        else:
            _send_each(producer, args, value, latencies)
        producer.flush()
        seconds = time.perf_counter() - started
    return report(args, records=args.num_records, size=args.record_size, seconds=seconds, latencies=latencies)


def _send_each(producer: Producer, args: Namespace, value: bytes, latencies: Latencies) -> None:
    every = max(1, args.num_records // LATENCIES_MAX)
    started = time.perf_counter()
    for number in range(args.num_records):
        if args.throughput and number % 64 == 0:
            _pace(started + number / args.throughput)
        if number % every:
            producer.send(args.topic, value)
        else:
            producer.send(args.topic, value).add_callback(latencies.finish, time.perf_counter())


def _send_many(producer: Producer, args: Namespace, value: bytes) -> None:
    started = time.perf_counter()
    for sent in range(0, args.num_records, 1000):
        if args.throughput:
            _pace(started + sent / args.throughput)
        producer.send_many(args.topic, [value] * min(1000, args.num_records - sent))


def _pace(due: float) -> None:
    ahead = due - time.perf_counter()
    if ahead > 0:
        time.sleep(ahead)
