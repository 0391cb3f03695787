"""`zmqbroker transactions list`: list the transactional ids, sorted by name, and how far the transaction of each is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from .common import add_format, add_server, positive, print_json, print_table
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

STATES = ("Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--state", choices=STATES, action="append", default=[], help="only these; may be repeated")
    parser.add_argument(
        "--longer-than-ms",
        type=positive,
        metavar="MS",
        default=-1,
        help="only those whose transaction has been open for longer",
    )
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print a table, or one list of objects."""
    with admin(args) as client:
        found = client.list_transactions(states=args.state, duration_ms=args.longer_than_ms)
    if args.format == "json":
        print_json([asdict(one) for one in found])
    else:
        rows = [[one.transactional_id, one.state, one.producer_id] for one in found]
        print_table(["transactional id", "state", "producer"], rows)
    return 0
