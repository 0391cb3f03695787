"""Kafka's own programs and broker, from the jars in the folder that KAFKA_LIBS names."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

LIBS = os.environ.get("KAFKA_LIBS", "")
DEADLINE_S = 120.0
_JAVA = ("java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", f"{LIBS}/*")
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


def run_java(name: str, *words: str, given: str = "") -> str:
    """What a Java program prints; it has to end with 0."""
    result = subprocess.run(
        [*_JAVA, name, *words], input=given, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return "\n".join(line for line in result.stdout.splitlines() if "SLF4J" not in line)


class KafkaBroker:
    """A real Kafka broker of one node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.data_dir = folder / "data"
        port, controller = free_ports(2)
        self.bootstrap = f"127.0.0.1:{port}"
        self._port = port
        self._settings = folder / "server.properties"
        self._settings.write_text(_SETTINGS.format(port=port, controller=controller, folder=self.data_dir))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        cluster_id = run_java("kafka.tools.StorageTool", "random-uuid").split()[-1]
        run_java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._settings))
        with (self._folder / "kafka.log").open("wb") as log:
            self._process = subprocess.Popen([*_JAVA, "kafka.Kafka", str(self._settings)], stdout=log, stderr=log)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "kafka.log").read_text()
                assert self._process.poll() is None, (self._folder / "kafka.log").read_text()
            else:
                return self

    def stop(self) -> None:
        """Stop in good order, so that all is on the disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
            self._process = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return found
