"""What is known of each idempotent producer: its epoch and its last five batches (KIP-98). Pure; no I/O.

A batch of a producer id is accepted when its first sequence number follows the last one stored. One of the last five
again is a repeat, answered with the offset it has; an older one is DuplicateSequenceError; everything else is a gap,
OutOfOrderSequenceError. A lower epoch is fenced, a higher one must begin at sequence 0. An id without state (new, or
expired, or its records deleted by retention) is taken at whatever sequence it begins with, as Kafka does.

The snapshot file (``.snapshot``), big-endian: version (2 bytes), CRC-32C of what follows (4), count (4), then for each
producer its id (8), epoch (2), count of batches (1), and for each batch, oldest first, its first sequence (4), last
sequence (4), first offset (8), last offset (8) and largest timestamp (8). Unlike Kafka's, it has all five batches, so
that a repeat is recognised after a restart too.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from ..errors import DuplicateSequenceError, InvalidProducerEpochError, OutOfOrderSequenceError
from .batch import MAX_SEQUENCE, NO_PRODUCER_ID

if TYPE_CHECKING:
    from .batch import BatchHeader

BATCHES_KEPT = 5
SNAPSHOT_VERSION = 100
"""Far from Kafka's own 1 and 2, so that neither takes the other's file for its own."""

_HALF_THE_SEQUENCES = 2**30
_PREFIX = Struct(">hI")
_COUNT = Struct(">i")
_PRODUCER = Struct(">qhB")
_BATCH = Struct(">iiqqq")


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


class ProducerStates:
    """All producers of a partition."""

    __slots__ = ("_entries", "_seen_ms")

    def __init__(self) -> None:
        self._entries: dict[int, ProducerEntry] = {}
        self._seen_ms: dict[int, int] = {}

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

        Raises InvalidProducerEpochError, OutOfOrderSequenceError or DuplicateSequenceError.
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

    def update(self, header: BatchHeader, base_offset: int, *, timestamp: int, now_ms: int) -> ProducerEntry | None:
        """Note a stored batch; returns what was known before, for ``restore``."""
        producer_id = header.producer_id
        assert producer_id != NO_PRODUCER_ID
        before = self._entries.get(producer_id)
        epoch = header.producer_epoch
        batches = before.batches if before is not None and before.epoch == epoch else ()
        if not header.is_control:
            assert header.base_sequence >= 0, header
            last_offset = base_offset + header.last_offset_delta
            batch = ProducerBatch(header.base_sequence, header.last_sequence, base_offset, last_offset, timestamp)
            batches = (*batches[-(BATCHES_KEPT - 1) :], batch)
        self._entries[producer_id] = ProducerEntry(epoch, batches)
        self._seen_ms[producer_id] = now_ms
        return before

    def restore(self, producer_id: int, before: ProducerEntry | None) -> None:
        """Put back what ``update`` returned."""
        if before is None:
            self._entries.pop(producer_id, None)
            self._seen_ms.pop(producer_id, None)
        else:
            self._entries[producer_id] = before

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget the producers that wrote nothing for longer than that; returns how many.

        Counted from when this node last saw them write (or opened the log), not from their records' timestamps: those
        are the client's, and a producer that copies old records must not be forgotten while it writes.
        """
        old = [producer_id for producer_id, seen in self._seen_ms.items() if now_ms - seen > expiration_ms]
        for producer_id in old:
            del self._entries[producer_id], self._seen_ms[producer_id]
        return len(old)

    def encode(self) -> bytes:
        """The snapshot file."""
        parts = [_COUNT.pack(len(self._entries))]
        for producer_id, entry in sorted(self._entries.items()):
            parts.append(_PRODUCER.pack(producer_id, entry.epoch, len(entry.batches)))
            parts.extend(_BATCH.pack(*batch) for batch in entry.batches)
        body = b"".join(parts)
        return _PREFIX.pack(SNAPSHOT_VERSION, crc32c(body)) + body

    @classmethod
    def decode(cls, data: bytes, *, now_ms: int) -> ProducerStates:
        """Read a snapshot; SnapshotFormatError if it is of another version, cut short, or fails its CRC."""
        states = cls()
        try:
            version, crc = _PREFIX.unpack_from(data)
            if version != SNAPSHOT_VERSION or crc != crc32c(memoryview(data)[_PREFIX.size :]):
                message = f"version {version} or CRC {crc:#010x} is not right"
                raise SnapshotFormatError(message)
            (count,) = _COUNT.unpack_from(data, _PREFIX.size)
            position = _PREFIX.size + _COUNT.size
            for _ in range(count):
                producer_id, epoch, batches_count = _PRODUCER.unpack_from(data, position)
                position += _PRODUCER.size
                batches = []
                for _ in range(batches_count):
                    batches.append(ProducerBatch._make(_BATCH.unpack_from(data, position)))
                    position += _BATCH.size
                states._entries[producer_id] = ProducerEntry(epoch, tuple(batches))
                states._seen_ms[producer_id] = now_ms
        except struct.error as error:
            message = f"it is cut short at {len(data)} bytes"
            raise SnapshotFormatError(message) from error
        if position != len(data):
            message = f"{len(data) - position} bytes follow its end"
            raise SnapshotFormatError(message)
        return states
