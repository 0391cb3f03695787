"""What the share groups of one coordinator keep of what they have read."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..groups.share_batches import Chunk
    from .share_queue import ShareQueue

_CHUNKS_BYTES: Final = 32 * 1024 * 1024


class ChunkCache:
    """What was read last, of all partitions; the oldest goes when it is too much."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Chunk, ShareQueue] = OrderedDict()
        self._bytes = 0

    def keep(self, queue: ShareQueue, chunk: Chunk) -> None:
        """Count a chunk that a queue has."""
        self._kept[chunk] = queue
        self._bytes += len(chunk.data)
        while self._bytes > _CHUNKS_BYTES and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._kept[oldest].drop(oldest)

    def dropped(self, chunk: Chunk) -> None:
        """A queue has it no longer."""
        if self._kept.pop(chunk, None) is not None:
            self._bytes -= len(chunk.data)
