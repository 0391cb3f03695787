"""`zmqbroker nodes quorum`: show who votes in the metadata quorum, and how far each is."""

from __future__ import annotations

from dataclasses import asdict
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
    """Print who leads, and a table; or one object."""
    with admin(args) as client:
        quorum = client.describe_quorum()
    if args.format == "json":
        print_json(asdict(quorum))
        return 0
    print(f"leader {quorum.leader_id} of epoch {quorum.epoch}, committed up to offset {quorum.high_watermark}")
    rows = [
        [node.node_id, role, node.end_offset, quorum.high_watermark - node.end_offset]
        for role, nodes in (("voter", quorum.voters), ("observer", quorum.observers))
        for node in nodes
    ]
    print_table(["node", "role", "end", "lag"], rows)
    return 0
