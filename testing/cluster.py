"""A cluster on this host, each node with a supervisor of its own: a test may kill, pause, stop and add nodes."""

from __future__ import annotations

import signal
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Self

from .process import READY_TIMEOUT_MS, BrokerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


class LocalCluster:
    """Nodes 1 to N; node 1 founds the cluster and the others join it.

    ``flags`` are more words for each node's `zmqbroker start`. Without ``data_dir`` the data are in a temporary folder
    that ``close`` removes.
    """

    def __init__(self, nodes: int = 3, *, data_dir: str | None = None, flags: Sequence[str] = ()) -> None:
        self._owns_data = data_dir is None
        self.data_dir = data_dir if data_dir is not None else mkdtemp(prefix="zmqbroker-cluster-")
        self._flags = tuple(flags)
        self._count = nodes
        self.nodes: dict[int, BrokerProcess] = {}
        """The nodes by id, those that do not run at the moment among them."""

    @property
    def bootstrap_servers(self) -> str:
        """Every node's address, with commas."""
        return ",".join(node.bootstrap_servers for node in self.nodes.values() if node.ready is not None)

    @property
    def kafka_bootstrap(self) -> str:
        """Every node's address for Kafka's clients, with commas."""
        return ",".join(node.kafka_bootstrap for node in self.nodes.values() if node.ready is not None)

    def start(self) -> Self:
        """Start all nodes, and return when each has said that it is ready."""
        for node_id in range(1, self._count + 1):
            self.launch_node(node_id)
            if node_id == 1:
                self.nodes[1].wait_ready()
        for node_id in range(2, self._count + 1):
            self.nodes[node_id].wait_ready()
        return self

    def launch_node(self, node_id: int, *flags: str) -> BrokerProcess:
        """Start one node, new or old, and return at once. ``flags`` are further ones for a new node."""
        node = self.nodes.get(node_id)
        if node is None:
            flags = (*self._flags, *flags, "--set", f"node.id={node_id}")
            if self.nodes:
                flags += ("--join", self.bootstrap_servers)
            node = self.nodes[node_id] = self.make_node(node_id, flags)
        node.launch()
        return node

    def make_node(self, node_id: int, flags: Sequence[str]) -> BrokerProcess:
        """A new node's processes, not started yet; a subclass may put them elsewhere."""
        return BrokerProcess(data_dir=str(Path(self.data_dir) / str(node_id)), flags=flags)

    def start_node(self, node_id: int, *flags: str, timeout_ms: int = READY_TIMEOUT_MS) -> BrokerProcess:
        """Start one node, new or old, and return when it has said that it is ready."""
        node = self.launch_node(node_id, *flags)
        node.wait_ready(timeout_ms)
        return node

    def pause_node(self, node_id: int) -> None:
        """Let the node's process hang, with SIGSTOP, until ``resume_node``."""
        self.nodes[node_id].signal_node(signal.SIGSTOP)

    def resume_node(self, node_id: int) -> None:
        """Let it go on."""
        self.nodes[node_id].signal_node(signal.SIGCONT)

    def close(self) -> None:
        """Kill what still runs, and remove the data if they are temporary."""
        for node in self.nodes.values():
            node.close()
        if self._owns_data:
            from shutil import rmtree  # noqa: PLC0415 - not needed before the end

            rmtree(self.data_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
