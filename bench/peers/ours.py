"""zmqbroker as `zmqbroker start` runs it, one node or three, with its default settings and both its listeners."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from rows.basics import wait_for
from rows.raw import RawClient
from typing_extensions import override
from zmqbroker.testing import BrokerProcess, LocalCluster

from .kafka_broker import API_VERSIONS, NO_SIZE
from .programs import END_SECONDS, START_SECONDS, ask, free_ports
from .system import System

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SETTINGS = (
    "its defaults (flush=ack: acks=all is answered when it is on the disk; acks=1 before, the flush is under way)"
)


class Ours(System):
    """One node and its supervisor."""

    name = "zmqbroker"
    is_ours = True
    settings = SETTINGS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port, self._kafka_port = free_ports(2)
        self._process = BrokerProcess(
            data_dir=str(folder / "data"),
            listen=f"tcp://127.0.0.1:{self._port}",
            flags=["--kafka-listen", f"127.0.0.1:{self._kafka_port}"],
            error_path=str(folder / "messages.txt"),
        )
        self.servers = f"127.0.0.1:{self._port}"
        self.kafka_bootstrap = f"127.0.0.1:{self._kafka_port}"

    @classmethod
    @override
    def missing(cls) -> str:
        return ""

    @classmethod
    @override
    def version(cls) -> str:
        return f"zmqbroker {version('zmqbroker')}, its own client and confluent-kafka at its Kafka listener"

    @override
    def launch(self) -> None:
        self._process.launch()

    @override
    def wait_ready(self) -> None:
        """Ask as the native client does."""
        client = RawClient(f"tcp://{self.servers}")
        try:
            client.wait_ready()
        finally:
            client.close()

    @override
    def close(self) -> None:
        self._process.close()

    @property
    @override
    def node_pid(self) -> int:
        pid = self._process.node_pid
        assert pid is not None, "the node does not run"
        return pid


class OursForKafka(Ours):
    """The same, of which a client of Kafka's is waiting for the first answer."""

    @override
    def wait_ready(self) -> None:
        """Ask as a client of Kafka's does."""
        wait_for(lambda: ask(self._kafka_port, API_VERSIONS, NO_SIZE), "the Kafka listener", START_SECONDS)


class _Cluster(LocalCluster):
    """Nodes whose log lines go to a file."""

    @override
    def make_node(self, node_id: int, flags: Sequence[str]) -> BrokerProcess:
        folder = f"{self.data_dir}/{node_id}"
        return BrokerProcess(data_dir=folder, flags=flags, error_path=f"{self.data_dir}/messages.txt")


class OursCluster(System):
    """Three nodes, each with a supervisor."""

    name = "zmqbroker, 3 nodes"
    is_ours = True
    replicas = 3
    settings = SETTINGS + ", on each of the nodes"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._cluster = _Cluster(self.replicas, data_dir=str(folder))

    @classmethod
    @override
    def missing(cls) -> str:
        return ""

    @classmethod
    @override
    def version(cls) -> str:
        return Ours.version()

    @override
    def launch(self) -> None:
        self._cluster.start()

    @override
    def wait_ready(self) -> None:
        """A node has said that it is ready when it answers; `launch` has waited for that."""

    @override
    def close(self) -> None:
        self._cluster.close()

    @property
    @override
    def node_pid(self) -> int:
        pid = self._cluster.nodes[1].node_pid
        assert pid is not None, "the node does not run"
        return pid

    @property
    def servers(self) -> str:
        """Every node's address for our own clients."""
        return self._cluster.bootstrap_servers

    @property
    def kafka_bootstrap(self) -> str:
        """Every node's address for Kafka's clients."""
        return self._cluster.kafka_bootstrap

    def kill_node(self, number: int) -> None:
        """SIGKILL for a node and its supervisor, which would start it again at once: Kafka's has none."""
        self._cluster.nodes[number].kill(int(END_SECONDS * 1000))

    def start_node(self, number: int) -> None:
        """Start a node that was killed, and return when it answers."""
        self._cluster.start_node(number)
