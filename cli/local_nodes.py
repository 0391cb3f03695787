"""The settings of several nodes of one `zmqbroker start --nodes N`: their folders, their ports, and whom they join.

Node 1 has the data folder itself, so that a single node's folder grows into a cluster's; the others have folders inside
of it, ``nodes/2`` and so on. They find one another at their own addresses, and node 1 founds the cluster unless the
folder of another one belongs to a cluster already. With a listening port of 0 free ports are chosen once, and kept in
the folder: nodes that come back elsewhere would not find one another.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..setting_values import NO_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..settings import BrokerConfig

_PROBLEMS = {errno.EADDRINUSE: "is in use", errno.EACCES: "is for privileged users"}
PORTS_NAME = "local-ports"
MAX_NODES = 64
_PORT_MAX = 65_535


def node_configs(config: BrokerConfig, count: int) -> list[BrokerConfig]:
    """The settings of each node. Raises ConfigError for a number of nodes or an address that does not do."""
    if count == 1:
        _check_alone(config)
        return [config]
    if not 1 <= count <= MAX_NODES:
        message = f"--nodes {count}: at least 1 and at most {MAX_NODES} nodes can run under one supervisor"
        raise ConfigError(message)
    host, _, port = config.listen.removeprefix("tcp://").rpartition(":")
    ports = _chosen_ports(config, host, count) if int(port) == 0 else [int(port) + index for index in range(count)]
    if ports[-1] > _PORT_MAX:
        message = f"{count} nodes from port {port} on need ports up to {ports[-1]}, and {_PORT_MAX} is the last one"
        raise ConfigError(message)
    for name, address in (
        ("advertised.address", config.advertised_address),
        ("kafka.advertised.address", config.kafka_advertised_address),
    ):
        if address:
            message = f"{name} is one address, and several nodes need one each: start them one by one"
            raise ConfigError(message)
    configs = []
    folders = [config.data_dir, *(f"{config.data_dir}/nodes/{index + 1}" for index in range(1, count))]
    founds = not any(_has_cluster(folder) for folder in folders[1:])
    for index, folder in enumerate(folders):
        others = ",".join(f"{host}:{port}" for port in ports if port != ports[index])
        joins = config.join or ("" if index == 0 and founds else others)
        own_id = -1 if config.join else config.node_id + index
        listen = f"tcp://{host}:{ports[index]}"
        kafka = _kafka_listen(config.kafka_listen, index)
        configs.append(replace(config, node_id=own_id, data_dir=folder, listen=listen, join=joins, kafka_listen=kafka))
    return configs


def check_ports(configs: Sequence[BrokerConfig]) -> None:
    """Raise ConfigError for a port that a node could not have: others would run by then, and wait for it for ever."""
    import socket  # noqa: PLC0415 - a single node has no need of it here, and finds out by itself

    wanted = [(config.listen, "--listen") for config in configs]
    wanted += [(config.kafka_listen, "--kafka-listen") for config in configs if config.kafka_listen != NO_ADDRESS]
    for address, flag in wanted:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ: what was just left is free
            try:
                probe.bind(("" if host == "*" else host.strip("[]"), int(port)))
            except OSError as error:
                if error.errno not in _PROBLEMS:
                    continue  # an address of another kind, perhaps: for ZeroMQ to understand
                message = (
                    f"port {port} of {host} {_PROBLEMS[error.errno]}, and {len(configs)} nodes need one each: free it,"
                    f" or name another first port with {flag}"
                )
                raise ConfigError(message) from error


def _kafka_listen(address: str, index: int) -> str:
    """Where the node of this index listens for Kafka's clients: one port after the other, unless any will do."""
    host, _, port = address.rpartition(":")
    if address == NO_ADDRESS or int(port) == 0:
        return address
    if int(port) + index > _PORT_MAX:
        message = (
            f"{index + 1} nodes from port {port} on need ports up to {int(port) + index}, and {_PORT_MAX} is the last"
        )
        raise ConfigError(message)
    return f"{host}:{int(port) + index}"


def _has_cluster(folder: str) -> bool:
    """Whether a folder belongs to a node of a cluster."""
    return os.path.exists(os.path.join(folder, "meta.properties"))  # noqa: PTH110, PTH118 - pathlib costs 10 ms


def _check_alone(config: BrokerConfig) -> None:
    """Refuse to found a cluster in the midst of another one: beside folders of nodes that do not start now."""
    inside = os.path.join(config.data_dir, "nodes")  # noqa: PTH118 - as above
    if config.join or _has_cluster(config.data_dir) or not os.path.isdir(inside):  # noqa: PTH112 - as above
        return
    others = [name for name in os.listdir(inside) if _has_cluster(f"{inside}/{name}")]  # noqa: PTH208 - as above
    if others:
        message = (
            f"{config.data_dir} is empty, and {inside}/{min(others)} belongs to a node of a cluster: start all its"
            " nodes with --nodes, or say with --join where the cluster is"
        )
        raise ConfigError(message)


def _chosen_ports(config: BrokerConfig, host: str, count: int) -> list[int]:
    """The ports of an earlier start, and free ones for nodes that had none."""
    path = os.path.join(config.data_dir, PORTS_NAME)  # noqa: PTH118 - pathlib costs a start-up 10 ms
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - as above
            ports = [int(line) for line in file]
    except FileNotFoundError:
        ports = []
    except ValueError as error:
        message = f"{path} cannot be read ({error}): it has one port a line; put it back, or name a port with --listen"
        raise ConfigError(message) from error
    if len(ports) < count:
        ports += free_ports(host, count - len(ports))
        os.makedirs(config.data_dir, exist_ok=True)  # noqa: PTH103 - as above
        with open(f"{path}.tmp", "w", encoding="ascii") as file:  # noqa: PTH123 - as above
            file.writelines(f"{port}\n" for port in ports)
        os.replace(f"{path}.tmp", path)  # noqa: PTH105 - as above
    return ports[:count]


def free_ports(host: str, count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    import socket  # noqa: PLC0415 - as above

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as held:
        found = []
        for _ in range(count):
            probe = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            probe.bind((host.strip("[]"), 0))
            found.append(int(probe.getsockname()[1]))
        return found
