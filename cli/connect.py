"""What verbs do first with a broker: reach it within a bounded time, and say so in one sentence if it is not there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ..client.admin import Admin, NewTopic
from ..errors import TopicExistsError

if TYPE_CHECKING:
    from argparse import Namespace


def admin(args: Namespace) -> Admin:
    """Make an admin client as the flags of `add_server` say."""
    timeout_ms = args.request_timeout_ms
    return Admin(
        bootstrap_servers=args.bootstrap_server, request_timeout_ms=timeout_ms, default_api_timeout_ms=timeout_ms
    )


def check_reachable(args: Namespace) -> None:
    """Raise if no broker answers within --request-timeout-ms.

    A producer is more patient than a person who has mistyped an address: it waits for a minute, since brokers restart.
    """
    with admin(args) as client:
        client.list_topics()


def make_topic(args: Namespace) -> None:
    """Create --topic with --partitions, unless it is there."""
    with admin(args) as client, suppress(TopicExistsError):
        client.create_topics([NewTopic(args.topic, num_partitions=args.partitions, replication_factor=-1)])
