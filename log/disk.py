"""The disk as the log sees it: two small protocols that the real disk and the simulated one both satisfy.

Nothing else in the package opens a data file. Paths are plain strings. All methods raise ``OSError`` as the operating
system names it (ENOSPC, EIO...); none retries. A failed ``flush`` leaves it unknown what is on the medium, so the
caller must stop using the file (see Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer


class File(Protocol):
    """One open file that is only ever appended to, read, truncated, flushed, and written again as it is."""

    @property
    def path(self) -> str:
        """Where it was opened."""
        ...

    def size(self) -> int:
        """Bytes in the file, including what is not flushed."""
        ...

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end, in order, and return how many bytes that was.

        After an OSError the file has its former size again: a short write is cut off before the error is raised.
        """
        ...

    def rewrite(self, position: int, data: Buffer) -> None:
        """Write again what the file holds at a position, so that the next flush really puts it on the medium.

        Only the very bytes that stand there may be given: whatever a crash leaves of the write, the file is the same.
        """
        ...

    def read(self, position: int, length: int) -> bytes:
        """Up to length bytes from position; fewer only at the end of the file."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to size bytes."""
        ...

    def flush(self) -> None:
        """Return when all that was appended before the call is on the medium. The only call that other threads make."""
        ...

    def close(self) -> None:
        """Give the file back. Safe while another thread is in flush: the file closes when that has ended."""
        ...


class FolderLock(Protocol):
    """A folder held by this process."""

    def release(self) -> None:
        """Let another process have it."""
        ...


class Disk(Protocol):
    """A tree of folders and files."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open a file to read and append; FileNotFoundError unless create."""
        ...

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        ...

    def size(self, path: str) -> int:
        """Bytes in the file."""
        ...

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted."""
        ...

    def make_folder(self, path: str) -> None:
        """Create the folder and its parents where missing, durably."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; no error if it is gone."""
        ...

    def remove_tree(self, path: str) -> None:
        """Remove a folder and all in it; no error if it is gone."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Move within one file system, replacing what is there."""
        ...

    def read_file(self, path: str) -> bytes:
        """All of a small file."""
        ...

    def replace_file(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Give a small file new content, all or nothing: temporary file, fsync, rename, fsync of the folder."""
        ...

    def sync_folder(self, path: str) -> None:
        """Make creations, renames and removals in a folder durable."""
        ...

    def space(self, folder: str) -> tuple[int, int]:
        """Bytes of the file system in all, and bytes that are free for this user."""
        ...

    def lock(self, folder: str) -> FolderLock:
        """Hold the folder for this process alone; BlockingIOError if another one holds it."""
        ...
