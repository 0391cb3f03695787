"""Rows: how many records a second one producer gets stored, from the first send to the last acknowledgement."""

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

CHUNK = 1_000
"""Records that are handed to send_many at a time."""
FLUSH_SECONDS = 60.0


def send(producer: Any, topic: str, value: bytes, count: int) -> None:
    """One call and one future a record."""
    for _ in range(count):
        producer.send(topic, value)


def send_many(producer: Any, topic: str, value: bytes, count: int) -> None:
    """One call and one future for a thousand records."""
    for _ in range(count // CHUNK):
        producer.send_many(topic, [value] * CHUNK)


def produce(
    bench: Bench, *, count: int, value_bytes: int, acks: int | str, how: Callable[[Any, str, bytes, int], None]
) -> Measured:
    """Fill a new topic; the records are counted at the broker afterwards."""
    from zmqbroker import Producer  # noqa: PLC0415 - a row that misses its client shall fail alone

    broker = bench.shared_broker
    topic = f"produce-{time.monotonic_ns()}"
    broker.client.create_topic(topic)
    value = bytes(value_bytes)
    count = bench.scaled(count) // CHUNK * CHUNK
    with Producer(bootstrap_servers=broker.servers, acks=acks) as producer:
        producer.send(topic, value).get(timeout=FLUSH_SECONDS)
        cpu = CpuMeter(broker.node_pid)
        begun = time.perf_counter()
        how(producer, topic, value, count)
        producer.flush(FLUSH_SECONDS)
        seconds = time.perf_counter() - begun
        spent = cpu.per_record(count)
    # acks=1 does not wait for the flush, and readers do
    wait_for(lambda: broker.client.end_offset(topic) == count + 1, "all records readable")
    broker.client.delete_topic(topic)
    return {"records": count / seconds, "data": count * value_bytes / seconds / 1e6, **spent}


def _row(
    name: str,
    settings: str,
    elsewhere: str,
    *,
    count: int,
    value_bytes: int,
    acks: int | str,
    how: Callable[[Any, str, bytes, int], None],
) -> Row:
    measure = partial(produce, count=count, value_bytes=value_bytes, acks=acks, how=how)
    return Row(name, settings, (Figure("records", "1/s", "", elsewhere), Figure("data", "MB/s"), *CPU_FIGURES), measure)


ELSEWHERE_100 = "confluent-kafka 1.0 M; Redis Streams 361 k; NATS (Go) 110 k"
ROWS = (
    _row(
        "produce 100 B, send()",
        "acks=1, not flushed before the ack",
        ELSEWHERE_100,
        count=500_000,
        value_bytes=100,
        acks=1,
        how=send,
    ),
    _row(
        "produce 100 B, send_many()",
        "acks=1, not flushed before the ack",
        ELSEWHERE_100,
        count=1_000_000,
        value_bytes=100,
        acks=1,
        how=send_many,
    ),
    _row(
        "produce 1 kB, send()",
        "acks=all, flush=ack: on disk before the ack",
        "confluent-kafka 320 k, page cache",
        count=200_000,
        value_bytes=1000,
        acks="all",
        how=send,
    ),
    _row(
        "produce 1 kB, send_many()",
        "acks=all, flush=ack: on disk before the ack",
        "confluent-kafka 320 k, page cache",
        count=300_000,
        value_bytes=1000,
        acks="all",
        how=send_many,
    ),
)
