"""`zmqbroker queues reset-offsets`: set where a queue begins, and forget what it knew. Shows it only, unless --execute.

What lies before is finished, what lies behind is delivered (again).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..client.types import TopicPartition
from ..errors import NonEmptyGroupError
from . import offset_targets
from .connect import admin
from .group_tables import counted

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..client.admin import Admin


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    offset_targets.add_arguments(parser, "queue")


def run(args: Namespace) -> int:
    """Print a table or list of objects, and set the offsets if that was asked for."""
    with admin(args) as client:
        moves = offset_targets.plan(client, args, _current(client, args.group))
        if args.execute:
            client.alter_share_group_offsets(args.group, {move.partition: move.after for move in moves})
    offset_targets.report(args, moves)
    return 0


def _current(client: Admin, group_id: str) -> dict[TopicPartition, int]:
    """Where the queue begins now."""
    (group,) = client.describe_share_groups([group_id])
    if group.members:
        clients = ", ".join(sorted({member.client_id for member in group.members})[:5])
        message = (
            f"queue {group_id!r} has {counted(len(group.members), 'consumer')} (clients {clients}): stop them first"
        )
        raise NonEmptyGroupError(message)
    return {TopicPartition(o.topic, o.partition): o.start_offset for o in group.partitions}
