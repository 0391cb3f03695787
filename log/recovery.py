"""Opening a partition's folder: what is there, what a crash tore, what must be built anew.

Two different things can be wrong with the batches at the end of a log. Past the recovery point they may be torn: they
were not flushed, nobody was promised them, they are cut off. Below it they were flushed, so a bad batch is damage: the
log is never cut there, serves what lies before, and says so. Everything that is not batches (indexes, snapshots, epoch
checkpoint) can be had again from them, so it is rebuilt, and never a reason to remove any.

What can be read past the recovery point need not be on the medium: if the last process died of a failed fsync, it may
stand in the system's memory alone, in pages that count as clean, and no later fsync would write it. So all of it is
written again where it stands, before it is looked at: the next flush then means what it says.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .batch import HEADER_SIZE, MAGIC
from .checkpoints import CheckpointFormatError
from .epoch_cache import EpochCache
from .index import IndexFormatError
from .leftovers import base_offsets, remove_leftovers
from .producer_state import ProducerStates, SnapshotFormatError
from .scan import BadBatchError, header_at, walk
from .segment import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    SNAPSHOT_SUFFIX,
    TIME_INDEX_SUFFIX,
    Segment,
    segment_path,
)
from .transactions import read_marker

if TYPE_CHECKING:
    from .batch import BatchHeader
    from .disk import Disk

EPOCHS_NAME = "leader-epoch-checkpoint"
RESYNC_BYTES_MAX = 16 << 20
RESYNC_TRIES_MAX = 100_000
REWRITE_BYTES = 1 << 20
"""Written again at once."""


@dataclass
class RecoveryReport:
    """What opening a log had to do."""

    scanned_bytes: int = 0
    """Read and checked with their CRCs: what lay past the recovery point."""
    rewritten_bytes: int = 0
    """Written again, so that the next flush puts them on the medium."""
    truncated_bytes: int = 0
    rebuilt: list[str] = field(default_factory=list)
    """Paths of the files that were missing or wrong and were made anew."""
    removed: list[str] = field(default_factory=list)
    """Paths of the left-over files that were removed."""
    reasons: list[str] = field(default_factory=list)
    """One sentence for each thing that was not as a clean shutdown leaves it."""


@dataclass(frozen=True)
class Damage:
    """Where flushed batches are no longer what was written."""

    offset: int
    position: int
    path: str
    reason: str

    def __str__(self) -> str:
        return f"the log is damaged at offset {self.offset} ({self.path}, position {self.position}): {self.reason}"


class Recovery:
    """Opens one folder; its attributes are the parts of the log when ``run`` has returned."""

    def __init__(self, disk: Disk, folder: str, *, index_interval_bytes: int, now_ms: int) -> None:
        self._disk = disk
        self._folder = folder
        self._interval = index_interval_bytes
        self._now_ms = now_ms
        self.report = RecoveryReport()
        self.segments: list[Segment] = []
        self.epochs = EpochCache()
        self.producers = ProducerStates()
        self.damage: Damage | None = None
        self._scan_epochs = False
        self._producers_from = 0
        self._log_start_offset = 0

    def run(self, *, recovery_point: int | None, log_start_offset: int, clean: bool) -> None:
        """Open what is there. Without a recovery point (its checkpoint was lost) everything is scanned, and a bad batch
        counts as torn only if nothing valid follows it.
        """
        self._log_start_offset = log_start_offset
        names = remove_leftovers(self._disk, self._folder, self._disk.list(self._folder), self.report.removed)
        bases = base_offsets(names, LOG_SUFFIX)
        if not bases:
            self._start_empty(log_start_offset, recovery_point or 0)
            self._remove_snapshots(names, past=-1)
            return
        for base, next_base in zip(bases, [*bases[1:], None], strict=True):
            segment = Segment.existing(self._disk, self._folder, base, next_base, index_interval_bytes=self._interval)
            self.segments.append(segment)
        self._rebuild_missing_indexes(names)
        if clean:
            self._open_clean(names, recovery_point or 0)
        else:
            self._open_unclean(names, recovery_point)
        self._finish(recovery_point or 0, names)

    def _start_empty(self, log_start_offset: int, recovery_point: int) -> None:
        segment = Segment.create(self._disk, self._folder, log_start_offset, index_interval_bytes=self._interval)
        self.segments.append(segment)
        if recovery_point > log_start_offset:
            reason = f"the folder has no segments, and offsets up to {recovery_point} had been flushed"
            self._set_damage(BadBatchError(0, log_start_offset, reason), segment)

    def _live(self) -> list[Segment]:
        """The segments that hold records from the log start on. Those before it were about to be deleted, and may be
        torn; they are left to retention, and not looked at.
        """
        return [
            segment
            for segment in self.segments
            if not (segment.sealed and segment.next_offset <= self._log_start_offset)
        ]

    def _rebuild_missing_indexes(self, names: list[str]) -> None:
        """Sealed segments whose index files are missing are walked now; the others are checked when first used."""
        present = set(names)
        for segment in self._live()[:-1]:
            for suffix in (INDEX_SUFFIX, TIME_INDEX_SUFFIX):
                path = segment_path(self._folder, segment.base_offset, suffix)
                if path.rpartition("/")[2] not in present:
                    self._note_rebuilt(path, "it is missing")
                    segment.load()

    def _note_rebuilt(self, path: str, reason: str) -> None:
        if path not in self.report.rebuilt:
            self.report.rebuilt.append(path)
            self.report.reasons.append(f"{path} was rebuilt: {reason}")

    def _set_damage(self, error: BadBatchError, segment: Segment) -> None:
        if self.damage is None or error.offset < self.damage.offset:
            self.damage = Damage(error.offset, error.position, segment.path, error.reason)
            self.report.reasons.append(str(self.damage))

    # Epochs and producers

    def _load_epochs(self, names: list[str], end_offset: int) -> None:
        """The checkpoint up to an offset; to be walked from the batches if there is none that can be right."""
        first = self._live()[0].base_offset
        path = f"{self._folder}/{EPOCHS_NAME}"
        if end_offset <= first:
            # All records are deleted. The epoch of the last one still tells a leader from a follower that has more.
            with contextlib.suppress(CheckpointFormatError, FileNotFoundError):
                self.epochs = EpochCache.decode(self._disk.read_file(path))
                self.epochs.truncate_end(end_offset)
            return
        reason = "it is missing"
        if EPOCHS_NAME in names:
            try:
                self.epochs = EpochCache.decode(self._disk.read_file(path))
            except CheckpointFormatError as error:
                reason = str(error)
            else:
                self.epochs.truncate_end(end_offset)
                if self.epochs.epoch_of(first) >= 0:
                    return
                reason = f"it knows no epoch for offset {first}"
        self._walk_for_epochs(reason)

    def _walk_for_epochs(self, reason: str) -> None:
        self.epochs = EpochCache()
        self.epochs.changed = True
        self._scan_epochs = True
        self._note_rebuilt(f"{self._folder}/{EPOCHS_NAME}", reason)

    def producers_at_end(self, segments: list[Segment]) -> ProducerStates:
        """The producers' state at the end of a log that was truncated."""
        self.segments = segments
        end = segments[-1].next_offset
        self._load_producers(self._disk.list(self._folder), end)
        if self._producers_from < end:
            self._replay_until(end)
        return self.producers

    def _load_producers(self, names: list[str], offset_max: int) -> None:
        """The newest valid snapshot that is not past offset_max; the rest is replayed from the batches' headers."""
        first = self._live()[0].base_offset
        self._producers_from = first
        for offset in reversed(base_offsets(names, SNAPSHOT_SUFFIX)):
            if not first <= offset <= offset_max:
                continue
            path = segment_path(self._folder, offset, SNAPSHOT_SUFFIX)
            try:
                self.producers = ProducerStates.decode(self._disk.read_file(path), now_ms=self._now_ms)
            except SnapshotFormatError as error:
                self._note_rebuilt(path, str(error))
                continue
            self._producers_from = offset
            return

    def _replay(self, segment: Segment, position: int, header: BatchHeader) -> None:
        """Take a batch's epoch and producer into the state, and what it says of transactions."""
        self.epochs.replay(header.leader_epoch, header.base_offset)
        if header.has_producer_id and header.base_offset >= self._producers_from:
            marker = read_marker(segment.file.read(position, header.size)) if header.is_control else None
            offset, timestamp = header.base_offset, header.max_timestamp
            self.producers.update(header, offset, timestamp=timestamp, now_ms=self._now_ms, marker=marker)

    def _replay_until(self, end_offset: int) -> None:
        """Replay what lies between the snapshot (or the first batch, for the epochs) and an offset, by headers."""
        start = self._live()[0].base_offset if self._scan_epochs else self._producers_from
        for segment in self._live():
            if segment.base_offset >= end_offset:
                return
            if segment.sealed and segment.next_offset <= start:
                continue
            position, expected = segment.near(start)
            if expected >= end_offset:
                return
            try:
                for at, header in walk(segment.file, position, segment.size, expected, check_crc=False):
                    if header.next_offset > start:
                        self._replay(segment, at, header)
                    if header.next_offset >= end_offset:
                        break
            except BadBatchError as error:
                self._set_damage(error, segment)
                return
            finally:
                if segment.sealed:
                    segment.release()

    # The end of the log

    def _open_clean(self, names: list[str], recovery_point: int) -> None:
        """After a clean shutdown: the last segment's indexes are checked and its tail walked over, nothing else."""
        last = self.segments[-1]
        last.load()
        if last.bad is not None and recovery_point and last.bad.offset >= recovery_point:
            self._truncate(last, last.bad)
        self._load_epochs(names, last.next_offset)
        self._load_producers(names, last.next_offset)
        if last.next_offset > last.base_offset and not self._scan_epochs:
            position, offset = last.tail_start()
            epoch = header_at(last.file, position, last.size, offset).leader_epoch
            if epoch != self.epochs.epoch_of(offset):
                reason = f"it says epoch {self.epochs.epoch_of(offset)} for offset {offset}, the batch there {epoch}"
                self._walk_for_epochs(reason)
        if self._scan_epochs or self._producers_from < last.next_offset:
            self._replay_until(last.next_offset)

    def _open_unclean(self, names: list[str], recovery_point: int | None) -> None:
        """After a crash: metadata is good up to the recovery point, batches past it are scanned."""
        point = recovery_point or 0
        self._load_epochs(names, point)
        self._load_producers(names, point)
        if self._scan_epochs or self._producers_from < point:
            self._replay_until(point)
        if self.damage is None:
            self._scan(point, point_is_known=recovery_point is not None)
        if self.damage is not None:
            self.segments[-1].load()

    def _scan(self, recovery_point: int, *, point_is_known: bool) -> None:
        expected: int | None = None
        for index, segment in enumerate(self.segments):
            if segment.sealed and segment.next_offset <= max(recovery_point, self._log_start_offset):
                continue
            if expected is not None and segment.base_offset != expected:
                before = self.segments[index - 1]
                reason = f"the segment ends at offset {expected}, and the next one begins at {segment.base_offset}"
                error = BadBatchError(before.size, expected, reason)
                self._judge(index - 1, error, recovery_point, point_is_known=point_is_known)
                return
            try:
                expected = self._scan_segment(segment, recovery_point)
            except BadBatchError as error:
                self._judge(index, error, recovery_point, point_is_known=point_is_known)
                return

    def _scan_segment(self, segment: Segment, recovery_point: int) -> int:
        position, expected = self._scan_start(segment, recovery_point)
        self._rewrite(segment, position)
        try:
            for at, header in walk(segment.file, position, segment.size, expected, check_crc=True):
                if header.leader_epoch < self.epochs.latest:
                    reason = f"the batch has leader epoch {header.leader_epoch} after epoch {self.epochs.latest}"
                    raise BadBatchError(at, header.base_offset, reason)  # noqa: TRY301  as walk's own
                segment.note(at, header)
                self._replay(segment, at, header)
                expected = header.next_offset
        except BadBatchError as error:
            self.report.scanned_bytes += error.position - position
            raise
        self.report.scanned_bytes += segment.size - position
        if not segment.sealed:
            segment.next_offset = expected
        segment.finish_load()
        return expected

    def _rewrite(self, segment: Segment, position: int) -> None:
        """Write the end of a segment again, so that the next flush puts it on the medium, whatever became of others."""
        file = segment.file
        while position < segment.size:
            data = file.read(position, min(REWRITE_BYTES, segment.size - position))
            if not data:
                return  # the file is shorter than it was: the scan says so
            file.rewrite(position, data)
            position += len(data)
            self.report.rewritten_bytes += len(data)

    def _scan_start(self, segment: Segment, recovery_point: int) -> tuple[int, int]:
        """(position, offset) where the scan of a segment begins; what lies before is taken into its indexes."""
        if segment.base_offset >= recovery_point:
            segment.begin_scan()
            return 0, segment.base_offset
        try:
            segment.read_indexes(None)
            segment.drop_entries_from(recovery_point)
            return self._walk_to(segment, recovery_point, *segment.tail_start())
        except (FileNotFoundError, IndexFormatError, BadBatchError) as error:
            segment.begin_scan()
            segment.rebuilt_reason = str(error)
            return self._walk_to(segment, recovery_point, 0, segment.base_offset)

    def _walk_to(self, segment: Segment, recovery_point: int, position: int, expected: int) -> tuple[int, int]:
        """Take the batches below the recovery point into a segment's indexes, by their headers."""
        last_time = segment.last_time_entry
        if expected >= recovery_point:
            return position, expected
        for at, header in walk(segment.file, position, segment.size, expected, check_crc=False):
            segment.check_time_entry(last_time, header)
            segment.note(at, header)
            position = at + header.size
            expected = header.next_offset
            if expected >= recovery_point:
                break
        return position, expected

    def _judge(self, index: int, error: BadBatchError, recovery_point: int, *, point_is_known: bool) -> None:
        """Decide whether a bad batch is torn, and cut it, or damaged, and say so."""
        segment = self.segments[index]
        torn = error.offset >= recovery_point
        if torn and not point_is_known:
            torn = index == len(self.segments) - 1 and not self._valid_follows(segment, error)
        if torn:
            for later in self.segments[index + 1 :]:
                self.report.truncated_bytes += later.size
                later.delete()
            del self.segments[index + 1 :]
            self._truncate(segment, error)
            return
        self._set_damage(error, segment)

    def _valid_follows(self, segment: Segment, error: BadBatchError) -> bool:
        """Whether some valid batch of this log stands behind the bad place: then that is no torn tail."""
        start = error.position + 1
        data = segment.file.read(start, min(segment.size - start, RESYNC_BYTES_MAX))
        high_bytes = error.offset.to_bytes(8, "big")[:4]
        at = data.find(high_bytes)
        for _ in range(RESYNC_TRIES_MAX):
            if at < 0 or len(data) - at < HEADER_SIZE:
                return False
            if data[at + 16] == MAGIC:
                offset = int.from_bytes(data[at : at + 8], "big")
                with contextlib.suppress(BadBatchError):
                    for _ in walk(segment.file, start + at, segment.size, offset, check_crc=True):
                        return True
            at = data.find(high_bytes, at + 1)
        return True  # undecided: cutting would be the worse mistake

    def _truncate(self, segment: Segment, error: BadBatchError) -> None:
        torn = segment.size - error.position
        self.report.truncated_bytes += torn
        self.report.reasons.append(
            f"{segment.path} was cut from {segment.size} to {error.position} bytes at offset {error.offset}, "
            f"past what had been flushed: {error.reason}"
        )
        segment.end_at(error.position, error.offset)
        self._disk.sync_folder(self._folder)  # what was removed must not come back behind what is written next

    def _finish(self, recovery_point: int, names: list[str]) -> None:
        last = self.segments[-1]
        if self.damage is None and last.next_offset < recovery_point:
            reason = f"the log ends at offset {last.next_offset}, and offsets up to {recovery_point} had been flushed"
            self._set_damage(BadBatchError(last.size, last.next_offset, reason), last)
        for segment in self.segments:
            if segment.rebuilt_reason:
                path = segment_path(self._folder, segment.base_offset, INDEX_SUFFIX)
                self._note_rebuilt(path, segment.rebuilt_reason)
            if segment.bad is not None:
                self._set_damage(segment.bad, segment)
        self._remove_snapshots(names, past=last.next_offset)

    def _remove_snapshots(self, names: list[str], *, past: int) -> None:
        """A snapshot of a state that no longer is must not come back once the log has grown past its offset again."""
        stale = [offset for offset in base_offsets(names, SNAPSHOT_SUFFIX) if offset > past]
        for offset in stale:
            self._disk.remove(segment_path(self._folder, offset, SNAPSHOT_SUFFIX))
        if stale:
            self._disk.sync_folder(self._folder)
