"""`zmqbroker log verify`: check every batch of a segment or partition folder, without a broker.

Reads every byte: CRCs, and that offsets and leader epochs follow each other. Ends with 1 if something is wrong. Of a
running broker's log the last batch may be half written, which is nothing to worry about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ZmqBrokerError
from ..log.inspect import LogPathError, verify
from ..log.real_disk import RealDisk
from .common import add_format, print_json, say

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("path", help="a partition's folder (data/orders-0) or one of its .log files")
    add_format(parser)


def run(args: Namespace) -> int:
    """Print one line for each segment."""
    segments = wrong = 0
    try:
        for finding in verify(RealDisk(), args.path.rstrip("/") or "/"):
            segments += 1
            wrong += bool(finding.problem)
            if args.format == "json":
                print_json(finding._asdict())
            else:
                outcome = finding.problem or f"ok, next offset {finding.next_offset}"
                print(f"{finding.path}: {finding.batches:,} batches, {finding.size:,} bytes: {outcome}")
    except LogPathError as error:
        raise ZmqBrokerError(str(error)) from error
    if wrong:
        say(f"zmqbroker: {wrong} of {segments} segments are damaged or end in a torn batch")
    return 1 if wrong else 0
