"""Apache Kafka, one node or three, from the jars that `mvn` has fetched, started as Kafka's own scripts start it."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from .programs import Program, ask, find_program, free_ports, output_of
from .system import System, absent

if TYPE_CHECKING:
    from collections.abc import Sequence

LIBS = Path(os.environ.get("KAFKA_LIBS", "build/kafka-libs"))
JVM = (
    "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent", "-XX:MaxInlineLevel=15", "-Djava.awt.headless=true",
)  # fmt: skip
"""What kafka-run-class.sh gives every program."""
BROKER_HEAP = ("-Xmx1G", "-Xms1G")
TOOL_HEAP = ("-Xmx512M",)
"""What kafka-server-start.sh and the scripts of the tools add."""
TOOL_SECONDS = 300.0
API_VERSIONS = bytes.fromhex("0000000c001200000000000100026162")
"""ApiVersions in its first version, correlation id 1: the first thing that a client asks."""
NO_SIZE = b"\0\0"
"""An answer begins with its size, of four bytes, which is far from using the first two."""
SETTINGS = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder}
offsets.topic.replication.factor={nodes}
transaction.state.log.replication.factor={nodes}
transaction.state.log.min.isr={least}
share.coordinator.state.topic.replication.factor={nodes}
share.coordinator.state.topic.min.isr={least}
group.share.partition.max.record.locks=10000
group.initial.rebalance.delay.ms=0
"""


def java_command(heap: Sequence[str], name: str, *words: str) -> list[str]:
    """The command line of one of Kafka's programs."""
    return [find_program("java"), *heap, *JVM, "-cp", f"{LIBS}/*", name, *words]


def run_java(name: str, *words: str) -> str:
    """What one of Kafka's tools prints. Raises RuntimeError if it does not end with 0."""
    done = subprocess.run(
        java_command(TOOL_HEAP, name, *words), capture_output=True, text=True, timeout=TOOL_SECONDS, check=False
    )
    if done.returncode:
        message = f"{name} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}"
        raise RuntimeError(message)
    return "\n".join(line for line in done.stdout.splitlines() if "SLF4J" not in line)


@cache
def java_version() -> str:
    """The version of the JVM, in one word."""
    found = re.search(r'"([\d._]+)"', output_of(find_program("java"), "-version"))
    return found[1] if found else "unknown"


class Node:
    """One node of Kafka, broker and controller at once; it may be killed and started again."""

    def __init__(self, number: int, folder: Path, port: int, settings: str) -> None:
        self.number = number
        self.port = port
        self._folder = folder
        self._properties = folder / f"server-{number}.properties"
        self._properties.write_text(settings)
        self._program: Program | None = None

    def format(self, cluster: str) -> None:
        """Make its data folder, with share groups (KIP-932), which 4.1 has as a preview, turned on."""
        words = ("format", "-t", cluster, "-c", str(self._properties), "--feature", "share.version=1")
        run_java("kafka.tools.StorageTool", *words)

    def launch(self) -> None:
        """Start it and return at once."""
        command = java_command(BROKER_HEAP, "kafka.Kafka", str(self._properties))
        self._program = Program(command, self._folder / f"kafka-{self.number}.log")

    def wait_ready(self) -> None:
        """Return when it has answered."""
        self.program.wait_for(lambda: ask(self.port, API_VERSIONS, NO_SIZE), f"Kafka's node {self.number}")

    @property
    def program(self) -> Program:
        """Its process."""
        assert self._program is not None, "the node is not started"
        return self._program

    def kill(self) -> None:
        """SIGKILL, and return when it is gone."""
        program, self._program = self._program, None
        if program is not None:
            program.kill()


class Kafka(System):
    """One node."""

    name = "Kafka"
    settings = (
        "its defaults (1 GB heap, no flush before an ack: what is acknowledged is in the page cache); share groups on, "
        "with up to 10,000 records of a partition leased at a time (as zmqbroker's; 2,000 by default)"
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        count = self.replicas
        ports = free_ports(2 * count)
        brokers, controllers = ports[:count], ports[count:]
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controllers, 1))
        self.nodes = {
            number: Node(
                number,
                folder,
                port,
                SETTINGS.format(
                    node=number,
                    voters=voters,
                    port=port,
                    controller=controllers[number - 1],
                    folder=folder / f"data-{number}",
                    nodes=count,
                    least=min(count, 2),
                ),
            )
            for number, port in enumerate(brokers, 1)
        }
        self.kafka_bootstrap = ",".join(f"127.0.0.1:{port}" for port in brokers)

    @classmethod
    @override
    def missing(cls) -> str:
        if not find_program("java"):
            return "no java on the PATH; apt-get install default-jre-headless"
        if not list(LIBS.glob("kafka_*.jar")):
            return (
                "its jars were not fetched: that takes mvn and Maven Central; apt-get install maven, make bench-peers"
            )
        return absent("confluent_kafka")

    @classmethod
    @override
    def version(cls) -> str:
        (jar, *_) = LIBS.glob("kafka_*.jar")
        broker = jar.stem.rpartition("-")[2]
        return f"Kafka {broker} on Java {java_version()}, confluent-kafka {version('confluent-kafka')}"

    @override
    def prepare(self) -> None:
        """Format the data folders, which is no part of a start."""
        number = b"\0" + os.urandom(15)  # written out, it does not begin with a hyphen, which would look like an option
        cluster = base64.urlsafe_b64encode(number).decode().rstrip("=")
        for node in self.nodes.values():
            node.format(cluster)

    @override
    def launch(self) -> None:
        for node in self.nodes.values():
            node.launch()

    @override
    def wait_ready(self) -> None:
        for node in self.nodes.values():
            node.wait_ready()

    @override
    def close(self) -> None:
        for node in self.nodes.values():
            node.kill()

    @property
    @override
    def node_pid(self) -> int:
        return self.nodes[1].program.pid

    def kill_node(self, number: int) -> None:
        """SIGKILL for one node."""
        self.nodes[number].kill()

    def start_node(self, number: int) -> None:
        """Start a node that was killed, and return when it answers."""
        self.nodes[number].launch()
        self.nodes[number].wait_ready()


class KafkaCluster(Kafka):
    """Three nodes, each broker and controller."""

    name = "Kafka, 3 nodes"
    replicas = 3
