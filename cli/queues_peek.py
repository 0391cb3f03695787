"""`zmqbroker queues peek`: show the next records of a queue that are not finished, without taking them from anybody.

Each with its state: new (never delivered), available (again), delayed, acquired (leased to a consumer), archiving (on
its way to the dead-letter topic).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .common import add_format, add_server, as_text, print_json, print_table, topic_name
from .connect import admin
from .group_tables import NOTHING, add_group, add_limit, or_nothing, wall_time
from .queue_records import partitions_of, waiting

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from .queue_records import Waiting

_TEXT_LENGTH = 60
"""Characters of a key or value in the table."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    add_group(parser, "the queue")
    parser.add_argument("--topic", type=topic_name, action="append", help="only this one; may be repeated")
    add_limit(parser, 10, "so many records")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print a table, or one list of objects."""
    with admin(args) as client:
        client.describe_share_groups([args.group])  # a name that is none shall not look like an empty queue
        found = waiting(client, args, args.group, partitions_of(client, args.group, args.topic), args.limit)
    if args.format == "json":
        print_json([_as_json(one) for one in found])
        return 0
    rows = [
        [
            *(o.record.topic, o.record.partition, o.record.offset, wall_time(o.record.timestamp), o.state),
            *(o.delivery_count, NOTHING if o.until_ms < 0 else wall_time(o.until_ms), or_nothing(o.member_id)),
            *(_short(o.record.key), _short(o.record.value)),
        ]
        for o in found
    ]
    heads = ("topic", "partition", "offset", "time", "state", "deliveries", "until", "member", "key", "value")
    print_table(heads, rows)
    return 0


def _as_json(one: Waiting) -> dict[str, Any]:
    record = one.record
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "state": one.state,
        "delivery_count": one.delivery_count,
        "member": one.member_id or None,
        "until_ms": None if one.until_ms < 0 else one.until_ms,
        **as_text("key", record.key),
        **as_text("value", record.value),
        "headers": [{"name": name, **as_text("value", value)} for name, value in record.headers],
    }


def _short(data: bytes | None) -> str:
    if data is None:
        return NOTHING
    text = data.decode(errors="replace")
    text = "".join(letter if letter.isprintable() else "." for letter in text)
    return text if len(text) <= _TEXT_LENGTH else text[: _TEXT_LENGTH - 3] + "..."
