"""The requests of a transaction, and which error in an answer decides what is done about it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import (
    CommitFailedError,
    IllegalGenerationError,
    InvalidProducerEpochError,
    InvalidProducerIdMappingError,
    OperationNotAttemptedError,
    ProducerFencedError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    ZmqBrokerError,
    error_for,
)
from ..transport.group_messages import OffsetToCommit, TopicPartitionEntry
from ..transport.transaction_messages import (
    NOT_SAID,
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnReply,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitReply,
    TxnOffsetCommitRequest,
)
from .io import body_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .connection import Answer
    from .rebalance_listener import ConsumerGroupMetadata
    from .types import OffsetAndMetadata, TopicPartition

FENCED = (ProducerFencedError, InvalidProducerEpochError, InvalidProducerIdMappingError)
"""What a producer is told that is not the present one of its transactional id."""
_NO_MEMBER = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)


class OffsetsCommit:
    """A group's offsets on their way into the transaction."""

    __slots__ = ("done", "group", "offsets")

    def __init__(self, group: ConsumerGroupMetadata, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self.group = group
        self.offsets = offsets
        self.done = False


class TransactionRequests:
    """Makes the requests of one transactional id."""

    def __init__(self, transactional_id: str) -> None:
        self._id = transactional_id
        self.identity: tuple[int, int] = (-1, -1)
        """Producer id and epoch."""
        self.last = NOT_SAID
        """The number of the last transaction."""
        self.transaction = -1
        """The number that the coordinator has for the open transaction; -1: it has not answered yet."""

    def add_partitions(self, partitions: Iterable[tuple[str, int]]) -> AddPartitionsToTxnRequest:
        """Take partitions into the transaction."""
        entries = [TopicPartitionEntry(*partition) for partition in partitions]
        return AddPartitionsToTxnRequest(self._id, *self.identity, entries, self.last)

    def add_group(self, group_id: str) -> AddOffsetsToTxnRequest:
        """Take a group's offsets into the transaction."""
        return AddOffsetsToTxnRequest(self._id, *self.identity, group_id, self.last)

    def commit_offsets(self, commit: OffsetsCommit) -> TxnOffsetCommitRequest:
        """Commit a group's offsets with the transaction."""
        group = commit.group
        entries = [
            OffsetToCommit(tp.topic, tp.partition, offset.offset, offset.leader_epoch, offset.metadata)
            for tp, offset in commit.offsets.items()
        ]
        request = TxnOffsetCommitRequest(self._id, *self.identity, group.group_id, entries)
        request.transaction = self.transaction
        if group.generation_id >= 0:
            request.generation_id = group.generation_id
            request.member_id = group.member_id
            request.group_instance_id = group.group_instance_id
        return request

    def end(self, *, committed: bool) -> EndTxnRequest:
        """End the transaction."""
        return EndTxnRequest(self._id, *self.identity, committed, self.transaction)


def no_error(answer: Answer) -> ZmqBrokerError | None:
    """Of an answer without entries, whose error is that of the whole request."""
    del answer
    return None


def partitions_error(answer: Answer) -> ZmqBrokerError | None:
    """What is wrong in the answer to `add_partitions`."""
    return worst(body_of(answer, AddPartitionsToTxnReply).partitions)


def offsets_error(answer: Answer) -> ZmqBrokerError | None:
    """What is wrong in the answer to `commit_offsets`."""
    return worst(body_of(answer, TxnOffsetCommitReply).partitions)


def worst(entries: Iterable[Any]) -> ZmqBrokerError | None:
    """Of the errors of entries, the one that decides: that the producer is fenced, then one that does not pass."""
    errors = [error_for(entry.error_code, entry.error_message) for entry in entries if entry.error_code]

    def rank(error: ZmqBrokerError) -> int:
        if isinstance(error, FENCED):
            return 0
        if isinstance(error, OperationNotAttemptedError):
            return 3  # another entry says why
        return 2 if error.retriable else 1

    return min(errors, key=rank, default=None)


def offsets_refused(error: ZmqBrokerError, group: ConsumerGroupMetadata) -> ZmqBrokerError:
    """What to tell the user of offsets that were refused."""
    if not isinstance(error, _NO_MEMBER):
        return error
    return CommitFailedError(
        f"group {group.group_id!r} has rebalanced: the offsets are those of member {group.member_id!r} in generation"
        f" {group.generation_id}, and the coordinator says: {error.message}. Partitions may have other owners: abort,"
        " poll to take part again, and send the offsets of what is handed out then"
    )
