"""`zmqbroker nodes upgrade`: let the nodes use a newer protocol version, once all of them speak it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common import add_server, natural
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--version", type=natural, required=True, metavar="N", help="which; there is no way back")
    add_server(parser)


def run(args: Namespace) -> int:
    """Upgrade."""
    with admin(args) as client:
        client.upgrade_cluster(args.version)
    print(f"the cluster uses protocol version {args.version}")
    return 0
