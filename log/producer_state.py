"""What is known of each idempotent producer: its epoch and its last five batches (KIP-98). Pure; no I/O.

A batch of a producer id is accepted when its first sequence number follows the last one stored. One of the last five
again is a repeat, answered with the offset it has; an older one is DuplicateSequenceError; everything else is a gap,
OutOfOrderSequenceError. A lower epoch is fenced, a higher one must begin at sequence 0. An id without state (new, or
expired, or its records deleted by retention) begins with sequence 0; Kafka takes whatever it begins with.

The snapshot file (``.snapshot``), big-endian: version (2 bytes), CRC-32C of what follows (4), count (4), then for each
producer its id (8), epoch (2), count of batches (1), coordinator epoch (4), number of its last transaction (8), first
offset of its open one (8), and for each batch, oldest first, its first sequence (4), last sequence (4), first offset
(8), last offset (8) and largest timestamp (8). Then, each after its count (4), the aborted transactions (producer id,
first, last and stable offset: 8 each) and those that ended not long ago (first and last offset: 8 each). Unlike
Kafka's, it has all five batches, so that a repeat is recognised after a restart too, and the aborted transactions,
which Kafka keeps in ``.txnindex`` files.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from ..errors import (
    DuplicateSequenceError,
    InvalidProducerEpochError,
    InvalidTxnStateError,
    OutOfOrderSequenceError,
    TransactionCoordinatorFencedError,
)
from .batch import MAX_SEQUENCE, NO_PRODUCER_ID
from .transactions import NO_TRANSACTION, Aborted, Ended, Transactions

if TYPE_CHECKING:
    from .batch import BatchHeader
    from .transactions import Marker

BATCHES_KEPT = 5
SNAPSHOT_VERSION = 101
"""Far from Kafka's own 1 and 2, so that neither takes the other's file for its own."""

_HALF_THE_SEQUENCES = 2**30
_PREFIX = Struct(">hI")
_COUNT = Struct(">i")
_PRODUCER = Struct(">qhBiqq")
_BATCH = Struct(">iiqqq")
_ABORTED = Struct(">qqqq")
_ENDED = Struct(">qq")


class SnapshotFormatError(Exception):
    """The bytes are not those of a snapshot; the reason says why. The state is then rebuilt from the log."""


class ProducerBatch(NamedTuple):
    """One stored batch of a producer."""

    first_sequence: int
    last_sequence: int
    first_offset: int
    last_offset: int
    timestamp: int


class ProducerEntry(NamedTuple):
    """A producer's epoch and its last batches, oldest first. Never changed, only replaced, so that undoing is easy."""

    epoch: int
    batches: tuple[ProducerBatch, ...]
    coordinator_epoch: int = -1
    """Of its last marker."""
    transaction: int = NO_TRANSACTION
    """The number of the transaction that its last marker has ended."""
    open_at: int = NO_TRANSACTION
    """The first offset of its open transaction."""


class ProducerStates:
    """All producers of a partition."""

    __slots__ = ("_entries", "_seen_ms", "transactions")

    def __init__(self) -> None:
        self._entries: dict[int, ProducerEntry] = {}
        self._seen_ms: dict[int, int] = {}
        self.transactions = Transactions()

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> dict[int, ProducerEntry]:
        """A copy of the state, by producer id."""
        return dict(self._entries)

    def get(self, producer_id: int) -> ProducerEntry | None:
        """What is known of one producer."""
        return self._entries.get(producer_id)

    def check(self, header: BatchHeader) -> ProducerBatch | None:
        """Decide about a batch that a client sent: None to append it, the stored batch if it is a repeat of that.

        Raises InvalidProducerEpochError, OutOfOrderSequenceError, DuplicateSequenceError or InvalidTxnStateError.
        """
        producer_id, epoch, first = header.producer_id, header.producer_epoch, header.base_sequence
        entry = self._entries.get(producer_id)
        if entry is None:
            # Taking any first number, as Kafka does for producers that it has forgotten, would call the retry of a
            # refused first batch a repeat. A forgotten producer begins its next epoch instead (KIP-360).
            if first != 0:
                message = f"producer {producer_id} is not known here and sent sequence {first}; it must begin with 0"
                raise OutOfOrderSequenceError(message)
            return None
        if entry.open_at != NO_TRANSACTION and not header.is_transactional and epoch >= entry.epoch:
            message = f"producer {producer_id} has an open transaction here and sent a batch that is no part of it"
            raise InvalidTxnStateError(message)
        if epoch != entry.epoch:
            if epoch < entry.epoch:
                message = f"producer {producer_id} sent epoch {epoch}, and epoch {entry.epoch} has fenced that"
                raise InvalidProducerEpochError(message)
            if first != 0:
                message = f"producer {producer_id} begins epoch {epoch} with sequence {first}; it must begin with 0"
                raise OutOfOrderSequenceError(message)
            return None
        last = header.last_sequence
        for batch in reversed(entry.batches):
            if batch.first_sequence == first and batch.last_sequence == last:
                return batch
        expected = (entry.batches[-1].last_sequence + 1) & MAX_SEQUENCE if entry.batches else 0
        if first == expected:
            return None
        behind = (expected - first) & MAX_SEQUENCE
        # Only if all of its records are stored may the batch be called a repeat: a producer drops what is one.
        if entry.batches and header.last_offset_delta < behind < _HALF_THE_SEQUENCES:
            message = (
                f"producer {producer_id} repeats sequences {first} to {last}, older than its last {BATCHES_KEPT}; "
                f"the next one expected is {expected}"
            )
            raise DuplicateSequenceError(message)
        message = f"producer {producer_id} sent sequence {first}; expected {expected} (epoch {epoch})"
        raise OutOfOrderSequenceError(message)

    def is_repeated(self, header: BatchHeader, marker: Marker) -> bool:
        """Decide about a marker: False to append it, True if its transaction, or a later one, has ended here already.

        Raises InvalidProducerEpochError or TransactionCoordinatorFencedError.
        """
        entry = self._entries.get(header.producer_id)
        if entry is None:
            return False
        if header.producer_epoch < entry.epoch:
            message = (
                f"a marker for epoch {header.producer_epoch} of producer {header.producer_id} comes after epoch"
                f" {entry.epoch}"
            )
            raise InvalidProducerEpochError(message)
        if marker.coordinator_epoch < entry.coordinator_epoch:
            message = (
                f"a marker of producer {header.producer_id} is from coordinator epoch {marker.coordinator_epoch}, and"
                f" {entry.coordinator_epoch} has written one since"
            )
            raise TransactionCoordinatorFencedError(message)
        return NO_TRANSACTION != marker.transaction <= entry.transaction

    def update(
        self, header: BatchHeader, base_offset: int, *, timestamp: int, now_ms: int, marker: Marker | None = None
    ) -> ProducerEntry | None:
        """Note a stored batch, or what the marker says that it is; returns what was known before, for ``restore``."""
        producer_id = header.producer_id
        assert producer_id != NO_PRODUCER_ID
        before = self._entries.get(producer_id)
        epoch = header.producer_epoch
        entry = before or ProducerEntry(epoch, ())
        if entry.epoch != epoch:
            entry = entry._replace(epoch=epoch, batches=())
        if marker is not None:
            if entry.open_at != NO_TRANSACTION:
                self.transactions.end(producer_id, base_offset, committed=marker.committed)
            number = max(marker.transaction, entry.transaction)
            entry = entry._replace(
                coordinator_epoch=marker.coordinator_epoch, transaction=number, open_at=NO_TRANSACTION
            )
        elif not header.is_control:
            assert header.base_sequence >= 0, header
            last_offset = base_offset + header.last_offset_delta
            batch = ProducerBatch(header.base_sequence, header.last_sequence, base_offset, last_offset, timestamp)
            entry = entry._replace(batches=(*entry.batches[-(BATCHES_KEPT - 1) :], batch))
            if header.is_transactional and entry.open_at == NO_TRANSACTION:
                entry = entry._replace(open_at=base_offset)
                self.transactions.open_at(producer_id, base_offset)
        self._entries[producer_id] = entry
        self._seen_ms[producer_id] = now_ms
        return before

    def restore(self, producer_id: int, before: ProducerEntry | None) -> None:
        """Put back what ``update`` returned."""
        if before is None:
            self._entries.pop(producer_id, None)
            self._seen_ms.pop(producer_id, None)
        else:
            self._entries[producer_id] = before
        self.transactions.open_at(producer_id, NO_TRANSACTION if before is None else before.open_at)

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget the producers that wrote nothing for longer than that, and have no transaction open; returns how many.

        Counted from when this node last saw them write (or opened the log), not from their records' timestamps: those
        are the client's, and a producer that copies old records must not be forgotten while it writes.
        """
        old = [
            producer_id
            for producer_id, seen in self._seen_ms.items()
            if now_ms - seen > expiration_ms and self._entries[producer_id].open_at == NO_TRANSACTION
        ]
        for producer_id in old:
            del self._entries[producer_id], self._seen_ms[producer_id]
        return len(old)

    def encode(self) -> bytes:
        """The snapshot file."""
        parts = [_COUNT.pack(len(self._entries))]
        for producer_id, entry in sorted(self._entries.items()):
            parts.append(_PRODUCER.pack(producer_id, entry.epoch, len(entry.batches), *entry[2:]))
            parts.extend(_BATCH.pack(*batch) for batch in entry.batches)
        aborted, ended = self.transactions.aborted, self.transactions.ended
        parts += [_COUNT.pack(len(aborted)), *(_ABORTED.pack(*each) for each in aborted)]
        parts += [_COUNT.pack(len(ended)), *(_ENDED.pack(*each) for each in ended)]
        body = b"".join(parts)
        return _PREFIX.pack(SNAPSHOT_VERSION, crc32c(body)) + body

    @classmethod
    def decode(cls, data: bytes, *, now_ms: int) -> ProducerStates:
        """Read a snapshot; SnapshotFormatError if it is of another version, cut short, or fails its CRC."""
        try:
            version, crc = _PREFIX.unpack_from(data)
            if version != SNAPSHOT_VERSION or crc != crc32c(memoryview(data)[_PREFIX.size :]):
                message = f"version {version} or CRC {crc:#010x} is not right"
                raise SnapshotFormatError(message)
            states, position = cls._decode(data, _PREFIX.size, now_ms)
        except struct.error as error:
            message = f"it is cut short at {len(data)} bytes"
            raise SnapshotFormatError(message) from error
        if position != len(data):
            message = f"{len(data) - position} bytes follow its end"
            raise SnapshotFormatError(message)
        return states

    @classmethod
    def _decode(cls, data: bytes, position: int, now_ms: int) -> tuple[ProducerStates, int]:
        states = cls()
        (count,) = _COUNT.unpack_from(data, position)
        position += _COUNT.size
        for _ in range(count):
            producer_id, epoch, batches_count, *more = _PRODUCER.unpack_from(data, position)
            position += _PRODUCER.size
            batches, position = _rows(data, position, _BATCH, batches_count)
            entry = ProducerEntry(epoch, tuple(map(ProducerBatch._make, batches)), *more)
            states._entries[producer_id] = entry
            states._seen_ms[producer_id] = now_ms
        (count,) = _COUNT.unpack_from(data, position)
        aborted, position = _rows(data, position + _COUNT.size, _ABORTED, count)
        (count,) = _COUNT.unpack_from(data, position)
        ended, position = _rows(data, position + _COUNT.size, _ENDED, count)
        states.transactions = Transactions(map(Aborted._make, aborted), map(Ended._make, ended))
        for producer_id, entry in states._entries.items():
            if entry.open_at != NO_TRANSACTION:
                states.transactions.open_at(producer_id, entry.open_at)
        return states, position


def _rows(data: bytes, position: int, layout: Struct, count: int) -> tuple[list[tuple[int, ...]], int]:
    """So many rows of a table, and the position after them. struct.error if they are cut short."""
    end = position + count * layout.size
    if count < 0 or end > len(data):
        message = f"{count} rows of {layout.size} bytes do not fit"
        raise struct.error(message)
    return list(layout.iter_unpack(memoryview(data)[position:end])), end
