"""`zmqbroker nodes list`: list the nodes of the cluster, alive or not."""

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
    """Print a table, or one list of objects."""
    with admin(args) as client:
        nodes = client.list_nodes()
    if args.format == "json":
        print_json([asdict(node) for node in nodes])
        return 0
    rows: list[list[object]] = []
    for node in nodes:
        roles = ["controller"] * node.is_controller + ["voter"] * node.is_voter
        address = f"{node.host}:{node.port}"
        rows.append([node.node_id, address, node.rack, node.state, node.leaders, node.replicas, ", ".join(roles)])
    print_table(["node", "address", "rack", "state", "leaders", "replicas", "roles"], rows)
    return 0
