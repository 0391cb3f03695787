"""Rows: how long one record takes, to its acknowledgement and to its reader, while nothing else is going on."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from .basics import Figure
from .broker import CPU_FIGURES, CpuMeter
from .row import Row, percentiles
from .startup import CHILD

if TYPE_CHECKING:
    from .row import Bench, Measured

WARM_UP = 200
VALUE_BYTES = 100
TIMEOUT_SECONDS = 30.0
PACE_SECONDS = 0.002
FIRST_RECORDS = 50
"""Not counted end to end: connections are being made."""
MARKS = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}


def _new_topic(bench: Bench, **configs: str) -> str:
    topic = f"latency-{time.monotonic_ns()}"
    bench.shared_broker.client.create_topic(topic, **configs)
    return topic


def acknowledge(bench: Bench, *, acks: int | str, count: int) -> Measured:
    """Send one record, wait for its acknowledgement, and again."""
    from zmqbroker import Producer  # noqa: PLC0415 - a row that misses its client shall fail alone

    topic = _new_topic(bench)
    value = bytes(VALUE_BYTES)
    times = []
    with Producer(bootstrap_servers=bench.shared_broker.servers, acks=acks) as producer:
        for number in range(WARM_UP + bench.scaled(count)):
            if number == WARM_UP:
                cpu = CpuMeter(bench.shared_broker.node_pid)
            begun = time.perf_counter()
            producer.send(topic, value).get(timeout=TIMEOUT_SECONDS)
            if number >= WARM_UP:
                times.append(time.perf_counter() - begun)
    spent = cpu.per_record(len(times))
    bench.shared_broker.client.delete_topic(topic)
    return {**percentiles(times, MARKS), **spent}


def end_to_end(bench: Bench, *, flush: str, count: int) -> Measured:
    """From send, every 2 ms, to the return of poll in another process that follows the topic."""
    from zmqbroker import Producer  # noqa: PLC0415

    topic = _new_topic(bench, flush=flush)
    servers = bench.shared_broker.servers
    count = FIRST_RECORDS + bench.scaled(count)
    reader = subprocess.Popen(
        [sys.executable, CHILD, "follow", servers, topic, str(count)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        with Producer(bootstrap_servers=servers, acks=1) as producer:
            for number in range(count):
                if number == 1:
                    _wait_for_line(reader)
                producer.send(topic, f"{time.perf_counter()!r} ".encode().ljust(VALUE_BYTES)).get(TIMEOUT_SECONDS)
                time.sleep(PACE_SECONDS)
        said, _ = reader.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        reader.kill()
        reader.wait()
    bench.shared_broker.client.delete_topic(topic)
    times = json.loads(said)
    assert len(times) == count, f"{len(times)} of {count} records came"
    return percentiles(times[FIRST_RECORDS:], MARKS)


def _wait_for_line(reader: subprocess.Popen[bytes]) -> None:
    assert reader.stdout is not None
    if not select.select([reader.stdout], [], [], TIMEOUT_SECONDS)[0]:
        message = f"the reader had no record within {TIMEOUT_SECONDS:g} s"
        raise TimeoutError(message)
    reader.stdout.readline()


def _figures(elsewhere: tuple[str, str]) -> tuple[Figure, ...]:
    return (Figure("p50", "us", "", elsewhere[0]), Figure("p99", "us", "", elsewhere[1]), Figure("p99.9", "us"))


ROWS = (
    Row(
        "latency of an ack",
        "100 B, acks=1, not flushed before the ack",
        _figures(("confluent-kafka 174; redis-py 151; nats-py 228", "confluent-kafka 317; redis-py 238; nats-py 427"))
        + CPU_FIGURES,
        partial(acknowledge, acks=1, count=4_000),
    ),
    Row(
        "latency of an ack, flushed",
        "100 B, acks=all, flush=ack: on disk before the ack",
        _figures(("confluent-kafka 174, page cache", "confluent-kafka 317, page cache")) + CPU_FIGURES,
        partial(acknowledge, acks="all", count=2_000),
    ),
    Row(
        "latency end to end, flushed",
        "100 B, acks=1, flush=ack: on disk before it is read",
        _figures(("", "")),
        partial(end_to_end, flush="ack", count=800),
    ),
    Row(
        "latency end to end",
        "100 B, acks=1, flush=os: page cache",
        _figures(("", "")),
        partial(end_to_end, flush="os", count=800),
    ),
)
