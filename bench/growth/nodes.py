"""Row: more and more nodes on this machine, with three replicas where there are three."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rows.basics import Figure

from .node import Cluster, Cpu, memory_mb, wait_quiet
from .row import Row, at_each
from .talk import Child

if TYPE_CHECKING:
    from rows.row import Measured

    from .row import Bench

REPLICAS = 3
PARTITIONS = 6
SECONDS = 5.0
LATENCY_SECONDS = 10.0
IDLE_SECONDS = 10.0
VALUE_BYTES = 100
BYTES_MAX = 400_000_000
PACE = 200
"""Records a second: one a tick, so that each is alone."""


def measure(bench: Bench, nodes: float) -> Measured:
    """Start them, see them idle, write as fast as it goes, and one record at a time."""
    import zmqbroker.client.admin  # noqa: F401, PLC0415 - not part of a start

    count = int(nodes)
    with ExitStack() as closing:
        begun = time.perf_counter()
        cluster = Cluster(bench, closing, count).start()
        found: Measured = {"start of all": (time.perf_counter() - begun) * 1000}
        replicas = min(REPLICAS, count)
        cluster.create_topic("one", 1, replicas)
        cluster.create_topic("all", PARTITIONS, replicas)
        wait_quiet(*cluster.pids)
        cpu = Cpu(*cluster.pids)
        time.sleep(bench.seconds(IDLE_SECONDS))
        found["idle CPU, all"] = cpu.percent()
        for topic, what, turns in (("one", "one partition", 0), ("all", "in turn", PARTITIONS)):
            producer = Child(
                closing,
                "produce",
                cluster.bootstrap_servers,
                topic,
                bench.seconds(SECONDS),
                VALUE_BYTES,
                turns,
                BYTES_MAX,
                "all",
            )
            producer.wait_ready()
            cpu = Cpu(*cluster.pids)
            producer.begin()
            told = producer.result()
            found[f"produce, {what}"] = told["records"] / told["seconds"]
            found[f"nodes' CPU, {what}"] = cpu.seconds() / told["records"] * 1e9
        wait_quiet(*cluster.pids)
        pacer = Child(closing, "load", cluster.bootstrap_servers, "one", PACE, "all")
        pacer.wait_ready()
        pacer.begin()
        time.sleep(bench.seconds(LATENCY_SECONDS))
        windows = pacer.result()["windows"]
        found["ack p50"] = statistics.median(window[1] for window in windows) * 1e3
        found["ack p99"] = statistics.median(window[2] for window in windows) * 1e3
        found["memory, mean node"] = statistics.mean(map(memory_mb, cluster.pids))
    return found


ROWS = (
    Row(
        "nodes",
        "Nodes",
        "nodes",
        f"all on this machine; {REPLICAS} replicas where possible, acks=all, flush=ack; {VALUE_BYTES} B; one partition:"
        f" send_many(), in turn: send() to {PARTITIONS} partitions; acks: {PACE} records/s",
        (
            Figure("start of all", "ms"),
            Figure("idle CPU, all", "% of a core"),
            Figure("produce, one partition", "1/s"),
            Figure("nodes' CPU, one partition", "ns/rec"),
            Figure("produce, in turn", "1/s"),
            Figure("nodes' CPU, in turn", "ns/rec"),
            Figure("ack p50", "ms"),
            Figure("ack p99", "ms"),
            Figure("memory, mean node", "MB"),
        ),
        at_each((1, 2, 3, 4, 5), (1, 3), measure),
    ),
)
