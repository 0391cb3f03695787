"""What a crash leaves in a partition's folder besides the log: thrown away, or finished if it was decided.

A compacted segment is written as ``.log.cleaned`` and flushed. Its new name ``.log.swap`` decides that it takes the
place of the segments whose offsets it covers: from then on these may go, in any order, and at last it becomes ``.log``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .batch import HEADER_SIZE
from .scan import BadBatchError, walk
from .segment import DELETED_SUFFIX, INDEX_SUFFIX, LOG_SUFFIX, TIME_INDEX_SUFFIX, segment_path

if TYPE_CHECKING:
    from .disk import Disk

CLEANED_SUFFIX = ".cleaned"
SWAP_SUFFIX = ".swap"
LEFTOVER_SUFFIXES = (".tmp", CLEANED_SUFFIX, DELETED_SUFFIX)
_NAME_DIGITS = 20


def base_offset_of(name: str, suffix: str) -> int | None:
    """The offset in a file name of this suffix; None if it is no such name."""
    stem = name.removesuffix(suffix)
    return int(stem) if name.endswith(suffix) and len(stem) == _NAME_DIGITS and stem.isdecimal() else None


def base_offsets(names: list[str], suffix: str) -> list[int]:
    """The offsets of all files of this suffix, in order."""
    return sorted(base for name in names if (base := base_offset_of(name, suffix)) is not None)


def remove_leftovers(disk: Disk, folder: str, names: list[str], removed: list[str]) -> list[str]:
    """Clear a folder up; the names that are left. Paths of what was removed are added to the list."""
    names = _finish_swaps(disk, folder, names, removed)
    kept = []
    logs = set(base_offsets(names, LOG_SUFFIX))
    for name in names:
        base = base_offset_of(name, INDEX_SUFFIX)
        base = base_offset_of(name, TIME_INDEX_SUFFIX) if base is None else base
        if name.endswith((*LEFTOVER_SUFFIXES, SWAP_SUFFIX)) or (base is not None and base not in logs):
            disk.remove(f"{folder}/{name}")
            removed.append(f"{folder}/{name}")
        else:
            kept.append(name)
    return kept


def _finish_swaps(disk: Disk, folder: str, names: list[str], removed: list[str]) -> list[str]:
    swaps = base_offsets(names, LOG_SUFFIX + SWAP_SUFFIX)
    if not swaps:
        return names
    logs = base_offsets(names, LOG_SUFFIX)
    for base in swaps:
        path = segment_path(folder, base, LOG_SUFFIX + SWAP_SUFFIX)
        end = _end_of(disk, path, base)
        if end is None and base in logs:
            continue  # not what was written: while the old segment is there it is the better one
        for old in logs:
            if base < old < (base if end is None else end):
                disk.remove(segment_path(folder, old, LOG_SUFFIX))
                removed.append(segment_path(folder, old, LOG_SUFFIX))
        for suffix in (INDEX_SUFFIX, TIME_INDEX_SUFFIX):
            disk.remove(segment_path(folder, base, suffix))
        disk.sync_folder(folder)  # the old ones must be gone before the name that covers them is
        disk.rename(path, segment_path(folder, base, LOG_SUFFIX))
    disk.sync_folder(folder)
    return disk.list(folder)


def _end_of(disk: Disk, path: str, base: int) -> int | None:
    """The offset where the batches of a file end; None if they do not fit together."""
    size = disk.size(path)
    if size < HEADER_SIZE:
        return None
    end = base
    file = disk.open(path)
    try:
        for _, header in walk(file, 0, size, base, check_crc=True):
            end = header.next_offset
    except BadBatchError:
        return None
    finally:
        file.close()
    return end
