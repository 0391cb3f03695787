"""The history of a run: every record that clients sent and what became of it, and every record that they read."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ..log.plain_records import decode_batch
from ..transport.messages import ACKS_ALL
from .transaction_history import TransactionHistory

if TYPE_CHECKING:
    from collections.abc import Callable

    from .world import World

Partition = tuple[str, int]


class Fate(Enum):
    """What the client knows of what it sent."""

    PENDING = "pending"
    ACKED = "acked"
    FAILED = "failed"
    """Definitely not in the log."""
    UNKNOWN = "unknown"


class Sent(NamedTuple):
    """A record as its producer made it."""

    producer: str
    number: int
    """Counts the producer's records of this partition."""
    partition: Partition
    acks: int


class History:
    """What clients did and saw. What can be checked at once, is."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.sent: dict[bytes, Sent] = {}
        """By value; every value is sent by one call only."""
        self.fates: dict[bytes, Fate] = {}
        self.offsets: dict[bytes, int] = {}
        """Where acked records are, by their producers."""
        self.read: dict[Partition, dict[int, bytes]] = {}
        """What was read, by anybody."""
        self.highest_read: dict[Partition, int] = {}
        self.reads = 0
        self.operations = 0
        """Operations that were answered well, of every kind."""
        self.on_acked: list[Callable[[bytes, Partition, int], object]] = []
        """Hear of each record that all replicas have, as its producer is told: its value, and where it is."""
        self.on_read: list[Callable[[Partition, int], object]] = []
        """Hear of each record that is read."""
        self.producers: dict[int, str] = {}
        """Who has which producer id."""
        self.transactions = TransactionHistory(world)
        self._places: dict[bytes, int] = {}
        self._decoded: dict[bytes, list[tuple[int, bytes]]] = {}

    def decode(self, batch: bytes) -> list[tuple[int, bytes]]:
        """Offset and value of each record; the same batch is read again and again, and decoded once."""
        found = self._decoded.get(batch)
        if found is None:
            found = [(record.offset, record.value or b"") for record in decode_batch(batch)]
            self._decoded[batch] = found
        return found

    def note_producer(self, producer_id: int, name: str) -> None:
        """A producer was given an id that nobody else may have."""
        owner = self.producers.setdefault(producer_id, name)
        if owner != name:
            self._world.violated("15", f"producer id {producer_id} of {owner} was given to {name} too")

    def send(self, value: bytes, sent: Sent) -> None:
        """A record is about to be sent for the first time."""
        self.sent[value] = sent
        self.fates[value] = Fate.PENDING

    def settle(self, value: bytes, fate: Fate, offset: int = -1) -> None:
        """The producer knows what became of a record; it will not be sent again."""
        if self.fates[value] is not Fate.PENDING:
            self._world.violated("history", f"{value!r} was settled twice")
        self.fates[value] = fate
        if fate is Fate.FAILED and value in self._places:
            sent = self.sent[value]
            where = f"{sent.partition} offset {self._places[value]}"
            self._world.violated("H12", f"{value!r} has definitely failed, and was read before at {where}")
        if fate is Fate.ACKED:
            self.operations += 1
            if offset >= 0:
                self.offsets[value] = offset
                if self.sent[value].acks == ACKS_ALL:
                    for tell in self.on_acked:
                        tell(value, self.sent[value].partition, offset)

    def note_read(self, partition: Partition, offset: int, value: bytes) -> None:
        """A consumer has read a record (invariants 10, 12 and 13 as far as one record shows them)."""
        self.reads += 1
        for tell in self.on_read:
            tell(partition, offset)
        known = self.read.setdefault(partition, {})
        before = known.get(offset)
        if before == value:
            return
        where = f"{partition[0]}-{partition[1]} offset {offset}"
        if before is not None:
            self._world.violated("H10", f"{where} was {before!r} and is {value!r}")
        known[offset] = value
        self.highest_read[partition] = max(self.highest_read.get(partition, -1), offset)
        sent = self.sent.get(value)
        if sent is None or sent.partition != partition:
            self._world.violated("H10", f"{where} has {value!r}, which nobody sent there")
        elif self.fates[value] is Fate.FAILED:
            self._world.violated("H12", f"{where} has {value!r}, which had definitely failed")
        place = self._places.setdefault(value, offset)
        if place != offset:
            self._world.violated("H13", f"{value!r} stands at offset {place} and at {offset} of {partition}")
        acked = self.offsets.get(value)
        if acked is not None and acked != offset:
            self._world.violated("H10", f"{value!r} was acked at offset {acked} and is read at {offset}")

    def count(self, fate: Fate) -> int:
        """How many records have this fate."""
        return sum(found is fate for found in self.fates.values())
