"""The part of a partition's log that is compacted while it is read and appended to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CorruptMessageError
from .cleanable import cleanable_part
from .cleaning import Cleaning
from .log_state import SEALED_FILES_OPEN_MAX, LogState
from .recovery import Damage
from .scan import BadBatchError, placed
from .segment import INDEX_SUFFIX, TIME_INDEX_SUFFIX, segment_path

if TYPE_CHECKING:
    from .segment import Segment


class CompactingLog(LogState):
    """A log whose sealed segments may be replaced by compacted ones."""

    def start_cleaning(self, *, now_ms: int, high_watermark: int, memory_bytes: int) -> Cleaning | None:
        """Begin a pass if one is worth it. It goes up to the last stable offset, over flushed, sealed segments only."""
        if self.refusal() or self._closed or self.cleaning is not None or not self.config.is_compacted:
            return None
        # A segment that was sealed and not flushed since has its indexes written by the next flush, as they are now.
        end = min(
            [
                self.stable_offset(high_watermark),
                self.recovery_point,
                *[segment.base_offset for segment in self._unflushed],
            ]
        )
        part = cleanable_part(
            self._segments,
            self.config,
            log_start_offset=self.log_start_offset,
            first_dirty_offset=self.first_dirty_offset,
            end_offset=end,
            now_ms=now_ms,
        )
        if not part.is_due(self.config.min_cleanable_dirty_ratio):
            return None
        self.cleaning = Cleaning(self, self._disk, part, now_ms=now_ms, memory_bytes=memory_bytes)
        return self.cleaning

    def cleaned_up_to(self, offset: int) -> None:
        """A pass has ended: each key that occurs below the offset does so once, by the records below it."""
        assert offset <= self.recovery_point, (offset, self)
        self.first_dirty_offset = max(self.first_dirty_offset, offset)
        self.cleaning = None

    def swap_in(self, old: list[Segment], new: Segment) -> None:
        """Let a compacted segment, which is durable, take the place of some neighbours."""
        at = self._segments.index(old[0])
        assert self._segments[at : at + len(old)] == old, (self, old)
        assert new.next_offset == old[-1].next_offset
        assert not any(segment in self._unflushed for segment in old), self
        for segment in old:
            self._forget(segment)
        self._segments[at : at + len(old)] = [new]
        self._bases = [segment.base_offset for segment in self._segments]
        self._unsaved.append(new)
        self._open_sealed.insert(0, new)
        self._close_sealed(SEALED_FILES_OPEN_MAX)
        self._saved_end = -1
        self._check()

    def remove_replaced(self, old: list[Segment], new: Segment) -> None:
        """Remove the files of segments that a compacted one has replaced; again, if a try before has failed."""
        for segment in old[1:]:
            segment.delete()
        old[0].release()  # its file goes when the new one gets its name
        for suffix in (INDEX_SUFFIX, TIME_INDEX_SUFFIX):
            self._disk.remove(segment_path(self.folder, new.base_offset, suffix))

    def found_damage(self, segment: Segment, error: BadBatchError) -> CorruptMessageError:
        """Note damage that a read has met."""
        position, base_offset = segment.near(error.offset)
        if position > error.position:
            position, base_offset = 0, segment.base_offset
        error = placed(error, segment.file, position, segment.size, base_offset)
        found = Damage(max(error.offset, segment.base_offset), error.position, segment.path, error.reason)
        if self.damage is None or found.offset < self.damage.offset:
            self.damage = found
        return CorruptMessageError(str(self.damage))
