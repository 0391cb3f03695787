"""`zmqbroker topics list`: list the topics, sorted by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common import add_format, add_server, print_json
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--internal", action="store_true", help="also the topics that brokers keep for themselves")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print one name a line, or one list."""
    with admin(args) as client:
        names = client.list_topics(include_internal=args.internal)
    if args.format == "json":
        print_json(names)
    else:
        for name in names:
            print(name)
    return 0
