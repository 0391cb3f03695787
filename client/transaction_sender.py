"""The sender of a transactional producer: batches wait for their transaction, and fail it when they fail.

What the plain sender does by itself when its chain of numbers breaks, to number what is left anew under the next epoch,
must not happen here: nobody could tell then which records the transaction holds. It fails the transaction, and the next
epoch comes with the abort.

All methods are called under the client's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sender import CHAIN_BROKEN, Sender
from .transaction_requests import FENCED
from .transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import RequestTimedOutError, ZmqBrokerError
    from .accumulator import PartitionQueue, ProducerBatch
    from .connection import Connection
    from .io import ClientIO
    from .options import ProducerOptions


class TransactionSender(Sender):
    """Drives the queues of one transactional producer."""

    def __init__(self, io: ClientIO, options: ProducerOptions, on_closed: Callable[[ProducerBatch], None]) -> None:
        super().__init__(io, options, on_closed)
        self.transactions = Transactions(io, options, self)
        self._transactional_id = options.transactional_id

    # ---- what the transactions call

    @property
    def is_idle(self) -> bool:
        """Whether no batch waits, and none is in flight."""
        return not self._active

    def take_identity(self, identity: tuple[int, int]) -> None:
        """Number batches under this producer id and epoch from now on."""
        self.identity = identity

    def drop(self, error: ZmqBrokerError) -> None:
        """Fail every batch that is not in flight."""
        self.close_all()
        for queue in self._active:
            for batch in (*queue.retry, *queue.ready):
                self._drop(batch, error)
            queue.retry.clear()
            queue.ready.clear()

    def _drop(self, batch: ProducerBatch, error: ZmqBrokerError) -> None:
        """Fail a batch because of its transaction: it is no failure of its own."""
        if not batch.done:
            self.used_bytes -= batch.size
            self.counters["records_failed"] += batch.count
            self._io.progress += 1
            batch.fail(error)

    def forget_failures(self) -> None:
        """The user is told of the records that failed."""
        self.failed_records = 0
        self.first_error = None

    # ---- what differs in a transaction

    def _next_batch(self, queue: PartitionQueue, now: float) -> ProducerBatch | None:
        if not self.transactions.admits(queue.topic, queue.partition):
            return None
        if queue.identity != self.identity:
            assert self.identity is not None, "nothing is admitted before there is a producer id"
            queue.adopt(self.identity)
        return super()._next_batch(queue, now)

    def _judge(self, batch: ProducerBatch, error: ZmqBrokerError, connection: Connection) -> None:
        if isinstance(error, FENCED) and batch.identity == self.identity:
            self.transactions.fence(error)
        if not self.transactions.goes_on:
            batch.queue.in_flight.remove(batch)
            self._drop(batch, self.transactions.why_dropped())
        elif isinstance(error, CHAIN_BROKEN) and not batch.queue.has_before(batch):
            batch.queue.in_flight.remove(batch)
            self._finish(batch, error)
        else:
            super()._judge(batch, error, connection)

    def _expired_error(self, batch: ProducerBatch) -> RequestTimedOutError:
        if not batch.attempts:  # its partition was not admitted, perhaps
            self._last_error = self.transactions.why_it_lasts or self._last_error
        return super()._expired_error(batch)

    def _finish(
        self, batch: ProducerBatch, error: ZmqBrokerError | None, base_offset: int = -1, log_append_time_ms: int = -1
    ) -> None:
        super()._finish(batch, error, base_offset, log_append_time_ms)
        if error is not None:
            self.transactions.fail(error)

    def _wants_identity(self) -> bool:
        return False

    def _ask_identity(self, now: float) -> None:
        """The transactions ask for it."""
