"""Which of a log's oldest segments may go. Pure: the log does the removing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..settings import TopicConfig
    from .segment import Segment


class Expired(NamedTuple):
    """How many of the oldest segments go, and why the last of them does."""

    segments: int
    reason: str


def expired_segments(
    segments: Iterable[Segment],
    config: TopicConfig,
    *,
    size_bytes: int,
    log_start_offset: int,
    high_watermark: int,
    now_ms: int,
) -> Expired:
    """Count from the oldest segment on, as Kafka does, until one must stay.

    A segment goes when all of its records are below the log start offset, older than ``retention.ms``, or when the
    log without it still has ``retention.bytes``; never when it reaches past the high watermark. A segment without any
    timestamp does not age.
    """
    deletes = "delete" in config.cleanup_policy
    excess = size_bytes - config.retention_bytes if deletes and config.retention_bytes >= 0 else 0
    count = 0
    reason = ""
    for segment in segments:
        if segment.next_offset > high_watermark or not segment.size:
            break
        if segment.next_offset <= log_start_offset:
            reason = f"all records are below the log start offset {log_start_offset}"
        elif excess > 0 and excess >= segment.size:
            reason = f"the log has {size_bytes} bytes, retention.bytes is {config.retention_bytes}"
        elif deletes and config.retention_ms >= 0 and 0 <= segment.largest_timestamp() < now_ms - config.retention_ms:
            reason = f"the latest record is older than retention.ms {config.retention_ms}"
        else:
            break
        excess -= segment.size
        count += 1
    return Expired(count, reason)
