"""`zmqbroker topics alter`: add partitions, or change settings of a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..client.admin import ConfigResource
from ..errors import ConfigError
from .common import add_format, add_server, pairs, positive, print_json, topic_name
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", type=topic_name, required=True, help="which")
    parser.add_argument(
        "--partitions", type=positive, metavar="N", help="so many in all; keys may go elsewhere from then on"
    )
    parser.add_argument(
        "--config", metavar="KEY=VALUE", action="append", default=[], help="a setting to change; may be repeated"
    )
    parser.add_argument(
        "--delete-config",
        metavar="KEY",
        action="append",
        default=[],
        help="a setting to take back to the broker's default; may be repeated",
    )
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Change the settings, then the partitions."""
    changes: dict[str, str | None] = {**pairs(args.config, "--config"), **dict.fromkeys(args.delete_config)}
    if not changes and args.partitions is None:
        message = "nothing to alter: give --partitions, --config or --delete-config"
        raise ConfigError(message)
    with admin(args) as client:
        if changes:
            client.alter_configs({ConfigResource.topic(args.topic): changes})
        if args.partitions is not None:
            client.create_partitions({args.topic: args.partitions})
    if args.format == "json":
        print_json({"topic": args.topic, "partitions": args.partitions, "configs": changes})
    else:
        print(f"topic {args.topic} altered")
    return 0
