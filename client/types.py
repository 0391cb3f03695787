"""The values that clients hand to users: records, where they went, partitions. Cheap to make: there are millions."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Struct

CREATE_TIME = 0
LOG_APPEND_TIME = 1


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class OffsetAndTimestamp(NamedTuple):
    """An offset found by time, the timestamp (ms) of the record there, and its leader epoch (-1: not known)."""

    offset: int
    timestamp: int
    leader_epoch: int = -1


class OffsetAndMetadata(NamedTuple):
    """An offset to commit: of the next record to read, with a text of the user's; leader_epoch -1: not known."""

    offset: int
    metadata: str = ""
    leader_epoch: int = -1


# gc=False: a record refers to nothing that could refer back to it, and a million of them would keep the collector busy.
class ConsumerRecord(Struct, gc=False, frozen=True):
    """One record as consumed; the fields are kafka-python's."""

    topic: str
    partition: int
    leader_epoch: int
    offset: int
    timestamp: int
    """Milliseconds since 1970-01-01 UTC, as the producer said or, with timestamp_type 1, as the broker appended it."""
    timestamp_type: int
    key: Any
    value: Any
    headers: Any = ()
    """Pairs of (name, bytes or None)."""
    raw_sizes: tuple[int, int] | None = None
    """Bytes of key and value before they were deserialized; None: they were not."""

    @property
    def serialized_key_size(self) -> int:
        """Bytes of the key; -1: the record has none."""
        return self.raw_sizes[0] if self.raw_sizes else _size(self.key)

    @property
    def serialized_value_size(self) -> int:
        """Bytes of the value; -1: the record has none."""
        return self.raw_sizes[1] if self.raw_sizes else _size(self.value)

    @property
    def checksum(self) -> None:
        """Batches have checksums, records do not: None, as kafka-python."""
        return None

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition that the record was read from."""
        return TopicPartition(self.topic, self.partition)


def _size(raw: bytes | None) -> int:
    return -1 if raw is None else len(raw)


class RecordMetadata(Struct, gc=False, frozen=True):
    """Where a record was stored; offset -1: it was sent with acks=0, or was stored by an earlier attempt."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since 1970-01-01 UTC: the record's own, or the broker's where the topic stamps them."""

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition that the record was stored in."""
        return TopicPartition(self.topic, self.partition)


class BatchMetadata(Struct, gc=False, frozen=True):
    """Where some records that were sent together were stored: offsets from base_offset on, one after the other."""

    topic: str
    partition: int
    base_offset: int
    count: int
    timestamp: int
    """Of the first of them."""
