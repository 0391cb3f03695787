"""`zmqbroker transactions describe`: show who produces by a transactional id, and what its open transaction holds.

The partitions are those of the transaction that is open or being ended; until it is, readers of what is committed wait
there.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from .common import add_format, add_server, print_json, print_table
from .connect import admin
from .group_tables import age_ms, duration, or_nothing

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..client.transaction_admin_types import TransactionDescription

COLUMNS = ("transactional id", "state", "coordinator", "producer", "epoch", "time-out", "open for", "partitions")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--transactional-id",
        action="append",
        metavar="ID",
        help="which; may be repeated (default: all)",
    )
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print a table, or one list of objects."""
    with admin(args) as client:
        names = args.transactional_id or [one.transactional_id for one in client.list_transactions()]
        found = client.describe_transactions(names)
    if args.format == "json":
        print_json([asdict(one) for one in found])
    else:
        print_table(COLUMNS, [_row(one) for one in found])
    return 0


def _row(one: TransactionDescription) -> list[object]:
    partitions = ", ".join(f"{topic}-{partition}" for topic, partition in one.partitions)
    return [
        *(one.transactional_id, one.state, one.coordinator_id, one.producer_id, one.producer_epoch),
        *(duration(one.timeout_ms), duration(age_ms(None if one.start_ms < 0 else one.start_ms))),
        or_nothing(partitions),
    ]
