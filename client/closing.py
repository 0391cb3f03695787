"""When an open batch is closed: as soon as it can leave, and not before: small batches cost as much as large ones.

A batch that is closed before its turn has come wins nothing and grows no more. That matters most when the buffer is
full: closed for want of room, batches of a few records would each make room for a few records more, and so on for ever,
however fast the broker is. So what waits behind batches of its own partition always goes on gathering.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .accumulator import BATCH_OVERHEAD

if TYPE_CHECKING:
    from .accumulator import PartitionQueue, ProducerBatch

_GATHER_S = 0.002
"""The longest that a batch is held back for the records of a fast sender."""
_LOOK_S = 0.0003
"""How often the sender's rate is looked at."""
_FAST_RATE = 32_000.0
"""Records a second to one partition from which on a sender is fast: what waits for it comes in no time."""
_RECORD_BYTES = 1_000
"""A larger record counts as several."""


def is_due(queue: PartitionQueue, now: float, linger_s: float, *, crowded: bool, held: bool) -> bool:
    """Whether a queue's open batch is to be closed now.

    Crowded: somebody waits for room in the buffer. Held: nothing is sent before the leader has answered (`Pace`).
    """
    batch = queue.open
    if batch is None or not batch.records:
        return False
    if now >= batch.deadline:
        return True
    if queue.ready or queue.retry or held:
        return False
    if crowded and queue.is_idle:
        return True
    if linger_s:
        return now >= batch.opened + linger_s
    return queue.is_idle and not _gathers(batch, now)


def due_time(queue: PartitionQueue, batch: ProducerBatch, linger_s: float, *, held: bool) -> float:
    """When `is_due` is to be asked though nothing happened."""
    if held or queue.ready or queue.retry:
        return batch.deadline
    if linger_s:
        return min(batch.opened + linger_s, batch.deadline)
    if batch.looked and queue.is_idle:
        return batch.looked + _LOOK_S
    return batch.deadline


def _gathers(batch: ProducerBatch, now: float) -> bool:
    """Whether records come so fast that it pays to wait for more of them, though no answer is awaited.

    A thread that sends in a tight loop would otherwise see every answer turned into one more small request. A slow
    sender, and whoever waits for a record, never waits for this.
    """
    if batch.urgent or now >= batch.opened + _GATHER_S:
        return False
    count = len(batch.records)
    if batch.looked:
        since = now - batch.looked
        if since < _LOOK_S:
            return True
        rate = (count - batch.looked_count) / since
    elif now - batch.opened < _LOOK_S:
        queue = batch.queue
        rate = queue.rate if now < queue.closed_at + _GATHER_S else 0.0
    else:
        rate = count / (now - batch.opened)
    batch.looked = now
    batch.looked_count = count
    return rate * max(1.0, (batch.size - BATCH_OVERHEAD) / (count * _RECORD_BYTES)) >= _FAST_RATE
