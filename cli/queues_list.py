"""`zmqbroker queues list`: list the queues, which are share groups, sorted by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common import add_format, add_server, print_json, print_table
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print a table, or one list of objects."""
    with admin(args) as client:
        groups = client.list_share_groups()
    if args.format == "json":
        print_json([{"group": group.group_id, "state": group.state} for group in groups])
    else:
        print_table(["group", "state"], [[group.group_id, group.state] for group in groups])
    return 0
