"""`zmqbroker topics describe`: show partitions, offsets and settings of topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..client.admin import ConfigResource
from ..client.types import TopicPartition
from ..errors import RetriableError
from .common import add_format, add_server, print_json, print_table, say, topic_name
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..client.admin import Admin, PartitionDescription, TopicDescription

LATEST, EARLIEST = -1, -2


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", type=topic_name, action="append", help="which; may be repeated (default: all)")
    parser.add_argument(
        "--all-configs", action="store_true", help="also the settings that the topic leaves as they are"
    )
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print a head and a table for each topic, or one list of objects."""
    with admin(args) as client:
        topics = [_describe(client, topic, args) for topic in client.describe_topics(args.topic)]
    if args.format == "json":
        print_json(topics)
        return 0
    for number, topic in enumerate(topics):
        if number:
            print()
        _print(topic)
    return 0


def _describe(client: Admin, topic: TopicDescription, args: Namespace) -> dict[str, Any]:
    starts, ends = _offsets(client, topic)
    resource = ConfigResource.topic(topic.name)
    configs = client.describe_configs([resource])[resource]
    return {
        "topic": topic.name,
        "topic_id": topic.topic_id,
        "internal": topic.is_internal,
        "partitions": [_row(partition, starts, ends) for partition in topic.partitions],
        "configs": {
            name: {"value": entry.value, "source": entry.source}
            for name, entry in sorted(configs.items())
            if args.all_configs or entry.source == "topic"
        },
    }


def _offsets(client: Admin, topic: TopicDescription) -> tuple[dict[int, int], dict[int, int]]:
    """First and end offsets, where there is a leader to ask; all else is to be seen also without them."""
    led = [TopicPartition(topic.name, partition.partition) for partition in topic.partitions if partition.leader >= 0]
    if not led:
        return {}, {}
    try:
        starts, ends = (client.list_offsets(dict.fromkeys(led, which)) for which in (EARLIEST, LATEST))
    except RetriableError as error:
        say(f"the offsets of topic {topic.name} could not be asked for: {error.message}")
        return {}, {}
    return (
        {where.partition: found.offset for where, found in starts.items()},
        {where.partition: found.offset for where, found in ends.items()},
    )


def _row(partition: PartitionDescription, starts: dict[int, int], ends: dict[int, int]) -> dict[str, Any]:
    return {
        "partition": partition.partition,
        "leader": partition.leader,
        "leader_epoch": partition.leader_epoch,
        "replicas": partition.replicas,
        "isr": partition.isr,
        "first_offset": starts.get(partition.partition),
        "end_offset": ends.get(partition.partition),
    }


def _print(topic: dict[str, Any]) -> None:
    partitions = topic["partitions"]
    factor = len(partitions[0]["replicas"]) if partitions else 0
    print(f"topic {topic['topic']}: {len(partitions)} partitions, replication factor {factor}, id {topic['topic_id']}")
    for name, entry in topic["configs"].items():
        print(f"  {name}={entry['value']} ({entry['source']})")
    columns = ("partition", "leader", "leader_epoch", "replicas", "isr", "first_offset", "end_offset")
    rows = [[_cell(partition[column]) for column in columns] for partition in partitions]
    print_table([column.replace("_", " ") for column in columns], rows)


def _cell(value: int | list[int] | None) -> int | str | None:
    return ",".join(map(str, value)) if isinstance(value, list) else value
