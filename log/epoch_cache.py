"""Which leader epoch began at which offset: the base of truncation without data loss (KIP-101, KIP-279). No I/O."""

from __future__ import annotations

from bisect import bisect_right

from .checkpoints import CheckpointFormatError, decode_lines, encode_lines

NO_EPOCH = -1


class EpochCache:
    """Leader epochs and their start offsets, both increasing. Kept as ``leader-epoch-checkpoint``."""

    __slots__ = ("_epochs", "_starts", "changed")

    def __init__(self) -> None:
        self._epochs: list[int] = []
        self._starts: list[int] = []
        self.changed = False
        """Whether it differs from what was last saved; the owner resets it."""

    def __len__(self) -> int:
        return len(self._epochs)

    @property
    def latest(self) -> int:
        """The largest epoch; -1 if there is none."""
        return self._epochs[-1] if self._epochs else NO_EPOCH

    def entries(self) -> list[tuple[int, int]]:
        """(epoch, start offset), in order."""
        return list(zip(self._epochs, self._starts, strict=True))

    def assign(self, epoch: int, start_offset: int) -> None:
        """Note that the batch at this offset has this epoch; nothing happens unless the epoch is a new one.

        An epoch of which no record was written leaves no entry: the one that starts at the same offset replaces it.
        """
        if self._epochs:
            assert epoch >= self._epochs[-1], (epoch, self._epochs[-1])
            assert start_offset >= self._starts[-1], (start_offset, self._starts[-1])
            if epoch == self._epochs[-1]:
                return
            if start_offset == self._starts[-1]:
                self._epochs.pop()
                self._starts.pop()
        self._epochs.append(epoch)
        self._starts.append(start_offset)
        self.changed = True

    def replay(self, epoch: int, offset: int) -> None:
        """As ``assign``, for a batch that is read again: what is known already, or cannot be, is left alone."""
        if epoch > self.latest and (not self._starts or offset > self._starts[-1]):
            self.assign(epoch, offset)

    def end_offset(self, epoch: int, log_end_offset: int) -> tuple[int, int]:
        """(largest epoch that is not above this one, the offset where it ends); (-1, -1) if there is none."""
        at = bisect_right(self._epochs, epoch) - 1
        if at < 0:
            return NO_EPOCH, -1
        end = self._starts[at + 1] if at + 1 < len(self._starts) else log_end_offset
        return self._epochs[at], end

    def epoch_of(self, offset: int) -> int:
        """The epoch in which the record at this offset was written; -1 if unknown."""
        at = bisect_right(self._starts, offset) - 1
        return self._epochs[at] if at >= 0 else NO_EPOCH

    def truncate_end(self, offset: int) -> None:
        """Forget the epochs that start at or past an offset."""
        while self._starts and self._starts[-1] >= offset:
            self._starts.pop()
            self._epochs.pop()
            self.changed = True

    def truncate_start(self, offset: int) -> None:
        """Forget the epochs that ended at or before an offset; the one that holds it keeps its true start."""
        at = bisect_right(self._starts, offset) - 1
        if at > 0:
            del self._starts[:at]
            del self._epochs[:at]
            self.changed = True

    def clear(self) -> None:
        """Forget everything."""
        self.changed = self.changed or bool(self._epochs)
        self._epochs.clear()
        self._starts.clear()

    def encode(self) -> bytes:
        """The ``leader-epoch-checkpoint`` file."""
        return encode_lines(f"{epoch} {start}" for epoch, start in self.entries())

    @classmethod
    def decode(cls, data: bytes) -> EpochCache:
        """Read the file; CheckpointFormatError if it is malformed or its entries do not increase."""
        cache = cls()
        for epoch, start in decode_lines(data, 2):
            if not (epoch.isdecimal() and start.isdecimal()):
                message = f"the entry {epoch} {start} is not an epoch and an offset"
                raise CheckpointFormatError(message)
            if cache._epochs and (int(epoch) <= cache._epochs[-1] or int(start) <= cache._starts[-1]):
                message = f"the entry {epoch} {start} follows {cache._epochs[-1]} {cache._starts[-1]}"
                raise CheckpointFormatError(message)
            cache._epochs.append(int(epoch))
            cache._starts.append(int(start))
        return cache
