"""What a partition's log must equal: a plain list of stored batches, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..log.batch import BatchHeader, read_header, stamp
from ..log.epoch_cache import EpochCache
from ..log.plain_records import encode_batch
from ..log.producer_state import ProducerEntry, ProducerStates
from ..log.transactions import Aborted, read_marker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..log.partition_log import PartitionLog


def make_batch(
    timestamps: Sequence[int],
    *,
    value_bytes: int = 10,
    producer_id: int = -1,
    producer_epoch: int = -1,
    sequence: int = -1,
) -> tuple[BatchHeader, bytes]:
    """A batch as a client sends it, one record for each timestamp, and its header."""
    records = [(timestamp, None, b"v" * value_bytes, ()) for timestamp in timestamps]
    batch = bytes(encode_batch(records, producer_id=producer_id, producer_epoch=producer_epoch, base_sequence=sequence))
    return read_header(batch), batch


def split_batches(data: bytes) -> list[bytes]:
    """The whole batches in what a read returned; an assertion fails if it does not end with one."""
    batches = []
    position = 0
    while position < len(data):
        size = read_header(data, position).size
        batches.append(data[position : position + size])
        assert len(batches[-1]) == size, (position, size, len(data))
        position += size
    return batches


def read_all(log: PartitionLog, max_bytes: int = 1 << 20) -> list[bytes]:
    """Every batch from the log start to the log end."""
    batches: list[bytes] = []
    offset = log.log_start_offset
    while offset < log.log_end_offset:
        found = split_batches(log.read(offset, max_bytes))
        assert found, offset
        batches += found
        offset = read_header(found[-1]).next_offset
    return batches


class LogModel:
    """The batches of a log, as stored, in order."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.start = 0
        self.end = 0

    def headers(self) -> list[BatchHeader]:
        """The header of each batch."""
        return [read_header(batch) for batch in self.batches]

    def append(self, batch: bytes, leader_epoch: int) -> int:
        """Store a client's batch; returns its base offset."""
        stored = bytearray(batch)
        base = self.end
        stamp(stored, base, leader_epoch)
        self.batches.append(bytes(stored))
        self.end = read_header(stored).next_offset
        return base

    def truncate(self, offset: int) -> None:
        """Cut the batch that holds the offset, and all after it."""
        while self.batches and read_header(self.batches[-1]).next_offset > offset:
            self.end = read_header(self.batches.pop()).base_offset
        self.start = min(self.start, self.end)

    def restart(self, offset: int) -> None:
        """Be empty, with this as the next offset."""
        self.batches.clear()
        self.start = self.end = offset

    def start_at(self, offset: int, first_base: int) -> None:
        """Records below offset are gone for readers, batches below first_base for good."""
        self.start = offset
        self.batches = [batch for batch in self.batches if read_header(batch).base_offset >= first_base]

    def read(self, offset: int, end_offset: int) -> bytes:
        """All batches from the one that holds the offset, below end_offset."""
        headers = zip(self.headers(), self.batches, strict=True)
        return b"".join(batch for h, batch in headers if h.next_offset > offset and h.next_offset <= end_offset)

    def epochs(self) -> list[tuple[int, int]]:
        """(leader epoch, its first offset), by a look at every batch with a record that can be read."""
        cache = EpochCache()
        for header in self.headers():
            if header.next_offset > self.start:
                cache.replay(header.leader_epoch, header.base_offset)
        return cache.entries()

    def producers(self) -> dict[int, ProducerEntry]:
        """The producers' state, by a look at every batch."""
        return self._producer_states().entries()

    def aborted(self) -> list[Aborted]:
        """The aborted transactions, by a look at every batch."""
        return self._producer_states().transactions.aborted

    def _producer_states(self) -> ProducerStates:
        states = ProducerStates()
        for header, batch in zip(self.headers(), self.batches, strict=True):
            if header.has_producer_id:
                marker = read_marker(batch) if header.is_control else None
                offset, timestamp = header.base_offset, header.max_timestamp
                states.update(header, offset, timestamp=timestamp, now_ms=0, marker=marker)
        return states
