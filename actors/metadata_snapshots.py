"""Snapshots of the metadata (KIP-630): files that hold the image up to one offset, so that the log before it can go.

A snapshot is named ``{end offset}-{epoch of the last record}.checkpoint`` and stands in the metadata log's folder.
Layout, big-endian::

    8   magic       ZMQBSNAP
    2   version     1
    8   end offset  the offset after the last record that it stands for
    4   epoch       of that record
    4   records     how many
    -   records     each a length of 4 bytes and a metadata record
    4   CRC-32C     of everything before
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from ..errors import CorruptMessageError
from ..quorum import records
from ..quorum.image import MetadataImage, apply, as_records
from ..quorum.kraft_types import SnapshotId
from ..transport.config_messages import TOPIC_RESOURCE

if TYPE_CHECKING:
    from ..log.disk import Disk, File

logger = logging.getLogger(__name__)

MAGIC = b"ZMQBSNAP"
VERSION = 1
_HEADER = Struct(">8sHqiI")
_LENGTH = Struct(">I")
_CRC = Struct(">I")
_NAME = re.compile(r"([0-9]{20})-([0-9]{10})\.checkpoint")
_PART_SUFFIX = ".tmp"
"""Of a snapshot that is being fetched; opening the log removes what is left of one."""


def file_name(snapshot: SnapshotId) -> str:
    """The name of a snapshot's file."""
    return f"{snapshot.offset:020d}-{snapshot.epoch:010d}.checkpoint"


class Snapshot(NamedTuple):
    """One that was read."""

    id: SnapshotId
    image: MetadataImage


def encode(snapshot: SnapshotId, image: MetadataImage) -> bytes:
    """The content of the file."""
    assert image.end_offset == snapshot.offset, (image.end_offset, snapshot)
    values = [records.encode(record) for record in as_records(image)]
    parts = [_HEADER.pack(MAGIC, VERSION, snapshot.offset, snapshot.epoch, len(values))]
    for value in values:
        parts += (_LENGTH.pack(len(value)), value)
    content = b"".join(parts)
    return content + _CRC.pack(crc32c(content))


def decode(snapshot: SnapshotId, content: bytes) -> MetadataImage:
    """The image of a file; CorruptMessageError, with the reason, if it is not exactly what was written."""
    end = len(content) - _CRC.size
    if end < _HEADER.size:
        message = f"{file_name(snapshot)} has {len(content)} bytes, less than an empty snapshot"
        raise CorruptMessageError(message)
    magic, version, *found, count = _HEADER.unpack_from(content)
    if _CRC.unpack_from(content, end) != (crc32c(memoryview(content)[:end]),):
        message = f"{file_name(snapshot)} does not have the checksum that it says"
        raise CorruptMessageError(message)
    if (magic, version) != (MAGIC, VERSION) or SnapshotId(*found) != snapshot:
        message = f"{file_name(snapshot)} holds {magic!r} {version} {found}, which is no snapshot of that name"
        raise CorruptMessageError(message)
    changes, position = [], _HEADER.size
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(content, position)
        position += _LENGTH.size + length
        changes.append(records.decode(content[position - length : position]))
    return replace(apply(MetadataImage(), changes, TOPIC_RESOURCE), end_offset=snapshot.offset)


class MetadataSnapshots:
    """The snapshot files of one folder. Methods raise OSError as the disk does."""

    def __init__(self, disk: Disk, folder: str) -> None:
        self._disk = disk
        self._folder = folder

    def _path(self, snapshot: SnapshotId) -> str:
        return f"{self._folder}/{file_name(snapshot)}"

    def ids(self) -> list[SnapshotId]:
        """Those that are there, whatever is in them, the oldest first."""
        found = map(_NAME.fullmatch, self._disk.list(self._folder))
        return sorted(SnapshotId(int(name[1]), int(name[2])) for name in found if name)

    def load(self, snapshot: SnapshotId) -> MetadataImage:
        """Read one; CorruptMessageError if it is damaged."""
        return decode(snapshot, self._disk.read_file(self._path(snapshot)))

    def write(self, snapshot: SnapshotId, image: MetadataImage) -> None:
        """Make one, durably; in any thread."""
        self._disk.replace_file(self._path(snapshot), encode(snapshot, image))

    def remove_before(self, snapshot: SnapshotId) -> None:
        """Remove all that are older than this one."""
        for old in self.ids():
            if old < snapshot:
                self._disk.remove(self._path(old))

    def remove(self, snapshot: SnapshotId) -> None:
        """Remove one."""
        self._disk.remove(self._path(snapshot))

    def size(self, snapshot: SnapshotId) -> int:
        """Bytes of one; FileNotFoundError if it is gone."""
        return self._disk.size(self._path(snapshot))

    def read(self, snapshot: SnapshotId, position: int, max_bytes: int) -> bytes:
        """A part of one; FileNotFoundError if it is gone."""
        file = self._disk.open(self._path(snapshot))
        try:
            return file.read(position, max_bytes)
        finally:
            file.close()

    def begin_fetch(self, snapshot: SnapshotId) -> SnapshotDownload:
        """Make the file that a snapshot of another node is gathered in."""
        return SnapshotDownload(self._disk, self._folder, snapshot)


class SnapshotDownload:
    """A snapshot that comes in parts from another node; it has its name only when it is whole, checked and durable."""

    def __init__(self, disk: Disk, folder: str, snapshot: SnapshotId) -> None:
        self._disk = disk
        self._folder = folder
        self.id = snapshot
        self._path = f"{folder}/{file_name(snapshot)}{_PART_SUFFIX}"
        disk.remove(self._path)
        self._file: File | None = disk.open(self._path, create=True)
        self.position = 0
        """How much of it is there."""
        self.image: MetadataImage | None = None
        """Set by ``finish``."""

    def append(self, part: bytes) -> None:
        """Add the next part."""
        assert self._file is not None, "a snapshot grew after its end"
        self.position += self._file.append([part])

    def finish(self) -> None:
        """Check it, make it durable, and give it its name; in any thread.

        CorruptMessageError if it did not come as it was written.
        """
        assert self._file is not None, "a snapshot ended twice"
        self.image = decode(self.id, self._file.read(0, self.position))
        self._file.flush()
        self._disk.rename(self._path, f"{self._folder}/{file_name(self.id)}")
        self._disk.sync_folder(self._folder)

    def close(self) -> None:
        """Give the file back; what has not become a snapshot is removed."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
            self._disk.remove(self._path)
