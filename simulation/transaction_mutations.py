"""Safety rules of transactions that can be taken away, as those of mutations.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..actors.leading import Leading
from ..actors.partition import Partition
from ..actors.transaction_coordinator import TransactionCoordinator
from ..actors.verification import Verification, Verifier
from ..groups.group_table import GroupTable
from ..groups.pending_offsets import PendingOffsets
from ..groups.transaction import Transaction
from ..groups.transaction_table import TransactionTable
from ..log.partition_log import PartitionLog
from ..log.producer_state import ProducerStates
from ..log.staging import Appended
from ..log.transactions import NO_TRANSACTION, Transactions
from .cluster_mutations import MUTATIONS
from .mutations import mutation, patched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..groups.effects import Now

__all__ = ["MUTATIONS"]

_CLUSTER = 3
_FAR_NUMBER = 2**62


# ---- leaders


@mutation(
    "verified-transaction",
    "the first batch of a transaction waits until its coordinator has said that it is open (KIP-890)",
    1,
    "stale",
    shows="23 24 25 27 29",
)
def _verified_transaction() -> Iterator[None]:
    def take(self: Any, command: Any, header: Any) -> None:
        self._stage(command, header)

    with patched(Verification, "take", take):
        yield


@mutation(
    "void-answer",
    "a coordinator's answer does not count if the marker of the transaction has come before it",
    _CLUSTER,
    "late-answer",
    shows="23 24 25 29",
)
def _void_answer() -> Iterator[None]:
    """Two rules, each of which hides that the other is gone: a marker makes void what was asked before it, and the
    number in the answer is that of a transaction that has ended here.
    """
    verified = Verification._verified  # noqa: SLF001 - a rule is cut out of it

    def of_any_number(self: Any, producer: Any, outcome: Any) -> None:
        verified(self, producer, _FAR_NUMBER if isinstance(outcome, int) else outcome)

    with patched(Verifier, "marked", lambda *_: None), patched(Verification, "_verified", of_any_number):
        yield


@mutation(
    "behind-marker",
    "a batch that is staged behind the marker of its producer is verified",
    1,
    "late-batch",
    shows="23 24 25 29",
)
def _behind_marker() -> Iterator[None]:
    def marked(self: Any, producer_id: int) -> None:
        self._verifier.marked(producer_id)

    with patched(Verification, "marked", marked):
        yield


@mutation(
    "marker-number",
    "a marker that comes twice counts once, however late it comes",
    _CLUSTER,
    "stale break",
    shows="23 24 25",
)
def _marker_number() -> Iterator[None]:
    is_repeated = ProducerStates.is_repeated

    def never(self: ProducerStates, header: Any, marker: Any) -> bool:
        is_repeated(self, header, marker)
        return False

    with patched(ProducerStates, "is_repeated", never):
        yield


@mutation(
    "marker-repeat",
    "a marker that comes twice is answered when its first try is committed",
    _CLUSTER,
    "stale lonely",
    shows="23 24 25 29",
)
def _marker_repeat() -> Iterator[None]:
    known = PartitionLog._known  # noqa: SLF001 - a rule is cut out of it

    def at_once(self: Any, header: Any, *arguments: Any, **options: Any) -> Any:
        found = known(self, header, *arguments, **options)
        return Appended(-1, -1, -1, duplicate=True) if header.is_control and isinstance(found, Appended) else found

    with patched(PartitionLog, "_known", at_once):
        yield


@mutation(
    "coordinator-epoch",
    "a marker of a coordinator that has a successor is refused",
    _CLUSTER,
    "stale kill-leader",
    redundant="a marker is sent only for an outcome that is committed, so all coordinators say the same of one"
    " transaction, and its number tells it from others",
)
def _coordinator_epoch() -> Iterator[None]:
    is_repeated = ProducerStates.is_repeated

    def of_any(self: ProducerStates, header: Any, marker: Any) -> bool:
        entry = self.get(header.producer_id)
        if entry is not None:
            marker = marker._replace(coordinator_epoch=max(marker.coordinator_epoch, entry.coordinator_epoch))
        return is_repeated(self, header, marker)

    with patched(ProducerStates, "is_repeated", of_any):
        yield


@mutation(
    "stable-offset", "readers of what is committed get nothing from the first open transaction on", shows="24 25 28"
)
def _stable_offset() -> Iterator[None]:
    with patched(Transactions, "stable_offset", lambda _, high_watermark: high_watermark):
        yield


@mutation("named-aborted", "readers of what is committed are told what was aborted", shows="24 25")
def _named_aborted() -> Iterator[None]:
    with patched(Partition, "_aborted", lambda *_: []):
        yield


@mutation(
    "open-transactions",
    "whoever takes the lead knows which transactions are open",
    _CLUSTER,
    "kill-leader",
    shows="23 24 25 28",
)
def _open_transactions() -> Iterator[None]:
    init = Leading.__init__

    def forgetful(self: Leading, replica: Any, log: PartitionLog) -> None:
        states = log.producers
        for producer_id, entry in states.entries().items():
            if entry.open_at != NO_TRANSACTION:
                states.restore(producer_id, entry._replace(open_at=NO_TRANSACTION))
        init(self, replica, log)

    with patched(Leading, "__init__", forgetful):
        yield


# ---- coordinators


@mutation(
    "prepared-first",
    "markers are written when the outcome is committed in the coordinator's log",
    _CLUSTER,
    "mute",
    shows="23 24 25",
)
def _prepared_first() -> Iterator[None]:
    carry_out = TransactionCoordinator._carry_out  # noqa: SLF001 - a rule is cut out of it

    def at_once(self: Any) -> None:
        prepared, self._table.prepared = self._table.prepared, []
        carry_out(self)
        for transaction in prepared:
            self._markers.end(transaction)

    with patched(TransactionCoordinator, "_carry_out", at_once):
        yield


@mutation("producer-check", "a transaction is ended by its present producer alone", shows="23 24 25 27")
def _producer_check() -> Iterator[None]:
    def of_any_epoch(self: Transaction, producer_id: int, producer_epoch: int) -> None:
        del self, producer_id, producer_epoch

    with patched(Transaction, "check_producer", of_any_epoch):
        yield


@mutation("take-over-epoch", "whoever takes a transactional id over gets another epoch", shows="27")
def _take_over_epoch() -> Iterator[None]:
    take_over = Transaction.take_over

    def as_it_was(self: Transaction, *arguments: Any) -> None:
        epoch = self.producer_epoch
        take_over(self, *arguments)
        self.producer_epoch = epoch

    with patched(Transaction, "take_over", as_it_was):
        yield


@mutation("fencing-abort", "a transaction that is aborted in spite of its producer has its epoch fenced", shows="23 27")
def _fencing_abort() -> Iterator[None]:
    with patched(Transaction, "fence", lambda _: None):
        yield


@mutation(
    "end-number",
    "an EndTxn that comes twice does not end the next transaction",
    1,
    "stale slow-network",
    shows="23 24 25 27",
)
def _end_number() -> Iterator[None]:
    end = TransactionTable.end

    def whichever(self: TransactionTable, request: Any, now: Any) -> None:
        request.transaction = -1
        end(self, request, now)

    with patched(TransactionTable, "end", whichever):
        yield


# ---- offsets


@mutation("pending-abort", "offsets that are committed in a transaction do not count if it is aborted", shows="26")
def _pending_abort() -> Iterator[None]:
    end_transaction = GroupTable.end_transaction

    def committed_always(self: GroupTable, producer_id: int, transaction: int, now: Now, *, committed: bool) -> None:
        del committed
        end_transaction(self, producer_id, transaction, now, committed=True)

    with patched(GroupTable, "end_transaction", committed_always):
        yield


@mutation(
    "pending-number",
    "a marker that comes late does not make the offsets of the next transaction count",
    _CLUSTER,
    "stale break",
    shows="26",
)
def _pending_number() -> Iterator[None]:
    end = PendingOffsets.end

    def whichever(self: Any, producer_id: int, transaction: int, now_ms: int) -> Any:
        numbers = {pending.transaction for pending in self._producers.get(producer_id, {}).values()}
        return [each for number in sorted({transaction, *numbers}) for each in end(self, producer_id, number, now_ms)]

    with patched(PendingOffsets, "end", whichever):
        yield


@mutation(
    "commit-number",
    "a TxnOffsetCommit that comes late does not count for the next transaction",
    1,
    "stale slow-network",
    shows="26",
)
def _commit_number() -> Iterator[None]:
    commit = GroupTable.commit_in_transaction

    def whichever(self: GroupTable, request: Any, *arguments: Any) -> Any:
        request.transaction = -1
        return commit(self, request, *arguments)

    with patched(GroupTable, "commit_in_transaction", whichever):
        yield


@mutation(
    "unstable-offsets",
    "an offset that an open transaction may change is not told as stable",
    _CLUSTER,
    "stale",
    shows="26",
)
def _unstable_offsets() -> Iterator[None]:
    with patched(PendingOffsets, "is_pending", lambda *_: False):
        yield
