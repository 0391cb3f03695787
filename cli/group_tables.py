"""What the verbs about groups and queues share: flags, durations and times for people, timestamps of first records."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..client.consumer import Consumer
from .common import positive

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Collection, Mapping

    from ..client.admin import Admin
    from ..client.types import TopicPartition

EARLIEST, LATEST = -2, -1
NOTHING = "-"
_POLL_MS = 100


def add_group(parser: ArgumentParser, what: str, *, many: str = "") -> None:
    """Declare --group; with `many` it may be repeated, or left out if that is said there."""
    if many:
        optional = "default" in many
        parser.add_argument("--group", action="append", required=not optional, metavar="G", help=f"{what}; {many}")
    else:
        parser.add_argument("--group", required=True, metavar="G", help=what)


def add_limit(parser: ArgumentParser, default: int | None, what: str) -> None:
    """Declare --limit."""
    shown = "all" if default is None else default
    parser.add_argument("--limit", type=positive, metavar="N", default=default, help=f"{what} (default: {shown})")


def existing(client: Admin, partitions: Collection[TopicPartition]) -> set[TopicPartition]:
    """Those of the partitions that there are: a topic may have been deleted, its offsets not yet."""
    topics = {partition.topic for partition in partitions}
    if not topics:
        return set()
    counts = {topic.name: len(topic.partitions) for topic in client.describe_topics() if topic.name in topics}
    return {partition for partition in partitions if partition.partition < counts.get(partition.topic, 0)}


def first_timestamps(args: Namespace, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """The timestamps of the first records from these offsets on; without those that are not read in time."""
    found: dict[TopicPartition, int] = {}
    if not positions:
        return found
    deadline = time.monotonic() + args.request_timeout_ms / 1000
    with reader(args) as consumer:
        consumer.assign(list(positions))
        for partition, offset in positions.items():
            consumer.seek(partition, offset)
        while len(found) < len(positions) and time.monotonic() < deadline:
            for partition, records in consumer.poll(timeout_ms=_POLL_MS).items():
                found.setdefault(partition, records[0].timestamp)
                consumer.pause(partition)
    return found


def reader(args: Namespace) -> Consumer:
    """A consumer of no group: reads little at a time, and from the first record there is if its position is gone."""
    return Consumer(
        bootstrap_servers=args.bootstrap_server,
        request_timeout_ms=args.request_timeout_ms,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=64 * 1024,
    )


def age_ms(timestamp_ms: int | None) -> int | None:
    """How old a timestamp is now, at least 0."""
    return None if timestamp_ms is None else max(0, int(time.time() * 1000) - timestamp_ms)


def duration(value_ms: int | None) -> str:
    """Write a duration for people, in its two largest units."""
    if value_ms is None:
        return NOTHING
    for size, name, smaller, small_name in (
        (86_400_000, "d", 3_600_000, "h"),
        (3_600_000, "h", 60_000, "m"),
        (60_000, "m", 1_000, "s"),
    ):
        if value_ms >= size:
            return f"{value_ms // size}{name}{value_ms % size // smaller}{small_name}"
    return f"{value_ms / 1000:.1f}s"


def wall_time(value_ms: int) -> str:
    """Write milliseconds since 1970 as ISO 8601 in UTC, which sorts as text."""
    return datetime.fromtimestamp(value_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def counted(count: int, noun: str) -> str:
    """Write how many there are: 1 member, 2 members."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def or_nothing(value: object) -> object:
    """Show what is not known as a dash."""
    return NOTHING if value is None or value == "" else value
