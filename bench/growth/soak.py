"""Row: a steady load for as long as one likes, and whether anything grows meanwhile that ought not to."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rows.basics import Figure

from .node import Cpu, Node, files_of, memory_mb
from .row import Findings, Point, Row
from .talk import Child

if TYPE_CHECKING:
    from rows.row import Measured

    from .row import Bench

TOPIC = "steady"
GROUP = "steady"
RATE = 10_000
SAMPLES_A_MINUTE = 6
QUICK_SAMPLES_A_MINUTE = 60
WARM_UP_SHARE = 0.2
"""Of the time, which is not counted: caches fill, segments come up to the number that is kept."""
READ_SHARE = 0.9
"""Of what was produced; a consumer that has read less does not keep up."""
LIMITS = {"segment.bytes": 32 << 20, "retention.bytes": 128 << 20}
CHECK_RETENTION = "log.retention.check.interval.ms=5000"


def measure(bench: Bench) -> Findings:
    """See one producer and one consumer of a group, which commits; segments come and go."""
    findings = Findings()
    a_minute = QUICK_SAMPLES_A_MINUTE if bench.is_quick else SAMPLES_A_MINUTE
    samples: list[tuple[float, Measured]] = []
    with ExitStack() as closing:
        node = Node(bench, closing, [CHECK_RETENTION])
        node.start()
        node.client.create_topic(TOPIC, **{name.replace(".", "_"): str(value) for name, value in LIMITS.items()})
        producer = Child(closing, "load", node.servers, TOPIC, RATE, "all")
        consumer = Child(closing, "follow", node.servers, TOPIC, GROUP)
        for child in (producer, consumer):
            child.wait_ready()
            child.begin()
        begun = time.perf_counter()
        count = max(1, int(bench.minutes * a_minute))
        for number in range(1, count + 1):
            cpu = Cpu(node.pid)
            time.sleep(max(0.0, begun + number * 60 / a_minute - time.perf_counter()))
            minutes = (time.perf_counter() - begun) / 60
            bench.say(f"{minutes:.1f} of {bench.minutes:g} minutes")
            samples.append((minutes, _sample(node, producer, consumer, cpu)))
        sent = producer.result()
        read = consumer.result()
    if read["records"] < READ_SHARE * sent["records"]:
        findings.notes.append(f"of {sent['records']:,} records the consumer has read {read['records']:,}")
    before = 0.0
    for minutes, figures in samples:
        windows = [window for window in sent["windows"] if before < window[0] / 60 <= minutes]
        before = minutes
        if windows and minutes > bench.minutes * WARM_UP_SHARE:
            figures["ack p50"] = statistics.median(window[1] for window in windows) * 1e3
            figures["ack p99"] = statistics.median(window[2] for window in windows) * 1e3
            findings.points.append(Point(minutes, figures))
    return findings


def _sample(node: Node, producer: Child, consumer: Child, cpu: Cpu) -> Measured:
    return {
        "node memory": memory_mb(node.pid),
        "node files": float(files_of(node.pid)),
        "node CPU": cpu.percent(),
        "producer memory": memory_mb(producer.pid),
        "consumer memory": memory_mb(consumer.pid),
        "producer files": float(files_of(producer.pid)),
        "consumer files": float(files_of(consumer.pid)),
    }


ROWS = (
    Row(
        "soak",
        "A steady load over time",
        "minutes",
        f"one producer of {RATE:,} records/s of 100 B, acks=all, one consumer in a group, one partition of which"
        " 128 MiB are kept, in segments of 32 MiB; the first fifth of the time does not count",
        (
            Figure("node memory", "MB"),
            Figure("node files", ""),
            Figure("node CPU", "% of a core"),
            Figure("ack p50", "ms"),
            Figure("ack p99", "ms"),
            Figure("producer memory", "MB"),
            Figure("producer files", ""),
            Figure("consumer memory", "MB"),
            Figure("consumer files", ""),
        ),
        measure,
        over_time=True,
    ),
)
