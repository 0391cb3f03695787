"""What both verbs that set offsets share: which partitions, where to, and a dry run unless --execute is given."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from ..client.types import TopicPartition
from ..errors import ConfigError, UnknownTopicOrPartitionError
from ..setting_values import MILLISECONDS, Setting, parse
from .common import add_format, add_server, natural, natural64, print_json, print_table, say
from .group_tables import EARLIEST, LATEST, add_group, existing, or_nothing

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

    from ..client.admin import Admin


class Move(NamedTuple):
    """Where a group is in one partition (None: nowhere yet), and where it shall be."""

    partition: TopicPartition
    before: int | None
    after: int


def add_arguments(parser: ArgumentParser, what: str) -> None:
    """Declare the flags."""
    add_group(parser, f"the {what}; it may have no members")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--topic",
        action="append",
        type=_topic,
        metavar="T[:p,...]",
        help="a topic, or some partitions of it; may be repeated",
    )
    which.add_argument("--all-topics", action="store_true", help=f"whatever the {what} has an offset of")
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--to-earliest", action="store_true", help="the first record there is")
    to.add_argument("--to-latest", action="store_true", help="the end: only what comes from now on")
    to.add_argument("--to-offset", type=natural64, metavar="N", help="this offset, or the nearest there is")
    to.add_argument("--shift-by", type=int, metavar="N", help="so many records on, or back if negative")
    to.add_argument(
        "--to-datetime", type=_moment, metavar="ISO", help="for example 2026-01-31T12:00:00Z; else local time"
    )
    to.add_argument("--by-duration", type=_duration, metavar="TIME", help="so long before now: 30s, 10m, 2h, 7d")
    parser.add_argument("--execute", action="store_true", help="do it; without this it is only shown")
    add_format(parser)
    add_server(parser)


def _topic(text: str) -> tuple[str, list[int]]:
    """Read T or T:p,p."""
    name, colon, numbers = text.partition(":")
    if not name:
        message = f"{text!r} names no topic"
        raise ArgumentTypeError(message)
    return name, [natural(number) for number in numbers.split(",")] if colon else []


def _moment(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        message = f"{text!r} is no date and time like 2026-01-31T12:00:00Z"
        raise ArgumentTypeError(message) from None


def _duration(text: str) -> int:
    try:
        return int(parse(Setting("", "", 0, "", MILLISECONDS, at_least=0), "the duration", text))
    except ConfigError as error:
        raise ArgumentTypeError(error.message) from None


def plan(client: Admin, args: Namespace, current: Mapping[TopicPartition, int]) -> list[Move]:
    """The moves that the flags ask for. Raises UnknownTopicOrPartitionError, ConfigError."""
    partitions = _chosen(client, args, current)
    starts = client.list_offsets(dict.fromkeys(partitions, EARLIEST))
    ends = client.list_offsets(dict.fromkeys(partitions, LATEST))
    wanted: dict[TopicPartition, int] = {}
    moment = args.to_datetime
    if args.by_duration is not None:
        moment = int(time.time() * 1000) - args.by_duration
    at = {} if moment is None else client.list_offsets(dict.fromkeys(partitions, max(0, moment)))
    for partition in partitions:
        start, end = starts[partition].offset, ends[partition].offset
        if args.to_earliest:
            target = start
        elif args.to_latest:
            target = end
        elif args.to_offset is not None:
            target = args.to_offset
        elif args.shift_by is not None:
            if partition not in current:
                message = f"{_name(partition)} cannot be shifted: group {args.group!r} has no offset of it"
                raise ConfigError(message)
            target = current[partition] + args.shift_by
        else:
            target = end if at[partition].offset < 0 else at[partition].offset
        wanted[partition] = min(max(target, start), end)
    return [Move(partition, current.get(partition), offset) for partition, offset in wanted.items()]


def _chosen(client: Admin, args: Namespace, current: Mapping[TopicPartition, int]) -> list[TopicPartition]:
    if args.all_topics:
        partitions = sorted(existing(client, current.keys()))
        if not partitions:
            message = f"group {args.group!r} has no offsets of any topic; name topics with --topic"
            raise ConfigError(message)
        return partitions
    chosen: set[TopicPartition] = set()
    for topic in client.describe_topics([name for name, _ in args.topic]):
        numbers = {partition.partition for partition in topic.partitions}
        named = [partitions for name, partitions in args.topic if name == topic.name]
        asked = numbers if [] in named else {number for partitions in named for number in partitions}
        if missing := sorted(asked - numbers):
            message = (
                f"topic {topic.name} has no partition {missing[0]}: it has {len(numbers)} partitions, numbered from 0"
            )
            raise UnknownTopicOrPartitionError(message)
        chosen |= {TopicPartition(topic.name, number) for number in asked}
    return sorted(chosen)


def report(args: Namespace, moves: list[Move]) -> None:
    """Print what was done, or would be."""
    if args.format == "json":
        print_json(
            [
                {"topic": o.partition.topic, "partition": o.partition.partition, "before": o.before, "after": o.after}
                for o in moves
            ]
        )
    else:
        rows = [[*o.partition, or_nothing(o.before), o.after] for o in moves]
        print_table(["topic", "partition", "before", "after"], rows)
    if not args.execute:
        say("nothing was changed; add --execute to do it")


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}-{partition.partition}"
