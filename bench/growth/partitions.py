"""Row: one node with more and more partitions: what its start, its work, its idleness and its memory cost."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rows.basics import Figure
from rows.row import Measured, SkipRowError

from .node import Cpu, Node, files_of, memory_mb, wait_quiet
from .row import Row, at_each
from .talk import Child

if TYPE_CHECKING:
    from .row import Bench

TOPIC = "many"
SECONDS = 5.0
IDLE_SECONDS = 20.0
VALUE_BYTES = 100
BYTES_MAX = 400_000_000
LINGER_MS = 5.0
FILES_FOR_ALL_ELSE = 500


def measure(bench: Bench, partitions: float) -> Measured:
    """Create them, look at the idle node, write to one and to all of them, and start the node again."""
    from zmqbroker import NewTopic, TopicPartition  # noqa: PLC0415 - a row that misses its client shall fail alone

    count = int(partitions)
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < count + FILES_FOR_ALL_ELSE:
        message = f"a process may open {allowed} files here (ulimit -n), and each partition is one"
        raise SkipRowError(message)
    found: Measured = {}
    with ExitStack() as closing:
        node = Node(bench, closing)
        node.start()
        begun = time.perf_counter()
        node.admin.create_topics([NewTopic(TOPIC, count, 1)])
        node.admin.list_offsets({TopicPartition(TOPIC, number): -1 for number in range(count)})
        found["created and led"] = (time.perf_counter() - begun) * 1000
        wait_quiet(node.pid)
        cpu = Cpu(node.pid)
        time.sleep(bench.seconds(IDLE_SECONDS))
        found["idle CPU"] = cpu.percent()
        found["memory, idle"] = memory_mb(node.pid)
        found["open files"] = files_of(node.pid)
        found |= _produce(bench, node, 0, "one partition")
        found |= _produce(bench, node, count, "in turn")
        found |= _produce(bench, node, count, "lingering", LINGER_MS)
        wait_quiet(node.pid)
        found["memory, after"] = memory_mb(node.pid)
        found["stop"] = node.stop() * 1000
        node.start()
        found["start, clean"] = node.starts(node.stop)
        found["start, killed"] = node.starts(node.kill)
    return found


def _produce(bench: Bench, node: Node, partitions: int, what: str, linger_ms: float = 0.0) -> Measured:
    """The rate of one producer, and what it costs the node."""
    seconds = bench.seconds(SECONDS)
    with ExitStack() as closing:
        words = (node.servers, TOPIC, seconds, VALUE_BYTES, partitions, BYTES_MAX, 1, linger_ms)
        child = Child(closing, "produce", *words)
        child.wait_ready()
        cpu = Cpu(node.pid)
        child.begin()
        told = child.result()
        return {
            f"produce, {what}": told["records"] / told["seconds"],
            f"node CPU, {what}": cpu.seconds() / told["records"] * 1e9,
            f"client CPU, {what}": told["cpu"] / told["records"] * 1e9,
        }


ROWS = (
    Row(
        "partitions",
        "Partitions on one node",
        "partitions",
        f"one topic, one replica, default settings; {VALUE_BYTES} B, acks=1; one partition: send_many(), in turn:"
        f" send() to one partition after the other, 10,000 records under way, lingering: with linger_ms={LINGER_MS:g}",
        (
            Figure("created and led", "ms"),
            Figure("start, clean", "ms"),
            Figure("start, killed", "ms"),
            Figure("stop", "ms"),
            Figure("produce, one partition", "1/s"),
            Figure("node CPU, one partition", "ns/rec"),
            Figure("client CPU, one partition", "ns/rec"),
            Figure("produce, in turn", "1/s"),
            Figure("node CPU, in turn", "ns/rec"),
            Figure("client CPU, in turn", "ns/rec"),
            Figure("produce, lingering", "1/s"),
            Figure("node CPU, lingering", "ns/rec"),
            Figure("client CPU, lingering", "ns/rec"),
            Figure("idle CPU", "% of a core"),
            Figure("memory, idle", "MB"),
            Figure("memory, after", "MB"),
            Figure("open files", ""),
        ),
        at_each((1, 100, 1_000, 10_000), (1, 10, 100), measure),
    ),
)
