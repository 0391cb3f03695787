"""The messages of transactions (KIP-98). Part of the catalogue in messages.py.

All but the last two go to the coordinator of the transactional id, which FindCoordinator names. Whatever fails for a
whole request is its error: INVALID_PRODUCER_ID_MAPPING and PRODUCER_FENCED for a producer that is not the present one
of its transactional id, CONCURRENT_TRANSACTIONS while its last transaction is being ended, INVALID_TXN_STATE for what
cannot be done now.
"""

from __future__ import annotations

from msgspec import field

from .group_messages import OffsetToCommit, PartitionCommitted, TopicPartitionEntry  # noqa: TC001 - msgspec reads them
from .message_base import Body, Int16, Int32, Int64, Name, Request

NOT_SAID = -2


class PartitionAdded(Body):
    """Whether a partition is part of the transaction now; either all of a request are, or none is."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None


class AddPartitionsToTxnReply(Body):
    """One entry for each partition."""

    partitions: list[PartitionAdded]
    transaction: int = -1
    """The transaction's number, for EndTxn; -1: none was begun."""


class AddPartitionsToTxnRequest(Request):
    """Take partitions into a transaction, which begins with that: before anything is written to them."""

    API = 24
    REPLY = AddPartitionsToTxnReply

    transactional_id: Name
    producer_id: Int64
    producer_epoch: Int16
    partitions: list[TopicPartitionEntry]
    last: Int64 = NOT_SAID
    """The number of the producer's last transaction, -1 before the first: a request that comes late, because it was
    sent twice, does not begin one that the producer does not know of."""


class AddOffsetsToTxnReply(Body):
    """The group's offsets are a part of the transaction of this number."""

    transaction: int = -1


class AddOffsetsToTxnRequest(Request):
    """Take a consumer group's offsets into a transaction, before TxnOffsetCommit."""

    API = 25
    REPLY = AddOffsetsToTxnReply

    transactional_id: Name
    producer_id: Int64
    producer_epoch: Int16
    group_id: Name
    last: Int64 = NOT_SAID
    """As for AddPartitionsToTxn."""


class EndTxnRequest(Request):
    """Commit or abort a transaction. When it is answered the outcome is certain, and markers are under way.

    With the transaction's number a request that comes late, because it was sent twice, does not end the next one.
    """

    API = 26
    REPLY = Body

    transactional_id: Name
    producer_id: Int64
    producer_epoch: Int16
    committed: bool
    transaction: Int64 = -1
    """As AddPartitionsToTxn or AddOffsetsToTxn has answered; -1: whichever is open."""


class TransactionPartition(Body):
    """A partition that a transaction has written to, or may have."""

    topic: str
    partition: int


class TransactionDescription(Body):
    """One transactional id; times are ms since 1970, and -1 without a transaction."""

    transactional_id: str
    error_code: int = 0
    error_message: str | None = None
    state: str = ""
    timeout_ms: int = -1
    start_ms: int = -1
    producer_id: int = -1
    producer_epoch: int = -1
    partitions: list[TransactionPartition] = field(default_factory=list)


class DescribeTransactionsReply(Body):
    """One entry for each id."""

    transactions: list[TransactionDescription]


class DescribeTransactionsRequest(Request):
    """Describe transactional ids that this node coordinates (KIP-664)."""

    API = 65
    REPLY = DescribeTransactionsReply

    transactional_ids: list[Name]


class ListedTransaction(Body):
    """One transactional id."""

    transactional_id: str
    producer_id: int
    state: str


class ListTransactionsReply(Body):
    """Those that were asked for, and the names of states that do not exist."""

    transactions: list[ListedTransaction]
    unknown_states: list[str] = field(default_factory=list)


class ListTransactionsRequest(Request):
    """List the transactional ids that this node coordinates: of these states, of these producers, and whose
    transaction has been open for longer than duration_ms; an empty list, or -1, leaves nothing out (KIP-664, KIP-994).
    """

    API = 66
    REPLY = ListTransactionsReply

    states: list[Name] = field(default_factory=list)
    producer_ids: list[Int64] = field(default_factory=list)
    duration_ms: Int64 = -1


# ---- the coordinator of a consumer group


class TxnOffsetCommitReply(Body):
    """One entry for each partition."""

    partitions: list[PartitionCommitted]


class TxnOffsetCommitRequest(Request):
    """Commit offsets of a group as part of a transaction: they count when it is committed. To the group's coordinator.

    With a member id and a generation only a member of that generation may (KIP-447).
    """

    API = 28
    REPLY = TxnOffsetCommitReply

    transactional_id: Name
    producer_id: Int64
    producer_epoch: Int16
    group_id: Name
    partitions: list[OffsetToCommit]
    generation_id: Int32 = -1
    member_id: Name = ""
    group_instance_id: Name | None = None
    transaction: Int64 = -1
    """As AddOffsetsToTxn has answered, so that a request that comes late does not count for the next one; -1: whichever
    is open."""


# ---- the leader of a partition


class ProducerState(Body):
    """A producer that has written to a partition; -1 for what there is not."""

    producer_id: int
    producer_epoch: int
    last_sequence: int
    last_timestamp: int
    coordinator_epoch: int
    transaction_start_offset: int


class PartitionProducers(Body):
    """The producers of one partition."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None
    producers: list[ProducerState] = field(default_factory=list)


class DescribeProducersReply(Body):
    """One entry for each partition."""

    partitions: list[PartitionProducers]


class DescribeProducersRequest(Request):
    """What the leaders of partitions know of their producers (KIP-664)."""

    API = 61
    REPLY = DescribeProducersReply

    partitions: list[TopicPartitionEntry]


TRANSACTION_REQUESTS: tuple[type[Request], ...] = (
    AddPartitionsToTxnRequest,
    AddOffsetsToTxnRequest,
    EndTxnRequest,
    DescribeTransactionsRequest,
    ListTransactionsRequest,
    TxnOffsetCommitRequest,
    DescribeProducersRequest,
)
