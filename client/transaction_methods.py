"""The producer's methods for transactions: begin them, send a group's offsets with them, end them. Part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Protocol

from ..errors import IllegalStateError, RequestTimedOutError, ZmqBrokerError
from .io import Wait
from .rebalance_listener import ConsumerGroupMetadata
from .values import checked_offsets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from .io import ClientIO, Flow
    from .options import ProducerOptions
    from .transactions import Transactions
    from .types import OffsetAndMetadata, TopicPartition

_GRACE_S = 1.0
"""Every record's fate is known by its deadline; this is for the pass that says so."""


class GroupReader(Protocol):
    """A consumer, which can say who it is in its group."""

    def group_metadata(self, partitions: Iterable[TopicPartition] = ()) -> ConsumerGroupMetadata:
        """Who this consumer is in its group, if these partitions are its own."""
        ...


class TransactionMethods:
    """What a producer with a transactional_id can do more. Without one these methods raise IllegalStateError.

    They raise ProducerFencedError, as all methods do then, once another producer has taken the transactional id over,
    or a transaction took longer than transaction_timeout_ms. RequestTimedOutError after max_block_ms: the same call may
    be made again, and goes on where this one was.
    """

    _io: ClientIO
    _options: ProducerOptions
    _transactions: Transactions | None

    def init_transactions(self) -> None:
        """Take the transactional id over, before anything else: who had it is fenced, what that left open is aborted.

        Waits for up to max_block_ms. Raises InvalidTransactionTimeoutError.
        """
        self._io.run(self.initialising())

    def initialising(self) -> Flow[None]:
        """`init_transactions` as a flow."""
        transactions = self._transactional()
        with self._io.lock:
            self._io.check_open()
            transactions.initialise()
        yield Wait(lambda: transactions.is_initialised or transactions.error, self._block_deadline())
        if not transactions.is_initialised:
            if transactions.error is not None:
                raise transactions.error
            self._too_late("init_transactions")

    def begin_transaction(self) -> None:
        """Open a transaction: what is sent from now on is part of it. Raises IllegalStateError if one is open."""
        transactions = self._transactional()
        with self._io.lock:
            self._io.check_open()
            transactions.begin()

    def send_offsets_to_transaction(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int],
        group: str | ConsumerGroupMetadata | GroupReader,
    ) -> None:
        """Commit a group's offsets (of the next record each) when the transaction is committed, and only then.

        group: the consumer that read them, so that they count only while it is a member and these partitions are its
        own (KIP-447); what its group_metadata() returned; or, without these checks, a group's id. Raises
        CommitFailedError if the group has rebalanced: the transaction can only be aborted then.
        """
        self._io.run(self.sending_offsets(offsets, group))

    def sending_offsets(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int],
        group: str | ConsumerGroupMetadata | GroupReader,
    ) -> Flow[None]:
        """`send_offsets_to_transaction` as a flow."""
        transactions = self._transactional()
        wanted = checked_offsets(offsets)
        membership = _membership(group, wanted)
        with self._io.lock:
            self._io.check_open()
            transactions.check_open("send offsets")
            commit = transactions.add_offsets(membership, wanted) if wanted else None
        if commit is None:
            return
        yield Wait(lambda: commit.done, self._block_deadline())
        if not commit.done:
            self._too_late("send_offsets_to_transaction")
        if not transactions.goes_on:
            transactions.refuse("send offsets")

    def commit_transaction(self) -> None:
        """Wait until all records of the transaction are stored, then commit them and the offsets, all at once.

        Raises what made a record fail: then the transaction can only be aborted. RequestTimedOutError: whether it is
        committed is unknown; call this again to find out.
        """
        self._io.run(self.committing())

    def committing(self) -> Flow[None]:
        """`commit_transaction` as a flow."""
        transactions = self._transactional()
        with self._io.lock:
            self._io.check_open()
            transactions.commit()
            number = transactions.number

        def decided() -> bool:
            return transactions.ended >= number or not transactions.goes_on

        yield from self._decided(decided, self._options.delivery_timeout_ms)
        if transactions.ended >= number:
            return
        if not transactions.goes_on:
            transactions.refuse("commit")
        self._too_late("commit_transaction")

    def abort_transaction(self) -> None:
        """Make the transaction undone: its records are never read with isolation_level="read_committed".

        Records that are not sent yet are dropped: their futures raise TransactionAbortedError. Waits for those that are
        under way. After it the next transaction can be begun.
        """
        self._io.run(self.aborting())

    def aborting(self) -> Flow[None]:
        """`abort_transaction` as a flow."""
        transactions = self._transactional()
        with self._io.lock:
            self._io.check_open()
            transactions.abort()
            number = transactions.number

        def decided() -> bool:
            return transactions.ended >= number or transactions.is_fatal

        yield from self._decided(decided, self._options.request_timeout_ms)
        if transactions.ended < number:
            transactions.check_alive()
            self._too_late("abort_transaction")

    def _decided(self, decided: Callable[[], bool], records_ms: float) -> Flow[None]:
        """Wait for the end of a transaction: so long for the fate of its records, then max_block_ms for the rest."""
        transactions = self._transactional()
        yield Wait(lambda: decided() or transactions.is_ending, self._io.now() + records_ms / 1000 + _GRACE_S)
        yield Wait(decided, self._block_deadline())

    def transaction(self) -> Transaction:
        """A block that is a transaction: ``with producer.transaction():`` commits at its end, and aborts if it raises.

        Also if the commit raises, as far as it can be aborted then. A block that has committed or aborted by itself is
        left as it is.
        """
        return Transaction(self, self._transactional())

    def settling(self, timeout: float | None) -> Flow[None]:
        """Before the end: abort what is open, wait for what is being ended."""
        transactions = self._transactions
        if transactions is None:
            return
        with self._io.lock:
            if transactions.awaits_decision:
                transactions.abort()
        if timeout is None:
            timeout = self._options.delivery_timeout_ms / 1000 + _GRACE_S
        yield Wait(lambda: transactions.is_settled, self._io.now() + timeout)

    def _transactional(self) -> Transactions:
        if self._transactions is None:
            message = "this producer has no transactional_id, so that it has no transactions; give it one"
            raise IllegalStateError(message)
        return self._transactions

    def _block_deadline(self) -> float:
        return self._io.now() + self._options.max_block_ms / 1000

    def _too_late(self, method: str) -> NoReturn:
        transactions = self._transactional()
        error = transactions.why_it_lasts or self._io.metadata.last_error
        why = f"the last attempt ended with {type(error).__name__}: {error.message}" if error else "no answer came"
        message = (
            f"{method} was not done within max_block_ms={self._options.max_block_ms} for transactional_id="
            f"{transactions.transactional_id!r}; {why}. It goes on; call it again to wait for its end"
        )
        raise RequestTimedOutError(message)


class Transaction:
    """One transaction as a block."""

    def __init__(self, producer: TransactionMethods, transactions: Transactions) -> None:
        self._producer = producer
        self._transactions = transactions
        self._number = 0

    def __enter__(self) -> Self:
        """Begin."""
        self._producer.begin_transaction()
        self.entered()
        return self

    def entered(self) -> None:
        """The transaction that was begun last is that of this block."""
        self._number = self._transactions.number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or abort; what made the block fail is more important than what becomes of the abort."""
        if error is not None:
            self._abort(error)
        elif self.is_mine:
            try:
                self._producer.commit_transaction()
            except BaseException as failure:
                self._abort(failure)
                raise

    @property
    def is_mine(self) -> bool:
        """Whether the transaction of this block is not ended yet."""
        transactions = self._transactions
        return transactions.number == self._number and transactions.ended < self._number

    @property
    def may_abort(self) -> bool:
        """Whether this block's transaction can be aborted."""
        return self.is_mine and self._transactions.may_abort

    def _abort(self, error: BaseException) -> None:
        if self.may_abort:
            try:
                self._producer.abort_transaction()
            except ZmqBrokerError as failure:
                error.add_note(f"the transaction could not be aborted: {failure.message}")


def _membership(
    group: str | ConsumerGroupMetadata | GroupReader, partitions: Iterable[TopicPartition]
) -> ConsumerGroupMetadata:
    if isinstance(group, ConsumerGroupMetadata):
        return group
    if isinstance(group, str) and group:
        return ConsumerGroupMetadata(group, -1, "", None)
    if isinstance(group, str) or not hasattr(group, "group_metadata"):
        message = f"group={group!r}: a group's id, a consumer or its group_metadata() is expected"
        raise TypeError(message)
    return group.group_metadata(partitions)
