"""What one turn wants to append to one segment, gathered so that it is a single write and can be taken back. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import CorruptMessageError, StorageError
from .batch import HEADER_SIZE, NO_TIMESTAMP, BatchHeader, computed_crc, read_header, stamp_append_time, stamped_prefix
from .transactions import read_marker

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .producer_state import ProducerEntry, ProducerStates

PREFIX_SIZE = 16


class Appended(NamedTuple):
    """Where a batch is in the log."""

    base_offset: int
    last_offset: int
    log_append_time_ms: int
    """-1 unless the topic's timestamps are the time of append."""
    duplicate: bool
    """Whether it had been appended before, by an earlier try."""


class Stage:
    """Batches on their way into the active segment. Until ``commit`` the producers' state can be put back."""

    def __init__(self, producers: ProducerStates, next_offset: int, leader_epoch: int, now_ms: int) -> None:
        self._producers = producers
        self._undo: dict[int, ProducerEntry | None] = {}
        self._marks = producers.transactions.marks()
        self._now_ms = now_ms
        self._leader_epoch = leader_epoch
        self.buffers: list[Buffer] = []
        self.batches: list[tuple[int, int, int]] = []
        self.epochs: list[tuple[int, int]] = []
        self.next_offset = next_offset
        self.size = 0
        self.results_before = 0
        """How many of the turn's answers do not depend on this write."""

    def add_produced(self, header: BatchHeader, batch: Buffer, *, append_time: bool) -> Appended:
        """Stamp a client's batch with the next offset and the leader's epoch and gather it, without copying it."""
        base = self.next_offset
        rest = memoryview(batch).cast("B")
        assert rest.nbytes == header.size, (rest.nbytes, header.size)
        timestamp = header.max_timestamp
        if append_time:
            timestamp = self._now_ms
            rest = with_append_time(rest, timestamp)
        if not self.epochs:
            self.epochs.append((self._leader_epoch, base))
        self.buffers.append(stamped_prefix(header, base, self._leader_epoch))
        self.buffers.append(rest[PREFIX_SIZE:])
        self._note(header, base, timestamp, rest)
        return Appended(base, base + header.last_offset_delta, timestamp if append_time else -1, duplicate=False)

    def add_replicated(self, header: BatchHeader, batch: memoryview) -> None:
        """Gather a batch of the leader's log as it is."""
        assert header.base_offset == self.next_offset, (header.base_offset, self.next_offset)
        self.epochs.append((header.leader_epoch, header.base_offset))
        self.buffers.append(batch)
        self._note(header, header.base_offset, header.max_timestamp, batch)

    def _note(self, header: BatchHeader, base: int, timestamp: int, batch: memoryview) -> None:
        last_offset = base + header.last_offset_delta
        self.batches.append((header.size, last_offset, timestamp if header.records_count else NO_TIMESTAMP))
        self.size += header.size
        self.next_offset = last_offset + 1
        if header.has_producer_id:
            marker = read_marker(batch) if header.is_control else None
            before = self._producers.update(header, base, timestamp=timestamp, now_ms=self._now_ms, marker=marker)
            self._undo.setdefault(header.producer_id, before)

    def take_back(self) -> None:
        """Put the producers' state back: the write failed."""
        for producer_id, before in self._undo.items():
            self._producers.restore(producer_id, before)
        self._producers.transactions.take_back(self._marks)


def with_append_time(batch: memoryview, now_ms: int) -> memoryview:
    """A copy of a batch whose records all have the broker's time, with the CRC that belongs to it."""
    copy = bytearray(batch)
    stamp_append_time(copy, now_ms)
    return memoryview(copy)


def replicated_batches(data: Buffer, leader_epoch: int) -> list[tuple[BatchHeader, memoryview]]:
    """The batches of a leader's answer, checked: whole, CRC right, offsets without gaps, epochs not going back.

    Raises CorruptMessageError if any of them is not right; then none may be appended.
    """
    view = memoryview(data).cast("B")
    batches: list[tuple[BatchHeader, memoryview]] = []
    position = 0
    expected: int | None = None
    while position < view.nbytes:
        header = read_header(view, position)
        batch = view[position : position + header.size]
        if batch.nbytes < header.size:
            message = f"the batch at offset {header.base_offset} needs {header.size} bytes and {batch.nbytes} arrived"
            raise CorruptMessageError(message)
        if computed_crc(batch) != header.crc:
            message = f"the batch at offset {header.base_offset} does not have the CRC that its header says"
            raise CorruptMessageError(message)
        if header.last_offset_delta < 0 or (expected is not None and header.base_offset != expected):
            message = f"the batch at offset {header.base_offset} arrived where {expected} should follow"
            raise CorruptMessageError(message)
        if header.leader_epoch < leader_epoch:
            message = (
                f"the batch at offset {header.base_offset} has leader epoch {header.leader_epoch} after {leader_epoch}"
            )
            raise CorruptMessageError(message)
        leader_epoch = header.leader_epoch
        expected = header.next_offset
        batches.append((header, batch))
        position += header.size
    return batches


def storage_error(path: str, error: OSError, doing: str) -> StorageError:
    """The answer to a client whose request the disk refused."""
    return StorageError(f"could not {doing} {path}: {error.strerror or error}")


assert HEADER_SIZE > PREFIX_SIZE
