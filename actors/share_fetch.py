"""One ShareFetch while the coordinator gathers records for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..transport.share_messages import AcquiredRecords, PartitionShared, ShareFetchReply
from .commands import SharedAnswer
from .share_alarms import Alarmed

if TYPE_CHECKING:
    from ..errors import BrokerError
    from ..groups.share_batches import Chunk, StoredBatch
    from ..transport.share_messages import PartitionAcknowledged, ShareFetchRequest
    from .commands import CoordinatorCall
    from .share_group import ShareGroup
    from .share_queue import ShareQueue


class _Taken:
    """What was leased of one partition."""

    __slots__ = ("acquired", "batches")

    def __init__(self) -> None:
        self.acquired: list[AcquiredRecords] = []
        self.batches: dict[int, bytes] = {}
        """Stored batches by their first offset."""


class ShareFetch(Alarmed):
    """A long poll: it ends with at least one record, or at its time."""

    def __init__(self, group: ShareGroup, command: CoordinatorCall, acknowledged: list[PartitionAcknowledged]) -> None:
        request: ShareFetchRequest = command.request  # type: ignore[assignment]
        self.group = group
        self.command = command
        self.member_id = request.member_id
        self.acknowledged = acknowledged
        self.lease = group.coordinator.context.random.getrandbits(62) + 1
        """Names the leases that this answer brings, so that nothing said about others counts for them."""
        self.queues: dict[ShareQueue, None] = {}
        self.errors: list[PartitionShared] = []
        self.records = 0
        self.is_over = False
        """Its time is up: it is answered as soon as no read is under way for it."""
        self._records_max = request.max_records
        self._bytes_max = request.max_bytes
        self._bytes = 0
        self._taken: dict[ShareQueue, _Taken] = {}

    @property
    def room(self) -> int:
        """How many more records it takes."""
        if self._bytes >= self._bytes_max and self.records:
            return 0
        return self._records_max - self.records

    @property
    def is_half_full(self) -> bool:
        """Whether it is worth an answer, even if there is more."""
        return self.records * 2 >= self._records_max or (self._bytes * 2 >= self._bytes_max and self.records > 0)

    def take(self, queue: ShareQueue, chunk: Chunk, batch: StoredBatch, records: AcquiredRecords) -> None:
        """Take records of one batch, which are leased by now."""
        taken = self._taken.get(queue)
        if taken is None:
            taken = self._taken[queue] = _Taken()
        if batch.first not in taken.batches:
            data = taken.batches[batch.first] = chunk.bytes_of(batch)
            self._bytes += len(data)
        last = taken.acquired[-1] if taken.acquired else None
        if (
            last is not None
            and last.last_offset + 1 == records.first_offset
            and last.delivery_count == records.delivery_count
        ):
            last.last_offset = records.last_offset
        else:
            taken.acquired.append(records)
        self.records += records.last_offset - records.first_offset + 1

    def fail(self, topic: str, partition: int, error: BrokerError) -> None:
        """Take note of a partition that cannot be read."""
        self.errors.append(PartitionShared(topic, partition, error.code, error.message))

    def give_back(self) -> dict[ShareQueue, list[AcquiredRecords]]:
        """Leave what was leased, for somebody who waits."""
        taken, self._taken = self._taken, {}
        self.records = self._bytes = 0
        return {queue: sorted(part.acquired, key=lambda found: found.first_offset) for queue, part in taken.items()}

    def answer(self) -> SharedAnswer:
        """What its consumer gets."""
        entries, frames = [], []
        for queue, taken in self._taken.items():
            taken.acquired.sort(key=lambda found: found.first_offset)
            entries.append(PartitionShared(queue.key.topic, queue.key.partition, acquired=taken.acquired))
            frames.append(b"".join(taken.batches[first] for first in sorted(taken.batches)))
        failed = [
            PartitionShared(queue.key.topic, queue.key.partition, queue.error.code, queue.error.message)
            for queue in self.queues
            if queue.error is not None and queue not in self._taken
        ]
        entries += failed + self.errors
        frames += [b""] * (len(entries) - len(frames))
        body = ShareFetchReply(entries, self.acknowledged, self.group.rules.lease_ms, self.lease)
        return SharedAnswer(self.command.call, self.command.index, body, b"", frames)

    def on_alarm(self, now_ms: float) -> None:
        """The client's wait is over."""
        del now_ms
        self.is_over = True
        self.group.finish_if_done(self)
