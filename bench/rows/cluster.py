"""The cluster that is measured: three nodes, each with a supervisor and a folder of its own, all on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from zmqbroker.testing import BrokerProcess, LocalCluster

from .basics import Figure, wait_for
from .broker import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .row import Bench

NODES = 3
READY_SECONDS = 60.0


class ClusterUnderTest(LocalCluster):
    """Three nodes, and an admin client of theirs."""

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._messages = folder / "messages.txt"
        flags = [word for pair in settings for word in ("--set", pair)]
        super().__init__(NODES, data_dir=str(folder), flags=flags)
        self._admin: Any = None

    def make_node(self, node_id: int, flags: Sequence[str]) -> BrokerProcess:
        """A node whose log lines go to a file."""
        return BrokerProcess(data_dir=f"{self.data_dir}/{node_id}", flags=flags, error_path=str(self._messages))

    def start(self) -> ClusterUnderTest:
        """Start the nodes, and return once all of them may hold replicas."""
        super().start()
        wait_for(lambda: len(self.node_pids) == NODES, "three nodes", READY_SECONDS)
        wait_for(self._all_unfenced, "three nodes in service", READY_SECONDS)
        return self

    def _all_unfenced(self) -> bool:
        return [node.state for node in self.admin.list_nodes()] == ["active"] * NODES

    @property
    def admin(self) -> Any:
        """An admin client, made when first asked for."""
        if self._admin is None:
            from zmqbroker import Admin  # noqa: PLC0415 - a row that misses its client shall fail alone

            self._admin = Admin(bootstrap_servers=self.bootstrap_servers)
        return self._admin

    @property
    def node_pids(self) -> list[int]:
        """The processes of the nodes that run."""
        return [node.node_pid for node in self.nodes.values() if node.node_pid is not None]

    def close(self) -> None:
        """Kill all."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        super().close()

    # ---- topics

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic with a replica on each node, and return when all are in sync."""
        from zmqbroker import NewTopic  # noqa: PLC0415

        self.admin.create_topics([NewTopic(name, partitions, NODES)])
        self.wait_in_sync(name)

    def wait_in_sync(self, topic: str) -> None:
        """Wait until every replica of a topic is in sync."""
        wait_for(lambda: all(len(p.isr) == NODES for p in self._partitions(topic)), f"{topic} in sync", READY_SECONDS)

    def leader(self, topic: str) -> int:
        """The node that leads the topic's only partition."""
        return int(self._partitions(topic)[0].leader)

    def _partitions(self, topic: str) -> Any:
        return self.admin.describe_topics([topic])[0].partitions

    def end_offset(self, topic: str) -> int:
        """Where readers of the topic's only partition may read up to."""
        from zmqbroker import TopicPartition  # noqa: PLC0415

        partition = TopicPartition(topic, 0)
        return int(self.admin.list_offsets({partition: -1})[partition].offset)


def shared_cluster(bench: Bench) -> ClusterUnderTest:
    """A running cluster with the default settings, started when first asked for."""
    cluster = bench.kept.get("cluster")
    if cluster is None:
        cluster = bench.kept["cluster"] = start_cluster(bench, "cluster")
    assert isinstance(cluster, ClusterUnderTest)
    return cluster


def start_cluster(bench: Bench, name: str) -> ClusterUnderTest:
    """A cluster that ends with the run."""
    cluster = ClusterUnderTest(bench.folder / name)
    bench.closing.callback(cluster.close)
    return cluster.start()


class NodesCpu:
    """Processor time of the nodes, each for itself, since this was made."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._before = {pid: cpu_seconds(pid) for pid in pids}
        self._begun = time.perf_counter()

    def seconds(self) -> list[float]:
        """What each has used."""
        return [cpu_seconds(pid) - before for pid, before in self._before.items()]

    def percents(self) -> list[float]:
        """How much of a core each has used."""
        passed = time.perf_counter() - self._begun
        return [seconds / passed * 100 for seconds in self.seconds()]


CPU_FIGURES = (Figure("client CPU", "ns/rec"), Figure("nodes CPU", "ns/rec"))
