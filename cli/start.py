"""`zmqbroker start`: run a broker in the foreground until SIGTERM or Ctrl-C.

Prints one line with the word `ready` on standard output when the broker answers, naming its address and its folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actors.supervisor import run_supervised
from ..settings import load_broker_config

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data files (default ./zmqbroker-data)")
    parser.add_argument(
        "--listen",
        metavar="tcp://HOST:PORT",
        help="where clients connect (default tcp://127.0.0.1:9292, which only this host reaches; port 0: any free one)",
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="pairs",
        action="append",
        default=[],
        help="one setting, for example log.segment.bytes=64MiB; may be repeated, and wins over the file",
    )


def run(args: Namespace) -> int:
    """Start, and return when the broker has stopped."""
    pairs = list(args.pairs)
    if args.data_dir is not None:
        pairs.append(f"data.dir={args.data_dir}")
    if args.listen is not None:
        pairs.append(f"listen={args.listen}")
    return run_supervised(load_broker_config(args.config, pairs))
