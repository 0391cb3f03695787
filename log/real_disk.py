"""The disk of the operating system: the one place of the log that calls ``os``."""

# The protocol's paths are strings, and pathlib would only wrap and unwrap them:
# ruff: noqa: PTH100, PTH102, PTH105, PTH108, PTH112, PTH116, PTH120, PTH123, PTH208

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from errno import EIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

BUFFERS_PER_WRITE = 1024
"""IOV_MAX on Linux: what one writev takes."""

LOCK_NAME = ".lock"
TEMPORARY_SUFFIX = ".tmp"


class RealFile:
    """A file descriptor and the size that was reached through it.

    Writes go to the known size (pwritev), not to wherever the file ends: what a failed write may have left behind it is
    overwritten by the next one.
    """

    __slots__ = ("_broken", "_close_wanted", "_fd", "_flush_lock", "_flushing", "_lock", "_lost", "_path", "_size")

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._broken = ""
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._lost: OSError | None = None
        """How a flush has failed: what it was to write may never be written, whatever a later one says."""
        self._flushing = 0
        self._close_wanted = False

    @property
    def path(self) -> str:
        """Where it was opened."""
        return self._path

    def size(self) -> int:
        """Bytes in the file, including what is not flushed."""
        return self._size

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end; after an OSError the file has its former size."""
        if self._broken:
            raise OSError(EIO, self._broken, self._path)
        wanted = sum([memoryview(buffer).nbytes for buffer in buffers])
        try:
            if len(buffers) <= BUFFERS_PER_WRITE:
                written = os.pwritev(self._fd, buffers, self._size)
                if written < wanted:
                    self._write_rest(buffers, written)
            else:
                self._write_rest(buffers, 0)
        except OSError:
            self._cut_to_size()
            raise
        self._size += wanted
        return wanted

    def _write_rest(self, buffers: Sequence[Buffer], written: int) -> None:
        """Write what one call did not take: more buffers than it allows, or the rest after a short write."""
        position = self._size + written
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        first = 0
        skip = written
        while True:
            while first < len(views) and skip >= len(views[first]):
                skip -= len(views[first])
                first += 1
            if first == len(views):
                return
            piece = views[first : first + BUFFERS_PER_WRITE]
            piece[0] = piece[0][skip:]
            count = os.pwritev(self._fd, piece, position)
            if count == 0:
                raise OSError(EIO, "the write took nothing and gave no reason", self._path)
            position += count
            skip += count

    def rewrite(self, position: int, data: Buffer) -> None:
        """Write again what the file holds at a position."""
        view = memoryview(data).cast("B")
        assert position + len(view) <= self._size, (position, len(view), self._size)
        while view:
            count = os.pwrite(self._fd, view, position)
            if count == 0:
                raise OSError(EIO, "the write took nothing and gave no reason", self._path)
            position += count
            view = view[count:]

    def _cut_to_size(self) -> None:
        """Take back what a failed write left."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            # Recovery cuts such a tail; until then nothing may be written behind it that a reader could take for good.
            self._broken = f"a failed write could not be cut off again ({os.strerror(error.errno or EIO)})"

    def read(self, position: int, length: int) -> bytes:
        """Up to length bytes from position; fewer only at the end of the file."""
        data = os.pread(self._fd, length, position)
        if len(data) == length or position + len(data) >= self._size:
            return data
        pieces = [data]
        got = len(data)
        while got < length:
            data = os.pread(self._fd, length - got, position + got)
            if not data:
                break
            pieces.append(data)
            got += len(data)
        return b"".join(pieces)

    def truncate(self, size: int) -> None:
        """Cut the file to size bytes."""
        assert 0 <= size <= self._size, (size, self._size)
        os.ftruncate(self._fd, size)
        self._size = size

    def flush(self) -> None:
        """Return when all that was appended before the call is on the medium. Any thread may call it.

        A file that its owner closed needs no flush: the owner closes only what is flushed or deleted. Once one has
        failed all fail: the system tells one caller of it, and takes the lost pages for clean from then on.
        """
        with self._lock:
            if self._close_wanted:
                return
            self._flushing += 1
        try:
            self._flush_once()
        finally:
            with self._lock:
                self._flushing -= 1
                if self._close_wanted and not self._flushing:
                    self._close_now()

    def _flush_once(self) -> None:
        with self._flush_lock:
            if self._lost is not None:
                message = f"an earlier flush has failed: {self._lost.strerror or self._lost}"
                raise OSError(EIO, message, self._path)
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._lost = error
                raise

    def close(self) -> None:
        """Give the file back, at the end of the flush that another thread may be in."""
        with self._lock:
            self._close_wanted = True
            if not self._flushing:
                self._close_now()

    def _close_now(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class RealLock:
    """An advisory lock (flock) that ends with the process that holds it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Let another process have the folder."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class RealDisk:
    """Files and folders of the operating system."""

    def open(self, path: str, *, create: bool = False) -> RealFile:
        """Open a file to read and append; FileNotFoundError unless create."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return RealFile(path, os.open(path, flags, 0o644))

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        return os.path.lexists(path)

    def size(self, path: str) -> int:
        """Bytes in the file."""
        return os.stat(path).st_size

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted."""
        return sorted(os.listdir(folder))

    def make_folder(self, path: str) -> None:
        """Create the folder and its parents where missing, durably."""
        missing = []
        current = os.path.abspath(path)
        while not os.path.isdir(current):
            missing.append(current)
            current = os.path.dirname(current)
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o755)
            self.sync_folder(os.path.dirname(folder))

    def remove(self, path: str) -> None:
        """Remove a file; no error if it is gone."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_tree(self, path: str) -> None:
        """Remove a folder and all in it; no error if it is gone."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)

    def rename(self, old: str, new: str) -> None:
        """Move within one file system, replacing what is there."""
        os.replace(old, new)

    def read_file(self, path: str) -> bytes:
        """All of a small file."""
        with open(path, "rb") as file:
            return file.read()

    def replace_file(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Give a small file new content, all or nothing."""
        # The owner and a flush may write the same file at once: each finishes its own.
        temporary = f"{path}.{threading.get_ident()}{TEMPORARY_SUFFIX}"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            self.sync_folder(os.path.dirname(path) or ".")

    def sync_folder(self, path: str) -> None:
        """Make creations, renames and removals in a folder durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def space(self, folder: str) -> tuple[int, int]:
        """Bytes of the file system in all, and bytes that are free for this user."""
        found = os.statvfs(folder)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def lock(self, folder: str) -> RealLock:
        """Hold the folder for this process alone; BlockingIOError if another one holds it."""
        fd = os.open(f"{folder}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return RealLock(fd)
