"""A partition's log: its segments as one sequence of batches. One thread owns it; ``FlushJob.run`` may be another's."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..errors import (
    BrokerError,
    CorruptMessageError,
    OffsetOutOfRangeError,
    RecordListTooLargeError,
    StorageError,
)
from .batch import gap_batch, read_header
from .compacting_log import CompactingLog
from .index import MAX_RELATIVE_OFFSET
from .recovery import EPOCHS_NAME, Recovery
from .retention import expired_segments
from .scan import BadBatchError, first_bad, header_at
from .segment import Segment
from .staging import Appended, Stage, replicated_batches, storage_error
from .timestamps import FoundOffset, first_at_or_after
from .transactions import read_marker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from ..settings import TopicConfig
    from .batch import BatchHeader
    from .disk import Disk


class PartitionLog(CompactingLog):
    """Made by ``open``. Offsets from ``log_start_offset`` up to, not including, ``log_end_offset`` can be read."""

    @classmethod
    def open(
        cls,
        disk: Disk,
        folder: str,
        config: TopicConfig,
        *,
        now_ms: int,
        recovery_point: int | None = 0,
        log_start_offset: int = 0,
        clean: bool = False,
    ) -> PartitionLog:
        """Open the log in a folder, or create it. OSError if the disk refuses; damage is no error, see ``damage``.

        recovery_point None says that it is not known: everything is scanned, and a bad batch that good ones follow is
        damage.
        """
        disk.make_folder(folder)
        recovery = Recovery(disk, folder, index_interval_bytes=config.index_interval_bytes, now_ms=now_ms)
        recovery.run(recovery_point=recovery_point, log_start_offset=log_start_offset, clean=clean)
        log = cls(disk, folder, config, recovery, now_ms=now_ms)
        point = recovery_point or 0
        if log.damage is not None:
            log.log_end_offset = max(log.log_end_offset, point, log.damage.offset)
        log.recovery_point = log.log_end_offset if clean else min(max(point, log._bases[0]), log.log_end_offset)
        # Recovery has read these, but nobody has flushed them: what it read may stand in the system's memory alone.
        log._unflushed = [segment for segment in log._segments[:-1] if segment.next_offset > log.recovery_point]
        if log_start_offset > log.log_end_offset:
            log.recovery.reasons.append(
                f"the log start offset was {log_start_offset}, past the log's end at {log.log_end_offset}"
            )
        log.log_start_offset = min(max(log._bases[0], log_start_offset), log.log_end_offset)
        log._check()
        return log

    # Append

    def append(
        self, batches: Sequence[tuple[BatchHeader, Buffer]], *, leader_epoch: int, now_ms: int
    ) -> list[Appended | BrokerError]:
        """Append a turn's batches, valid as ``log/validation.py`` says, in one write for each segment they go to.

        One answer for each: where it is, or the error for its client. After a disk error nothing that was not written
        counts: its producers and offsets are as before, and it is answered with StorageError.
        """
        self._now_ms = now_ms
        refusal = self.refusal()
        if refusal:
            return [StorageError(refusal) for _ in batches]
        assert leader_epoch >= self.leader_epoch, (leader_epoch, self)
        append_time = self.config.message_timestamp_type == "LogAppendTime"
        results: list[Appended | BrokerError] = []
        stage = Stage(self._producers, self.log_end_offset, leader_epoch, now_ms)
        try:
            for header, batch in batches:
                known = self._known(header, batch, stage, append_time=append_time) if header.has_producer_id else None
                if known is not None:
                    results.append(known)
                    continue
                if header.size > self.config.segment_bytes:
                    results.append(self._too_large(header))
                    continue
                timestamp = now_ms if append_time else header.max_timestamp
                if self._must_roll(stage, header, timestamp):
                    self._write(stage)
                    stage = Stage(self._producers, self.log_end_offset, leader_epoch, now_ms)
                    stage.results_before = len(results)
                    self._roll()
                results.append(stage.add_produced(header, batch, append_time=append_time))
            self._write(stage)
        except OSError as error:
            stage.take_back()
            del results[stage.results_before :]
            answer = storage_error(self._active.path, error, "append to")
            results.extend(StorageError(answer.message) for _ in range(len(batches) - len(results)))
        self._check()
        assert len(results) == len(batches)
        return results

    def _known(
        self, header: BatchHeader, batch: Buffer, stage: Stage, *, append_time: bool
    ) -> Appended | BrokerError | None:
        """What is known of a producer's batch, or of a marker, that speaks against appending it."""
        try:
            marker = read_marker(batch) if header.is_control else None
            if marker is not None:
                is_repeated = self._producers.is_repeated(header, marker)
                # Where its first try is nobody knows any more: it is committed when all that is here is.
                return Appended(-1, stage.next_offset - 1, -1, duplicate=True) if is_repeated else None
            repeat = self._producers.check(header)
        except BrokerError as error:
            return error
        if repeat is None:
            return None
        time = repeat.timestamp if append_time else -1
        return Appended(repeat.first_offset, repeat.last_offset, time, duplicate=True)

    def append_as_follower(self, data: Buffer) -> int:
        """Append a leader's batches, with their offsets and epochs as they are; returns the new log end offset.

        Raises CorruptMessageError, and appends nothing, if they are not valid or do not begin at the log's end;
        StorageError if the disk refuses or the log takes no appends.
        """
        refusal = self.refusal()
        if refusal:
            raise StorageError(refusal)
        batches = replicated_batches(data, self.leader_epoch)
        if not batches:
            return self.log_end_offset
        first = batches[0][0]
        straddles = first.base_offset < self.log_end_offset < first.next_offset
        stage_start: int | None = None
        if straddles and first.records_count == 0:
            # The leader has compacted since: this stands for records that are gone on both sides of the log's end.
            batches[0] = self._rest_of_gap(first)
            first = batches[0][0]
        elif straddles and self.size_bytes == 0:
            # The leader's log starts within this batch: the follower's has the whole batch, and starts there too.
            stage_start = self.log_end_offset
            self.truncate_and_start_at(first.base_offset)
        if first.base_offset != self.log_end_offset:
            message = f"the leader's batch begins at offset {first.base_offset}, the log ends at {self.log_end_offset}"
            raise CorruptMessageError(message)
        stage = Stage(self._producers, self.log_end_offset, self.leader_epoch, self._now_ms)
        try:
            for header, batch in batches:
                if self._must_roll(stage, header, header.max_timestamp):
                    self._write(stage)
                    stage = Stage(self._producers, self.log_end_offset, self.leader_epoch, self._now_ms)
                    self._roll()
                stage.add_replicated(header, batch)
            self._write(stage)
        except OSError as error:
            stage.take_back()
            raise storage_error(self._active.path, error, "append to") from error
        if stage_start is not None:
            self.log_start_offset = stage_start
        self._check()
        return self.log_end_offset

    def _rest_of_gap(self, gap: BatchHeader) -> tuple[BatchHeader, memoryview]:
        """The part of an empty batch that lies behind the log's end."""
        batch = gap_batch(self.log_end_offset, gap.next_offset, gap.leader_epoch)
        return read_header(batch), memoryview(batch)

    def _too_large(self, header: BatchHeader) -> BrokerError:
        message = f"the batch has {header.size} bytes, a segment takes {self.config.segment_bytes} (segment.bytes)"
        return RecordListTooLargeError(message)

    def _must_roll(self, stage: Stage, header: BatchHeader, timestamp: int) -> bool:
        """Whether a batch begins a new segment: by size, by age of its first record, or as its offset would not fit."""
        active = self._active
        size = active.size + stage.size
        if not size:
            return False
        first = active.first_timestamp if active.size else stage.batches[0][2]
        return (
            size + header.size > self.config.segment_bytes
            or (first >= 0 and timestamp - first > self.config.roll_ms)
            or stage.next_offset + header.last_offset_delta - active.base_offset > MAX_RELATIVE_OFFSET
        )

    def _write(self, stage: Stage) -> None:
        """Write what was gathered, and only then let it count. After OSError nothing has changed."""
        if not stage.batches:
            return
        self._active.append(stage.buffers, stage.batches)
        for epoch, start_offset in stage.epochs:
            self._epochs.assign(epoch, start_offset)
        self.log_end_offset = stage.next_offset
        assert self._active.next_offset == self.log_end_offset

    # Read

    def read(self, offset: int, max_bytes: int, *, end_offset: int | None = None) -> bytes:
        """Whole batches as stored, from the one that holds the offset, below end_offset, of one segment.

        At most max_bytes, but at least one batch; b"" at the end. Raises OffsetOutOfRangeError outside of the log,
        CorruptMessageError where damage begins, StorageError if the disk refuses.

        What may have been on the medium for long is checked, CRCs included: all but what was written to the active
        segment since the log was opened.
        """
        if not self.log_start_offset <= offset <= self.log_end_offset:
            message = (
                f"offset {offset} is not in the log, which has offsets {self.log_start_offset} to {self.log_end_offset}"
            )
            raise OffsetOutOfRangeError(message)
        end = self.log_end_offset if end_offset is None else min(end_offset, self.log_end_offset)
        if self.damage is not None:
            if offset >= self.damage.offset:
                raise CorruptMessageError(str(self.damage))
            end = min(end, self.damage.offset)
        if offset >= end:
            return b""
        segment = self._segments[-1]
        if offset < segment.base_offset:
            segment = self._sealed_at(offset)
        try:
            data = segment.read(offset, max_bytes, end)
            if segment.sealed or offset < self._found_end:
                data = self._checked(segment, offset, data)
        except BadBatchError as error:
            raise self.found_damage(segment, error) from error
        except OSError as error:
            raise storage_error(segment.path, error, "read") from error
        return data

    def _checked(self, segment: Segment, offset: int, data: bytes) -> bytes:
        """What was read, up to the first batch that is not as it was written. BadBatchError if that is the first."""
        # Nothing: the batch ends past what may be read, or its header says so and is not true any more.
        whole = data or segment.read(offset, 1, self.log_end_offset)
        bad = first_bad(whole, offset)
        if not whole:
            bad = BadBatchError(0, offset, f"the batch is not whole below the log's end at {self.log_end_offset}")
        if bad is None:
            return data
        if data and bad.position:
            return data[: bad.position]
        raise BadBatchError(segment.locate(offset), bad.offset, bad.reason)

    def offset_for_timestamp(self, timestamp: int) -> FoundOffset | None:
        """The first record whose timestamp is at least this one; None if there is none."""
        for segment in self._segments:
            if segment.next_offset <= self.log_start_offset or segment.largest_timestamp() < timestamp:
                continue
            found = self._search(segment, timestamp)
            if found is not None:
                return found
        return None

    def offset_of_max_timestamp(self) -> FoundOffset | None:
        """The first record with the largest timestamp of all; None in an empty log, or one without timestamps."""
        live = [segment for segment in self._segments if segment.next_offset > self.log_start_offset] or [self._active]
        newest = max(live, key=lambda segment: segment.largest_timestamp())
        return self._search(newest, newest.max_timestamp) if newest.max_timestamp >= 0 else None

    def _search(self, segment: Segment, timestamp: int) -> FoundOffset | None:
        try:
            return first_at_or_after(
                segment, timestamp, self.log_start_offset, decompressed_max=self.config.max_decompressed_bytes
            )
        except BadBatchError as error:
            raise self.found_damage(segment, error) from error
        except OSError as error:
            raise storage_error(segment.path, error, "read") from error

    def epoch_end_offset(self, epoch: int) -> tuple[int, int]:
        """(largest epoch of the log not above this one, the offset where it ends); (-1, -1) if there is none."""
        return self._epochs.end_offset(epoch, self.log_end_offset)

    # Cutting the end

    def truncate_to(self, offset: int) -> None:
        """Cut the log so that it ends at or below an offset, at the start of the batch that holds it.

        Indexes, epochs, producers' state and recovery point follow. Cutting at or below damage removes the damage.
        CorruptMessageError if damage is met where the cut should be. StorageError if the disk refuses; the log has then
        failed, as it is unknown what is left of it.
        """
        assert offset >= 0, offset
        with self._failing("truncate"):
            self._truncate_to(offset)

    def _truncate_to(self, offset: int) -> None:
        if self.damage is not None:
            offset = min(offset, self.damage.offset)
        elif offset >= self.log_end_offset:
            return
        self.abort_cleaning()
        segment = self._segment_at(offset)
        if offset < self._bases[0] or (segment.sealed and segment.next_offset <= self.log_start_offset):
            self._start_anew(offset)
            return
        try:
            position, end = self._cut_point(segment, offset)
        except BadBatchError as error:
            raise self.found_damage(segment, error) from error
        self._promise_less(end)
        for later in reversed(self._segments[self._segments.index(segment) + 1 :]):
            self._forget(later)
            later.delete()
        del self._segments[self._segments.index(segment) + 1 :]
        self._bases = [kept.base_offset for kept in self._segments]
        self._forget(segment)
        segment.truncate(position, end)
        while segment.bad is not None:  # more damage, that nobody had come across
            position, end = segment.bad.position, segment.bad.offset
            self._promise_less(end)
            segment.truncate(position, end)
        self.damage = None
        self._after_cut(end)

    def _promise_less(self, end: int) -> None:
        """Before a cut: what is about to go is durably no longer promised.

        So a crash halfway leaves a log that is shorter, not one that is damaged. The recovery point first: it may be
        below the log start.
        """
        self.recovery_point = min(self.recovery_point, end)
        self.first_dirty_offset = min(self.first_dirty_offset, end)
        self._announce_cut()
        if end < self.log_start_offset:
            self.log_start_offset = end
            self._announce_cut()

    @contextlib.contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        """A disk error in here leaves the log in an unknown state: it takes no more appends, and its client is told."""
        try:
            yield
        except OSError as error:
            failure = storage_error(self.folder, error, doing)
            self.fail(failure.message)
            raise failure from error

    def _cut_point(self, segment: Segment, offset: int) -> tuple[int, int]:
        """(position, base offset) of the batch of a segment that holds an offset."""
        if self.damage is not None and offset == self.damage.offset and segment.path == self.damage.path:
            return self.damage.position, offset
        if offset >= segment.next_offset:
            return segment.size, segment.next_offset
        position = segment.locate(offset)
        return position, header_at(segment.file, position, segment.size).base_offset

    def truncate_and_start_at(self, offset: int) -> None:
        """Remove all batches; the next one appended has this offset. StorageError, and failed, if the disk refuses."""
        assert offset >= 0, offset
        with self._failing("truncate"):
            self._start_anew(offset)

    def _start_anew(self, offset: int) -> None:
        # The log start stays until the old segments are durably gone: those below it, whose removal a crash may have
        # taken back, must not come to life again.
        self.abort_cleaning()
        self.recovery_point = min(self._bases[0], offset)
        self.first_dirty_offset = min(self.first_dirty_offset, self.recovery_point)
        self._announce_cut()
        self.damage = None
        for segment in reversed(self._segments):
            self._forget(segment)
            segment.delete()
        self._disk.remove(f"{self.folder}/{EPOCHS_NAME}")
        interval = self.config.index_interval_bytes
        self._segments = [Segment.create(self._disk, self.folder, offset, index_interval_bytes=interval)]
        self._bases = [offset]
        self._disk.sync_folder(self.folder)
        self.log_start_offset = self.recovery_point = offset
        self._epochs.clear()
        self._after_cut(offset)
        self._announce_cut()

    def _announce_cut(self) -> None:
        if self.before_cut is not None:
            self.before_cut()

    def _after_cut(self, end: int) -> None:
        self._flushed_end = min(self._flushed_end, end)
        self._found_end = min(self._found_end, end)
        self.log_end_offset = end
        self._saved_end = -1
        self._creations += 1
        self._epochs.truncate_end(end)
        self._drop_snapshots_past(-1 if end == self._bases[0] else end)
        if self._job is not None:
            self._job.end_offset = min(self._job.end_offset, end)
        recovery = Recovery(
            self._disk, self.folder, index_interval_bytes=self.config.index_interval_bytes, now_ms=self._now_ms
        )
        self._producers = recovery.producers_at_end(self._segments)
        self._check()

    # Cutting the start

    def delete_records_before(self, offset: int) -> None:
        """Move the log start offset up to an offset, and remove the segments that lie wholly below it.

        OffsetOutOfRangeError past the log's end; OSError if the disk refuses.
        """
        if offset > self.log_end_offset:
            message = f"records before {offset} cannot be deleted: the log ends at {self.log_end_offset}"
            raise OffsetOutOfRangeError(message)
        if offset <= self.log_start_offset:
            return
        self.log_start_offset = offset
        count = sum(segment.next_offset <= offset and segment.size > 0 for segment in self._segments)
        self._remove_oldest(count if self.damage is None else 0)

    def apply_retention(self, now_ms: int, high_watermark: int) -> int:
        """Remove the segments that are too old or too many; returns how many. None of a damaged or failed log.

        OSError if the disk refuses; what was not removed is tried again.
        """
        self._now_ms = now_ms
        if self.refusal():
            return 0
        expired = expired_segments(
            self._segments,
            self.config,
            size_bytes=self.size_bytes,
            log_start_offset=self.log_start_offset,
            high_watermark=min(high_watermark, self.log_end_offset),
            now_ms=now_ms,
        )
        self._remove_oldest(expired.segments)
        return expired.segments

    def _remove_oldest(self, count: int) -> None:
        """Remove so many of the oldest segments; if that is all of them a new one is begun first."""
        if not count:
            return
        self.abort_cleaning()
        before = self.log_start_offset, self.recovery_point
        try:
            if count == len(self._segments):
                self._roll()
            if self._creations > self._creations_synced:
                # What the recovery point and log start will promise is a segment that may have just been created.
                self._disk.sync_folder(self.folder)
                self._creations_synced = self._creations
            self.log_start_offset = max(self.log_start_offset, self._bases[count])
            self.recovery_point = max(self.recovery_point, self._bases[count])
            self._announce_cut()
        except OSError:
            self.log_start_offset, self.recovery_point = before
            raise
        removed = self._segments[:count]
        del self._segments[:count], self._bases[:count]
        self._epochs.truncate_start(self.log_start_offset)
        self._producers.transactions.forget_before(self.log_start_offset)
        self._check()
        # If one of these fails: they lie below the durable log start, so the next start ignores what is left of them.
        for segment in removed:
            self._forget(segment)
        for segment in removed:
            segment.delete()
        self._disk.sync_folder(self.folder)

    def roll_if_old(self, now_ms: int) -> bool:
        """Begin a segment if the first record is older than ``segment.ms``; returns whether it did. Or OSError."""
        self._now_ms = now_ms
        active = self._active
        if self.refusal() or not active.size or active.first_timestamp < 0:
            return False
        if now_ms - active.first_timestamp <= self.config.roll_ms:
            return False
        self._roll()
        return True

    def expire_producers(self, now_ms: int, expiration_ms: int) -> int:
        """Forget the producers that wrote nothing for longer than that; returns how many."""
        self._now_ms = now_ms
        return self._producers.expire(now_ms, expiration_ms)

    def reconfigure(self, config: TopicConfig) -> None:
        """Take new settings of the topic; they hold from the next call on."""
        self.config = config
