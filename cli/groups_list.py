"""`zmqbroker groups list`: list the consumer groups, sorted by name."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from .common import add_format, add_server, print_json, print_table
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

STATES = ("Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--state", choices=STATES, action="append", default=[], help="only these; may be repeated")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print a table, or one list of objects."""
    with admin(args) as client:
        groups = client.list_consumer_groups(states=args.state)
    if args.format == "json":
        print_json([asdict(group) for group in groups])
    else:
        print_table(["group", "state", "protocol"], [[o.group_id, o.state, o.protocol_type] for o in groups])
    return 0
