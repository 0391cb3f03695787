"""Records that wait to be sent: batches, one queue of them for each partition, and how much memory they take.

All of it is changed under the client's lock only. A queue keeps its batches in the order of their numbers:

    open (gathers records) -> ready (closed) -> in flight -> done
                                     ^             |
                                     `--- retry <--'   ahead of everything that is ready

Nothing that is ready overtakes a batch in retry, and nothing in retry is sent while a later batch is still in flight.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..log.columns import RecordColumns
from .types import BatchMetadata, RecordMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..errors import ZmqBrokerError
    from ..log.record import Headers, NewRecord
    from .io import ClientIO
    from .metadata import PartitionState

BATCH_OVERHEAD = 61
RECORD_OVERHEAD = 26
"""The most that a record's framing takes beside key, value and headers."""
SEQUENCE_MASK = 2**31 - 1

Callbacks = list[tuple[int, "Callable[[Any], Any] | None", "Callable[[Any], Any] | None"]]


class ProducerBatch:
    """Records of one partition that are sent as one; knows what became of them."""

    __slots__ = (
        "attempts", "base_offset", "base_sequence", "callbacks", "count", "deadline", "done", "encoded", "error",
        "identity", "io", "last_error", "leader", "limit", "log_append_time_ms", "looked", "looked_count",
        "maybe_stored", "most", "number", "opened", "parts", "queue", "records", "size", "stored", "urgent",
    )  # fmt: skip

    def __init__(self, io: ClientIO, queue: PartitionQueue, most: int, now: float, deadline: float) -> None:
        self.io = io
        self.queue = queue
        self.most = most
        """It is closed when it has grown to this many bytes."""
        self.limit = 0
        """So many of them are taken from the buffer for it: `send` may fill them without asking."""
        self.size = BATCH_OVERHEAD
        """At most this many bytes before compression."""
        self.records = RecordColumns()
        self.count = 0
        """Records, once closed."""
        self.number: tuple[int, ...] = ()
        """Its place among the batches of its partition; a part of a batch that was split has one place more."""
        self.opened = now
        self.deadline = deadline
        self.urgent = False
        """Somebody waits for it: it does not wait for more records."""
        self.looked = 0.0
        self.looked_count = 0
        """When the sender looked last whether it grows, and how many records it had then."""
        self.identity: tuple[int, int] | None = None
        self.base_sequence = -1
        self.encoded: bytes | None = None
        self.attempts = 0
        self.leader: PartitionState | None = None
        """Whom the last attempt went to."""
        self.maybe_stored = False
        """An attempt with these sequence numbers ended without telling whether it was stored."""
        self.last_error: ZmqBrokerError | None = None
        self.parts: list[ProducerBatch] | None = None
        """What the batch was split into, being too large."""
        self.done = False
        self.error: ZmqBrokerError | None = None
        self.base_offset = -1
        self.log_append_time_ms = -1
        self.stored: RecordColumns | None = None
        """Where the timestamps are, once the records are stored."""
        self.callbacks: Callbacks = []

    # ---- for the sender, under the lock

    def complete(self, base_offset: int, log_append_time_ms: int) -> None:
        """The records are stored."""
        self.records.values.clear()
        self.records.extras = None
        self.stored = self.records
        self.base_offset = base_offset
        self.log_append_time_ms = log_append_time_ms
        self._finish()

    def fail(self, error: ZmqBrokerError) -> None:
        """The records are not stored, or nobody knows."""
        self.error = error
        self._finish()

    def _finish(self) -> None:
        assert not self.done
        self.records = RecordColumns()
        self.encoded = None
        self.done = True
        callbacks, self.callbacks = self.callbacks, []
        if callbacks:
            self.io.after.append(lambda: self._run(callbacks))

    def split(self, parts: list[ProducerBatch]) -> None:
        """The records live on in these batches, in the same order."""
        self.parts = parts
        for index, callback, errback in self.callbacks:
            batch, position = self.locate(index)
            batch.callbacks.append((position, callback, errback))
        self.records = RecordColumns()
        self.encoded = None
        self.callbacks = []

    # ---- for futures, in any thread

    def locate(self, index: int) -> tuple[ProducerBatch, int]:
        """The batch that the record is in now, and its position there."""
        batch = self
        while batch.parts is not None:
            for part in batch.parts:
                if index < part.count:
                    batch = part
                    break
                index -= part.count
        return batch, index

    def locate_range(self, first: int, count: int) -> list[tuple[ProducerBatch, int, int]]:
        """The batches that some neighbouring records are in now: batch, first position, number of records."""
        if self.parts is None:
            return [(self, first, count)]
        pieces = []
        start = 0
        for part in self.parts:
            low, high = max(first, start), min(first + count, start + part.count)
            if low < high:
                pieces.extend(part.locate_range(low - start, high - low))
            start += part.count
        return pieces

    def metadata(self, index: int) -> RecordMetadata:
        """Where the record at a position is."""
        offset = self.base_offset + index if self.base_offset >= 0 else -1
        stamp = self.log_append_time_ms if self.log_append_time_ms >= 0 else self._timestamp(index)
        return RecordMetadata(self.queue.topic, self.queue.partition, offset, stamp)

    def _timestamp(self, index: int) -> int:
        assert self.stored is not None
        return self.stored.timestamp(index)

    def range_metadata(self, first: int, count: int) -> BatchMetadata:
        """Where some neighbouring records are."""
        at = self.metadata(first)
        return BatchMetadata(at.topic, at.partition, at.offset, count, at.timestamp)

    def wait(self, timeout: float | None, until: float) -> None:
        """Wait until the batch is done or split, or the time over that began when `until` was computed."""
        io = self.io
        self.urgent = True
        # Every batch ends by its deadline; the second is for the pass that ends it.
        deadline = self.deadline + 1.0 if timeout is None else until
        if not io.wait_until(lambda: self.done or self.parts is not None, deadline) and not self.done:
            seconds = f"{timeout:g} s" if timeout is not None else "the delivery time-out"
            last = f"; the last attempt failed: {self.last_error.message}" if self.last_error else ""
            message = f"no answer within {seconds} for a record to {self.queue}{last}"
            raise TimeoutError(message)

    def add_callback(
        self, index: int, callback: Callable[[Any], Any] | None, errback: Callable[[Any], Any] | None
    ) -> None:
        """Call one of the two when the batch is done; at once if it is."""
        with self.io.lock:
            batch, index = self.locate(index)
            if not batch.done:
                batch.callbacks.append((index, callback, errback))
                return
        batch._run([(index, callback, errback)])  # noqa: SLF001 - of its own kind

    def _run(self, callbacks: Callbacks) -> None:
        for index, callback, errback in callbacks:
            try:
                if self.error is not None:
                    if errback is not None:
                        errback(self.error)
                elif callback is not None:
                    callback(self.metadata(index))
            except Exception:
                import logging  # noqa: PLC0415 - only a faulty callback needs it

                logging.getLogger(__name__).exception("a callback of a record's future raised")


class PartitionQueue:
    """The batches of one partition, and where its sequence numbers are."""

    __slots__ = (
        "closed_at", "closed_count", "doubted", "failures", "identity", "in_flight", "last_acked", "needs_identity",
        "next_sequence", "not_before", "open", "partition", "rate", "ready", "retry", "topic", "unresolved",
    )  # fmt: skip

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.open: ProducerBatch | None = None
        self.ready: deque[ProducerBatch] = deque()
        self.retry: deque[ProducerBatch] = deque()
        self.in_flight: list[ProducerBatch] = []
        self.closed_count = 0
        self.closed_at = 0.0
        self.rate = 0.0
        """Records a second between the last two batches."""
        self.not_before = 0.0
        """Back-off: nothing is sent before."""
        self.failures = 0
        """Attempts in a row that failed; those of several batches at once count as one."""
        self.doubted: PartitionState | None = None
        """The leader of the last of them: the back-off is for it, not for another."""
        self.identity: tuple[int, int] | None = None
        """The producer id and epoch that the sequence numbers belong to."""
        self.next_sequence = 0
        self.last_acked = -1
        self.unresolved = False
        """A numbered batch was given up and may or may not be stored: no new numbers until that is known."""
        self.needs_identity = False
        """The broker's sequence is not ours any more: the rest is numbered anew under a new epoch."""

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"

    @property
    def is_idle(self) -> bool:
        """Whether nothing awaits an answer or its turn."""
        return not (self.in_flight or self.ready or self.retry)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do at all."""
        return self.open is None and self.is_idle

    def oldest(self) -> Iterator[ProducerBatch]:
        """The batches that are not done, but of those that are ready only the first: it has the earliest deadline."""
        for batches in (self.in_flight, self.retry, islice(self.ready, 1)):
            for batch in batches:
                if not batch.done:
                    yield batch

    def has_before(self, batch: ProducerBatch) -> bool:
        """Whether a batch that was sent before this one is not done: what comes behind it is refused meanwhile."""
        return any(other.number < batch.number for other in (*self.in_flight, *self.retry))

    def requeue(self, batch: ProducerBatch) -> None:
        """Put a batch that is to be sent again in its place among the others."""
        position = len(self.retry)
        while position and self.retry[position - 1].number > batch.number:
            position -= 1
        self.retry.insert(position, batch)

    def peek(self, now: float, most_in_flight: int, *, numbered: bool) -> ProducerBatch | None:
        """The batch that may be sent now."""
        if now < self.not_before or self.needs_identity or len(self.in_flight) >= most_in_flight:
            return None
        if self.retry:
            first = self.retry[0]
            if self.in_flight and (not numbered or self.in_flight[-1].number > first.number):
                return None
            return first
        if self.ready and not self.unresolved:
            return self.ready[0]
        return None

    def take(self, batch: ProducerBatch) -> None:
        """The batch that `peek` returned is sent."""
        taken = self.retry.popleft() if self.retry else self.ready.popleft()
        assert taken is batch
        assert not self.in_flight or self.in_flight[-1].number <= batch.number
        self.in_flight.append(batch)

    def number(self, batch: ProducerBatch, identity: tuple[int, int]) -> None:
        """Give a batch that has none its sequence numbers."""
        if self.identity is None:
            self.identity = identity
        batch.identity = self.identity
        batch.maybe_stored = False
        batch.base_sequence = self.next_sequence
        self.next_sequence = (self.next_sequence + batch.count) & SEQUENCE_MASK

    def adopt(self, identity: tuple[int, int]) -> None:
        """Begin anew under a new epoch: nothing is in flight, everything numbered is numbered again from 0."""
        assert not self.in_flight
        self.identity = identity
        self.next_sequence = 0
        self.last_acked = -1
        self.unresolved = False
        self.needs_identity = False
        for batch in self.retry:
            batch.encoded = None
            self.number(batch, identity)

    def close_gap(self, rejected: ProducerBatch) -> None:
        """A numbered batch was refused for good and is not stored: those behind it take over its numbers."""
        self.next_sequence = (self.next_sequence - rejected.count) & SEQUENCE_MASK
        for batch in (*self.in_flight, *self.retry):
            if batch.number > rejected.number and batch.identity == rejected.identity:
                batch.base_sequence = (batch.base_sequence - rejected.count) & SEQUENCE_MASK
                batch.encoded = None


def record_size(record: NewRecord) -> int:
    """The most bytes that a record takes in a batch."""
    _, key, value, headers = record
    return RECORD_OVERHEAD + len(key or b"") + len(value or b"") + headers_size(headers)


def headers_size(headers: Headers) -> int:
    """The most bytes that a record's headers take."""
    return sum(10 + 4 * len(name) + len(value or b"") for name, value in headers)
