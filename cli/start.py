"""`zmqbroker start`: run a broker in the foreground until SIGTERM or Ctrl-C.

Prints one line with the word `ready` on standard output when a node answers, naming its address and its folder. With
--nodes several nodes run on this host under one supervisor; with --join they become nodes of a cluster that is there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..actors.supervisor import run_supervised
from ..gateway.entry import open_gateway
from ..setting_values import NO_ADDRESS
from ..settings import BrokerConfig, load_broker_config
from .local_nodes import check_ports, node_configs

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
    parser.add_argument(
        "--kafka-listen",
        metavar="HOST:PORT",
        help="where Kafka's clients connect (default 127.0.0.1:9092, or any free port if --listen is another than its"
        " default); none: nowhere",
    )
    parser.add_argument(
        "--nodes", metavar="N", type=int, default=1, help="how many nodes to run here, on ports from --listen's on"
    )
    parser.add_argument(
        "--join",
        metavar="HOST:PORT",
        help="a node of the cluster to join, or several with commas; its cluster chooses the node id unless --set"
        " node.id=N does",
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
    if args.kafka_listen is not None:
        pairs.append(f"kafka.listen={with_scheme(args.kafka_listen)}")
    if args.join is not None:
        pairs.append(f"join={args.join}")
    config = load_broker_config(args.config, pairs)
    if "kafka.listen" not in config.explicit and config.listen != BrokerConfig().listen:
        config = replace(config, kafka_listen="tcp://127.0.0.1:0")  # another broker of this host may have Kafka's port
    if config.join and "node.id" not in config.explicit:
        config = replace(config, node_id=-1)
    configs = node_configs(config, args.nodes)
    if len(configs) > 1:
        check_ports(configs)
    return run_supervised(configs, open_gateway=open_gateway)


def with_scheme(address: str) -> str:
    """An address as the settings have it, of HOST:PORT as Kafka's tools have it."""
    return address if "://" in address or address == NO_ADDRESS else f"tcp://{address}"
