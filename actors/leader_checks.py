"""What a leader asks of a request before it looks at its records, and what it tells of a log that it opened."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import FencedLeaderEpochError, NotEnoughReplicasError, UnknownLeaderEpochError

if TYPE_CHECKING:
    from ..log.partition_log import PartitionLog

logger = logging.getLogger(__name__)


def check_leader_epoch(name: str, mine: int, asked: int) -> None:
    """Refuse a client whose leader epoch is not this leader's; -1: it did not say."""
    if asked in (-1, mine):
        return
    if asked < mine:
        message = f"{name} has leader epoch {mine} and the request has the older {asked}: refresh the metadata"
        raise FencedLeaderEpochError(message)
    message = f"{name} has leader epoch {mine} on this node and the request has the newer {asked}: try again"
    raise UnknownLeaderEpochError(message)


def check_in_sync(name: str, in_sync: int, needed: int) -> None:
    """Refuse acks=all while fewer replicas are in sync than min.insync.replicas asks for."""
    if in_sync < needed:
        message = f"{name} has {in_sync} replicas in sync and min.insync.replicas={needed}: nothing was appended"
        raise NotEnoughReplicasError(message)


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
