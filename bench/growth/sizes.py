"""Row: larger and larger records, in records and in bytes a second."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from rows.basics import Figure, wait_for

from .node import Cpu, Node
from .row import Row, at_each
from .talk import Child

if TYPE_CHECKING:
    from rows.row import Measured

    from .row import Bench

TOPIC = "sized"
SECONDS = 5.0
BYTES_MAX = 1_000_000_000
"""So that the largest records stay in the page cache."""
READ_SECONDS = 120.0


def measure(bench: Bench, size: float) -> Measured:
    """Produce for some seconds, and consume what was produced."""
    value_bytes = int(size)
    with ExitStack() as closing:
        node = Node(bench, closing)
        node.start()
        node.client.create_topic(TOPIC)
        bytes_max = int(bench.seconds(BYTES_MAX))
        producer = Child(closing, "produce", node.servers, TOPIC, bench.seconds(SECONDS), value_bytes, 0, bytes_max)
        producer.wait_ready()
        cpu = Cpu(node.pid)
        producer.begin()
        sent = producer.result()
        sent_cpu = cpu.seconds()
        end = int(sent["records"]) + 1
        wait_for(lambda: node.client.end_offset(TOPIC) == end, "all records readable")
        consumer = Child(closing, "consume", node.servers, TOPIC, 0, READ_SECONDS, end)
        consumer.wait_ready()
        cpu = Cpu(node.pid)
        consumer.begin()
        read = consumer.result()
        read_cpu = cpu.seconds()
    assert read["records"] == end, f"{read['records']} of {end} records came"
    return {
        "produced": sent["records"] / sent["seconds"],
        "produced bytes": sent["records"] * value_bytes / sent["seconds"] / 1e6,
        "node CPU, produce": sent_cpu / sent["records"] * 1e6,
        "consumed": read["records"] / read["seconds"],
        "consumed bytes": read["bytes"] / read["seconds"] / 1e6,
        "node CPU, consume": read_cpu / read["records"] * 1e6,
    }


ROWS = (
    Row(
        "sizes",
        "Size of a record",
        "bytes",
        "one producer, send_many(), acks=1; then one consumer, poll(); one partition, default settings, page cache",
        (
            Figure("produced", "records/s"),
            Figure("produced bytes", "MB/s"),
            Figure("node CPU, produce", "us/rec"),
            Figure("consumed", "records/s"),
            Figure("consumed bytes", "MB/s"),
            Figure("node CPU, consume", "us/rec"),
        ),
        at_each((10, 100, 1_000, 10_000, 100_000, 1_000_000), (10, 1_000, 100_000), measure),
    ),
)
