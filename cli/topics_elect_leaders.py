"""`zmqbroker topics elect-leaders`: give partitions back to their preferred leaders.

With --unclean a partition without a leader gets any living replica: what that one lacks is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..client.types import TopicPartition
from .common import add_server, topic_name
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", type=topic_name, help="only this one's")
    parser.add_argument("--unclean", action="store_true", help="accept the loss of committed records")
    add_server(parser)


def run(args: Namespace) -> int:
    """Elect."""
    with admin(args) as client:
        partitions = None
        if args.topic is not None:
            (topic,) = client.describe_topics([args.topic])
            partitions = [TopicPartition(args.topic, number) for number in range(len(topic.partitions))]
        elected = client.elect_leaders(partitions, unclean=args.unclean)
    print(f"{len(elected)} partitions have another leader now")
    return 0
