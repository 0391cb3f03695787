"""The producer: `send` puts records into batches and returns at once; batches leave as soon as that is worth it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..errors import BufferTimeoutError, ClosedError, MessageTooLargeError, ZmqBrokerError
from ..log.columns import NO_HEADERS
from .accumulator import BATCH_OVERHEAD, RECORD_OVERHEAD, ProducerBatch, headers_size
from .futures import BatchesFuture, RecordFuture
from .io import ClientIO, Wait
from .options import ProducerOptions, make_options
from .partitioner import positive_hash
from .router import Router
from .sender import Sender
from .transaction_methods import TransactionMethods
from .values import as_bytes, checked_headers, checked_timestamp, how_many, pairs_of, with_deliver_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from typing_extensions import Unpack

    from .io import Flow
    from .producer_settings import ProducerSettings
    from .transactions import Transactions


class Producer(TransactionMethods):
    """Sends records. May be used by several threads at once.

    Nothing is connected before the first record is sent. With a transactional_id all records are sent in transactions:
    `init_transactions` first, then ``with producer.transaction():`` around what belongs together. Raises ConfigError
    for an unknown setting or a value out of range. After a fork the child needs a producer of its own.
    """

    def __init__(self, **settings: Unpack[ProducerSettings]) -> None:
        self._setup(make_options(ProducerOptions, settings))
        self._io.start_thread("zmqbroker-producer")

    @classmethod
    def without_thread(cls, options: ProducerOptions) -> Self:
        """A producer that an event loop drives."""
        producer = cls.__new__(cls)
        producer._setup(options)  # noqa: SLF001 - of its own class
        return producer

    def _setup(self, options: ProducerOptions) -> None:
        self._options = options
        self.io = self._io = io = ClientIO(options)
        io.metadata.auto_create = True
        self._router = Router(options, io.metadata)
        self._sender, self._transactions = self._make_sender(io, options)
        io.drivers.append(self._sender)
        if self._transactions is not None:
            io.drivers.append(self._transactions)  # behind the sender, which says what is to be part of them
        self._acquire = io.lock.acquire
        self._release = io.lock.release
        self._open_batches = self._router.open_batches
        self._keyed = self._router.keyed
        self._buffer_memory = options.buffer_memory
        self.closed = False

    def _make_sender(self, io: ClientIO, options: ProducerOptions) -> tuple[Sender, Transactions | None]:
        if options.transactional_id is None:
            return Sender(io, options, self._router.closed), None
        from .transaction_sender import TransactionSender  # noqa: PLC0415 - only transactions need it

        sender = TransactionSender(io, options, self._router.closed)
        return sender, sender.transactions

    # ---- sending

    def send(  # noqa: PLR0917 - positions are kafka-python's
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        deliver_at: int | datetime | None = None,
    ) -> RecordFuture:
        """Send one record; returns a future of where it will be.

        With deliver_at (a datetime, or milliseconds since 1970) share groups deliver it not before then; a consumer
        reads it as any other.

        Returns at once unless the buffer is full or the topic not yet known (max_block_ms). Raises BufferTimeoutError,
        MessageTooLargeError, ClosedError, the error that keeps the topic from being known, TypeError for what is not
        bytes without a serializer, and with a transactional_id IllegalStateError outside of a transaction, or why the
        transaction has failed; everything that happens later is the future's.
        """
        if deliver_at is not None:
            headers = with_deliver_at(headers, deliver_at)
        if headers is None and partition is None and timestamp_ms is None and type(value) is bytes:
            if key is None:
                size = len(value) + RECORD_OVERHEAD
                self._acquire()
                try:
                    batch = self._open_batches.get(topic)
                    if batch is not None and (size := batch.size + size) <= batch.limit:
                        batch.size = size
                        records = batch.records
                        stamp = time_ns() // 1_000_000
                        if records.extras is not None or stamp != records.last_timestamp:
                            future = RecordFuture(batch, len(records.values))
                            records.append(stamp, None, value, NO_HEADERS)
                            return future
                        values = records.values
                        future = RecordFuture(batch, len(values))
                        values.append(value)
                        return future
                finally:
                    self._release()
            elif type(key) is bytes:
                size = len(value) + len(key) + RECORD_OVERHEAD
                self._acquire()
                try:
                    queues = self._keyed.get(topic)
                    if queues is not None:
                        batch = queues[positive_hash(key) % len(queues)].open
                        if batch is not None and (size := batch.size + size) <= batch.limit:
                            batch.size = size
                            records = batch.records
                            future = RecordFuture(batch, len(records.values))
                            records.append(time_ns() // 1_000_000, key, value, NO_HEADERS)
                            return future
                finally:
                    self._release()
        return self._send(topic, value, key, headers, partition, timestamp_ms)

    def _send(  # noqa: PLR0917
        self,
        topic: str,
        value: Any,
        key: Any,
        headers: Sequence[tuple[str, bytes | None]] | None,
        partition: int | None,
        timestamp_ms: int | None,
    ) -> RecordFuture:
        """`send` in general: everything checked, any batch closed, opened and sent."""
        options = self._options
        value = as_bytes("value", value, options.value_serializer)
        key = as_bytes("key", key, options.key_serializer)
        pairs = checked_headers(headers) if headers else NO_HEADERS
        size = RECORD_OVERHEAD + len(value or b"") + len(key or b"") + headers_size(pairs)
        self._check_size(size)
        stamp = time_ns() // 1_000_000 if timestamp_ms is None else checked_timestamp(timestamp_ms)
        self._acquire_ready(topic)
        due = True
        try:
            batch, due = self._batch_with_room(topic, key, partition, size)
            future = RecordFuture(batch, len(batch.records))
            batch.records.append(stamp, key, value, pairs)
            batch.size += size
        except BaseException:
            self._release()
            raise
        if due:
            self._io.pass_and_release()
        else:
            self._release()
        return future

    def _batch_with_room(
        self, topic: str, key: bytes | None, partition: int | None, size: int
    ) -> tuple[ProducerBatch, bool]:
        """An open batch that so many bytes fit into, and whether a pass is due: one was closed or may leave."""
        due = False
        while True:
            queue = self._router.queue(topic, key, partition)
            batch = queue.open
            if batch is None:
                batch = self._sender.open_batch(queue, size)
                self._router.opened(batch)
                return batch, due or self._sender.needs_pass(queue)
            if batch.size + size <= batch.most:
                if batch.size + size > batch.limit:
                    self._sender.grow(batch, batch.size + size)
                return batch, due
            self._sender.close_batch(queue)
            due = True

    def send_many(
        self,
        topic: str,
        values: Iterable[Any],
        *,
        key: Any = None,
        keys: Sequence[Any] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> BatchesFuture:
        """Send many records, in order; one future for all. Far cheaper a record than `send`.

        With `key` all go where that key goes; with `keys`, one for each value, each goes where its own does. Without
        either they fill one partition's batch after the other. Waits and raises as `send`; if it raises, the records
        before the one at fault are sent.
        """
        values = values if isinstance(values, list) else list(values)
        parts: list[tuple[ProducerBatch, int, int]] = []
        if keys is not None:
            for value, its_key in pairs_of(values, keys):
                parts.append(self.send(topic, value, its_key, None, partition, timestamp_ms).position())
            return BatchesFuture(parts)
        values, raw_key, stamp = self.prepare_many(values, key, timestamp_ms)
        position = 0
        while position < len(values):
            position = self.send_some(topic, values, position, raw_key, partition, stamp, parts)
        return BatchesFuture(parts)

    def prepare_many(
        self, values: list[Any], key: Any, timestamp_ms: int | None
    ) -> tuple[list[Any], bytes | None, int | None]:
        """Values, key and timestamp as `send_some` takes them. Raises for what cannot be sent."""
        options = self._options
        stamp = None if timestamp_ms is None else checked_timestamp(timestamp_ms)
        if options.value_serializer is not None:
            values = [options.value_serializer(value) for value in values]
        if not set(map(type, values)) <= {bytes}:
            values = [as_bytes("value", value, None) for value in values]
        return values, as_bytes("key", key, options.key_serializer), stamp

    def send_some(  # noqa: PLR0917
        self,
        topic: str,
        values: list[Any],
        position: int,
        key: bytes | None,
        partition: int | None,
        timestamp_ms: int | None,
        parts: list[tuple[ProducerBatch, int, int]],
    ) -> int:
        """Fill one batch, as far as there is room, from the values at a position; the position of what is left."""
        framing = RECORD_OVERHEAD + len(key or b"")
        stamp = time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
        self._acquire_ready(topic)
        try:
            first = framing + len(values[position] or b"")
            self._check_size(first)
            batch, _ = self._batch_with_room(topic, key, partition, first)
            room = min(batch.most, batch.limit + max(0, self._buffer_memory - self._sender.used_bytes)) - batch.size
            count, size = how_many(values, position, framing, room)
            self._sender.give_back(batch)
            self._sender.grow(batch, batch.size + size)
            chunk = values[position : position + count]
            parts.append((batch, len(batch.records), count))
            batch.records.extend(stamp, key, chunk)
            batch.size += size
            batch.urgent = True  # its end is known: it need not wait for more
            if position + count < len(values):
                self._sender.close_batch(batch.queue)
        except BaseException:
            self._release()
            raise
        self._io.pass_and_release()
        return position + count

    # ---- queues

    def _acquire_ready(self, topic: str) -> None:
        """Wait until the topic is known and the buffer has room; returns with the lock held."""
        deadline = None
        while True:
            self.check_may_send()
            if topic not in self._io.metadata.topics:
                self._io.run(self.topic_known(topic))
            if not self.has_room():
                deadline = deadline or self.block_deadline()
                self._io.run(self.room(deadline))
            self._acquire()
            if self.has_room() and not self.closed and (self._transactions is None or self._transactions.is_open):
                return
            self._release()  # another thread was faster

    def check_may_send(self) -> None:
        """Raise why nothing can be sent at all: closed, or not in a transaction.

        `send` need not ask if it finds an open batch: there is none outside of a transaction.
        """
        if self.closed:
            message = "the producer is closed; make a new one"
            raise ClosedError(message)
        if self._transactions is not None:
            self._transactions.check_open("send")

    def knows(self, topic: str) -> bool:
        """Whether `send` to a topic need not wait for it to be known."""
        return topic in self._io.metadata.topics

    def has_room(self) -> bool:
        """Whether `send` need not wait for room in the buffer."""
        return self._sender.used_bytes < self._buffer_memory

    def topic_known(self, topic: str) -> Flow[None]:
        """Wait until a topic is known. Raises what keeps it from being known for max_block_ms, or for good."""
        if not isinstance(topic, str) or not topic:
            message = f"topic={topic!r}: a topic's name is expected"
            raise TypeError(message)
        io, metadata = self._io, self._io.metadata
        with io.lock:
            metadata.add_topics({topic})
            metadata.refresh()

        def known() -> bool:
            error = metadata.errors.get(topic)
            return topic in metadata.topics or (error is not None and not error.retriable)

        yield Wait(known, io.now() + self._options.max_block_ms / 1000)
        if topic in metadata.topics:
            return
        io.check_open()
        cause = metadata.why_unknown(topic)
        with io.lock:
            metadata.forget_topics({topic})
        if not cause.retriable:
            raise cause
        waited = f"topic {topic!r} could not be used within max_block_ms={self._options.max_block_ms}"
        message = f"{waited}: {cause.message}"
        raise type(cause)(message) from cause

    def block_deadline(self) -> float:
        """Until when a `send` that begins now may wait."""
        return self._io.now() + self._options.max_block_ms / 1000

    def room(self, deadline: float) -> Flow[None]:
        """Wait until the buffer has room. Raises BufferTimeoutError."""
        io, sender = self._io, self._sender
        me = object()
        with io.lock:
            sender.blocked.add(me)
            sender.give_back_all()
        try:
            room = yield Wait(self.has_room, deadline)
        finally:
            sender.blocked.discard(me)
        if not room:
            io.check_open()
            message = (
                f"the buffer holds {sender.used_bytes} bytes of unacknowledged records and did not fall below"
                f" buffer_memory={self._buffer_memory} within max_block_ms={self._options.max_block_ms}"
            )
            raise BufferTimeoutError(message)

    def _check_size(self, size: int) -> None:
        most = self._options.max_request_size
        if size + BATCH_OVERHEAD > most:
            message = (
                f"the record takes up to {size + BATCH_OVERHEAD} bytes with its batch's header, more than"
                f" max_request_size={most}; raise it (and the topic's max.message.bytes), or send less"
            )
            raise MessageTooLargeError(message)

    # ---- everything else

    def flush(self, timeout: float | None = None) -> None:
        """Send all that is buffered and wait (seconds; None: until the delivery time-out) until its fate is known.

        Raises the first error since the last flush if any record failed since then, saying how many did; TimeoutError
        if not everything is answered in time.
        """
        self._io.run(self.flushed(timeout))

    def flushed(self, timeout: float | None) -> Flow[None]:
        """`flush` as a flow."""
        yield from self.drained(timeout)
        if self._transactions is not None:
            self._transactions.check_alive()
        self.raise_failures()

    def drained(self, timeout: float | None) -> Flow[None]:
        """Wait until the fate of all that is buffered is known. Raises TimeoutError."""
        io, sender = self._io, self._sender
        with io.lock:
            sender.close_all()
            waiting = sender.unfinished()
        if timeout is None:
            timeout = self._options.delivery_timeout_ms / 1000 + 1.0

        def all_done() -> bool:
            while waiting and waiting[-1].done:
                waiting.pop()
            if waiting and waiting[-1].parts is not None:
                waiting.extend(waiting.pop().parts or ())
                return all_done()
            return not waiting

        if not (yield Wait(all_done, io.now() + timeout)):
            io.check_open()
            count = sum(batch.count for batch in waiting if not batch.done)
            message = f"up to {count} records are not acknowledged after {timeout:g} s"
            raise TimeoutError(message)

    def raise_failures(self) -> None:
        """Raise what made records fail since the last flush."""
        sender = self._sender
        with self._io.lock:
            failed, sender.failed_records = sender.failed_records, 0
            error, sender.first_error = sender.first_error, None
        if error is not None:
            message = f"{failed} records failed since the last flush; the first: {error.message}"
            raise type(error)(message) from error

    def partitions_for(self, topic: str) -> set[int]:
        """The partitions of a topic, which is created if it does not exist. Waits up to max_block_ms."""
        if topic not in self._io.metadata.topics:
            self._io.run(self.topic_known(topic))
        return set(self._io.metadata.topics[topic])

    def bootstrap_connected(self) -> bool:
        """Whether some broker is connected."""
        with self._io.lock:
            return any(connection.is_usable for connection in self._io.connections.values())

    def metrics(self) -> dict[str, float]:
        """Counters since the start: records, batches, bytes, requests, retries; what is buffered and in flight now."""
        with self._io.lock:
            sender, connections = self._sender, self._io.connections.values()
            batches = sender.counters["batches_sent"]
            return {
                **sender.counters,
                "buffer_used_bytes": sender.used_bytes,
                "requests_in_flight": sum(connection.in_flight for connection in connections),
                "throttle_time_ms": max((connection.throttle_time_ms for connection in connections), default=0),
                "records_per_batch": sender.counters["records_sent"] / batches if batches else 0.0,
            }

    def close(self, timeout: float | None = None) -> None:
        """Send what is buffered, wait for it (seconds; None: until the delivery time-out), and disconnect.

        A transaction that is open is aborted. What is not acknowledged by then fails with ClosedError. Raises what made
        records fail since the last flush.
        """
        if self.closed:
            return
        try:
            self._io.run(self.closing(timeout))
        except (TimeoutError, ZmqBrokerError):
            pass  # counted below: what is left fails now, and that is raised
        finally:
            self.shut()
        self.raise_failures()

    def closing(self, timeout: float | None) -> Flow[None]:
        """What `close` waits for, as a flow."""
        yield from self.settling(timeout)
        yield from self.drained(timeout)

    def shut(self) -> None:
        """Disconnect at once; what is not acknowledged fails."""
        with self._io.lock:
            self.closed = True
            self._router.clear()
            self._sender.fail_all(ClosedError("the producer was closed before the record was acknowledged"))
            self._io.drivers.clear()
        self._io.close()

    def __enter__(self) -> Self:
        """The producer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; what made the block fail is more important than records that failed."""
        try:
            self.close()
        except Exception:
            if error is None:
                raise


time_ns = time.time_ns
