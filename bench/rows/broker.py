"""The broker that is measured: `zmqbroker start` in processes of its own, with its data in a temporary folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from .basics import Figure, wait_for
from .raw import RawClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

STOP_SECONDS = 20.0
ORPHAN_SECONDS = 3.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BrokerUnderTest:
    """Supervisor and node, in a process group of their own, that one signal reaches."""

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = folder / "data"
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.servers = f"127.0.0.1:{self.port}"
        self._messages = folder / "messages.txt"
        self._settings = [word for pair in settings for word in ("--set", pair)]
        self._process: subprocess.Popen[bytes] | None = None
        self._client: RawClient | None = None

    def launch(self) -> None:
        """Start it and return at once."""
        command = [sys.executable, "-m", "zmqbroker", "start", "--data-dir", str(self.data_dir)]
        command += ["--listen", self.address, *self._settings]
        with self._messages.open("ab") as messages:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True
            )

    def start(self) -> None:
        """Start it and return when it answers."""
        self.launch()
        self.client.wait_ready()

    @property
    def client(self) -> RawClient:
        """A client whose connection makes itself anew."""
        if self._client is None:
            self._client = RawClient(self.address)
        return self._client

    @property
    def node_pid(self) -> int:
        """The process that holds the data and answers."""
        return self.client.status().pid

    def kill(self) -> None:
        """Kill both processes with SIGKILL, if they run, and return when they are gone."""
        process, self._process = self._process, None
        if self._client is not None:
            self._client.close()
            self._client = None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
            with suppress(TimeoutError):  # where nobody reaps the node, which is no child of ours, it seems to be there
                wait_for(self._is_gone(process.pid), "the end of the killed node", ORPHAN_SECONDS)

    @staticmethod
    def _is_gone(group: int) -> Callable[[], bool]:
        def gone() -> bool:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return True
            return False

        return gone

    def said(self) -> str:
        """The end of what it has printed, for the report of a failure."""
        with suppress(OSError):
            return self._messages.read_text(errors="replace")[-2000:]
        return ""


class CpuMeter:
    """Processor time of a node and of this process, its client: on a busy machine it varies less than the clock."""

    def __init__(self, node_pid: int) -> None:
        self._pid = node_pid
        self._node = cpu_seconds(node_pid)
        self._client = time.process_time()

    def per_record(self, count: int) -> dict[str, float]:
        """What a record has cost since, in nanoseconds."""
        client, node = time.process_time() - self._client, cpu_seconds(self._pid) - self._node
        return {"client CPU": client / count * 1e9, "node CPU": node / count * 1e9}


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used, to a hundredth of a second."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as status:  # noqa: PTH123
        words = status.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


CPU_FIGURES = (Figure("client CPU", "ns/rec"), Figure("node CPU", "ns/rec"))


def memory_bytes(pid: int) -> tuple[int, int]:
    """(what a process holds now, the most it ever held), as the kernel counts resident memory."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123 - not a file to make paths of
        values = dict(line.split(":", 1) for line in status)
    return int(values["VmRSS"].split()[0]) * 1024, int(values["VmHWM"].split()[0]) * 1024
