"""One flush of a partition's log: captured on the owner's thread, run on any, finished on the owner's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .disk import Disk, File
    from .segment import Segment


class FlushJob:
    """Makes durable what the log held when the job was made.

    ``run`` first flushes the files of batches, the oldest first, then the folder if files were created in it: now the
    records are safe. Then it writes the small files that go with them (indexes of segments that were sealed, leader
    epochs). Only after all of that may the recovery point move up to ``end_offset``: whatever lies below it, metadata
    included, can be relied on after a crash. A disk too full for the small files costs a longer recovery, no record.
    """

    def __init__(
        self,
        disk: Disk,
        folder: str,
        files: Sequence[File],
        *,
        small_files: Sequence[tuple[str, bytes]],
        sync_folder: bool,
        sealed: Sequence[Segment],
        creations: int,
        epochs: list[tuple[int, int]],
        end_offset: int,
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._files = files
        self._small_files = small_files
        self.folder_synced = sync_folder
        self.sealed = sealed
        self.creations = creations
        self.epochs = epochs
        self.end_offset = end_offset
        """Lowered by a truncation that comes while the job is under way."""
        self.done = False
        """The records are on the medium."""
        self.small_files_error: OSError | None = None
        """Why a small file could not be written; each was either replaced as a whole or left as it was."""
        self.cancelled = False
        """Set by the owner when the log is closed or has failed: the small files are then left alone."""

    def run(self) -> None:
        """Do it, in any thread. OSError if records could not be flushed: what is on the medium is unknown then."""
        for file in self._files:
            file.flush()
        if self.folder_synced and not self.cancelled:
            self._disk.sync_folder(self._folder)
        try:
            for path, data in self._small_files:
                if not self.cancelled:
                    self._disk.replace_file(path, data)
        except OSError as error:
            self.small_files_error = error
        self.done = True
