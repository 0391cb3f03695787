"""`zmqbroker groups reset-offsets`: set where a consumer group goes on reading. Shows it only, unless --execute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import GroupIdNotFoundError, NonEmptyGroupError
from . import offset_targets
from .connect import admin
from .group_tables import counted

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..client.admin import Admin
    from ..client.types import TopicPartition


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    offset_targets.add_arguments(parser, "consumer group")


def run(args: Namespace) -> int:
    """Print a table or list of objects, and commit the offsets if that was asked for."""
    with admin(args) as client:
        current = _current(client, args.group)
        moves = offset_targets.plan(client, args, current)
        if args.execute:
            client.alter_consumer_group_offsets(args.group, {move.partition: move.after for move in moves})
    offset_targets.report(args, moves)
    return 0


def _current(client: Admin, group_id: str) -> dict[TopicPartition, int]:
    """What the group has committed; a group that is not there is made by its first commit."""
    try:
        (group,) = client.describe_consumer_groups([group_id])
    except GroupIdNotFoundError:
        return {}
    if group.members:
        clients = ", ".join(sorted({member.client_id for member in group.members})[:5])
        members = counted(len(group.members), "member")
        message = (
            f"group {group_id!r} is {group.state} with {members} (clients {clients}), who would go on from where they"
            " are: stop them first"
        )
        raise NonEmptyGroupError(message)
    return {partition: found.offset for partition, found in client.list_consumer_group_offsets(group_id).items()}
