"""`zmqbroker groups describe`: show how far consumer groups are in each partition, and who reads it.

The lag is counted in records, and in time: how old the first record is that the group has not committed yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .common import add_format, add_server, print_json, print_table
from .connect import admin
from .group_tables import (
    EARLIEST,
    LATEST,
    NOTHING,
    add_group,
    age_ms,
    counted,
    duration,
    existing,
    first_timestamps,
    or_nothing,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..client.admin import Admin, GroupDescription, GroupMember
    from ..client.types import OffsetAndMetadata, TopicPartition

COLUMNS = ("topic", "partition", "committed", "end", "lag", "time", "member", "client", "host")


@dataclass(frozen=True)
class Progress:
    """How far a group is in one partition; None: not known, or there is none."""

    committed: int | None
    end: int | None
    oldest_ms: int | None
    """Timestamp of the first record not committed."""

    @property
    def lag(self) -> int | None:
        """Records not committed."""
        return None if self.committed is None or self.end is None else max(0, self.end - self.committed)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    add_group(parser, "which", many="may be repeated (default: all)")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print a head and a table for each group, or one list of objects."""
    with admin(args) as client:
        names = args.group or [group.group_id for group in client.list_consumer_groups()]
        groups = [_describe(client, group, args) for group in client.describe_consumer_groups(names)]
    if args.format == "json":
        print_json(groups)
        return 0
    for number, group in enumerate(groups):
        if number:
            print()
        _print(group)
    return 0


def _describe(client: Admin, group: GroupDescription, args: Namespace) -> dict[str, Any]:
    committed = client.list_consumer_group_offsets(group.group_id)
    readers = {partition: member for member in group.members for partition in member.partitions}
    partitions = sorted({*committed, *readers})
    progress = _measure(client, args, partitions, committed)
    idle = [member for member in group.members if not member.partitions]
    return {
        "group": group.group_id,
        "state": group.state,
        "protocol_type": group.protocol_type,
        "assignor": group.protocol,
        "generation": group.generation,
        "coordinator": group.coordinator_id,
        "members": [_member(member) for member in group.members],
        "partitions": [
            _partition(partition, progress[partition], committed.get(partition), readers.get(partition))
            for partition in partitions
        ],
        "members_without_partitions": [member.member_id for member in idle],
    }


def _measure(
    client: Admin,
    args: Namespace,
    partitions: list[TopicPartition],
    committed: dict[TopicPartition, OffsetAndMetadata],
) -> dict[TopicPartition, Progress]:
    there = existing(client, partitions)
    ends = client.list_offsets(dict.fromkeys(there, LATEST))
    starts = client.list_offsets(dict.fromkeys(there, EARLIEST))
    # A committed offset may point below what retention has left.
    unread = {
        partition: max(committed[partition].offset, starts[partition].offset)
        for partition in there
        if partition in committed and committed[partition].offset < ends[partition].offset
    }
    unread = {partition: offset for partition, offset in unread.items() if offset < ends[partition].offset}
    stamps = first_timestamps(args, unread)
    return {
        partition: Progress(
            committed[partition].offset if partition in committed else None,
            ends[partition].offset if partition in ends else None,
            stamps.get(partition),
        )
        for partition in partitions
    }


def _member(member: GroupMember) -> dict[str, Any]:
    return {
        "member": member.member_id,
        "instance": member.group_instance_id,
        "client": member.client_id,
        "host": member.client_host,
        "topics": list(member.topics),
        "partitions": [list(partition) for partition in member.partitions],
    }


def _partition(
    partition: TopicPartition, progress: Progress, committed: OffsetAndMetadata | None, reader: GroupMember | None
) -> dict[str, Any]:
    return {
        "topic": partition.topic,
        "partition": partition.partition,
        "committed": progress.committed,
        "metadata": committed.metadata if committed else None,
        "end": progress.end,
        "lag": progress.lag,
        "lag_ms": 0 if progress.lag == 0 else age_ms(progress.oldest_ms),
        "member": reader.member_id if reader else None,
        "client": reader.client_id if reader else None,
        "host": reader.client_host if reader else None,
    }


def _print(group: dict[str, Any]) -> None:
    assignor = group["assignor"] or "none"
    print(
        f"group {group['group']}: {group['state']}, {counted(len(group['members']), 'member')}, assignor {assignor},"
        f" generation {group['generation']}, coordinator node {group['coordinator']}"
    )
    rows = []
    for row in group["partitions"]:
        time = NOTHING if row["lag"] == 0 else duration(row["lag_ms"])
        rows.append([or_nothing({**row, "time": time}[column]) for column in COLUMNS])
    by_id = {member["member"]: member for member in group["members"]}
    for name in group["members_without_partitions"]:
        member = by_id[name]
        rows.append([*[NOTHING] * (len(COLUMNS) - 3), name, member["client"], or_nothing(member["host"])])
    if rows:
        print_table(COLUMNS, rows)
    else:
        print("  no committed offsets and no members")
