"""`zmqbroker queues delete`: delete queues without consumers, and what they know; the topics' records stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common import add_format, add_server, print_json
from .connect import admin
from .group_tables import add_group

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    add_group(parser, "which", many="may be repeated")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print which are gone."""
    with admin(args) as client:
        client.delete_share_groups(args.group)
    if args.format == "json":
        print_json({"deleted": args.group})
    else:
        for name in args.group:
            print(f"queue {name} deleted")
    return 0
