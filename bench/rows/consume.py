"""Rows: how many records a second one consumer takes, from its first record on."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from .basics import Figure, wait_for
from .broker import CPU_FIGURES, CpuMeter
from .row import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from .row import Bench, Measured

TIMEOUT_MS = 10_000
COUNTS = {100: 1_000_000, 1000: 300_000}
BATCH_BYTES = 64 * 1024


def topic_of(value_bytes: int) -> str:
    """The topic with records of this size."""
    return f"consume-{value_bytes}"


def fill(bench: Bench, value_bytes: int) -> None:
    """Store the records, in batches as a producer with default settings makes them."""
    client, topic = bench.shared_broker.client, topic_of(value_bytes)
    if topic in bench.kept:
        return
    client.create_topic(topic)
    size = bench.scaled(COUNTS[value_bytes]) * (value_bytes + 7)
    end = client.fill(topic, size, value_bytes=value_bytes, batch_bytes=BATCH_BYTES)
    wait_for(lambda: client.end_offset(topic) == end, "all records readable")
    bench.kept[topic] = end


def iterate(consumer: Any, count: int) -> None:
    """`for record in consumer`."""
    taken = 0
    for _record in consumer:
        taken += 1
        if taken == count:
            return
    message = f"only {taken} of {count} records came"
    raise TimeoutError(message)


def poll(consumer: Any, count: int) -> None:
    """`consumer.poll()`, at most 5,000 records a call."""
    taken = 0
    while taken < count:
        found = consumer.poll(timeout_ms=TIMEOUT_MS, max_records=5_000)
        if not found:
            message = f"only {taken} of {count} records came"
            raise TimeoutError(message)
        for records in found.values():
            taken += len(records)


def consume(bench: Bench, *, value_bytes: int, how: Callable[[Any, int], None]) -> Measured:
    """Read a topic from its beginning to its end."""
    from zmqbroker import Consumer  # noqa: PLC0415 - a row that misses its client shall fail alone

    topic = topic_of(value_bytes)
    end = bench.kept[topic]
    assert isinstance(end, int)
    broker = bench.shared_broker
    with Consumer(
        topic, bootstrap_servers=broker.servers, auto_offset_reset="earliest", consumer_timeout_ms=TIMEOUT_MS
    ) as consumer:
        next(iter(consumer))
        cpu = CpuMeter(broker.node_pid)
        begun = time.perf_counter()
        how(consumer, end - 1)
        seconds = time.perf_counter() - begun
        spent = cpu.per_record(end - 1)
    return {"records": (end - 1) / seconds, "data": (end - 1) * value_bytes / seconds / 1e6, **spent}


def _row(value_bytes: int, how: Callable[[Any, int], None], name: str, elsewhere: str) -> Row:
    return Row(
        name,
        "default topic, page cache",
        (Figure("records", "1/s", "", elsewhere), Figure("data", "MB/s"), *CPU_FIGURES),
        partial(consume, value_bytes=value_bytes, how=how),
        partial(fill, value_bytes=value_bytes),
    )


ROWS = (
    _row(100, iterate, "consume 100 B, iteration", "confluent-kafka 625 k; NATS (Go) 489 k"),
    _row(100, poll, "consume 100 B, poll()", "confluent-kafka 625 k; NATS (Go) 489 k"),
    _row(1000, iterate, "consume 1 kB, iteration", "confluent-kafka 1.0 M"),
    _row(1000, poll, "consume 1 kB, poll()", "confluent-kafka 1.0 M"),
)
