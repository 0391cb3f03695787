"""Which part of a log compaction may look at, and whether that is worth it. Pure; the cleaning does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .index import MAX_RELATIVE_OFFSET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..settings import TopicConfig
    from .segment import Segment


class Cleanable(NamedTuple):
    """The sealed segments up to where a pass may go."""

    segments: list[Segment]
    first_dirty_offset: int
    end_offset: int
    clean_bytes: int
    dirty_bytes: int
    is_overdue: bool
    """Whether a record has waited for longer than max.compaction.lag.ms (KIP-354)."""

    def is_due(self, dirty_ratio: float) -> bool:
        """Whether a pass is worth it."""
        total = self.clean_bytes + self.dirty_bytes
        return bool(self.dirty_bytes) and (self.is_overdue or self.dirty_bytes > dirty_ratio * total)


def cleanable_part(
    segments: Sequence[Segment],
    config: TopicConfig,
    *,
    log_start_offset: int,
    first_dirty_offset: int,
    end_offset: int,
    now_ms: int,
) -> Cleanable:
    """Go over all segments but the active one: up to end_offset, and to the first that is younger than
    min.compaction.lag.ms (KIP-58).
    """
    found: list[Segment] = []
    clean_bytes = dirty_bytes = 0
    is_overdue = False
    for segment in segments[:-1]:
        if segment.next_offset <= log_start_offset:
            continue
        if segment.next_offset > end_offset:
            break
        if segment.next_offset <= first_dirty_offset:
            clean_bytes += segment.size
        else:
            if 0 < config.min_compaction_lag_ms > now_ms - segment.largest_timestamp():
                break
            dirty_bytes += segment.size
            segment.load()
            is_overdue = is_overdue or 0 <= segment.first_timestamp < now_ms - config.max_compaction_lag_ms
        found.append(segment)
    start = found[0].base_offset if found else 0
    end = found[-1].next_offset if found else 0
    first_dirty = min(max(first_dirty_offset, start), end)
    return Cleanable(found, first_dirty, end, clean_bytes, dirty_bytes, is_overdue)


def groups(segments: Sequence[Segment], segment_bytes: int) -> Iterator[list[Segment]]:
    """Neighbours that together are no larger than one segment: each group becomes one."""
    group: list[Segment] = []
    size = 0
    for segment in segments:
        if group and (
            size + segment.size > segment_bytes or segment.next_offset - 1 - group[0].base_offset > MAX_RELATIVE_OFFSET
        ):
            yield group
            group, size = [], 0
        group.append(segment)
        size += segment.size
    if group:
        yield group
