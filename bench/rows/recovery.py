"""Rows: how long a broker that was killed needs to answer again, with two gigabytes of log."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

from zmqbroker.log.checkpoints import decode_offsets

from .basics import Figure
from .row import Row, SkipRowError

if TYPE_CHECKING:
    from .broker import BrokerUnderTest
    from .row import Bench, Measured

TOPIC = "recovery"
LOG_BYTES = 2_000_000_000
QUICK_LOG_BYTES = 500_000_000
VALUE_BYTES = 1000
BATCH_BYTES = 64 * 1024
CHECKPOINT = "recovery-point-offset-checkpoint"


class _Killed(NamedTuple):
    """A broker that was killed with a full log."""

    broker: BrokerUnderTest
    end_offset: int
    record_bytes: float
    checkpoints: dict[str, bytes]
    """The recovery points as they were when it was killed, and as before anything was written."""


def fill_and_kill(bench: Bench) -> None:
    """Produce with acks=1 at full speed, and kill the node at the last acknowledgement."""
    if "recovery" in bench.kept:
        return
    size = QUICK_LOG_BYTES if bench.is_quick else LOG_BYTES
    free = shutil.disk_usage(bench.folder).free
    if free < 3 * size:
        message = f"{free / 1e9:.1f} GB are free in {bench.folder}; it takes {3 * size / 1e9:.1f} GB"
        raise SkipRowError(message)
    broker = bench.make_broker()
    broker.start()
    client = broker.client
    client.create_topic(TOPIC)
    before = (broker.data_dir / CHECKPOINT).read_bytes()
    end = client.fill(TOPIC, size, value_bytes=VALUE_BYTES, batch_bytes=BATCH_BYTES)
    broker.kill()
    checkpoints = {"recent": (broker.data_dir / CHECKPOINT).read_bytes(), "none": before}
    stored = sum(file.stat().st_size for file in (broker.data_dir / f"{TOPIC}-0").glob("*.log"))
    bench.kept["recovery"] = _Killed(broker, end, stored / end, checkpoints)


def _recover(bench: Bench, which: str) -> Measured:
    killed = bench.kept["recovery"]
    assert isinstance(killed, _Killed)
    broker, end = killed.broker, killed.end_offset
    (broker.data_dir / CHECKPOINT).write_bytes(killed.checkpoints[which])
    point = decode_offsets(killed.checkpoints[which]).get(f"{TOPIC}-0", 0)
    client = broker.client
    begun = time.perf_counter()
    broker.launch()
    client.wait_ready()
    ready = time.perf_counter()
    data = client.fetch(TOPIC, end - 1)
    seconds = time.perf_counter() - begun
    assert len(data) > BATCH_BYTES // 2, "the last record did not come"
    assert client.end_offset(TOPIC) == end, "the log does not end where it did"
    broker.kill()
    return {
        "last record": seconds * 1000,
        "first answer": (ready - begun) * 1000,
        "scanned": (end - point) * killed.record_bytes / 1e6,
        "log": end * killed.record_bytes / 1e6,
    }


def after_kill(bench: Bench) -> Measured:
    """With the recovery points that were there when it was killed."""
    return _recover(bench, "recent")


def without_recovery_point(bench: Bench) -> Measured:
    """With the recovery points of an empty log: everything has to be scanned."""
    return _recover(bench, "none")


FIGURES = (
    Figure("last record", "ms", "< 2,000"),
    Figure("first answer", "ms"),
    Figure("scanned", "MB"),
    Figure("log", "MB"),
)

ROWS = (
    Row("recover after kill -9", "acks=1, flush=ack, warm page cache", FIGURES, after_kill, fill_and_kill),
    Row("recover, all scanned", "as above, nothing checkpointed", FIGURES, without_recovery_point, fill_and_kill),
)
