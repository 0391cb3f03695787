"""`zmqbroker bench consume`: measure how fast a broker gives records out to one consumer.

Reads a topic from its beginning; `zmqbroker bench produce` fills one. The clock starts with the first record.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..client.consumer import Consumer
from ..errors import RequestTimedOutError
from .bench_report import Latencies, report
from .common import add_format, add_properties, add_server, consumer_settings, positive, positive64

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", default="bench", help="what to read (default bench)")
    parser.add_argument(
        "--num-records", type=positive64, default=1_000_000, metavar="N", help="how many (default 1,000,000)"
    )
    parser.add_argument(
        "--timeout-ms", type=positive, default=10_000, metavar="MS", help="give up after so long without a record"
    )
    add_properties(parser, "consumer", "fetch_max_wait_ms=100")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Read that many records and print."""
    with Consumer(**consumer_settings(args, auto_offset_reset="earliest", max_poll_records=5_000)) as consumer:
        consumer.topics()  # raises in time if no broker is there
        consumer.subscribe([args.topic])
        records = taken_bytes = 0
        started = 0.0
        while records < args.num_records:
            found = consumer.poll(timeout_ms=args.timeout_ms)
            started = started or time.perf_counter()
            if not found:
                message = (
                    f"only {records:,} of {args.num_records:,} records came from topic {args.topic} before "
                    f"{args.timeout_ms} ms passed without one"
                )
                raise RequestTimedOutError(message)
            for batch in found.values():
                records += len(batch)
                taken_bytes += sum(len(record.value or b"") for record in batch)
        seconds = time.perf_counter() - started
    return report(args, records=records, size=taken_bytes / records, seconds=seconds, latencies=Latencies())
