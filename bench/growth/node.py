"""The nodes that are measured, each in processes of its own, and what the kernel knows of them."""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING, Any

from rows.basics import wait_for
from rows.broker import cpu_seconds, free_port, memory_bytes
from rows.raw import RawClient
from zmqbroker.testing import BrokerProcess, LocalCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from .row import Bench

READY_SECONDS = 300.0
"""A node with thousands of partitions takes its time."""
STOP_MS = 300_000
STARTS = 3
"""One alone may meet anything."""
QUIET_PERCENT = 5.0
QUIET_SECONDS = 60.0
MB = 1e6


def flags_of(settings: Sequence[str]) -> list[str]:
    """The words that give a node these settings."""
    return [word for pair in settings for word in ("--set", pair)]


class Node:
    """One node with its supervisor and a folder. It ends with the stack, however that ends."""

    def __init__(self, bench: Bench, closing: ExitStack, settings: Sequence[str] = ()) -> None:
        folder = bench.new_folder()
        self.data_dir = folder / "data"
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.servers = self.address.removeprefix("tcp://")
        self._process = BrokerProcess(
            data_dir=str(self.data_dir),
            listen=self.address,
            flags=flags_of((*bench.settings, *settings)),
            error_path=str(folder / "messages.txt"),
        )
        self._client: RawClient | None = None
        self._admin: Any = None
        closing.callback(self._close)

    def start(self) -> float:
        """Start it, and return after how many seconds it has answered.

        It is asked once it has said that it is ready: one that opens its logs for long refuses who asks before.
        """
        client = self.client
        begun = time.perf_counter()
        self._process.start(int(READY_SECONDS * 1000))
        client.wait_ready()
        return time.perf_counter() - begun

    @property
    def client(self) -> RawClient:
        """A bare client, whose connection makes itself anew."""
        if self._client is None:
            self._client = RawClient(self.address)
        return self._client

    @property
    def admin(self) -> Any:
        """An admin client that has patience."""
        if self._admin is None:
            self._admin = admin_of(self.servers)
        return self._admin

    @property
    def pid(self) -> int:
        """The process of the node itself."""
        pid = self._process.node_pid
        assert pid is not None, "the node does not run"
        return pid

    def starts(self, end: Callable[[], object], begin: Callable[[], float] | None = None) -> float:
        """Milliseconds that a start takes after an end of this kind: of some of them the median."""
        times = []
        for _ in range(STARTS):
            end()
            times.append((begin or self.start)())
        return statistics.median(times) * 1000

    def stop(self) -> float:
        """Stop it in good order, and return after how many seconds it was gone."""
        self._disconnect()
        begun = time.perf_counter()
        self._process.stop(STOP_MS)
        return time.perf_counter() - begun

    def kill(self) -> None:
        """Kill it, with SIGKILL."""
        self._disconnect()
        self._process.kill(STOP_MS)

    def _disconnect(self) -> None:
        for client in (self._client, self._admin):
            if client is not None:
                client.close()
        self._client = self._admin = None

    def _close(self) -> None:
        self._disconnect()
        self._process.close()


class Cluster(LocalCluster):
    """So many nodes, and an admin client of theirs. It ends with the stack."""

    def __init__(self, bench: Bench, closing: ExitStack, count: int) -> None:
        self._folder = bench.new_folder()
        super().__init__(count, data_dir=str(self._folder), flags=flags_of(bench.settings))
        self.admin: Any = None
        closing.callback(self.close)

    def make_node(self, node_id: int, flags: Sequence[str]) -> BrokerProcess:
        """A node whose log lines go to a file."""
        messages = self._folder / "messages.txt"
        return BrokerProcess(data_dir=str(self._folder / str(node_id)), flags=flags, error_path=str(messages))

    def start(self) -> Cluster:
        """Start the nodes, and return once all of them are in service."""
        super().start()
        self.admin = admin_of(self.bootstrap_servers)
        count = len(self.nodes)
        wait_for(
            lambda: [node.state for node in self.admin.list_nodes()] == ["active"] * count,
            f"{count} nodes in service",
            READY_SECONDS,
        )
        return self

    @property
    def pids(self) -> list[int]:
        """The processes of the nodes themselves."""
        return [node.node_pid for node in self.nodes.values() if node.node_pid is not None]

    def create_topic(self, name: str, partitions: int, replicas: int) -> None:
        """Create a topic, and return when all of its replicas are in sync."""
        from zmqbroker import NewTopic  # noqa: PLC0415 - a row that misses its client shall fail alone

        self.admin.create_topics([NewTopic(name, partitions, replicas)])

        def in_sync() -> bool:
            (found,) = self.admin.describe_topics([name])
            return all(len(partition.isr) == replicas for partition in found.partitions)

        wait_for(in_sync, f"{name} in sync", READY_SECONDS)

    def close(self) -> None:
        """Kill all."""
        if self.admin is not None:
            self.admin.close()
            self.admin = None
        super().close()


def admin_of(servers: str) -> Any:
    """An admin client that waits for thousands of partitions."""
    from zmqbroker import Admin  # noqa: PLC0415

    patience_ms = int(READY_SECONDS * 1000)
    return Admin(bootstrap_servers=servers, default_api_timeout_ms=patience_ms, request_timeout_ms=patience_ms)


class Cpu:
    """The processor time that processes have used since this was made."""

    def __init__(self, *pids: int) -> None:
        self._before = {pid: cpu_seconds(pid) for pid in pids}
        self._begun = time.perf_counter()

    def seconds(self) -> float:
        """Of all of them together."""
        return sum(cpu_seconds(pid) - before for pid, before in self._before.items())

    def percent(self) -> float:
        """How much of one core that is."""
        return self.seconds() / (time.perf_counter() - self._begun) * 100


def memory_mb(pid: int) -> float:
    """What a process holds now."""
    return memory_bytes(pid)[0] / MB


def files_of(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - not a file to make paths of


def wait_quiet(*pids: int) -> None:
    """Return when processes have come to rest, or not within a minute."""
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        cpu = Cpu(*pids)
        time.sleep(1.0)
        if cpu.percent() < QUIET_PERCENT * len(pids):
            return


def stored_bytes(folder: Path) -> int:
    """What a folder takes on the disk, which is less than its size where files have holes."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
