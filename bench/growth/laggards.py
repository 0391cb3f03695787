"""Row: more and more consumers far behind the head of a log, while a producer goes on at its pace."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rows.basics import Figure, wait_for
from rows.row import Measured, SkipRowError

from .node import Cpu, Node
from .row import Row, at_each
from .talk import Child

if TYPE_CHECKING:
    from pathlib import Path

    from .row import Bench

TOPIC = "behind"
BEHIND_BYTES = 4_000_000_000
VALUE_BYTES = 1_000
BATCH_BYTES = 64 * 1024
RATE = 20_000
SECONDS = 15.0
RECORDS_MAX = 2**62
ROOM = 2


def measure(bench: Bench, consumers: float) -> Measured:
    """Fill a log, forget its pages, and read all over it, beside a producer and a consumer at its head."""
    count = int(consumers)
    behind = int(bench.seconds(BEHIND_BYTES))
    free = shutil.disk_usage(bench.folder).free
    if free < ROOM * behind:
        message = f"{free / 1e9:.1f} GB are free in {bench.folder}, and it takes {ROOM * behind / 1e9:.1f} GB"
        raise SkipRowError(message)
    with ExitStack() as closing:
        node = Node(bench, closing)
        node.start()
        node.client.create_topic(TOPIC)
        bench.say(f"filling {behind / 1e9:.1f} GB")
        end = node.client.fill(TOPIC, behind, value_bytes=VALUE_BYTES, batch_bytes=BATCH_BYTES)
        wait_for(lambda: node.client.end_offset(TOPIC) == end, "all records readable")
        forget_pages(node.data_dir / f"{TOPIC}-0")
        seconds = bench.seconds(SECONDS)
        bench.say(f"{count} consumers behind")
        readers = [
            Child(closing, "consume", node.servers, TOPIC, end * number // count, seconds, RECORDS_MAX)
            for number in range(count)
        ]
        head = Child(closing, "consume", node.servers, TOPIC, end, seconds, RECORDS_MAX)
        producer = Child(closing, "load", node.servers, TOPIC, RATE, "all")
        for child in (producer, head, *readers):
            child.wait_ready()
        cpu = Cpu(node.pid)
        for child in (producer, head, *readers):
            child.begin()
        time.sleep(seconds)
        percent = cpu.percent()
        sent = producer.result()
        at_head = head.result()
        read = [child.result() for child in readers]
    windows = [window for window in sent["windows"] if window[0] < seconds]
    found = {
        "produced": sent["rate"],
        "ack p50": statistics.median(window[1] for window in windows) * 1e3,
        "ack p99": statistics.median(window[2] for window in windows) * 1e3,
        "at the head": at_head["records"] / at_head["seconds"],
        "node CPU": percent,
    }
    if read:
        rates = [each["bytes"] / each["seconds"] / 1e6 for each in read]
        found["behind, all"] = sum(rates)
        found["behind, slowest"] = min(rates)
    return found


def forget_pages(folder: Path) -> None:
    """Have the kernel drop what it holds of a log's files in memory, so that they are read from the disk."""
    for file in folder.glob("*.log"):
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


ROWS = (
    Row(
        "laggards",
        "Consumers far behind the head",
        "consumers",
        f"{BEHIND_BYTES / 1e9:g} GB of {VALUE_BYTES} B in one partition, not in the page cache; a producer of {RATE:,}"
        " records/s of 100 B, acks=all, and a consumer at the head beside",
        (
            Figure("produced", "records/s"),
            Figure("ack p50", "ms"),
            Figure("ack p99", "ms"),
            Figure("at the head", "records/s"),
            Figure("behind, all", "MB/s"),
            Figure("behind, slowest", "MB/s"),
            Figure("node CPU", "% of a core"),
        ),
        at_each((0, 1, 2, 4, 8), (0, 1, 2), measure),
    ),
)
