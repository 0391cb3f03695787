"""Rows: a partition with a replica on each of three nodes: what an ack of all of them costs, beside a single node's."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from . import consume as single_consume
from . import latency as single_latency
from . import produce as single_produce
from .basics import Figure, wait_for
from .cluster import CPU_FIGURES, NodesCpu, shared_cluster
from .produce import CHUNK, FLUSH_SECONDS, send, send_many
from .row import Row, percentiles
from .talk import Child

if TYPE_CHECKING:
    from collections.abc import Callable

    from .row import Bench, Measured

SETTINGS = "3 nodes, 3 replicas, acks=all, flush=ack: on the disk of each before the ack"
ACK_SECONDS = 30.0
MARKS = single_latency.MARKS
WARM_UP = 100
CONSUME_TOPIC = "consume"
CONSUME_RECORDS = 500_000


def produce(
    bench: Bench, *, count: int, value_bytes: int, how: Callable[[Any, str, bytes, int], None], ratio: bool = True
) -> Measured:
    """Fill a new topic of the cluster, then one of a single node with the same client and settings."""
    from zmqbroker import Producer  # noqa: PLC0415 - a row that misses its client shall fail alone

    cluster = shared_cluster(bench)
    topic = f"produce-{time.monotonic_ns()}"
    cluster.create_topic(topic)
    value = bytes(value_bytes)
    total = bench.scaled(count) // CHUNK * CHUNK
    with Producer(bootstrap_servers=cluster.bootstrap_servers, acks="all") as producer:
        producer.send(topic, value).get(timeout=FLUSH_SECONDS)
        nodes, client = NodesCpu(cluster.node_pids), time.process_time()
        begun = time.perf_counter()
        how(producer, topic, value, total)
        producer.flush(FLUSH_SECONDS)
        seconds = time.perf_counter() - begun
        spent = {
            "client CPU": (time.process_time() - client) / total * 1e9,
            "nodes CPU": sum(nodes.seconds()) / total * 1e9,
        }
    wait_for(lambda: cluster.end_offset(topic) == total + 1, "all records readable")
    cluster.admin.delete_topics([topic])
    bench.kept["replicated rate", value_bytes] = rate = total / seconds
    if ratio:
        alone = single_produce.produce(bench, count=count, value_bytes=value_bytes, acks="all", how=how)
        spent["of one node's"] = rate / alone["records"]
    return {"records": rate, "data": rate * value_bytes / 1e6, **spent}


def idle_latency(bench: Bench, *, count: int) -> Measured:
    """Send one record, wait for its acknowledgement, and again; the same with a single node."""
    times = _acks(bench, count)
    alone = single_latency.acknowledge(bench, acks="all", count=count)
    found = percentiles(times, MARKS)
    return {**found, "p50 of one node's": found["p50"] / alone["p50"]}


def busy_latency(bench: Bench, *, count: int) -> Measured:
    """The same while another process sends to the same partition, half as much as send_many() was measured to."""
    rate = bench.kept.get(RATE_100)
    if rate is None:
        rate = produce(bench, count=500_000, value_bytes=100, how=send_many, ratio=False)["records"]
    assert isinstance(rate, float)
    cluster = shared_cluster(bench)
    topic = f"latency-{time.monotonic_ns()}"
    cluster.create_topic(topic)
    with Child("load", cluster.bootstrap_servers, topic, str(rate / 2)) as other:
        other.wait_for_word(ACK_SECONDS)
        times = _acks(bench, count, topic)
        load = other.finish(ACK_SECONDS)
    cluster.admin.delete_topics([topic])
    return {**percentiles(times, MARKS), "load": load}


def _acks(bench: Bench, count: int, topic: str = "") -> list[float]:
    """How long each of so many records took, one after the other; to a new topic if none is named."""
    from zmqbroker import Producer  # noqa: PLC0415

    cluster = shared_cluster(bench)
    name = topic or f"latency-{time.monotonic_ns()}"
    if not topic:
        cluster.create_topic(name)
    value = bytes(single_latency.VALUE_BYTES)
    times = []
    with Producer(bootstrap_servers=cluster.bootstrap_servers, acks="all") as producer:
        for number in range(WARM_UP + bench.scaled(count)):
            begun = time.perf_counter()
            producer.send(name, value).get(timeout=ACK_SECONDS)
            if number >= WARM_UP:
                times.append(time.perf_counter() - begun)
    if not topic:
        cluster.admin.delete_topics([name])
    return times


def fill(bench: Bench) -> None:
    """Store what is consumed, in the cluster and at a single node."""
    from zmqbroker import Producer  # noqa: PLC0415

    single_consume.fill(bench, 100)
    cluster = shared_cluster(bench)
    if CONSUME_TOPIC in bench.kept:
        return
    count = bench.scaled(CONSUME_RECORDS) // CHUNK * CHUNK
    cluster.create_topic(CONSUME_TOPIC)
    with Producer(bootstrap_servers=cluster.bootstrap_servers, acks="all") as producer:
        send_many(producer, CONSUME_TOPIC, bytes(100), count)
        producer.flush(FLUSH_SECONDS)
    bench.kept[CONSUME_TOPIC] = count


def consume(bench: Bench) -> Measured:
    """Read the cluster's topic from its beginning to its end, then a single node's."""
    from zmqbroker import Consumer  # noqa: PLC0415

    cluster, count = shared_cluster(bench), bench.kept[CONSUME_TOPIC]
    assert isinstance(count, int)
    with Consumer(
        CONSUME_TOPIC,
        bootstrap_servers=cluster.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=single_consume.TIMEOUT_MS,
    ) as consumer:
        next(iter(consumer))
        begun = time.perf_counter()
        single_consume.iterate(consumer, count - 1)
        rate = (count - 1) / (time.perf_counter() - begun)
    alone = single_consume.consume(bench, value_bytes=100, how=single_consume.iterate)
    return {"records": rate, "data": rate * 100 / 1e6, "of one node's": rate / alone["records"]}


RATE_100 = ("replicated rate", 100)
RATIO = Figure("of one node's", "ratio")
LATENCIES = tuple(Figure(name, "us") for name in MARKS)


def _produce_row(
    name: str, elsewhere: str, *, count: int, value_bytes: int, how: Callable[[Any, str, bytes, int], None]
) -> Row:
    figures = (Figure("records", "1/s", "", elsewhere), Figure("data", "MB/s"), RATIO, *CPU_FIGURES)
    return Row(name, SETTINGS, figures, partial(produce, count=count, value_bytes=value_bytes, how=how))


ROWS = (
    _produce_row("cluster: 100 B, send()", "confluent-kafka 474 k", count=200_000, value_bytes=100, how=send),
    _produce_row("cluster: 100 B, send_many()", "confluent-kafka 474 k", count=500_000, value_bytes=100, how=send_many),
    _produce_row("cluster: 1 kB, send()", "", count=100_000, value_bytes=1000, how=send),
    _produce_row("cluster: 1 kB, send_many()", "", count=100_000, value_bytes=1000, how=send_many),
    Row(
        "cluster: latency, idle",
        f"100 B; {SETTINGS}",
        (
            Figure("p50", "us", "", "confluent-kafka 820"),
            Figure("p99", "us", "", "confluent-kafka 9,700"),
            *LATENCIES[2:],
            Figure("p50 of one node's", "ratio"),
        ),
        partial(idle_latency, count=2_000),
    ),
    Row(
        "cluster: latency, half load",
        f"100 B; half of the rate of send_many() beside it; {SETTINGS}",
        (*LATENCIES, Figure("load", "1/s")),
        partial(busy_latency, count=1_000),
    ),
    Row(
        "cluster: consume 100 B",
        "iteration, default topic with 3 replicas, page cache",
        (Figure("records", "1/s"), Figure("data", "MB/s"), RATIO),
        consume,
        fill,
    ),
)
