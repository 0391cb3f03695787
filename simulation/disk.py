"""A disk in memory that loses what was not flushed when it crashes, and that fails on demand.

A file has its bytes as the process sees them and as the medium has them; a flush makes them equal from the first byte
that changed. A crash keeps of each changed sector either the new or the old content, and of each folder's creations,
renames and removals a random beginning, as a journaling file system may. All choices come from the generator given to
``crash``, so that a run can be repeated.

After a flush that failed the process, and the next ones, still read what they wrote, but no later flush puts it on the
medium: the kernel takes those pages for clean, until they are written again.
"""

from __future__ import annotations

from errno import EIO, ENOENT, ENOSPC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from typing_extensions import Buffer

SECTOR_BYTES = 512


class _Inode:
    """A file's bytes: now, and on the medium. They differ only from ``clean`` on, and in what was ``lost``."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.stable = bytearray()
        self.clean = 0
        self.lost: list[tuple[int, int]] = []
        """From where to where a flush has failed, and no later one will write."""

    def flush(self) -> None:
        old = [(start, self.stable[start:end].ljust(end - start, b"\0")) for start, end in self.lost]
        self.stable.extend(bytes(max(self.clean - len(self.stable), 0)))
        self.stable[self.clean :] = self.data[self.clean :]
        for start, content in old:
            self.stable[start : start + len(content)] = content
        self.clean = len(self.data)

    def lose(self) -> None:
        """A failed fsync: the kernel takes the pages for clean, and they may never reach the medium."""
        if self.clean < len(self.data):
            self.lost.append((self.clean, len(self.data)))
        self.clean = len(self.data)

    def change(self, start: int, end: int) -> None:
        """These bytes are written again, or cut off: the next flush has to do with them what it should."""
        rest = [part for low, high in self.lost for part in ((low, min(high, start)), (max(low, end), high))]
        self.lost = [(low, high) for low, high in rest if low < high]
        self.clean = min(self.clean, start)

    def crash(self, random: Random) -> None:
        changed = min([self.clean, *[start for start, _ in self.lost]])
        if changed < len(self.data) or len(self.data) != len(self.stable):
            longest = max(len(self.data), len(self.stable))
            kept = bytearray(self.stable)
            kept.extend(bytes(longest - len(kept)))
            size = len(self.stable)
            share = random.choice((0.0, 0.5, 0.9, 1.0))
            position = changed
            while position < longest:
                end = min(position - position % SECTOR_BYTES + SECTOR_BYTES, longest)
                if random.random() < share and position < len(self.data):
                    piece = self.data[position:end]
                    kept[position : position + len(piece)] = piece
                    size = max(size, position + len(piece))
                position = end
            if len(self.data) < len(self.stable) and random.random() < share:
                size = len(self.data)  # the truncation was kept
            if self.lost and size < len(self.data) and random.choice((True, False)):
                size = len(self.data)  # the file has grown, and nothing was written there
            self.stable = kept[:size]
        self.data = bytearray(self.stable)
        self.lost.clear()
        self.clean = len(self.data)


class _Folder:
    """Names and what they stand for: now, and on the medium; and the changes in between, in order."""

    def __init__(self) -> None:
        self.entries: dict[str, _Inode | _Folder] = {}
        self.stable: dict[str, _Inode | _Folder] = {}
        self.changes: list[Callable[[dict[str, _Inode | _Folder]], object]] = []

    def change(self, what: Callable[[dict[str, _Inode | _Folder]], object]) -> None:
        what(self.entries)
        self.changes.append(what)

    def sync(self) -> None:
        self.stable = dict(self.entries)
        self.changes.clear()

    def crash(self, random: Random) -> None:
        kept = random.choice((0, len(self.changes), random.randint(0, len(self.changes))))
        for what in self.changes[:kept]:
            what(self.stable)
        self.entries = dict(self.stable)
        self.changes.clear()
        for _, node in sorted(self.entries.items()):
            node.crash(random)


class MemoryFile:
    """One open file; of no more use after a crash."""

    def __init__(self, disk: MemoryDisk, path: str, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._crashes = disk.crashes
        self._closed = False

    @property
    def path(self) -> str:
        """Where it was opened."""
        return self._path

    def _use(self, operation: str) -> _Inode:
        assert not self._closed, f"{operation} on the closed file {self._path}"
        assert self._crashes == self._disk.crashes, f"{operation} on a file from before a crash: {self._path}"
        self._disk.meet_fault(operation, self._path)
        return self._inode

    def size(self) -> int:
        """Bytes in the file, including what is not flushed."""
        return len(self._inode.data)

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end; after an OSError the file has its former size."""
        inode = self._use("append")
        data = b"".join(buffers)
        self._disk.take_room(len(data), self._path)
        inode.data += data
        return len(data)

    def rewrite(self, position: int, data: Buffer) -> None:
        """Write again what the file holds at a position."""
        inode = self._use("rewrite")
        end = position + len(memoryview(data))
        assert inode.data[position:end] == data, f"{self._path} holds something else at {position}"
        inode.change(position, end)

    def read(self, position: int, length: int) -> bytes:
        """Up to length bytes from position; fewer only at the end of the file."""
        return bytes(self._use("read").data[position : position + length])

    def truncate(self, size: int) -> None:
        """Cut the file to size bytes."""
        inode = self._use("truncate")
        assert 0 <= size <= len(inode.data), (size, len(inode.data))
        inode.change(size, len(inode.data))
        del inode.data[size:]

    def flush(self) -> None:
        """What was appended is on the medium when this returns."""
        if self._closed:
            return
        try:
            inode = self._use("flush")
        except OSError:
            self._inode.lose()
            raise
        inode.flush()

    def close(self) -> None:
        """Give the file back."""
        self._closed = True


class MemoryLock:
    """A folder held, until it is released or the machine crashes."""

    def __init__(self, disk: MemoryDisk, folder: str) -> None:
        self._disk = disk
        self._folder = folder

    def release(self) -> None:
        """Let another one have the folder."""
        self._disk.locked.discard(self._folder)


class MemoryDisk:
    """A tree of folders and files in memory.

    Faults: ``capacity_bytes`` is ENOSPC for an append that would go past it; ``fault`` is called before each operation
    with its name (append, rewrite, read, truncate, flush, open, replace, rename, remove, sync_folder) and path, and may
    raise. A durable replacement is two of them, replace and sync_folder.
    """

    def __init__(self) -> None:
        self._root = _Folder()
        self.locked: set[str] = set()
        self.crashes = 0
        self.capacity_bytes: int | None = None
        self.fault: Callable[[str, str], None] | None = None

    def meet_fault(self, operation: str, path: str) -> None:
        """Let the fault that was set decide about an operation."""
        if self.fault is not None:
            self.fault(operation, path)

    def space(self, folder: str) -> tuple[int, int]:
        """Bytes in all, and bytes that are free."""
        self._node(folder)
        total = 2**40 if self.capacity_bytes is None else self.capacity_bytes
        return total, max(0, total - self._used(self._root))

    def take_room(self, size: int, path: str) -> None:
        """ENOSPC if so many bytes more do not fit."""
        if self.capacity_bytes is not None and self._used(self._root) + size > self.capacity_bytes:
            raise OSError(ENOSPC, "No space left on device", path)

    def _used(self, folder: _Folder) -> int:
        nodes = folder.entries.values()
        return sum(self._used(node) if isinstance(node, _Folder) else len(node.data) for node in nodes)

    def fail_once(self, operation: str, part_of_path: str = "", code: int = EIO) -> None:
        """Let the next such operation on such a path fail."""

        def fault(met: str, path: str) -> None:
            if met == operation and part_of_path in path:
                self.fault = None
                raise OSError(code, "injected fault", path)

        self.fault = fault

    def crash(self, random: Random) -> None:
        """Lose power: open files are gone, of what was pending a random part is kept."""
        self.crashes += 1
        self.locked.clear()
        self.fault = None
        self._root.crash(random)

    def flip_bit(self, path: str, position: int, bit: int = 0) -> None:
        """Change what is stored, behind everyone's back."""
        inode = self._inode(path)
        inode.data[position] ^= 1 << bit
        if position < len(inode.stable):
            inode.stable[position] ^= 1 << bit

    def _split(self, path: str) -> tuple[_Folder, str]:
        parts = [part for part in path.split("/") if part]
        folder = self._root
        for part in parts[:-1]:
            node = folder.entries.get(part)
            if not isinstance(node, _Folder):
                raise FileNotFoundError(ENOENT, "No such file or directory", path)
            folder = node
        return folder, parts[-1] if parts else ""

    def _node(self, path: str) -> _Inode | _Folder:
        folder, name = self._split(path)
        if not name:
            return folder
        node = folder.entries.get(name)
        if node is None:
            raise FileNotFoundError(ENOENT, "No such file or directory", path)
        return node

    def _inode(self, path: str) -> _Inode:
        node = self._node(path)
        assert isinstance(node, _Inode), path
        return node

    def open(self, path: str, *, create: bool = False) -> MemoryFile:
        """Open a file to read and append; FileNotFoundError unless create."""
        self.meet_fault("open", path)
        folder, name = self._split(path)
        if name not in folder.entries:
            if not create:
                raise FileNotFoundError(ENOENT, "No such file or directory", path)
            inode = _Inode()
            folder.change(lambda entries: entries.__setitem__(name, inode))
        return MemoryFile(self, path, self._inode(path))

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        try:
            self._node(path)
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        """Bytes in the file."""
        return len(self._inode(path).data)

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted."""
        node = self._node(folder)
        assert isinstance(node, _Folder), folder
        return sorted(node.entries)

    def make_folder(self, path: str) -> None:
        """Create the folder and its parents where missing, durably."""
        folder = self._root
        for part in [part for part in path.split("/") if part]:
            node = folder.entries.get(part)
            if node is None:
                node = folder.entries[part] = folder.stable[part] = _Folder()
            assert isinstance(node, _Folder), path
            folder = node

    def remove(self, path: str) -> None:
        """Remove a file; no error if it is gone."""
        self.meet_fault("remove", path)
        folder, name = self._split(path)
        if name in folder.entries:
            folder.change(lambda entries: entries.pop(name, None))

    def remove_tree(self, path: str) -> None:
        """Remove a folder and all in it; no error if it is gone."""
        self.remove(path)

    def rename(self, old: str, new: str) -> None:
        """Move within one folder, replacing what is there."""
        self.meet_fault("rename", old)
        folder, name = self._split(old)
        other, new_name = self._split(new)
        assert folder is other, (old, new)
        node = self._node(old)

        def move(entries: dict[str, _Inode | _Folder]) -> None:
            entries.pop(name, None)
            entries[new_name] = node

        folder.change(move)

    def read_file(self, path: str) -> bytes:
        """All of a small file."""
        self.meet_fault("read", path)
        return bytes(self._inode(path).data)

    def replace_file(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Give a small file new content, all or nothing."""
        self.meet_fault("replace", path)
        self.take_room(len(data), path)
        folder, name = self._split(path)
        inode = _Inode()
        inode.data += data
        if durable:
            inode.flush()
        folder.change(lambda entries: entries.__setitem__(name, inode))
        if durable:
            self.meet_fault("sync_folder", path.rpartition("/")[0])
            folder.sync()

    def sync_folder(self, path: str) -> None:
        """Make creations, renames and removals in a folder durable."""
        self.meet_fault("sync_folder", path)
        node = self._node(path)
        assert isinstance(node, _Folder), path
        node.sync()

    def lock(self, folder: str) -> MemoryLock:
        """Hold the folder; BlockingIOError if it is held."""
        if folder in self.locked:
            raise BlockingIOError(EIO, "the folder is locked", folder)
        self.locked.add(folder)
        return MemoryLock(self, folder)
