"""What is said of a partition's log when it has been opened, and what becomes of it when the partition is deleted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..transport.messages import PartitionDirInfo
from ..transport.transaction_messages import ProducerState

if TYPE_CHECKING:
    from ..log.partition_log import PartitionLog
    from .context import NodeContext

logger = logging.getLogger(__name__)


def report_recovery(name: str, log: PartitionLog) -> None:
    """Say what opening a log had to do, if it was more than to open it."""
    report = log.recovery
    if log.damage is not None:
        logger.error("%s serves what is before its damage only: %s", name, log.damage)
    if report.scanned_bytes or report.truncated_bytes or report.rebuilt or report.reasons:
        level = logging.WARNING if report.truncated_bytes or report.rebuilt else logging.INFO
        rebuilt = ", ".join(report.rebuilt) or "nothing"
        why = "; ".join(report.reasons) or "the last stop was not clean"
        figures = (name, report.scanned_bytes, report.truncated_bytes, rebuilt, why)
        logger.log(level, "recovered %s: scanned %d bytes, cut off %d, rebuilt %s: %s", *figures)


def dir_info(
    topic: str, partition: int, log: PartitionLog | None, high_watermark: int, offline: str
) -> PartitionDirInfo:
    """Describe a partition's log; None: it is not open, and offline says why."""
    if log is None:
        return PartitionDirInfo(topic, partition, 0, -1, -1, -1, 0, offline)
    return PartitionDirInfo(
        topic,
        partition,
        log.size_bytes,
        log.log_start_offset,
        high_watermark,
        log.log_end_offset,
        log.segments_count,
        None if log.damage is None else str(log.damage),
    )


def described_producers(log: PartitionLog) -> list[ProducerState]:
    """The producers that have written to a log, by their ids."""
    found = []
    for producer_id, entry in sorted(log.producers.entries().items()):
        last = entry.batches[-1] if entry.batches else None
        sequence, timestamp = (-1, -1) if last is None else (last.last_sequence, last.timestamp)
        found.append(
            ProducerState(producer_id, entry.epoch, sequence, timestamp, entry.coordinator_epoch, entry.open_at)
        )
    return found


def remove_later(context: NodeContext, name: str) -> None:
    """Take the log of a deleted partition out of the way now, and remove its files without keeping anybody waiting."""

    def removed(error: Exception | None) -> None:
        if error is not None:
            logger.error("the log of %s, which is deleted, is not all gone: %s", name, error)

    try:
        context.flusher.submit(context.folder.delete_log(name), removed)
    except OSError as error:
        removed(error)


def maintain(context: NodeContext, name: str, log: PartitionLog, high_watermark: int, *, leads: bool) -> bool:
    """Roll, delete and forget what is old enough; whether it worked. A follower deletes when its leader has."""
    now_ms = context.clock.wall_ms()
    try:
        log.roll_if_old(now_ms)
        deleted = log.apply_retention(now_ms, high_watermark) if leads else 0
        log.expire_producers(now_ms, context.config.producer_id_expiration_ms)
        log.checkpoint()
    except OSError as error:
        logger.warning("upkeep of %s has to wait: %s", name, error)
        return False
    if deleted:
        context.counters["segments-deleted"] += deleted
    return True
