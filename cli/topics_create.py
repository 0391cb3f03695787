"""`zmqbroker topics create`: create a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..client.admin import NewTopic
from ..errors import TopicExistsError
from .common import add_format, add_server, pairs, positive, print_json, replication_factor, topic_name
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", type=topic_name, required=True, help="its name")
    parser.add_argument("--partitions", type=positive, default=-1, metavar="N", help="default: the broker's")
    parser.add_argument(
        "--replication-factor", type=replication_factor, default=-1, metavar="N", help="default: the broker's"
    )
    parser.add_argument(
        "--config",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of the topic, for example retention.ms=1d; may be repeated",
    )
    parser.add_argument("--if-not-exists", action="store_true", help="a topic that is there already is no failure")
    parser.add_argument("--dry-run", action="store_true", help="say whether it would work, and create nothing")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Create it and say how it looks."""
    topic = NewTopic(
        args.topic,
        num_partitions=args.partitions,
        replication_factor=args.replication_factor,
        topic_configs=pairs(args.config, "--config"),
    )
    with admin(args) as client:
        try:
            made = client.create_topics([topic], validate_only=args.dry_run)[0]
        except TopicExistsError:
            if not args.if_not_exists:
                raise
            if args.format == "json":
                print_json({"topic": args.topic, "created": False})
            else:
                print(f"topic {args.topic} is there already")
            return 0
    if args.format == "json":
        print_json(
            {
                "topic": made.name,
                "created": not args.dry_run,
                "topic_id": made.topic_id,
                "partitions": made.num_partitions,
                "replication_factor": made.replication_factor,
            }
        )
    else:
        verb = "would be created" if args.dry_run else "created"
        print(
            f"topic {made.name} {verb}: {made.num_partitions} partitions, replication factor {made.replication_factor}"
        )
    return 0
