"""All transactional ids of one partition of ``__transaction_state``. Pure; the actor writes the markers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    BrokerError,
    InvalidProducerIdMappingError,
    InvalidRequestError,
    InvalidTransactionTimeoutError,
    InvalidTxnStateError,
    OperationNotAttemptedError,
    TransactionalIdNotFoundError,
)
from ..transport import transaction_messages as t
from ..transport.messages import InitProducerIdReply, InitProducerIdRequest
from .deadlines import Deadlines
from .transaction import NONE, Transaction
from .transaction_records import (
    FormerProducer,
    State,
    decode,
    former_key,
    former_value,
    transaction_key,
    transaction_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import BrokerConfig
    from .effects import Now

Record = tuple[bytes, bytes | None]


class TransactionTable:
    """The transactional ids. A BrokerError means that nothing changed, where not said otherwise."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self.transactions: dict[str, Transaction] = {}
        self.records: list[Record] = []
        """To be appended; the owner takes them."""
        self.prepared: list[Transaction] = []
        """Whose outcome was decided just now; the owner takes them, and has it written into their partitions."""
        self._deadlines: Deadlines[str] = Deadlines()
        self._check_ms = 0.0
        self._formers: dict[str, FormerProducer] = {}
        """As they were read, until all is."""

    # ---- the log

    def replay(self, key: bytes, value: bytes | None) -> None:
        """Take one record of the log. Raises InvalidRecordError."""
        found = decode(key, value)
        if found is None:
            return
        transactional_id, state = found
        if isinstance(state, FormerProducer):
            self._formers[transactional_id] = state
        elif state is not None:
            self.transactions[transactional_id] = Transaction.restored(transactional_id, state)
        else:
            self.transactions.pop(transactional_id, None)
            self._formers.pop(transactional_id, None)

    def loaded(self, now: Now) -> None:
        """The log is read: go on with what was decided, and give open transactions the time that they have left."""
        self._check_ms = now.monotonic_ms + self.config.transaction_remove_expired_interval_ms
        for transaction in self.transactions.values():
            former = self._formers.get(transaction.transactional_id, transaction.former)
            transaction.former = transaction.former_written = (former[0], former[1])
            if transaction.is_prepared:
                self.prepared.append(transaction)
            elif transaction.state is State.ONGOING:
                self._set_deadline(transaction, now)
        self._formers.clear()

    def _set_deadline(self, transaction: Transaction, now: Now) -> None:
        left_ms = transaction.number + transaction.timeout_ms - now.wall_ms
        # Wall clocks jump: nobody has less time than none, or more than all of it.
        left_ms = min(max(left_ms, 0), transaction.timeout_ms)
        self._deadlines.set(transaction.transactional_id, now.monotonic_ms + left_ms)

    def _write(self, transaction: Transaction) -> None:
        transactional_id = transaction.transactional_id
        self.records.append((transaction_key(transactional_id), transaction_value(transaction.written())))
        if transaction.former != transaction.former_written:
            transaction.former_written = transaction.former
            self.records.append((former_key(transactional_id), former_value(*transaction.former)))

    def confirm(self, transactional_id: str) -> None:
        """Write again what is known of an id, be it nothing: what is said of it then holds once that is committed."""
        transaction = self.transactions.get(transactional_id)
        if transaction is None:
            self.records.append((transaction_key(transactional_id), None))
        else:
            self._write(transaction)

    def _known(self, transactional_id: str, producer_id: int, producer_epoch: int) -> Transaction:
        """The transactional id of a producer that is the present one. Raises why it is not."""
        transaction = self.transactions.get(transactional_id)
        if transaction is None:
            message = f"transactional id {transactional_id!r} has no producer: call InitProducerId first"
            raise InvalidProducerIdMappingError(message)
        transaction.check_producer(producer_id, producer_epoch)
        return transaction

    # ---- producers

    def check_init(self, request: InitProducerIdRequest) -> bool:
        """Whether a fresh producer id is needed for a request. Raises what is wrong with it."""
        assert request.transactional_id is not None, request
        longest = self.config.transaction_max_timeout_ms
        if not 0 < request.transaction_timeout_ms <= longest:
            message = (
                f"transaction.timeout.ms={request.transaction_timeout_ms}: it has to be 1 to {longest}, which is the"
                " broker's transaction.max.timeout.ms"
            )
            raise InvalidTransactionTimeoutError(message)
        if (request.producer_id == NONE) != (request.producer_epoch == NONE):
            message = (
                f"producer id {request.producer_id} and epoch {request.producer_epoch} have to be given both, or none"
            )
            raise InvalidRequestError(message)
        transaction = self.transactions.get(request.transactional_id)
        if transaction is None:
            return True
        transaction.check_may_take_over(request.producer_id, request.producer_epoch)
        return transaction.needs_new_id

    def init(self, request: InitProducerIdRequest, fresh_id: int, now: Now) -> InitProducerIdReply | BrokerError:
        """Let a producer take over a transactional id, once ``check_init`` has passed.

        An open transaction is aborted first: the error that is returned says to ask again.
        """
        transactional_id, asked = request.transactional_id or "", (request.producer_id, request.producer_epoch)
        transaction = self.transactions.get(transactional_id)
        if transaction is None:
            transaction = Transaction(transactional_id, fresh_id, request.transaction_timeout_ms, now.wall_ms)
            self.transactions[transactional_id] = transaction
        elif transaction.state is State.ONGOING:
            self._abort(transaction, now)
            return transaction.concurrent()
        elif transaction.is_prepared:
            return transaction.concurrent()
        else:
            transaction.take_over(asked, fresh_id, request.transaction_timeout_ms, now.wall_ms)
        self._write(transaction)
        return InitProducerIdReply(transaction.producer_id, transaction.producer_epoch, transaction.number)

    def _abort(self, transaction: Transaction, now: Now) -> None:
        """Abort an open transaction in spite of its producer."""
        transaction.fence()
        self._prepare(transaction, now, committed=False)

    def _prepare(self, transaction: Transaction, now: Now, *, committed: bool) -> None:
        transaction.prepare(committed=committed, now_ms=now.wall_ms)
        self._deadlines.cancel(transaction.transactional_id)
        self._write(transaction)
        self.prepared.append(transaction)

    # ---- transactions

    def add_partitions(
        self, request: t.AddPartitionsToTxnRequest, problem: Callable[[str, int], BrokerError | None], now: Now
    ) -> t.AddPartitionsToTxnReply:
        """Take partitions into the transaction: all, or none if there is a problem with one of them."""
        wanted = [(entry.topic, entry.partition) for entry in request.partitions]
        transaction = self._known(request.transactional_id, request.producer_id, request.producer_epoch)
        transaction.check_may_add(request.last)
        problems = {partition: problem(*partition) for partition in wanted}
        if any(problems.values()):
            return t.AddPartitionsToTxnReply([_not_added(partition, problems[partition]) for partition in wanted])
        number = self._add(transaction, wanted, now)
        return t.AddPartitionsToTxnReply([t.PartitionAdded(*partition) for partition in wanted], number)

    def add_offsets(self, request: t.AddOffsetsToTxnRequest, partition: tuple[str, int], now: Now) -> int:
        """Take the partition of a group's offsets into the transaction; the transaction's number."""
        transaction = self._known(request.transactional_id, request.producer_id, request.producer_epoch)
        transaction.check_may_add(request.last)
        return self._add(transaction, [partition], now)

    def _add(self, transaction: Transaction, partitions: list[tuple[str, int]], now: Now) -> int:
        if transaction.add(partitions, now.wall_ms):
            self._set_deadline(transaction, now)
            self._write(transaction)
        return transaction.number

    def end(self, request: t.EndTxnRequest, now: Now) -> None:
        """Decide the outcome of a transaction; nothing happens if it is decided so already, and done."""
        transaction = self._known(request.transactional_id, request.producer_id, request.producer_epoch)
        if NONE != request.transaction != transaction.number:
            message = (
                f"transaction {request.transaction} of {request.transactional_id!r} is over: the present one, or the"
                f" last, is {transaction.number}"
            )
            raise InvalidTxnStateError(message)
        if transaction.check_end(committed=request.committed):
            self._prepare(transaction, now, committed=request.committed)

    def verify(self, transactional_id: str, producer_id: int, producer_epoch: int, partition: tuple[str, int]) -> int:
        """The number of the open transaction, of which a partition has to be a part (KIP-890). Raises why it is not."""
        transaction = self._known(transactional_id, producer_id, producer_epoch)
        transaction.check_may_change()
        if transaction.state is not State.ONGOING or partition not in transaction.partitions:
            message = (
                f"{partition[0]}-{partition[1]} is no part of an open transaction of {transactional_id!r}"
                f" ({transaction.state}): add it first"
            )
            raise InvalidTxnStateError(message)
        return transaction.number

    def completed(self, transaction: Transaction, now: Now) -> None:
        """The markers of a prepared transaction are all written."""
        transaction.complete(now.wall_ms)
        self._write(transaction)

    # ---- administration

    def describe(self, transactional_id: str) -> t.TransactionDescription:
        """Describe one transactional id. Raises TransactionalIdNotFoundError."""
        found = self.transactions.get(transactional_id)
        if found is None:
            message = f"there is no transactional id {transactional_id!r}"
            raise TransactionalIdNotFoundError(message)
        return t.TransactionDescription(
            transactional_id,
            state=found.state,
            timeout_ms=found.timeout_ms,
            start_ms=NONE if found.is_idle else found.number,
            producer_id=found.producer_id,
            producer_epoch=found.producer_epoch,
            partitions=[t.TransactionPartition(*partition) for partition in sorted(found.partitions)],
        )

    def list_all(self, request: t.ListTransactionsRequest, now: Now) -> t.ListTransactionsReply:
        """List those that are asked for."""
        known = {state.lower() for state in State}
        unknown = [state for state in request.states if state.lower() not in known]
        states = {state.lower() for state in request.states}
        listed = [
            t.ListedTransaction(found.transactional_id, found.producer_id, found.state)
            for found in self.transactions.values()
            if (not states or found.state.lower() in states)
            and (not request.producer_ids or found.producer_id in request.producer_ids)
            and (request.duration_ms < 0 or (not found.is_idle and now.wall_ms - found.number > request.duration_ms))
        ]
        return t.ListTransactionsReply(listed, unknown)

    # ---- time

    def deadline_ms(self) -> float:
        """When ``tick`` has something to do."""
        return min(self._deadlines.next_ms(), self._check_ms)

    def tick(self, now: Now) -> list[str]:
        """Do what is due; the transactional ids whose transaction was aborted because its time is over."""
        aborted = []
        while (transactional_id := self._deadlines.pop_due(now.monotonic_ms)) is not None:
            transaction = self.transactions[transactional_id]
            assert transaction.state is State.ONGOING, transaction.state
            self._abort(transaction, now)
            aborted.append(transactional_id)
        if now.monotonic_ms >= self._check_ms:
            self._check_ms = now.monotonic_ms + self.config.transaction_remove_expired_interval_ms
            self._expire(now)
        return aborted

    def _expire(self, now: Now) -> None:
        """Forget the ids of which nothing was heard for long."""
        before_ms = now.wall_ms - self.config.transactional_id_expiration_ms
        for transaction in list(self.transactions.values()):
            if transaction.is_idle and transaction.update_ms < before_ms:
                del self.transactions[transaction.transactional_id]
                self.records.append((transaction_key(transaction.transactional_id), None))
                self.records.append((former_key(transaction.transactional_id), None))


def _not_added(partition: tuple[str, int], problem: BrokerError | None) -> t.PartitionAdded:
    error = problem or OperationNotAttemptedError("there is a problem with another partition of the request")
    return t.PartitionAdded(*partition, error.code, error.message)
