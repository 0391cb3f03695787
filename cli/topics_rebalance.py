"""`zmqbroker topics rebalance`: spread replicas and leaders over the nodes evenly, and wait until that is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import PreferredLeaderNotAvailableError
from .common import add_server, print_table, say, topic_name
from .connect import admin
from .waiting import add_waiting, wait_until_done

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..client.admin import Admin
    from ..client.types import TopicPartition


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", type=topic_name, action="append", help="only this one; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be moved")
    add_waiting(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Show the moves, and wait for them."""
    with admin(args) as client:
        moves = client.rebalance(args.topic, validate_only=args.dry_run)
        if not moves:
            print("the cluster is even: nothing to move")
            return 0
        rows = [[o.partition.topic, o.partition.partition, ", ".join(map(str, o.replicas))] for o in moves]
        print_table(["topic", "partition", "replicas"], rows)
        if not args.dry_run and wait_until_done(args, lambda: _left(client)):
            _elect(client, [move.partition for move in moves])
            print(f"{len(moves)} partitions are moved")
    return 0


def _elect(client: Admin, partitions: list[TopicPartition]) -> None:
    """Let the moved partitions be led by whom they shall be; those where that must wait are where they shall be."""
    try:
        client.elect_leaders(partitions)
    except PreferredLeaderNotAvailableError as error:
        say(f"some partitions keep another leader for now: {error.message}")


def _left(client: Admin) -> str:
    moves = client.list_partition_reassignments()
    return f"{len(moves)} partitions are being moved" if moves else ""
