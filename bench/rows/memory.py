"""Row: how much memory a node holds after a million records were produced and consumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .basics import Figure, wait_for
from .broker import memory_bytes
from .consume import iterate
from .produce import CHUNK, FLUSH_SECONDS, send_many
from .row import Row

if TYPE_CHECKING:
    from .row import Bench, Measured

RECORDS = 1_000_000
VALUE_BYTES = 100
MB = 1e6


def node_memory(bench: Bench) -> Measured:
    """Of a broker of its own, so that no other row counts."""
    from zmqbroker import Consumer, Producer  # noqa: PLC0415 - a row that misses its client shall fail alone

    broker = bench.make_broker()
    broker.start()
    pid = broker.node_pid
    idle, _ = memory_bytes(pid)
    broker.client.create_topic("memory")
    count = bench.scaled(RECORDS) // CHUNK * CHUNK
    with Producer(bootstrap_servers=broker.servers, acks=1) as producer:
        send_many(producer, "memory", bytes(VALUE_BYTES), count)
        producer.flush(FLUSH_SECONDS)
    wait_for(lambda: broker.client.end_offset("memory") == count, "all records readable")
    with Consumer(
        "memory", bootstrap_servers=broker.servers, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    ) as consumer:
        iterate(consumer, count)
    now, most = memory_bytes(pid)
    broker.kill()
    return {"resident after": now / MB, "most ever": most / MB, "idle at start": idle / MB}


ROWS = (
    Row(
        "memory of the node",
        "1,000,000 records of 100 B, send_many() acks=1, then iteration",
        (
            Figure("resident after", "MB", "< 90", "Kafka 994; NATS (Go) 59"),
            Figure("most ever", "MB"),
            Figure("idle at start", "MB"),
        ),
        node_memory,
    ),
)
