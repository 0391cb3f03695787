"""Row: more and more clients of one node, and what a request costs it then."""

from __future__ import annotations

import resource
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rows.basics import Figure
from rows.row import Measured, SkipRowError

from .node import Cpu, Node, files_of, memory_mb
from .row import Row, at_each
from .talk import Child

if TYPE_CHECKING:
    from .row import Bench

TOPIC = "crowded"
SECONDS = 5.0
UNDER_WAY = 1_000
"""Requests of all connections together, where more connections are to be no more work."""
FILES_FOR_ALL_ELSE = 500
FILES_A_CONNECTION = 2


def measure(bench: Bench, connections: float) -> Measured:
    """First with one request under way on each, then with as many in all as ever."""
    count = int(connections)
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < FILES_A_CONNECTION * count + FILES_FOR_ALL_ELSE:
        message = f"a process may open {allowed} files here (ulimit -n)"
        raise SkipRowError(message)
    with ExitStack() as closing:
        node = Node(bench, closing)
        node.start()
        node.client.create_topic(TOPIC)
        before, files = memory_mb(node.pid), files_of(node.pid)
        found = _load(bench, node, count, 1, "one each")
        found |= _load(bench, node, count, max(1, UNDER_WAY // count), "same load")
        return {**found, "memory": found["memory"] - before, "open files": found["open files"] - files}


def _load(bench: Bench, node: Node, connections: int, depth: int, what: str) -> Measured:
    with ExitStack() as closing:
        child = Child(closing, "connect", node.address, TOPIC, connections, depth, bench.seconds(SECONDS))
        child.wait_ready()
        memory, files = memory_mb(node.pid), files_of(node.pid)
        cpu = Cpu(node.pid)
        child.begin()
        told = child.result()
        return {
            f"requests, {what}": told["requests"] / told["seconds"],
            f"node CPU, {what}": cpu.seconds() / told["requests"] * 1e6,
            "memory": memory,
            "open files": float(files),
        }


ROWS = (
    Row(
        "connections",
        "Clients of one node",
        "connections",
        "native protocol, Produce requests of one record of 100 B to one partition, acks=1, from one process with bare"
        f" sockets; one each: one request under way on each connection, same load: {UNDER_WAY:,} in all",
        (
            Figure("requests, one each", "1/s"),
            Figure("node CPU, one each", "us/request"),
            Figure("requests, same load", "1/s"),
            Figure("node CPU, same load", "us/request"),
            Figure("memory", "MB more"),
            Figure("open files", "more"),
        ),
        at_each((1, 10, 100, 1_000), (1, 10, 100), measure),
    ),
)
