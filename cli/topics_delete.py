"""`zmqbroker topics delete`: delete topics and their records, for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UnknownTopicOrPartitionError
from .common import add_format, add_server, print_json, topic_name
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", type=topic_name, action="append", required=True, help="which; may be repeated")
    parser.add_argument("--if-exists", action="store_true", help="a topic that is not there is no failure")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Delete one after the other."""
    deleted = []
    with admin(args) as client:
        for topic in args.topic:
            try:
                client.delete_topics([topic])
            except UnknownTopicOrPartitionError:
                if not args.if_exists:
                    raise
            else:
                deleted.append(topic)
                if args.format == "text":
                    print(f"topic {topic} deleted")
    if args.format == "json":
        print_json({"deleted": deleted})
    return 0
