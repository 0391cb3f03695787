"""`zmqbroker nodes remove`: forget a node that is drained, or gone and without replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common import add_server, natural
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--node", type=natural, required=True, metavar="ID", help="which")
    add_server(parser)


def run(args: Namespace) -> int:
    """Remove the node."""
    with admin(args) as client:
        client.remove_node(args.node)
    print(f"node {args.node} is removed")
    return 0
