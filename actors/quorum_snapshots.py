"""Snapshots at work (KIP-630): taken when enough has been committed, served and fetched in parts, installed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import CorruptMessageError, PositionOutOfRangeError, SnapshotNotFoundError, StorageError
from ..quorum.kraft_types import SnapshotId
from .metadata_snapshots import Snapshot, file_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.quorum_messages import FetchSnapshotRequest
    from .metadata_log import MetadataLog
    from .metadata_snapshots import SnapshotDownload

logger = logging.getLogger(__name__)


class QuorumSnapshots:
    """The snapshots of one metadata log. What takes long is work for another thread."""

    def __init__(self, log: MetadataLog, bytes_between: int) -> None:
        self._log = log
        self._bytes_between = bytes_between
        self._taking: SnapshotId | None = None
        self._download: SnapshotDownload | None = None
        self._told = ""
        """Why the last one that was fetched is not used."""

    # ---- taken

    def start(self) -> Callable[[], None] | None:
        """The work that stores a snapshot, if it is time for one."""
        if self._taking is not None:
            return None
        started = self._log.start_snapshot(self._bytes_between)
        if started is None:
            return None
        self._taking, work = started
        return work

    def finish(self, error: Exception | None) -> SnapshotId | None:
        """Take a stored snapshot in; None if there is none: the next one comes when as much is committed again."""
        snapshot, self._taking = self._taking, None
        assert snapshot is not None, "a snapshot ended that had not begun"
        try:
            if error is not None:
                raise error
            self._log.finish_snapshot(snapshot)
        except OSError as failed:
            logger.warning("the metadata log is not cut at %d: %s", snapshot.offset, failed.strerror or failed)
            return None if error is not None else snapshot
        logger.info("the metadata up to offset %d are in a snapshot", snapshot.offset)
        return snapshot

    # ---- served

    def read(self, request: FetchSnapshotRequest, bytes_max: int) -> tuple[int, bytes]:
        """(size, a part) of a snapshot. SnapshotNotFoundError, PositionOutOfRangeError, or StorageError."""
        snapshot = SnapshotId(request.snapshot_offset, request.snapshot_epoch)
        if snapshot != self._log.snapshot:
            message = f"there is no snapshot of the metadata up to offset {snapshot.offset} and epoch {snapshot.epoch}"
            raise SnapshotNotFoundError(message)
        try:
            size = self._log.snapshot_size(snapshot)
            if not 0 <= request.position <= size:
                message = f"the snapshot has {size} bytes, and no position {request.position}"
                raise PositionOutOfRangeError(message)
            return size, self._log.read_snapshot(snapshot, request.position, min(request.max_bytes, bytes_max))
        except OSError as error:
            message = f"the snapshot {file_name(snapshot)} cannot be read: {error.strerror or error}"
            raise StorageError(message) from error

    # ---- fetched

    @property
    def is_fetching(self) -> bool:
        """Whether all that came of a snapshot so far is stored."""
        return self._download is not None

    def write(self, snapshot: SnapshotId, position: int, part: bytes) -> bool:
        """Store a part that came, the first at position 0; False if that is not possible: begin anew then."""
        try:
            if position == 0:
                self.abandon()
                self._download = self._log.begin_snapshot_fetch(snapshot)
            download = self._download
            if download is None or (download.id, download.position) != (snapshot, position):
                self.abandon()
                return False
            download.append(part)
        except OSError as error:
            self._tell(f"a snapshot of the leader's could not be stored: {error.strerror or error}")
            self.abandon()
            return False
        return True

    def finish_fetch(self) -> None:
        """Check and keep what came, in any thread. OSError or CorruptMessageError."""
        assert self._download is not None, "no snapshot was fetched"
        self._download.finish()

    def install(self, error: Exception | None) -> SnapshotId | None:
        """Let what came take the log's place, after ``finish_fetch``; None if it was not fit for that."""
        download = self._download
        assert download is not None, "no snapshot was fetched"
        self.abandon()
        if error is not None:
            assert isinstance(error, CorruptMessageError), f"storing a snapshot failed: {error!r}; the node stops"
            self._tell(f"the snapshot that the leader has sent is not used: {error}")
            return None
        assert download.image is not None, "a snapshot that was kept has been read"
        logger.info("the metadata up to offset %d come from the leader's snapshot", download.id.offset)
        self._told = ""
        self._log.install(Snapshot(download.id, download.image))
        return download.id

    def abandon(self) -> None:
        """Remove what came of a snapshot that is not whole."""
        download, self._download = self._download, None
        if download is not None:
            download.close()

    def _tell(self, why: str) -> None:
        """Log it, once for each reason in a row: the leader is asked again and again."""
        if why != self._told:
            self._told = why
            logger.warning("%s", why)
