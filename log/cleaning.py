"""One pass of compaction over a partition's log, in small steps on the owner's thread.

The dirty part is read into a map of each key's last offset, as far as that fits. Then the sealed segments below are
written anew without what the map has overtaken, group by group (small neighbours become one segment)::

    written     .log.cleaned    a crash throws it away
    flushed     .log.swap       from here on a crash finishes what follows
    synced      readers get the new segment; the old ones go
    synced      .log

Only when all groups are there does the log's first dirty offset move up. What waits for the disk is handed out as work
for another thread. Whatever changes the log's segments meanwhile aborts the pass first; nothing is lost by that.
"""

from __future__ import annotations

import contextlib
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from ..errors import CorruptMessageError
from .batch import NO_TIMESTAMP, emptied_batch, gap_batch, read_header
from .cleanable import groups
from .compaction import LastOffsets, records_of, what_remains
from .leftovers import CLEANED_SUFFIX, SWAP_SUFFIX
from .scan import BadBatchError, walk
from .segment import LOG_SUFFIX, Segment, segment_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

    from ..settings import TopicConfig
    from .batch import BatchHeader
    from .cleanable import Cleanable
    from .disk import Disk, File
    from .producer_state import ProducerStates
    from .recovery import Damage

WRITE_BYTES = 256 << 10
"""Gathered for one write."""
_SIZE_MAX = 2**31 - 1
"""Positions in a segment have 31 bits."""


class Stage(Enum):
    """How far the group that is under way has come."""

    READING = "nothing is written"
    WRITING = "a .cleaned file is there"
    SWAPPING = "a .swap file is there, and perhaps not durable"
    SWITCHED = "the .swap file is the segment"
    ENDED = "done, or aborted"


class CleanableLog(Protocol):
    """What a pass needs of the log that it works on."""

    folder: str
    config: TopicConfig

    @property
    def producers(self) -> ProducerStates:
        """What is known of idempotent producers."""
        ...

    @property
    def damage(self) -> Damage | None:
        """The first bad batch that was found."""
        ...

    def found_damage(self, segment: Segment, error: BadBatchError) -> CorruptMessageError:
        """Note damage that a read has met."""
        ...

    def swap_in(self, old: list[Segment], new: Segment) -> None:
        """Let a compacted segment, which is durable, take the place of some neighbours."""
        ...

    def remove_replaced(self, old: list[Segment], new: Segment) -> None:
        """Remove the files of segments that a compacted one has replaced; again, if a try before has failed."""
        ...

    def cleaned_up_to(self, offset: int) -> None:
        """A pass has ended: each key that occurs below the offset does so once, by the records below it."""
        ...


class Cleaning:
    """Made by ``CompactingLog.start_cleaning``; ``step`` until ``is_done``."""

    def __init__(self, log: CleanableLog, disk: Disk, part: Cleanable, *, now_ms: int, memory_bytes: int) -> None:
        self._log = log
        self._disk = disk
        self._part = part
        self._now_ms = now_ms
        self._last = LastOffsets(memory_bytes)
        self._producers = {
            producer_id: entry.batches[-1].last_offset
            for producer_id, entry in log.producers.entries().items()
            if entry.batches
        }
        self._transactions = log.producers.transactions
        self.end_offset = part.first_dirty_offset
        """Up to where the log is clean when the pass is done."""
        self.bytes_read = 0
        self.bytes_written = 0
        """Of the segments that were written anew."""
        self.bytes_before = 0
        """That these had."""
        self._stage = Stage.READING
        self._reading: Segment | None = None
        self._file: File | None = None
        self._new: Segment | None = None
        self._group: list[Segment] = []
        self._steps = self._run()

    @property
    def is_done(self) -> bool:
        """Whether it has ended, or was aborted."""
        return self._stage is Stage.ENDED

    def step(self, is_over: Callable[[], bool]) -> Callable[[], None] | None:
        """Go on until is_over says that it is enough, or the end. Work that is returned must have been done, in any
        thread, before the next step.

        OSError if the disk refuses, CorruptMessageError if a batch is not what was written, which is the log's damage
        then: call the log's ``abort_cleaning``.
        """
        if self._log.damage is not None:
            raise CorruptMessageError(str(self._log.damage))
        try:
            for work in self._steps:
                if work is not None:
                    return work
                if is_over():
                    return None
        except BadBatchError as error:
            assert self._reading is not None
            raise self._log.found_damage(self._reading, error) from error
        self._stage = Stage.ENDED
        return None

    def _run(self) -> Iterator[Callable[[], None] | None]:
        yield from self._map_dirty_part()
        segments = [segment for segment in self._part.segments if segment.base_offset < self.end_offset]
        for group in groups(segments, self._log.config.segment_bytes):
            yield from self._clean(group)
        self._log.cleaned_up_to(self.end_offset)

    def _map_dirty_part(self) -> Iterator[None]:
        limit = self._log.config.max_decompressed_bytes
        for segment in self._part.segments:
            if segment.next_offset <= self.end_offset:
                continue
            for header, batch in self._batches(segment):
                if header.next_offset <= self.end_offset:
                    continue
                found = None if header.is_control or self._is_aborted(header) else records_of(header, batch, limit)
                if found is not None and not self._last.add(found[1]):
                    self._close_file()
                    return
                self.end_offset = header.next_offset
                yield None

    def _batches(self, segment: Segment) -> Iterator[tuple[BatchHeader, memoryview]]:
        """Every batch of a segment, with its CRC checked; BadBatchError where one is not right or is missing."""
        self._reading = segment
        self._file = file = self._disk.open(segment.path)
        expected = segment.base_offset
        for position, header in walk(file, 0, segment.size, expected, check_crc=True):
            yield header, memoryview(file.read(position, header.size))
            self.bytes_read += header.size
            expected = header.next_offset
        if expected != segment.next_offset:
            reason = f"the segment ends at offset {expected}, and the next one begins at {segment.next_offset}"
            raise BadBatchError(segment.size, expected, reason)
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # One group

    def _clean(self, group: list[Segment]) -> Iterator[Callable[[], None] | None]:
        self._group = group
        new = self._create(group[0].base_offset)
        before = sum(segment.size for segment in group)
        rest = before
        writer = _Writer(new)
        is_changed = len(group) > 1
        for segment in group:
            for header, batch in self._batches(segment):
                rest -= header.size
                left = self._left_of(header, batch)
                if left is None:
                    writer.leave_out(header)
                else:
                    if new.size + writer.pending_bytes + len(left) + rest > _SIZE_MAX:
                        left = batch  # a new delete horizon makes it a little larger, and that does not fit
                    is_changed = is_changed or left is not batch
                    writer.add(header, left)
                yield None
        writer.finish()
        assert new.next_offset == group[-1].next_offset, (new.next_offset, group[-1].next_offset)
        if not is_changed and new.size == before:
            self._throw_away()
            return
        self.bytes_before += before
        self.bytes_written += new.size
        yield from self._swap(new, group)

    def _create(self, base_offset: int) -> Segment:
        log = self._log
        new = Segment(self._disk, log.folder, base_offset, index_interval_bytes=log.config.index_interval_bytes)
        new.path += CLEANED_SUFFIX
        self._new, self._stage = new, Stage.WRITING
        file = self._disk.open(new.path, create=True)
        try:
            if file.size():
                file.truncate(0)
        finally:
            file.close()
        return new

    def _is_aborted(self, header: BatchHeader) -> bool:
        """Whether a batch is part of a transaction that was aborted: nobody reads it."""
        if not header.is_transactional or header.is_control:
            return False
        return self._transactions.is_aborted(header.producer_id, header.base_offset)

    def _left_of(self, header: BatchHeader, batch: memoryview) -> memoryview | None:
        """What stays of a batch. The last one of a producer stays even if it is empty, for its sequence numbers."""
        if header.base_offset >= self.end_offset:
            return batch
        config = self._log.config
        left = None
        if not self._is_aborted(header):
            left = what_remains(
                header,
                batch,
                self._last,
                now_ms=self._now_ms,
                delete_retention_ms=config.delete_retention_ms,
                decompressed_max=config.max_decompressed_bytes,
            )
        if left is None and header.has_producer_id and self._producers.get(header.producer_id) == header.last_offset:
            return batch if not header.records_count else memoryview(emptied_batch(header))
        return left

    def _swap(self, new: Segment, group: list[Segment]) -> Iterator[Callable[[], None]]:
        folder = self._log.folder
        swap_path = segment_path(folder, new.base_offset, LOG_SUFFIX + SWAP_SUFFIX)
        yield new.file.flush
        self._stage = Stage.SWAPPING
        self._disk.rename(new.path, swap_path)
        new.path = swap_path
        yield self._sync
        self._stage = Stage.SWITCHED
        new.seal()
        self._log.swap_in(group, new)
        self._log.remove_replaced(group, new)
        yield self._sync
        self._finish_swap()
        yield self._sync

    def _sync(self) -> None:
        self._disk.sync_folder(self._log.folder)

    def _finish_swap(self) -> None:
        new = self._new
        assert new is not None
        path = segment_path(self._log.folder, new.base_offset, LOG_SUFFIX)
        self._disk.rename(new.path, path)
        new.path = path
        self._new, self._stage = None, Stage.READING

    def _throw_away(self) -> None:
        new = self._new
        assert new is not None
        new.release()
        with contextlib.suppress(OSError):
            self._disk.remove(new.path)  # what is left is removed at the next start
        self._new, self._stage = None, Stage.READING

    # Aborting

    def abort(self) -> None:
        """End it, with a log that is as before or has the group that is under way compacted. OSError: unknown which."""
        stage = self._stage
        self.abandon()
        if stage is Stage.WRITING:
            self._throw_away()
        elif stage is Stage.SWAPPING:
            self._withdraw_swap()
        elif stage is Stage.SWITCHED:
            assert self._new is not None
            self._log.remove_replaced(self._group, self._new)
            self._sync()
            self._finish_swap()
        self._stage = Stage.ENDED

    def _withdraw_swap(self) -> None:
        """Durably: the next start would finish it, whatever has become of the segments by then."""
        assert self._new is not None
        self._new.release()
        for suffix in (SWAP_SUFFIX, CLEANED_SUFFIX):
            self._disk.remove(segment_path(self._log.folder, self._new.base_offset, LOG_SUFFIX + suffix))
        self._sync()

    def abandon(self) -> None:
        """Close what is open and leave the rest to the next start."""
        self._stage, stage = Stage.ENDED, self._stage
        self._close_file()
        if self._new is not None and stage in (Stage.WRITING, Stage.SWAPPING):
            self._new.release()


class _Writer:
    """Writes the batches that stay, and one empty batch for each stretch of those that do not."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._buffers: list[Buffer] = []
        self._batches: list[tuple[int, int, int]] = []
        self.pending_bytes = 0
        self._gap: tuple[int, int, int] | None = None

    def leave_out(self, header: BatchHeader) -> None:
        """A batch goes: the gap grows, or another begins where the leader epoch changes."""
        if self._gap is not None and self._gap[2] == header.leader_epoch:
            self._gap = (self._gap[0], header.next_offset, header.leader_epoch)
            return
        self._end_gap()
        self._gap = (header.base_offset, header.next_offset, header.leader_epoch)

    def add(self, header: BatchHeader, batch: memoryview) -> None:
        """A batch stays, as it was or smaller."""
        self._end_gap()
        now = read_header(batch)
        assert (now.base_offset, now.last_offset) == (header.base_offset, header.last_offset), (now, header)
        timestamp = now.max_timestamp if now.records_count else NO_TIMESTAMP
        self._gather(batch, header.last_offset, timestamp)

    def _end_gap(self) -> None:
        if self._gap is not None:
            batch = gap_batch(*self._gap)
            self._gather(batch, self._gap[1] - 1, NO_TIMESTAMP)
            self._gap = None

    def _gather(self, batch: Buffer, last_offset: int, timestamp: int) -> None:
        size = memoryview(batch).nbytes
        self._buffers.append(batch)
        self._batches.append((size, last_offset, timestamp))
        self.pending_bytes += size
        if self.pending_bytes >= WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        if self._batches:
            self._segment.append(self._buffers, self._batches)
            self._buffers, self._batches, self.pending_bytes = [], [], 0

    def finish(self) -> None:
        """Write what is left."""
        self._end_gap()
        self._write()
