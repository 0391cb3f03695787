"""The producer's state machine: closes batches, numbers them, sends them to leaders, and judges the answers.

Numbers (KIP-98): a broker stores a numbered batch once, and refuses one whose predecessor it has not. So a batch keeps
its number through all retries. Two things break the chain: a batch that is given up though it may be stored
(unresolved: the batches behind it tell, when they are all answered), and a broker that lost its end of the chain. Then,
with nothing in flight, the producer takes the next epoch of its id and numbers what is left from 0 (KIP-360).

All methods are called under the client's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    BrokerError,
    DuplicateSequenceError,
    InvalidProducerEpochError,
    MessageTooLargeError,
    NetworkError,
    NotEnoughReplicasAfterAppendError,
    NotLeaderOrFollowerError,
    OutOfOrderSequenceError,
    RequestTimedOutError,
    UnknownProducerIdError,
    UnknownServerError,
    ZmqBrokerError,
    error_for,
)
from ..log.records import encode_columns
from ..transport.messages import InitProducerIdReply, InitProducerIdRequest, PartitionData, ProduceReply, ProduceRequest
from .accumulator import BATCH_OVERHEAD, SEQUENCE_MASK, PartitionQueue, ProducerBatch, record_size
from .backoff import retry_wait_s
from .closing import due_time, is_due
from .connection import FOREVER, Answer, Call, Connection
from .pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from .io import ClientIO
    from .options import ProducerOptions

CHAIN_BROKEN = (OutOfOrderSequenceError, UnknownProducerIdError, InvalidProducerEpochError, DuplicateSequenceError)
_FATE_UNKNOWN = (
    NetworkError, NotEnoughReplicasAfterAppendError, NotLeaderOrFollowerError, RequestTimedOutError, UnknownServerError,
)  # fmt: skip
"""Errors that may come after the batch was stored; all others say that it was not."""
_MOST_REQUESTS_A_STEP = 64

_RESERVE = 16 * 1024
"""What a new batch takes from the buffer; it takes as much again whenever it is full."""
_ENTRY_BYTES = 64
"""What a batch adds to its request's envelope, beside the topic's name."""


class Sender:
    """Drives the queues of one producer."""

    def __init__(self, io: ClientIO, options: ProducerOptions, on_closed: Callable[[ProducerBatch], None]) -> None:
        self.used_bytes = 0
        """Of closed batches that are not done, and what open ones have taken for themselves."""
        self.blocked: set[object] = set()
        """Whoever waits for room in the buffer: meanwhile no batch that could leave waits for more records."""
        self.counters = dict.fromkeys(
            ("records_sent", "records_failed", "batches_sent", "bytes_sent", "requests_sent", "retries", "splits"), 0
        )
        self.failed_records = 0
        self.first_error: ZmqBrokerError | None = None
        """Since the last flush."""
        self.identity: tuple[int, int] | None = None
        self._io = io
        self._options = options
        self._on_closed = on_closed
        self._active: dict[PartitionQueue, None] = {}
        """Queues that are not empty, in the order in which they became so."""
        self._acks = options.required_acks
        self._numbered = options.idempotent
        self._transactional_id: str | None = None
        self._most_in_flight = options.max_in_flight_requests_per_connection
        self._pace = Pace(options.max_in_flight_requests_per_connection)
        self._linger_s = options.linger_ms / 1000
        self._delivery_s = options.delivery_timeout_ms / 1000
        self._limit = min(max(options.batch_size, 1), options.max_request_size)
        self._identity_under_way = False
        self._identity_not_before = 0.0
        self._identity_failures = 0
        self._identity_asked: Connection | None = None
        """Who did not give one when asked last."""
        self._stepped = 0.0
        self._last_error: ZmqBrokerError | None = None

    # ---- what the producer calls

    def open_batch(self, queue: PartitionQueue, first_size: int) -> ProducerBatch:
        """A new batch for a queue that has none open, large enough for its first record."""
        assert queue.open is None
        now = self._io.now()
        most = max(self._limit, first_size + BATCH_OVERHEAD)
        queue.open = batch = ProducerBatch(self._io, queue, most, now, now + self._delivery_s)
        self.grow(batch, first_size + BATCH_OVERHEAD)
        self._active.setdefault(queue)
        return batch

    def needs_pass(self, queue: PartitionQueue) -> bool:
        """Whether a batch that was just opened has to be looked at, which means to look at all that are open."""
        batch = queue.open
        assert batch is not None
        waits = self._is_held(queue) or (self._linger_s > 0 and self._transactional_id is None and not self.blocked)
        return not waits or not self._io.wakes_by(self._due_time(queue, batch))

    def grow(self, batch: ProducerBatch, size: int) -> None:
        """Take room from the buffer for an open batch: this much in all, and for what comes next if there is more."""
        ahead = min(max(_RESERVE, batch.limit), max(0, self._options.buffer_memory - self.used_bytes))
        limit = min(batch.most, max(size, batch.limit + ahead))
        self.used_bytes += limit - batch.limit
        batch.limit = limit

    def give_back(self, batch: ProducerBatch) -> None:
        """The batch needs no more room than its records take."""
        self.used_bytes -= batch.limit - batch.size
        batch.limit = batch.size

    def give_back_all(self) -> None:
        """No open batch needs more room than its records take."""
        for queue in self._active:
            if queue.open is not None:
                self.give_back(queue.open)

    def close_batch(self, queue: PartitionQueue) -> None:
        """Nothing more goes into the open batch: it is ready to be sent."""
        batch = queue.open
        assert batch is not None
        assert batch.records
        queue.open = None
        now = self._io.now()
        queue.rate = len(batch.records) / max(now - queue.closed_at, 1e-6)
        queue.closed_at = now
        queue.closed_count += 1
        self._pace.closed(now)
        batch.number = (queue.closed_count,)
        batch.count = len(batch.records)
        queue.ready.append(batch)
        self.give_back(batch)
        self._on_closed(batch)

    def close_all(self) -> None:
        """Close every open batch."""
        for queue in self._active:
            if queue.open is not None:
                self.close_batch(queue)

    def unfinished(self) -> list[ProducerBatch]:
        """Every batch that is not done."""
        return [
            batch
            for queue in self._active
            for batch in (*queue.in_flight, *queue.retry, *queue.ready, *([queue.open] if queue.open else ()))
            if not batch.done
        ]

    def fail_all(self, error: ZmqBrokerError) -> None:
        """Give up everything that is not done."""
        self.close_all()
        for batch in self.unfinished():
            self._finish(batch, error)
        self._active.clear()

    # ---- the driver

    def step(self, now: float) -> None:
        """Expire, close and send what is due."""
        self._stepped = now
        if not self._active:
            return
        for queue in list(self._active):
            self._tend(queue, now)
            if queue.is_empty:
                del self._active[queue]
        if self._numbered and self.identity is None and self._active:
            self._ask_identity(now)
            if self.identity is None:
                return
        self._send_due(now)

    def next_deadline(self) -> float:
        """When a linger, a back-off or a delivery time-out ends."""
        deadline = self._identity_not_before if self._numbered and self._wants_identity() else FOREVER
        for queue in self._active:
            if queue.open is not None:
                deadline = min(deadline, self._due_time(queue, queue.open))
            if queue.not_before > self._stepped and (queue.retry or queue.ready):
                deadline = min(deadline, queue.not_before)
            for batch in queue.oldest():
                deadline = min(deadline, batch.deadline)
        return deadline

    def _tend(self, queue: PartitionQueue, now: float) -> None:
        """Bring one queue up to date with the time and with what is known of its leader."""
        if queue.doubted is not None and queue.doubted != self._io.metadata.state(queue.topic, queue.partition):
            queue.doubted = None
            queue.failures = 0
            queue.not_before = 0.0
        if queue.open is not None and is_due(
            queue, now, self._linger_s, crowded=bool(self.blocked), held=self._is_held(queue)
        ):
            self.close_batch(queue)
        if any(batch.deadline <= now for batch in queue.oldest()):
            self._expire(queue, now)
        if queue.unresolved and not queue.in_flight and not queue.retry:
            queue.unresolved = False
            queue.needs_identity = (queue.last_acked + 1) & SEQUENCE_MASK != queue.next_sequence
        if queue.needs_identity and not queue.in_flight:
            if self.identity is not None and self.identity != queue.identity:
                queue.adopt(self.identity)
            else:
                self._ask_identity(now)

    def _expire(self, queue: PartitionQueue, now: float) -> None:
        for batch in [b for b in (*queue.in_flight, *queue.retry, *queue.ready) if b.deadline <= now and not b.done]:
            if batch.base_sequence >= 0 and batch.attempts:
                queue.unresolved = True
            if batch in queue.retry:
                queue.retry.remove(batch)
            elif batch in queue.ready:
                queue.ready.remove(batch)
            self._finish(batch, self._expired_error(batch))

    def _expired_error(self, batch: ProducerBatch) -> RequestTimedOutError:
        cause = batch.last_error or self._last_error or self._io.metadata.last_error
        if cause is None and self._io.metadata.errors.get(batch.queue.topic):
            cause = self._io.metadata.errors[batch.queue.topic]
        why = f"the last attempt ended with {type(cause).__name__}: {cause.message}" if cause else "none was answered"
        fate = "it is unknown whether they are stored" if batch.attempts else "they are not stored"
        return RequestTimedOutError(
            f"{batch.count} records for {batch.queue} were not acknowledged within delivery_timeout_ms="
            f"{self._options.delivery_timeout_ms} ({batch.attempts} attempts; {fate}); {why}"
        )

    # ---- sending

    def _due_time(self, queue: PartitionQueue, batch: ProducerBatch) -> float:
        return due_time(queue, batch, self._linger_s, held=self._is_held(queue))

    def _is_held(self, queue: PartitionQueue) -> bool:
        """Whether what is open had better wait until its leader has answered something else."""
        return self._pace.holds(self._io.metadata.known_leader(queue.topic, queue.partition))

    def _send_due(self, now: float) -> None:
        for _ in range(_MOST_REQUESTS_A_STEP):
            by_leader: dict[Connection, list[ProducerBatch]] = {}
            sizes: dict[Connection, int] = {}
            for queue in self._active:
                batch = self._next_batch(queue, now)
                if batch is None:
                    continue
                connection = self._io.metadata.leader(queue.topic, queue.partition)
                if connection is None or self._pace.is_full(connection) or connection.is_backing_off:
                    continue
                if self._awaits_older_leader(queue):
                    continue
                size = batch.size + _ENTRY_BYTES + len(queue.topic)
                if connection in sizes:
                    size += sizes[connection]
                    if size > min(self._options.max_request_size, connection.most_at_once):
                        continue
                elif connection.is_called:
                    continue
                sizes[connection] = size
                by_leader.setdefault(connection, []).append(batch)
            if not by_leader:
                return
            for connection, batches in by_leader.items():
                self._send(connection, batches, now)
        self._io.submitted = True  # the rest goes in the next round of this pass

    def _next_batch(self, queue: PartitionQueue, now: float) -> ProducerBatch | None:
        """The batch of a queue that may be sent now."""
        return queue.peek(now, self._most_in_flight, numbered=self._numbered)

    def _awaits_older_leader(self, queue: PartitionQueue) -> bool:
        """Whether another leader than the present one may still store something: what follows must not overtake it."""
        state = self._io.metadata.state(queue.topic, queue.partition)
        return any(batch.leader != state for batch in queue.in_flight)

    def _send(self, connection: Connection, batches: list[ProducerBatch], now: float) -> None:
        metadata = self._io.metadata
        entries = []
        frames = []
        for batch in batches:
            queue = batch.queue
            state = batch.leader = metadata.topics[queue.topic][queue.partition]
            queue.take(batch)
            batch.attempts += 1
            if batch.encoded is None:
                self._encode(batch)
            assert batch.encoded is not None
            frames.append(batch.encoded)
            entries.append(PartitionData(queue.topic, queue.partition, state.leader_epoch))
            self.counters["bytes_sent"] += len(batch.encoded)
        self.counters["requests_sent"] += 1
        self.counters["batches_sent"] += len(batches)
        timeout_ms = self._options.request_timeout_ms
        request = ProduceRequest(self._acks, timeout_ms, entries, self._transactional_id)

        def done(outcome: Answer | ZmqBrokerError) -> None:
            self._pace.ended(connection)
            self._answered(batches, outcome, connection)

        self._pace.sent(connection)
        call = Call(request, done, now + timeout_ms / 1000, frames, awaits_reply=self._acks != 0)
        connection.submit(call, now)

    def _encode(self, batch: ProducerBatch) -> None:
        if self._numbered and batch.base_sequence < 0:
            assert self.identity is not None
            batch.queue.number(batch, self.identity)
        producer_id, producer_epoch = batch.identity or (-1, -1)
        batch.encoded = encode_columns(
            batch.records,
            compression=self._options.compression,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=batch.base_sequence,
            transactional=self._transactional_id is not None,
        )

    # ---- answers

    def _answered(self, batches: list[ProducerBatch], outcome: Answer | ZmqBrokerError, connection: Connection) -> None:
        if isinstance(outcome, ZmqBrokerError):
            for batch in batches:
                self._judge(batch, outcome, connection)
            return
        if self._acks == 0:
            for batch in batches:
                batch.queue.in_flight.remove(batch)
                self._finish(batch, None)
            return
        reply = outcome.body
        assert isinstance(reply, ProduceReply)
        results = reply.partitions
        for position, batch in enumerate(batches):
            entry = results[position] if position < len(results) else None
            if entry is None or (entry.topic, entry.partition) != (batch.queue.topic, batch.queue.partition):
                error = NetworkError(f"the broker's answer does not match the request for {batch.queue}")
                self._judge(batch, error, connection)
            elif entry.error_code == 0:
                self._stored(batch, entry.base_offset, entry.log_append_time_ms)
            elif entry.error_code == DuplicateSequenceError.code and batch.maybe_stored:
                self._stored(batch, -1, -1)
            else:
                self._judge(batch, error_for(entry.error_code, entry.error_message), connection)

    def _stored(self, batch: ProducerBatch, base_offset: int, log_append_time_ms: int) -> None:
        queue = batch.queue
        queue.in_flight.remove(batch)
        queue.failures = 0
        if batch.base_sequence >= 0 and batch.identity == queue.identity:
            queue.last_acked = (batch.base_sequence + batch.count - 1) & SEQUENCE_MASK
        self._finish(batch, None, base_offset, log_append_time_ms)

    def _judge(self, batch: ProducerBatch, error: ZmqBrokerError, connection: Connection) -> None:
        """An attempt failed: try again, number anew, split, or give up."""
        queue = batch.queue
        queue.in_flight.remove(batch)
        self._last_error = error
        if error.retriable:
            self._io.metadata.refresh(besides=connection)  # another leader may do better
        if batch.done:  # it expired while it was in flight
            return
        batch.last_error = error
        batch.maybe_stored = batch.maybe_stored or isinstance(error, _FATE_UNKNOWN)
        if self._numbered and isinstance(error, CHAIN_BROKEN):
            # Nothing else can be expected behind a batch that is to be sent again, or was refused (close_gap).
            if not queue.has_before(batch) and batch.encoded is not None:
                queue.needs_identity = True
                if batch.attempts > 1:
                    self._back_off(batch)
            self._retry(batch)
        elif isinstance(error, MessageTooLargeError) and batch.count > 1:
            self._split(batch)
        elif not error.retriable:
            self._refuse(batch, error)
        elif batch.attempts > self._options.retries:
            if batch.base_sequence >= 0:
                queue.unresolved = True
            self._finish(batch, error)
        else:
            self._retry(batch)
            self._back_off(batch)

    def _back_off(self, batch: ProducerBatch) -> None:
        """Wait before anything else is sent to a partition, unless it gets another leader."""
        queue = batch.queue
        now = self._io.now()
        if now >= queue.not_before:
            queue.failures += 1
            queue.not_before = now + retry_wait_s(self._options, queue.failures)
        queue.doubted = batch.leader

    def _retry(self, batch: ProducerBatch) -> None:
        self.counters["retries"] += 1
        batch.queue.requeue(batch)
        self._active.setdefault(batch.queue)

    def _refuse(self, batch: ProducerBatch, error: ZmqBrokerError) -> None:
        if batch.base_sequence >= 0:
            if batch.maybe_stored or not isinstance(error, BrokerError):
                batch.queue.unresolved = True
            else:
                batch.queue.close_gap(batch)
        self._finish(batch, error)

    def _split(self, batch: ProducerBatch) -> None:
        """The topic takes no batch of this size: send it as two."""
        self.counters["splits"] += 1
        half = batch.count // 2
        parts = []
        for place, (shift, end) in enumerate(((0, half), (half, batch.count))):
            records = batch.records.part(shift, end)
            part = ProducerBatch(self._io, batch.queue, batch.most, batch.opened, batch.deadline)
            part.records = records
            part.count = len(records)
            part.size = BATCH_OVERHEAD + sum(map(record_size, records.rows()))
            part.number = (*batch.number, place)
            part.attempts = batch.attempts
            part.maybe_stored = batch.maybe_stored
            part.last_error = batch.last_error
            if batch.base_sequence >= 0:
                part.identity = batch.identity
                part.base_sequence = (batch.base_sequence + shift) & SEQUENCE_MASK
            parts.append(part)
        self.used_bytes += sum(part.size for part in parts) - batch.size
        batch.split(parts)
        for part in parts:
            self._retry(part)

    def _finish(
        self, batch: ProducerBatch, error: ZmqBrokerError | None, base_offset: int = -1, log_append_time_ms: int = -1
    ) -> None:
        if batch.done:
            return
        self.used_bytes -= batch.size
        self._io.progress += 1
        if error is None:
            self.counters["records_sent"] += batch.count
            batch.complete(base_offset, log_append_time_ms)
        else:
            self.counters["records_failed"] += batch.count
            self.failed_records += batch.count
            self.first_error = self.first_error or error
            batch.fail(error)

    # ---- the producer id

    def _wants_identity(self) -> bool:
        if self._identity_under_way:
            return False
        if self.identity is None:
            return bool(self._active)
        return any(queue.needs_identity and not queue.in_flight for queue in self._active)

    def _ask_identity(self, now: float) -> None:
        if self._identity_under_way or now < self._identity_not_before:
            return
        self._identity_under_way = True
        request = InitProducerIdRequest(*self.identity) if self.identity is not None else InitProducerIdRequest()
        deadline = now + self._options.request_timeout_ms / 1000
        besides = () if self._identity_asked is None else (self._identity_asked,)
        connection = self._identity_asked = self._io.metadata.any_connection(besides)
        connection.submit(Call(request, self._identity_answered, deadline), now)

    def _identity_answered(self, outcome: Answer | ZmqBrokerError) -> None:
        self._identity_under_way = False
        self._identity_failures += 1
        self._identity_not_before = self._io.now() + retry_wait_s(self._options, self._identity_failures)
        if not isinstance(outcome, ZmqBrokerError):
            reply = outcome.body
            assert isinstance(reply, InitProducerIdReply)
            self.identity = (reply.producer_id, reply.producer_epoch)
            self._identity_not_before = 0.0
            self._identity_failures = 0
            self._identity_asked = None
            return
        self._last_error = outcome
        if self.identity is not None and isinstance(outcome, (InvalidProducerEpochError, UnknownProducerIdError)):
            self.identity = None  # the broker does not know it any more, or somebody else took it on: get another
        elif not outcome.retriable:
            self.close_all()
            for batch in self.unfinished():
                for batches in (batch.queue.retry, batch.queue.ready):
                    if batch in batches:
                        batches.remove(batch)
                self._finish(batch, outcome)
