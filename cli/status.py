"""`zmqbroker status`: show how a broker is: its counters and its partitions on disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from .common import add_format, add_server, natural, print_json, print_table
from .connect import admin

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..client.admin import LogDirDescription, NodeStatus


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--node", type=natural, metavar="ID", help="which node (default: any)")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Ask the node and print."""
    with admin(args) as client:
        status = client.node_status(args.node)
        folder = client.describe_log_dirs([status.node_id])[0]
    if args.format == "json":
        print_json({**asdict(status), "log_dir": asdict(folder)})
    else:
        _print(status, folder)
    return 0


def _print(status: NodeStatus, folder: LogDirDescription) -> None:
    print(f"node {status.node_id} of cluster {status.cluster_id}: zmqbroker {status.version}, process {status.pid}")
    print(f"up for {status.uptime_ms / 1000:,.1f} s")
    print(f"data in {folder.path}: {folder.usable_bytes:,} of {folder.total_bytes:,} bytes of the disk are free")
    if status.counters:
        print()
        print_table(("counter", "value"), sorted(status.counters.items()))
    if folder.partitions:
        print()
        heads = ("topic", "partition", "bytes", "segments", "first offset", "high watermark", "end offset", "state")
        rows = [
            (
                partition.topic,
                partition.partition,
                partition.size_bytes,
                partition.segments,
                partition.log_start_offset,
                partition.high_watermark,
                partition.log_end_offset,
                partition.error_message or "ok",
            )
            for partition in folder.partitions
        ]
        print_table(heads, rows)
