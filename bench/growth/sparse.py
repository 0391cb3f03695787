"""A log of many gigabytes that takes few of them: its records are nought, and where they lie the file has holes.

To whoever reads it, it is a log like any other, with batches, CRCs and indexes, since the log's own code writes it;
only the disk under that code leaves out what would be nothing but zeros. What is read from a hole costs the processor
what other bytes cost, and the disk nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zmqbroker.log.batch import read_header
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.log.real_disk import RealDisk, RealFile
from zmqbroker.log.records import encode_batch
from zmqbroker.settings import TopicConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

BLOCK_BYTES = 4096
BATCH_BYTES = 256 * 1024
"""As large as a busy producer's."""
BATCHES_A_TURN = 64
ZEROS = bytes(BATCH_BYTES)


class SparseFile(RealFile):
    """Leaves out what is nought behind the first block of each piece."""

    __slots__ = ()

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write the beginnings of all buffers, and make the file as long as if all were written."""
        end = self._size
        for buffer in buffers:
            piece = memoryview(buffer).cast("B")
            rest = len(piece) - BLOCK_BYTES
            assert rest <= 0 or bytes(piece[BLOCK_BYTES:]) == ZEROS[:rest], "only zeros may be left out"
            os.pwrite(self._fd, piece[:BLOCK_BYTES], end)
            end += len(piece)
        os.ftruncate(self._fd, end)
        written, self._size = end - self._size, end
        return written


class SparseDisk(RealDisk):
    """The real disk, with holes in its logs."""

    def open(self, path: str, *, create: bool = False) -> RealFile:
        """Open a file to read and append."""
        if not path.endswith(".log"):
            return super().open(path, create=create)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return SparseFile(path, os.open(path, flags, 0o644))


def fill(folder: str, size_bytes: int, now_ms: int) -> int:
    """Fill the log of a stopped node's partition to a size, and return its end."""
    log = PartitionLog.open(SparseDisk(), folder, TopicConfig(), now_ms=now_ms, clean=True)
    batch = bytes(encode_batch([(now_ms, None, bytes(BATCH_BYTES), ())]))
    turn = [(read_header(batch), batch)] * BATCHES_A_TURN
    while log.size_bytes < size_bytes:
        log.append(turn, leader_epoch=max(log.leader_epoch, 0), now_ms=now_ms)
    end = log.log_end_offset
    log.close()
    return end
