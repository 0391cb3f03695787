"""The metadata log: the partition ``__cluster_metadata-0`` that a cluster's metadata records stand in.

One batch holds the records of one decision, so that all of them count or none. What is committed is folded into an
image; what is not is kept as it was read, so that it can be taken back. At start the newest snapshot and the log after
it are read; nothing else is state. Who votes is said by records too, and holds from their append on (KIP-853).
"""

from __future__ import annotations

import logging
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CorruptMessageError, InvalidRequestError, StorageError, ZmqBrokerError
from ..log.batch import read_header
from ..log.plain_records import decode_batch, encode_batch
from ..log.staging import Appended
from ..quorum import records
from ..quorum.image import METADATA_TOPIC, MetadataImage, apply
from ..quorum.kraft_types import SnapshotId
from ..quorum.records import SetVoters
from ..settings import TopicConfig
from ..transport.config_messages import TOPIC_RESOURCE
from ..transport.quorum_messages import Voter
from .metadata_snapshots import MetadataSnapshots, Snapshot, SnapshotDownload, file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..log.data_folder import DataFolder
    from ..log.disk import Disk
    from ..log.flush import FlushJob
    from ..log.partition_log import PartitionLog
    from ..quorum.records import MetadataRecord

logger = logging.getLogger(__name__)

METADATA_PARTITION = f"{METADATA_TOPIC}-0"
_READ_BYTES = 1024 * 1024
_MAX_BATCH_BYTES = 8 * 1024 * 1024
_NO_SNAPSHOT = Snapshot(SnapshotId(0, 0), MetadataImage())


class MetadataDamagedError(ZmqBrokerError):
    """The metadata cannot be read to their end. Starting without the rest would look like deleted topics."""


def has_metadata(disk: Disk, folder: str) -> bool:
    """Whether the node of a data folder has learned anything of its cluster yet."""
    path = f"{folder}/{METADATA_PARTITION}"
    names = disk.list(path) if disk.exists(path) else []
    return any(name.endswith((".log", ".checkpoint")) and disk.size(f"{path}/{name}") for name in names)


class VoterSet(NamedTuple):
    """Who votes from the record at this offset on; of a snapshot: from its last record on."""

    offset: int
    voters: list[Voter]


class _Batch(NamedTuple):
    """A decision in the log that is not known to be committed."""

    base_offset: int
    next_offset: int
    epoch: int
    size: int
    records: list[MetadataRecord]


class MetadataLog:
    """The log, the image of what is committed in it, and what more has been appended.

    Offsets below ``start_offset`` are in the snapshot alone.
    """

    def __init__(self, disk: Disk, folder: DataFolder, now_ms: int) -> None:
        """Read it all. Raises MetadataDamagedError if that is not possible, StorageError if the disk refuses."""
        self._folder = folder
        config = TopicConfig(retention_ms=-1, max_message_bytes=_MAX_BATCH_BYTES, segment_bytes=_MAX_BATCH_BYTES)
        self._log: PartitionLog = folder.open_log(METADATA_PARTITION, config, now_ms)
        self._snapshots = MetadataSnapshots(disk, self._log.folder)
        self._pending: deque[_Batch] = deque()
        self._working: MetadataImage | None = None
        self._bytes_since_snapshot = 0
        self.voters: list[VoterSet] = []
        """Who voted when: the last entry whose record is committed, and all after it."""
        try:
            self._start_from(self._load_snapshot())
            for batch in self._read_batches():
                self._take(batch)
        except ZmqBrokerError as error:
            folder.abandon_log(METADATA_PARTITION)
            message = (
                f"the metadata log is damaged: {error.message}; remove the node from its cluster and let it join again"
                f" with an empty folder: only a cluster of one node may put back {METADATA_PARTITION} from a copy, and"
                " then lacks what came after it"
            )
            raise MetadataDamagedError(message) from error
        except OSError as error:
            folder.abandon_log(METADATA_PARTITION)
            message = f"the metadata in {self._log.folder} cannot be read: {error}"
            raise StorageError(message) from error

    # ---- the start

    def _start_from(self, snapshot: Snapshot) -> None:
        self.snapshot: SnapshotId | None = snapshot.id if snapshot.id.offset else None
        """The newest snapshot."""
        self.committed: MetadataImage = snapshot.image
        """The image of all that is known to be committed."""
        self._committed_epoch = snapshot.id.epoch
        self._pending.clear()
        self._working = None
        self._bytes_since_snapshot = 0
        voters = snapshot.image.voters
        self.voters = [VoterSet(snapshot.id.offset - 1, [Voter(*voter) for voter in voters])] if voters else []

    def _load_snapshot(self) -> Snapshot:
        """The newest snapshot that is whole, made the beginning of the log."""
        log = self._log
        if log.damage is not None:
            raise MetadataDamagedError(str(log.damage))
        found, broken = _NO_SNAPSHOT, []
        for snapshot in reversed(self._snapshots.ids()):
            try:
                found = Snapshot(snapshot, self._snapshots.load(snapshot))
                break
            except CorruptMessageError as error:
                logger.warning("a snapshot of the metadata is damaged: %s", error.message)
                broken.append(snapshot)
        start, end = log.log_start_offset, log.log_end_offset
        if found.id.offset < start:
            message = f"it begins at offset {start}, and there is no good snapshot of what was before"
            raise MetadataDamagedError(message)
        if broken and broken[0].offset > end:
            message = (
                f"it ends at offset {end}, and the snapshot {file_name(broken[0])} of what was after is not readable"
            )
            raise MetadataDamagedError(message)
        if found.id.offset > end or self._parts_from(found.id):
            # A snapshot of the leader's was stored, and a crash came before it took the place of this log.
            logger.info("the metadata log from %d to %d gives way to %s", start, end, file_name(found.id))
            log.truncate_and_start_at(found.id.offset)
        for snapshot in broken:
            self._snapshots.remove(snapshot)
        self._snapshots.remove_before(found.id)
        return found

    def _parts_from(self, snapshot: SnapshotId) -> bool:
        """Whether the log holds another record than the snapshot's last one in its place."""
        if snapshot.offset <= self._log.log_start_offset:
            return False
        last = read_header(self._log.read(snapshot.offset - 1, 1))
        return (last.next_offset, last.leader_epoch) != snapshot

    def _read_batches(self) -> Iterator[_Batch]:
        offset = self.committed.end_offset
        while data := self._log.read(offset, _READ_BYTES):
            for batch in _decode(data, offset):
                yield batch
                offset = batch.next_offset

    # ---- where it is

    @property
    def start_offset(self) -> int:
        """The first offset that can be read here."""
        return self._log.log_start_offset

    @property
    def end_offset(self) -> int:
        """The offset that the next record gets."""
        return self._log.log_end_offset

    @property
    def flushed_offset(self) -> int:
        """The offset below which all is on the medium."""
        return self._log.flushed_offset

    @property
    def last_epoch(self) -> int:
        """The epoch of the last record, in the log or in the snapshot; 0 if there is none."""
        return self._pending[-1].epoch if self._pending else self._committed_epoch

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        """(largest epoch not above this one, the offset where it ends); (-1, -1) if that is before the log."""
        found = self._log.epoch_end_offset(epoch)
        if found[0] < 0 and self.snapshot is not None and self.snapshot.epoch <= epoch:
            entries = self._log.epochs.entries()
            return self.snapshot.epoch, entries[0][1] if entries else self.end_offset
        return found

    @property
    def image(self) -> MetadataImage:
        """The image of everything in the log, whether it is committed or not: the next decision is made on it."""
        if self._working is None:
            self._working = _fold(self.committed, self._pending)
        assert self._working.end_offset == self.end_offset, "the metadata log and its image have come apart"
        return self._working

    # ---- appending, and taking back

    def append(self, changes: Sequence[MetadataRecord], now_ms: int, epoch: int) -> None:
        """Append one decision as the leader of this epoch.

        Raises StorageError if the disk refuses, InvalidRequestError if it is larger than one batch may be; nothing has
        changed then.
        """
        data = encode_batch([(now_ms, None, records.encode(change), ()) for change in changes])
        if len(data) > _MAX_BATCH_BYTES:
            message = (
                f"the change makes {len(data)} bytes of metadata; one request may make {_MAX_BATCH_BYTES}: split it"
            )
            raise InvalidRequestError(message)
        # Before it is written: a decision that does not fit the metadata ends this process, not all that read the log.
        working = None if self._working is None else apply(self._working, changes, TOPIC_RESOURCE)
        (result,) = self._log.append([(read_header(data), data)], leader_epoch=epoch, now_ms=now_ms)
        if not isinstance(result, Appended):
            raise result
        self._take(_Batch(result.base_offset, result.last_offset + 1, epoch, len(data), list(changes)))
        if working is not None:
            self._working = working

    def append_as_follower(self, data: bytes, offset: int, epoch: int) -> None:
        """Append batches of the leader of an epoch as they are.

        Raises CorruptMessageError or InvalidRecordError if they are not valid, do not begin at the offset, or the log
        does not end there; StorageError if the disk refuses. Nothing has changed then.
        """
        batches = list(_decode(data, offset))
        epochs = [self.last_epoch, *(batch.epoch for batch in batches), epoch]
        if offset != self.end_offset or epochs != sorted(epochs):
            message = (
                f"metadata of epochs {epochs[1:-1]} from offset {offset} on, in epoch {epoch}, do not follow on offset"
                f" {self.end_offset} and epoch {epochs[0]}"
            )
            raise CorruptMessageError(message)
        self._log.append_as_follower(data)
        for batch in batches:
            self._take(batch)

    def _take(self, batch: _Batch) -> None:
        assert batch.epoch >= self.last_epoch, (batch.epoch, self.last_epoch)
        self._pending.append(batch)
        self._working = None
        for at, record in enumerate(batch.records):
            if isinstance(record, SetVoters):
                voters = [Voter(node_id, directory_id) for node_id, directory_id in record.voters]
                self.voters.append(VoterSet(batch.base_offset + at, voters))

    def truncate_to(self, offset: int) -> None:
        """Cut the log so that it ends at or below an offset. StorageError, and failed, if the disk refuses."""
        assert offset >= self.committed.end_offset, f"committed metadata would be cut: {offset} < {self.committed}"
        self._log.truncate_to(offset)
        while self._pending and self._pending[-1].next_offset > self.end_offset:
            self._pending.pop()
        while self.voters and self.voters[-1].offset >= self.end_offset:
            self.voters.pop()
        self._working = None
        end = self._pending[-1].next_offset if self._pending else self.committed.end_offset
        assert end == self.end_offset, (end, self._log)

    def commit(self, offset: int) -> bool:
        """Fold what is below an offset into the committed image; whether that has moved."""
        assert offset <= self.end_offset, f"{offset} is committed, and the log ends at {self.end_offset}"
        done = []
        while self._pending and self._pending[0].next_offset <= offset:
            done.append(self._pending.popleft())
        if not done:
            return False
        self.committed = self._working if self._working and not self._pending else _fold(self.committed, done)
        assert self.committed.end_offset == done[-1].next_offset, (self.committed.end_offset, done[-1].next_offset)
        self._committed_epoch = done[-1].epoch
        self._bytes_since_snapshot += sum(batch.size for batch in done)
        while len(self.voters) > 1 and self.voters[1].offset < self.committed.end_offset:
            del self.voters[0]
        return True

    # ---- reading and flushing

    def read(self, offset: int, end_offset: int, max_bytes: int) -> bytes:
        """Whole batches from an offset on, at least one; b"" at the end. Raises as ``PartitionLog.read`` does."""
        return self._log.read(offset, max_bytes, end_offset=end_offset)

    def start_flush(self) -> FlushJob | None:
        """What has to be flushed for everything appended to be safe; None if it is, or a flush is under way."""
        return self._log.start_flush()

    def finish_flush(self, job: FlushJob) -> None:
        """Count what the job flushed."""
        self._log.finish_flush(job)

    def close(self) -> None:
        """Flush and close; StorageError if that failed."""
        self._folder.close_log(METADATA_PARTITION)

    # ---- snapshots

    def start_snapshot(self, bytes_between: int) -> tuple[SnapshotId, Callable[[], None]] | None:
        """A snapshot of what is committed, and the work, for any thread, that stores it; None if it is too early."""
        if self._bytes_since_snapshot < bytes_between:
            return None
        self._bytes_since_snapshot = 0
        image, snapshot = self.committed, SnapshotId(self.committed.end_offset, self._committed_epoch)
        return snapshot, lambda: self._snapshots.write(snapshot, image)

    def finish_snapshot(self, snapshot: SnapshotId) -> None:
        """Let the log before a stored snapshot go, and older snapshots with it. OSError if the disk refuses."""
        if self.snapshot is None or self.snapshot < snapshot:  # else a snapshot of the leader's was newer
            self.snapshot = snapshot
            self._log.delete_records_before(snapshot.offset)
        self._snapshots.remove_before(self.snapshot)

    def snapshot_size(self, snapshot: SnapshotId) -> int:
        """Bytes of a stored snapshot; FileNotFoundError if it is gone."""
        return self._snapshots.size(snapshot)

    def read_snapshot(self, snapshot: SnapshotId, position: int, max_bytes: int) -> bytes:
        """A part of a stored snapshot; FileNotFoundError if it is gone."""
        return self._snapshots.read(snapshot, position, max_bytes)

    def begin_snapshot_fetch(self, snapshot: SnapshotId) -> SnapshotDownload:
        """Make the file that a snapshot of the leader's is gathered in. OSError if the disk refuses."""
        return self._snapshots.begin_fetch(snapshot)

    def install(self, snapshot: Snapshot) -> None:
        """Let a stored snapshot of the leader's take the place of the whole log. StorageError if the disk refuses."""
        assert snapshot.id.offset >= self.committed.end_offset, (snapshot.id, self.committed.end_offset)
        self._log.truncate_and_start_at(snapshot.id.offset)
        self._start_from(snapshot)
        self._snapshots.remove_before(snapshot.id)


def _fold(image: MetadataImage, batches: Sequence[_Batch] | deque[_Batch]) -> MetadataImage:
    return apply(image, chain.from_iterable(batch.records for batch in batches), TOPIC_RESOURCE)


def _decode(data: bytes, offset: int) -> Iterator[_Batch]:
    """The batches of some data, which have to follow on an offset."""
    position = 0
    while position < len(data):
        header = read_header(data, position)
        if header.base_offset != offset:
            message = f"a batch of metadata begins at offset {header.base_offset} where {offset} should follow"
            raise CorruptMessageError(message)
        content = data[position : position + header.size]
        changes = [records.decode(record.value or b"") for record in decode_batch(content)]
        yield _Batch(offset, header.next_offset, header.leader_epoch, header.size, changes)
        position += header.size
        offset = header.next_offset
