"""Row: a larger and larger log, and how long a node takes to start with it."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rows.basics import Figure, wait_for
from rows.row import Measured, SkipRowError
from zmqbroker.log.checkpoints import decode_offsets, encode_offsets

from .node import READY_SECONDS, Node, files_of, memory_mb, stored_bytes
from .row import Row, at_each
from .sparse import BATCH_BYTES, BLOCK_BYTES
from .talk import Child

if TYPE_CHECKING:
    from .row import Bench

TOPIC = "long"
LOG = f"{TOPIC}-0"
CHECKPOINT = "recovery-point-offset-checkpoint"
GB = 1_000_000_000
SCANNED_GB_MAX = 10
"""A recovery without checkpoints writes the whole log anew, holes too: what is larger takes long, and room."""
SPARE_BYTES = 5 * GB


def measure(bench: Bench, gigabytes: float) -> Measured:
    """Fill a stopped node's log; start it after a clean stop, after a kill, and after a kill without checkpoints."""
    size = int(gigabytes * GB)
    free = shutil.disk_usage(bench.folder).free
    sparse = size // BATCH_BYTES * 2 * BLOCK_BYTES
    if free < sparse + SPARE_BYTES:
        message = f"{free / GB:.1f} GB are free in {bench.folder}, and it takes {(sparse + SPARE_BYTES) / GB:.1f} GB"
        raise SkipRowError(message)
    with ExitStack() as closing:
        node = Node(bench, closing)
        node.start()
        node.client.create_topic(TOPIC)
        node.stop()
        bench.say(f"filling {gigabytes:g} GB")
        end = int(Child(closing, "fill", node.data_dir / LOG, size).work()["end"])
        found = {"stored": stored_bytes(node.data_dir) / 1e6}
        _start(node, end)
        found["clean stop"] = node.starts(node.stop, lambda: _start(node, end))
        found["memory"] = memory_mb(node.pid)
        found["open files"] = files_of(node.pid)
        checkpoint = node.data_dir / CHECKPOINT
        wait_for(lambda: decode_offsets(checkpoint.read_bytes()).get(LOG) == end, "a checkpoint of the log")
        found["kill"] = node.starts(node.kill, lambda: _start(node, end))
        if gigabytes <= SCANNED_GB_MAX and shutil.disk_usage(bench.folder).free > size + SPARE_BYTES:
            node.kill()
            checkpoint.write_bytes(encode_offsets({**decode_offsets(checkpoint.read_bytes()), LOG: 0}))
            found["kill, nothing checkpointed"] = _start(node, end) * 1000
    return found


def _start(node: Node, end: int) -> float:
    """Seconds until the last record can be read."""
    seconds = node.start()
    wait_for(lambda: node.client.end_offset(TOPIC) == end, "the end of the log", READY_SECONDS)
    assert len(node.client.fetch(TOPIC, end - 1)) > BATCH_BYTES, "the last record did not come"
    return seconds


ROWS = (
    Row(
        "logs",
        "Size of a log",
        "GB",
        f"one partition, batches of {BATCH_BYTES // 1024} kB, segments of 1 GiB; the records are zeros and the files"
        " have holes there, so that nothing waits for a disk to read; time until the last record can be read",
        (
            Figure("clean stop", "ms"),
            Figure("kill", "ms"),
            Figure("kill, nothing checkpointed", "ms"),
            Figure("memory", "MB"),
            Figure("open files", ""),
            Figure("stored", "MB on disk"),
        ),
        at_each((1, 10, 50), (0.1, 0.5), measure),
    ),
)
