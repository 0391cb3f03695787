"""Rows: for how long a cluster acknowledges nothing when a leader dies or restarts, and what its nodes do when idle."""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from .basics import Figure, wait_for
from .cluster import NODES, ClusterUnderTest, NodesCpu, shared_cluster, start_cluster
from .row import Row
from .talk import Child

if TYPE_CHECKING:
    from collections.abc import Callable

    from .row import Bench, Measured

TIMES = 5
BEFORE_SECONDS = 0.5
"""Of acks before each blow, so that there is a last one."""
AFTER_SECONDS = 1.0
"""A gap that has begun by then belongs to the blow."""
END_SECONDS = 60.0
PARTITIONS = 1_000
SETTLE_SECONDS = 5.0
IDLE_SECONDS = 10.0


def kill(cluster: ClusterUnderTest, leader: int) -> None:
    """SIGKILL for the leader's process; its supervisor starts another one."""
    cluster.nodes[leader].kill_node()


def restart(cluster: ClusterUnderTest, leader: int) -> None:
    """SIGTERM for the leader's supervisor; it is started again."""
    cluster.nodes[leader].stop()
    cluster.start_node(leader)


def gaps(bench: Bench, *, blow: Callable[[ClusterUnderTest, int], None]) -> Measured:
    """Strike the leader under load, again and again, each time once all replicas are in sync."""
    cluster = shared_cluster(bench)
    topic = f"failover-{time.monotonic_ns()}"
    cluster.create_topic(topic)
    struck = []
    with Child("stream", cluster.bootstrap_servers, topic) as stream:
        stream.wait_for_word(END_SECONDS)
        for _ in range(TIMES):
            time.sleep(BEFORE_SECONDS)
            leader = cluster.leader(topic)
            struck.append(time.perf_counter())  # the system's monotonic clock, the same in every process
            blow(cluster, leader)
            wait_for(lambda: len(cluster.node_pids) == NODES, "three nodes", END_SECONDS)
            time.sleep(AFTER_SECONDS)
            cluster.wait_in_sync(topic)
        time.sleep(BEFORE_SECONDS)
        found = stream.finish(END_SECONDS)
    assert not found["failures"], f"{len(found['failures'])} records failed: {found['failures'][0]}"
    cluster.admin.delete_topics([topic])
    longest = [_longest_gap(found["acks"], moment) * 1000 for moment in struck]
    return {"median gap": statistics.median(longest), "longest gap": max(longest)}


def _longest_gap(acks: list[float], struck: float) -> float:
    """Of the times between two acks that lie in part after the blow."""
    return max(
        later - earlier for earlier, later in pairwise(acks) if later > struck and earlier < struck + AFTER_SECONDS
    )


def many_partitions(bench: Bench) -> Measured:
    """Create them in a new cluster, and see what its nodes do when there is nothing to do."""
    from zmqbroker import TopicPartition  # noqa: PLC0415 - a row that misses its client shall fail alone

    cluster = start_cluster(bench, f"idle-{time.monotonic_ns()}")
    begun = time.perf_counter()
    cluster.create_topic("many", bench.scaled(PARTITIONS))
    created = time.perf_counter() - begun
    partitions = {TopicPartition("many", number): -1 for number in range(bench.scaled(PARTITIONS))}
    cluster.admin.list_offsets(partitions)
    led = time.perf_counter() - begun
    time.sleep(SETTLE_SECONDS)
    cpu = NodesCpu(cluster.node_pids)
    time.sleep(IDLE_SECONDS)
    percents = cpu.percents()
    cluster.close()
    return {
        "created": created * 1000,
        "all led": led * 1000,
        "CPU, mean node": statistics.mean(percents),
        "CPU, busiest node": max(percents),
    }


GAPS = (Figure("median gap", "ms", "", "Kafka 4.1: 10,100"), Figure("longest gap", "ms", "< 1,000"))

ROWS = (
    Row(
        "cluster: kill -9 the leader",
        f"gaps between acks=all under load, {TIMES} times a round",
        GAPS,
        partial(gaps, blow=kill),
    ),
    Row(
        "cluster: restart the leader",
        f"the same with a controlled stop and start, {TIMES} times a round",
        (Figure("median gap", "ms"), Figure("longest gap", "ms", "< 1,000")),
        partial(gaps, blow=restart),
    ),
    Row(
        "cluster: idle",
        f"{PARTITIONS:,} partitions with 3 replicas each; percent of a core for each node",
        (
            Figure("created", "ms"),
            Figure("all led", "ms"),
            Figure("CPU, mean node", "%"),
            Figure("CPU, busiest node", "%", "< 5"),
        ),
        many_partitions,
    ),
)
