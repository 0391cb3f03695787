"""`zmqbroker bench latency`: measure how long one record takes to be acknowledged, one after the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..client.producer import Producer
from .bench_report import Latencies, payload, report
from .common import add_format, add_producing, add_server, positive, producer_settings
from .connect import make_topic

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

WARM_UP = 100


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", default="bench", help="where to (default bench); created if it does not exist")
    parser.add_argument("--partitions", type=positive, default=1, metavar="N", help="of a topic that is created")
    parser.add_argument("--num-records", type=positive, default=5_000, metavar="N", help="how many (default 5,000)")
    parser.add_argument(
        "--record-size", type=positive, default=100, metavar="BYTES", help="of each value (default 100)"
    )
    add_producing(parser)
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Send and wait, again and again; print the percentiles."""
    make_topic(args)
    latencies = Latencies()
    value = payload(args.record_size)
    timeout = args.request_timeout_ms / 1000
    with Producer(**producer_settings(args)) as producer:
        for _ in range(min(WARM_UP, args.num_records)):
            producer.send(args.topic, value).get(timeout=timeout)
        begun = time.perf_counter()
        for _ in range(args.num_records):
            started = time.perf_counter()
            producer.send(args.topic, value).get(timeout=timeout)
            latencies.finish(started)
        seconds = time.perf_counter() - begun
    return report(args, records=args.num_records, size=args.record_size, seconds=seconds, latencies=latencies)
