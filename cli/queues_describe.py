"""`zmqbroker queues describe`: show what waits in queues, what is being worked on, and by whom.

The lag is what is not finished, in records and in time: how old the oldest record is that is not finished.
Available are those to be delivered again; dead are those given up since the coordinator started.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .common import add_format, add_server, print_json, print_table
from .connect import admin
from .group_tables import NOTHING, add_group, age_ms, counted, duration

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..client.admin import ShareGroupDescription

COLUMNS = ("topic", "partition", "start", "next", "lag", "time", "available", "delayed", "leased", "dead")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    add_group(parser, "which", many="may be repeated (default: all)")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print a head and two tables for each queue, or one list of objects."""
    with admin(args) as client:
        names = args.group or [group.group_id for group in client.list_share_groups()]
        groups = [_describe(group) for group in client.describe_share_groups(names)]
    if args.format == "json":
        print_json(groups)
        return 0
    for number, group in enumerate(groups):
        if number:
            print()
        _print(group)
    return 0


def _describe(group: ShareGroupDescription) -> dict[str, Any]:
    return {
        "group": group.group_id,
        "state": group.state,
        "coordinator": group.coordinator_id,
        "dead_letter_topic": group.dead_letter_topic,
        "members": [asdict(member) for member in group.members],
        "partitions": [
            {**asdict(partition), "lag_ms": age_ms(partition.oldest_ms) if partition.oldest_ms >= 0 else None}
            for partition in group.partitions
        ],
    }


def _print(group: dict[str, Any]) -> None:
    print(
        f"queue {group['group']}: {group['state']}, {counted(len(group['members']), 'consumer')},"
        f" dead letters to {group['dead_letter_topic'] or 'nowhere'}, coordinator node {group['coordinator']}"
    )
    partitions = group["partitions"]
    if partitions:
        print_table(
            COLUMNS,
            [
                [
                    *(o["topic"], o["partition"], o["start_offset"], o["next_offset"], o["lag"]),
                    *(duration(o["lag_ms"]), o["available"], o["delayed"], o["leased"], o["dead_lettered"]),
                ]
                for o in partitions
            ],
        )
    else:
        print("  nothing was read yet")
    if group["members"]:
        print_table(
            ["member", "client", "topics", "leased", "idle"],
            [
                [o["member_id"], o["client_id"], ",".join(o["topics"]) or NOTHING, o["leased"], duration(o["idle_ms"])]
                for o in group["members"]
            ],
        )
