"""`zmqbroker groups events`: show what happened to a consumer group, and why: its flight recorder, oldest first."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from .common import add_format, add_server, print_json, print_table
from .connect import admin
from .group_tables import add_group, add_limit, or_nothing, wall_time

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    add_group(parser, "which; it may be gone")
    add_limit(parser, 1000, "only the newest so many")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print a table, or one list of objects."""
    with admin(args) as client:
        events = client.group_events(args.group, limit=args.limit)
    if args.format == "json":
        print_json([asdict(event) for event in events])
        return 0
    rows = [
        [wall_time(o.time_ms), o.kind, o.generation, or_nothing(o.member_id), or_nothing(o.client_id), o.cause]
        for o in events
    ]
    print_table(["time", "event", "generation", "member", "client", "cause"], rows)
    return 0
