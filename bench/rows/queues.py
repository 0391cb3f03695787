"""Rows: how many records a second are received from a queue and acknowledged, each by its own call.

The records are there before. The consumers are processes of their own; the time is that from the first record any of
them got until all that they acknowledged is durable, and the group's lag has to be nothing then.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from .basics import Figure, wait_for
from .broker import CPU_FIGURES, CpuMeter
from .row import Row
from .startup import CHILD

if TYPE_CHECKING:
    from .row import Bench, Measured

RECORDS = 500_000
VALUE_BYTES = 100
BATCH_BYTES = 64 * 1024
TIMEOUT_SECONDS = 120.0
TOPIC = "queue"


def fill(bench: Bench) -> None:
    """Store the records, in batches as a producer with default settings makes them."""
    client = bench.shared_broker.client
    if TOPIC in bench.kept:
        return
    client.create_topic(TOPIC)
    size = bench.scaled(RECORDS) * (VALUE_BYTES + 7)
    end = client.fill(TOPIC, size, value_bytes=VALUE_BYTES, batch_bytes=BATCH_BYTES)
    wait_for(lambda: client.end_offset(TOPIC) == end, "all records readable")
    bench.kept[TOPIC] = end


def work_off(bench: Bench, *, consumers: int, mode: str) -> Measured:
    """A new group works off the whole topic."""
    from zmqbroker import Admin  # noqa: PLC0415 - a row that misses its client shall fail alone

    end = bench.kept[TOPIC]
    assert isinstance(end, int)
    servers = bench.shared_broker.servers
    group = f"queue-{time.monotonic_ns()}"
    command = [sys.executable, CHILD, "work_off", servers, TOPIC, group, mode, str(end // consumers)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(consumers)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()  # it is ready
        cpu = CpuMeter(bench.shared_broker.node_pid)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        reports = [json.loads(worker.communicate(timeout=TIMEOUT_SECONDS)[0]) for worker in workers]
        node_cpu = cpu.per_record(end)["node CPU"]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    taken = sum(report["taken"] for report in reports)
    with Admin(bootstrap_servers=servers) as admin:
        (description,) = admin.describe_share_groups([group])
    left = sum(partition.lag for partition in description.partitions)
    if taken != end or left:
        message = f"{taken} of {end} records were taken, and {left} are not acknowledged"
        raise RuntimeError(message)
    seconds = max(report["last"] for report in reports) - min(report["first"] for report in reports)
    client_cpu = sum(report["cpu"] for report in reports) / end * 1e9
    figures = {"records": end / seconds, "data": end * VALUE_BYTES / seconds / 1e6}
    return {**figures, "client CPU": client_cpu, "node CPU": node_cpu}


def _row(consumers: int, mode: str, goal: str) -> Row:
    plural = "consumers" if consumers > 1 else "consumer"
    return Row(
        f"queue, {mode} acknowledgements, {consumers} {plural}",
        "100 B, receive and acknowledge each record; state flushed",
        (
            Figure("records", "1/s", goal, "share groups (Java) 39 k; Redis 68 k; NATS 23 k; RabbitMQ 16 k"),
            Figure("data", "MB/s"),
            *CPU_FIGURES,
        ),
        partial(work_off, consumers=consumers, mode=mode),
        fill,
    )


ROWS = (_row(1, "explicit", ">= 150 k"), _row(1, "implicit", ">= 150 k"), _row(4, "explicit", ">= 150 k"))
