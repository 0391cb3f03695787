"""`zmqbroker nodes drain`: move all leaders and replicas off a node, and wait until that is done.

Its vote in the metadata quorum goes too, if there is a node that can have it: else `nodes remove` would take it away.
The same command again goes on waiting; --cancel lets the node have replicas again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common import add_server, natural
from .connect import admin
from .waiting import add_waiting, wait_until_done

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..client.admin import Admin


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--node", type=natural, required=True, metavar="ID", help="which")
    parser.add_argument("--cancel", action="store_true", help="let it have replicas again")
    add_waiting(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Begin, and wait."""
    with admin(args) as client:
        client.drain_node(args.node, cancel=args.cancel)
        if args.cancel:
            print(f"node {args.node} may have replicas again")
        elif wait_until_done(args, lambda: _left(client, args.node)):
            print(f"node {args.node} is drained")
        else:
            print(f"node {args.node} is being drained")
    return 0


def _left(client: Admin, node_id: int) -> str:
    nodes = client.list_nodes()
    node = next((node for node in nodes if node.node_id == node_id), None)
    if node is None:
        return ""
    if node.state != "drained" and node.replicas:
        return f"node {node_id} still has {node.replicas} replicas and {node.leaders} leaders"
    voters = {voter.node_id for voter in client.describe_quorum().voters}
    heirs = {other.node_id for other in nodes if other.state == "active"} - voters - {node_id}
    # With nobody to take its place it goes on voting; an even number is one on the way from one set to the next.
    if node_id in voters and (heirs or len(voters) % 2 == 0):
        return f"node {node_id} still votes in the metadata quorum"
    return ""
