"""The values that a share consumer hands to users: records with their leases, and what may become of them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from msgspec import Struct

from ..transport.share_messages import ACK_ACCEPT, ACK_REJECT, ACK_RELEASE, ACK_RENEW
from .types import TopicPartition


class AcknowledgeKind(IntEnum):
    """What a consumer says about a record (KIP-932, KIP-1222)."""

    ACCEPT = ACK_ACCEPT
    """It is done."""
    RELEASE = ACK_RELEASE
    """Deliver it again, to anybody, after a while."""
    REJECT = ACK_REJECT
    """Never deliver it again: to the dead-letter topic with it."""
    RENEW = ACK_RENEW
    """Still at it: the lease begins anew."""


# gc=False as ConsumerRecord: a record refers to nothing that could refer back to it. It is equal to itself only: the
# same record delivered again is another lease, with an object of its own.
class ShareRecord(Struct, gc=False, eq=False):
    """One record as leased to this consumer: a ConsumerRecord's fields, and those of the lease."""

    topic: str
    partition: int
    leader_epoch: int
    offset: int
    timestamp: int
    """Milliseconds since 1970-01-01 UTC, as the producer said or, with timestamp_type 1, as the broker appended it."""
    timestamp_type: int
    key: Any
    value: Any
    headers: Any
    """Pairs of (name, bytes or None)."""
    delivery_count: int
    """1 when it is delivered for the first time; the group's limit on this is when it is given up."""
    lease_deadline: float
    """Until when it is this consumer's, on the clock of time.monotonic; moves when `renew` has been confirmed."""
    lease: int = 0
    """Which lease it is, in the broker's words."""
    raw_sizes: tuple[int, int] | None = None
    """Bytes of key and value before they were deserialized; None: they were not."""

    @property
    def serialized_key_size(self) -> int:
        """Bytes of the key; -1: the record has none."""
        if self.raw_sizes:
            return self.raw_sizes[0]
        return -1 if self.key is None else len(self.key)

    @property
    def serialized_value_size(self) -> int:
        """Bytes of the value; -1: the record has none."""
        if self.raw_sizes:
            return self.raw_sizes[1]
        return -1 if self.value is None else len(self.value)

    @property
    def checksum(self) -> None:
        """Batches have checksums, records do not: None, as kafka-python."""
        return None

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition that the record was read from."""
        return TopicPartition(self.topic, self.partition)
