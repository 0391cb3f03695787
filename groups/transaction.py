"""One transactional id: its producer, and the transaction that is open or has ended last (KIP-98, KIP-360). Pure.

    Empty --add--> Ongoing --end--> PrepareCommit --markers are written--> CompleteCommit --add--> Ongoing ...
                      `-----------> PrepareAbort  ------------------------> CompleteAbort  --add--> Ongoing ...

What a prepared state says is decided: all that is left is to write it into every partition of the transaction. Whoever
takes over the id while a transaction is open, or a time that is over, aborts it under the producer's next epoch, so
that nothing more of the old producer is taken anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import (
    ConcurrentTransactionsError,
    InvalidProducerIdMappingError,
    InvalidTxnStateError,
    ProducerFencedError,
)
from ..transport.transaction_messages import NOT_SAID
from .transaction_records import State, TransactionState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..errors import BrokerError

NONE: Final = -1
EPOCH_MAX: Final = 2**15 - 1
"""Is only reached by an abort; a producer gets one below it at most, and then another id."""
_PREPARED: Final = {State.PREPARE_COMMIT: State.COMPLETE_COMMIT, State.PREPARE_ABORT: State.COMPLETE_ABORT}


class Transaction:
    """One transactional id."""

    def __init__(self, transactional_id: str, producer_id: int, timeout_ms: int, now_ms: int) -> None:
        self.transactional_id = transactional_id
        self.producer_id = producer_id
        self.producer_epoch = 0
        self.timeout_ms = timeout_ms
        self.state = State.EMPTY
        self.partitions: dict[tuple[str, int], None] = {}
        self.update_ms = now_ms
        self.number = NONE
        """When the transaction that is open, or was the last, began: greater than that of any before."""
        self.former: tuple[int, int] = (NONE, NONE)
        """The producer id and epoch that the present ones were given for: who asks again by these gets them again."""
        self.former_written: tuple[int, int] = (NONE, NONE)
        """As it was written down last."""

    @classmethod
    def restored(cls, transactional_id: str, state: TransactionState) -> Transaction:
        """As it was written down."""
        found = cls(transactional_id, state.producer_id, state.timeout_ms, state.update_ms)
        found.producer_epoch = state.producer_epoch
        found.state = state.state
        found.partitions = dict.fromkeys(state.partitions)
        found.number = state.number
        return found

    def written(self) -> TransactionState:
        """To be written down."""
        return TransactionState(
            self.producer_id,
            self.producer_epoch,
            self.timeout_ms,
            self.state,
            tuple(self.partitions),
            self.update_ms,
            self.number,
        )

    @property
    def is_prepared(self) -> bool:
        """Whether the outcome is decided, and not yet everywhere."""
        return self.state in _PREPARED

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing that has to be ended."""
        return self.state is not State.ONGOING and not self.is_prepared

    # ---- whoever asks

    def check_producer(self, producer_id: int, producer_epoch: int) -> None:
        """Raise InvalidProducerIdMappingError or ProducerFencedError unless it is the present one."""
        if producer_id != self.producer_id:
            message = (
                f"producer {producer_id} is not that of transactional id {self.transactional_id!r}, which is"
                f" {self.producer_id}"
            )
            raise InvalidProducerIdMappingError(message)
        if producer_epoch != self.producer_epoch:
            message = (
                f"epoch {producer_epoch} of producer {producer_id} is not the present one of transactional id"
                f" {self.transactional_id!r}, which is {self.producer_epoch}: another producer has taken over, or its"
                " transaction took too long"
            )
            raise ProducerFencedError(message)

    def concurrent(self) -> BrokerError:
        """The error for who has to wait until the last transaction has ended."""
        message = f"the last transaction of {self.transactional_id!r} is being ended ({self.state}): try again"
        return ConcurrentTransactionsError(message)

    def check_may_change(self) -> None:
        """Raise ConcurrentTransactionsError while a transaction is being ended."""
        if self.is_prepared:
            raise self.concurrent()

    def check_may_add(self, last: int) -> None:
        """Raise ConcurrentTransactionsError while a transaction is being ended.

        InvalidTxnStateError if the request would begin one, and is of a producer that knows of an earlier one only as
        its last: it comes late.
        """
        self.check_may_change()
        if self.state is not State.ONGOING and last not in (NOT_SAID, self.number):
            message = (
                f"the request is of a producer whose last transaction was {last}; that of {self.transactional_id!r} is"
                f" {self.number}: it comes late"
            )
            raise InvalidTxnStateError(message)

    def check_may_take_over(self, producer_id: int, producer_epoch: int) -> None:
        """Raise ProducerFencedError for a producer that names itself, and is neither the present one nor its former."""
        if producer_id == NONE or (producer_id, producer_epoch) in (
            (self.producer_id, self.producer_epoch),
            self.former,
        ):
            return
        message = (
            f"producer {producer_id} in epoch {producer_epoch} asks to go on as transactional id"
            f" {self.transactional_id!r}, whose producer is {self.producer_id} in epoch {self.producer_epoch}"
        )
        raise ProducerFencedError(message)

    # ---- changes

    @property
    def needs_new_id(self) -> bool:
        """Whether its producer id has no epoch left."""
        return self.producer_epoch >= EPOCH_MAX - 1

    def take_over(self, asked: tuple[int, int], fresh_id: int, timeout_ms: int, now_ms: int) -> None:
        """Let a producer begin: with the next epoch, or a fresh id if there is none left; a repeat keeps what it has.

        asked: the producer id and epoch that it has named, or -1.
        """
        assert self.is_idle, self.state
        if asked[0] == NONE or asked != self.former:
            self.former = asked
            if self.needs_new_id:
                assert fresh_id != NONE, "a fresh producer id is needed"
                self.producer_id, self.producer_epoch = fresh_id, 0
            else:
                self.producer_epoch += 1
        self.timeout_ms = timeout_ms
        self.state = State.EMPTY
        self.partitions.clear()
        self.update_ms = now_ms

    def fence(self) -> None:
        """Take the next epoch, which no producer has, to abort the open transaction by."""
        assert self.state is State.ONGOING, self.state
        # With no epoch left its producer cannot go on under the next one.
        self.former = (NONE, NONE) if self.needs_new_id else (self.producer_id, self.producer_epoch)
        self.producer_epoch = min(self.producer_epoch + 1, EPOCH_MAX)

    def add(self, partitions: Iterable[tuple[str, int]], now_ms: int) -> bool:
        """Take partitions into the transaction, which begins if none is open; whether anything has changed."""
        assert not self.is_prepared, self.state
        before = len(self.partitions)
        is_new = self.state is not State.ONGOING
        if is_new:
            self.state = State.ONGOING
            self.number = max(now_ms, self.number + 1)
            self.former = (NONE, NONE)
        self.partitions.update(dict.fromkeys(partitions))
        self.update_ms = now_ms
        return is_new or len(self.partitions) > before

    def prepare(self, *, committed: bool, now_ms: int) -> None:
        """Decide the outcome of the open transaction."""
        assert self.state is State.ONGOING, self.state
        self.state = State.PREPARE_COMMIT if committed else State.PREPARE_ABORT
        self.update_ms = now_ms

    def check_end(self, *, committed: bool) -> bool:
        """Whether a transaction is to be ended with this outcome; False: it is already.

        Raises ConcurrentTransactionsError while that is being done, InvalidTxnStateError for another outcome than the
        decided one, or if there is nothing to end.
        """
        if self.state is State.ONGOING:
            return True
        same = (
            (State.PREPARE_COMMIT, State.COMPLETE_COMMIT) if committed else (State.PREPARE_ABORT, State.COMPLETE_ABORT)
        )
        if self.state in same:
            self.check_may_change()
            return False
        doing = "committed" if committed else "aborted"
        message = f"transactional id {self.transactional_id!r} has no transaction that could be {doing}: {self.state}"
        raise InvalidTxnStateError(message)

    def complete(self, now_ms: int) -> None:
        """The markers are written."""
        self.state = _PREPARED[self.state]
        self.partitions.clear()
        self.update_ms = now_ms
