"""What a partition's log consists of, and how it is kept: segments, roll, snapshots, flush, checkpoint, close."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from typing import TYPE_CHECKING

from .flush import FlushJob
from .leftovers import base_offsets
from .recovery import EPOCHS_NAME, Damage, Recovery, RecoveryReport
from .segment import SNAPSHOT_SUFFIX, Segment, segment_path
from .staging import storage_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import TopicConfig
    from .cleaning import Cleaning
    from .disk import Disk
    from .epoch_cache import EpochCache
    from .producer_state import ProducerStates
    from .transactions import Aborted

SNAPSHOTS_KEPT = 2
SEALED_FILES_OPEN_MAX = 2


class LogState:
    """The part of ``PartitionLog`` that neither appends batches nor reads them."""

    def __init__(self, disk: Disk, folder: str, config: TopicConfig, recovery: Recovery, *, now_ms: int) -> None:
        self._disk = disk
        self.folder = folder
        self.config = config
        self.recovery: RecoveryReport = recovery.report
        self.damage: Damage | None = recovery.damage
        """Set where flushed batches are not what was written: reads stop there, appends are refused."""
        self.failure = ""
        """Why the log takes no more appends until it is opened anew; set by ``fail``."""
        self._segments: list[Segment] = recovery.segments
        self._bases = [segment.base_offset for segment in self._segments]
        self._epochs: EpochCache = recovery.epochs
        self._producers: ProducerStates = recovery.producers
        self._now_ms = now_ms
        self.log_start_offset = self._bases[0]
        self.log_end_offset = self._segments[-1].next_offset
        self.recovery_point = self._bases[0]
        """Below it nothing has to be looked at after a crash."""
        self._found_end = self.log_end_offset
        """What is below was not written since the log was opened."""
        self._flushed_end = 0
        self._snapshots = [o for o in base_offsets(disk.list(folder), SNAPSHOT_SUFFIX) if o <= self.log_end_offset]
        self._unflushed: list[Segment] = []
        self._open_sealed: list[Segment] = []
        self._job: FlushJob | None = None
        self._creations = 1
        self._creations_synced = 0
        """How many files had been created, and how many of them when the folder was last synced."""
        self._unsaved: list[Segment] = [segment for segment in self._segments[:-1] if segment.rebuilt_reason]
        self._saved_end = -1
        self._closed = False
        self.first_dirty_offset = 0
        """Below it the log is compacted."""
        self.cleaning: Cleaning | None = None
        """The pass of compaction that is under way."""
        self.before_cut: Callable[[], None] | None = None
        """Called when recovery point or log start have changed in a way that must be durable before files go."""

    def _check(self) -> None:
        """The invariants that hold between any two calls."""
        assert self._bases[0] <= self.log_start_offset <= self.log_end_offset, self
        assert self._bases[0] <= self.recovery_point <= self.flushed_offset <= self.log_end_offset, self
        assert not self._active.sealed, self
        assert self.damage is not None or self._active.next_offset == self.log_end_offset, self
        assert len(self._bases) == len(self._segments), self

    def __repr__(self) -> str:
        return (
            f"PartitionLog({self.folder!r}, start={self.log_start_offset}, recovery_point={self.recovery_point}, "
            f"end={self.log_end_offset}, segments={self._bases})"
        )

    @property
    def _active(self) -> Segment:
        return self._segments[-1]

    @property
    def size_bytes(self) -> int:
        """Bytes of all batches."""
        return sum([segment.size for segment in self._segments])

    @property
    def leader_epoch(self) -> int:
        """The epoch of the last record; -1 if there is none."""
        return self._epochs.latest

    @property
    def segments_count(self) -> int:
        """How many segments there are, the active one among them."""
        return len(self._segments)

    @property
    def producers(self) -> ProducerStates:
        """What is known of the idempotent producers."""
        return self._producers

    def stable_offset(self, high_watermark: int) -> int:
        """The last stable offset (KIP-98): below it the outcome of each transaction is known, and committed."""
        return max(self._producers.transactions.stable_offset(high_watermark), self.log_start_offset)

    def settle_transactions(self, high_watermark: int) -> None:
        """The high watermark has moved."""
        self._producers.transactions.settle(high_watermark)

    def aborted_between(self, start: int, end: int) -> list[Aborted]:
        """The aborted transactions with an offset in a range, end not included, by their first offsets."""
        return self._producers.transactions.aborted_between(start, end)

    @property
    def epochs(self) -> EpochCache:
        """Which leader epoch began where."""
        return self._epochs

    @property
    def flushed_offset(self) -> int:
        """The offset below which all records are on the medium; ahead of the recovery point if small files are not."""
        return max(self.recovery_point, self._flushed_end)

    @property
    def has_sealed_unflushed(self) -> bool:
        """Whether a segment was sealed that no flush has covered: worth one even where nobody waits for it."""
        return bool(self._unflushed)

    def refusal(self) -> str:
        """Why the log takes no appends, in one sentence; empty if it does."""
        if self.failure:
            return self.failure
        return "" if self.damage is None else f"no appends: {self.damage}"

    # Segments

    def _roll(self) -> None:
        """Seal the active segment and begin the next one."""
        old = self._active
        assert old.size
        new = Segment.create(
            self._disk, self.folder, self.log_end_offset, index_interval_bytes=self.config.index_interval_bytes
        )
        self._creations += 1
        old.seal()
        self._unflushed.append(old)
        self._unsaved.append(old)
        self._segments.append(new)
        self._bases.append(new.base_offset)
        self._write_snapshot()
        self._check()

    def _segment_at(self, offset: int) -> Segment:
        return self._segments[max(bisect_right(self._bases, offset) - 1, 0)]

    def _sealed_at(self, offset: int) -> Segment:
        """The sealed segment that holds an offset, among the few whose files are open."""
        segment = self._segment_at(offset)
        if not self._open_sealed or self._open_sealed[-1] is not segment:
            if segment in self._open_sealed:
                self._open_sealed.remove(segment)
            self._open_sealed.append(segment)
            self._close_sealed(SEALED_FILES_OPEN_MAX)
        return segment

    def _close_sealed(self, keep: int) -> None:
        """Close the files of sealed segments but the last used; one that a flush still needs stays open."""
        closable = [segment for segment in self._open_sealed if segment not in self._unflushed]
        for segment in closable[: max(len(closable) - keep, 0)]:
            segment.release()
            self._open_sealed.remove(segment)

    def _forget(self, segment: Segment) -> None:
        """A segment is about to go, or to be cut and written to again: a flush under way is not of what comes then."""
        for segments in (self._unflushed, self._unsaved, self._open_sealed):
            if segment in segments:
                segments.remove(segment)
        if self._job is not None:
            self._job.sealed = [sealed for sealed in self._job.sealed if sealed is not segment]

    def abort_cleaning(self) -> None:
        """End the pass of compaction that is under way, before segments change. OSError, and failed, if that failed."""
        cleaning, self.cleaning = self.cleaning, None
        if cleaning is None:
            return
        try:
            cleaning.abort()
        except OSError as error:
            self.fail(f"compaction could not be ended: {error}")
            raise

    # Snapshots of the producers' state

    def _write_snapshot(self) -> None:
        """Save the producers' state at the log's end. If that fails the state is rebuilt from the batches one day."""
        offset = self.log_end_offset
        with contextlib.suppress(OSError):
            path = segment_path(self.folder, offset, SNAPSHOT_SUFFIX)
            self._disk.replace_file(path, self._producers.encode(), durable=False)
            if offset not in self._snapshots:
                self._snapshots.append(offset)
        while len(self._snapshots) > SNAPSHOTS_KEPT:
            self._disk.remove(segment_path(self.folder, self._snapshots.pop(0), SNAPSHOT_SUFFIX))

    def _drop_snapshots_past(self, offset: int) -> None:
        """Remove what was saved past an offset, durably: it must not come back when the log has grown past it again."""
        past = [saved for saved in self._snapshots if saved > offset]
        for saved in past:
            self._disk.remove(segment_path(self.folder, saved, SNAPSHOT_SUFFIX))
            self._snapshots.remove(saved)
        self._disk.sync_folder(self.folder)

    # Flush

    def start_flush(self) -> FlushJob | None:
        """Capture what is not flushed yet; None if nothing is, or while a job is under way, or if the log has failed.

        One at a time: a late one would put an older epoch checkpoint over a newer one's.
        """
        if self.failure or self._closed or self._job is not None:
            return None
        active = self._active
        files = [segment.file for segment in self._unflushed]
        if self.recovery_point < self.log_end_offset and self.damage is None and active.size:
            files.append(active.file)
        small_files = [file for segment in self._unflushed for file in segment.index_files()]
        if self._epochs.changed:
            small_files.append((f"{self.folder}/{EPOCHS_NAME}", self._epochs.encode()))
        if not files and not small_files and self.recovery_point == self.log_end_offset:
            return None
        job = FlushJob(
            self._disk,
            self.folder,
            files,
            small_files=small_files,
            sync_folder=self._creations > self._creations_synced,
            sealed=list(self._unflushed),
            creations=self._creations,
            epochs=self._epochs.entries(),
            end_offset=self.log_end_offset if self.damage is None else self.recovery_point,
        )
        self._job = job
        return job

    def finish_flush(self, job: FlushJob) -> None:
        """Back on the owner's thread, after ``job.run`` returned: the recovery point moves up."""
        assert job.done
        assert not self.failure, self.failure
        if job is not self._job:
            return
        self._job = None
        self._flushed_end = min(job.end_offset, self.log_end_offset)
        if job.folder_synced:
            self._creations_synced = max(self._creations_synced, job.creations)
        if job.small_files_error is not None:
            return  # the next flush does it all again
        self.recovery_point = max(self.recovery_point, min(job.end_offset, self.log_end_offset))
        for segment in job.sealed:
            if segment in self._unflushed:
                self._unflushed.remove(segment)
                self._open_sealed.insert(0, segment)
            if segment in self._unsaved:
                self._unsaved.remove(segment)
        self._close_sealed(SEALED_FILES_OPEN_MAX)
        if job.epochs == self._epochs.entries():
            self._epochs.changed = False
        self._check()

    def fail(self, reason: str) -> None:
        """Take no more appends: a flush failed, and what is on the medium is unknown until recovery has looked."""
        self.failure = self.failure or reason
        self._abandon_cleaning()
        self._cancel_flush()

    def _abandon_cleaning(self) -> None:
        """The next start clears up."""
        if self.cleaning is not None:
            self.cleaning.abandon()
            self.cleaning = None

    def _cancel_flush(self) -> None:
        """Forget the job under way: what it has not written yet, it shall not write over what comes after."""
        if self._job is not None:
            self._job.cancelled = True
            self._job = None

    def checkpoint(self) -> None:
        """Save indexes, epochs and producers, not durably: it only makes a recovery shorter. OSError if that fails."""
        if self.damage is not None or self.failure or self._saved_end == self.log_end_offset:
            return
        for segment in [*self._unsaved, self._active]:
            for path, data in segment.index_files():
                self._disk.replace_file(path, data, durable=False)
        if self._epochs.changed:
            self._disk.replace_file(f"{self.folder}/{EPOCHS_NAME}", self._epochs.encode(), durable=False)
        self._unsaved.clear()
        self._write_snapshot()
        self._saved_end = self.log_end_offset

    def close(self) -> None:
        """Flush and save everything, and give the files back. StorageError if that failed: then this is no clean end.

        A log that has failed or is damaged saves nothing.
        """
        if self._closed:
            return
        try:
            self.abort_cleaning()
            if not self.refusal():
                self._cancel_flush()  # whatever it has still to do, this one does too
                job = self.start_flush()
                if job is not None:
                    job.run()
                    self.finish_flush(job)
                    if job.small_files_error is not None:
                        raise job.small_files_error
                self._saved_end = -1
                self.checkpoint()
        except OSError as error:
            self.fail(f"the last flush failed: {error}")
            raise storage_error(self.folder, error, "flush") from error
        finally:
            self._closed = True
            for segment in self._segments:
                segment.release()

    def abandon(self) -> None:
        """Give the files back and save nothing: the log is deleted, or has failed."""
        self._closed = True
        self._abandon_cleaning()
        self._cancel_flush()
        for segment in self._segments:
            segment.release()
