"""Producers' ids and transactions: each request goes to the coordinator of its transactional id, as a native one.

These are Kafka's transactions of version 1 (KIP-98): a client adds each partition before it writes to it. Clients that
know version 2 (KIP-890) do so too, as ApiVersions tells them of no feature ``transaction.version``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    InvalidProducerEpochError,
    ProducerFencedError,
)
from ..transport import group_messages as g
from ..transport import messages as m
from ..transport import transaction_messages as t
from .group_apis import offsets_to_commit
from .shapes import by_topic, code_and_text, failed, results_of

if TYPE_CHECKING:
    from .exchange import Exchange, Outcome

_FENCED_FROM: Final = 2
"""The version of AddPartitionsToTxn, AddOffsetsToTxn and EndTxn whose clients know PRODUCER_FENCED (KIP-588)."""
_INIT_FENCED_FROM: Final = 4
"""The version of InitProducerId whose clients know it."""
_PRODUCER_NAMED_FROM: Final = 3
"""The version of InitProducerId from which on a producer may name its id (KIP-360)."""
_LOADING_FROM: Final = 2
"""The version of TxnOffsetCommit whose clients do not crash of COORDINATOR_LOAD_IN_PROGRESS (KAFKA-7296)."""


def _code_told(code: int, *, fenced: bool) -> int:
    """The error that a client is told: those that do not know PRODUCER_FENCED have an older word for it."""
    return InvalidProducerEpochError.code if code == ProducerFencedError.code and not fenced else code


def _code_of(outcome: Outcome, *, fenced: bool) -> int:
    """The error of a whole request, as a client is told it."""
    return 0 if outcome.error is None else _code_told(outcome.error.code, fenced=fenced)


def init_producer_id(exchange: Exchange) -> None:
    """Give a producer its id: a new one, that of its transactional id, or its own with the next epoch."""
    request = exchange.request
    named = exchange.version >= _PRODUCER_NAMED_FROM
    native = m.InitProducerIdRequest(
        request.producer_id if named else -1,
        request.producer_epoch if named else -1,
        request.transactional_id,
        max(0, request.transaction_timeout_ms),
    )

    def given(outcome: Outcome) -> None:
        code = _code_of(outcome, fenced=exchange.version >= _INIT_FENCED_FROM)
        producer_id, epoch = (-1, -1) if code else (outcome.body.producer_id, outcome.body.producer_epoch)
        exchange.reply({"error_code": code, "producer_id": producer_id, "producer_epoch": epoch})

    exchange.ask(native, given)


# ---- one transaction


def add_partitions_to_txn(exchange: Exchange) -> None:
    """Take partitions into a transaction."""
    request = exchange.request
    entries = [
        g.TopicPartitionEntry(topic.name, index) for topic in request.v3_and_below_topics for index in topic.partitions
    ]
    native = t.AddPartitionsToTxnRequest(
        request.v3_and_below_transactional_id,
        request.v3_and_below_producer_id,
        request.v3_and_below_producer_epoch,
        entries,
    )

    def added(outcome: Outcome) -> None:
        fenced = exchange.version >= _FENCED_FROM
        topics = by_topic(
            results_of(outcome, entries, t.PartitionAdded),
            lambda entry: {
                "partition_index": entry.partition,
                "partition_error_code": _code_told(entry.error_code, fenced=fenced),
            },
            partitions="results_by_partition",
        )
        exchange.reply({"results_by_topic_v3_and_below": topics})

    exchange.ask(native, added)


def add_offsets_to_txn(exchange: Exchange) -> None:
    """Take a group's offsets into a transaction."""
    request = exchange.request
    native = t.AddOffsetsToTxnRequest(
        request.transactional_id, request.producer_id, request.producer_epoch, request.group_id
    )
    exchange.ask(native, lambda outcome: _answer_code(exchange, outcome))


def end_txn(exchange: Exchange) -> None:
    """Commit or abort a transaction."""
    request = exchange.request
    native = t.EndTxnRequest(request.transactional_id, request.producer_id, request.producer_epoch, request.committed)
    exchange.ask(native, lambda outcome: _answer_code(exchange, outcome))


def _answer_code(exchange: Exchange, outcome: Outcome) -> None:
    exchange.reply({"error_code": _code_of(outcome, fenced=exchange.version >= _FENCED_FROM)})


def txn_offset_commit(exchange: Exchange) -> None:
    """Commit a group's offsets as part of a transaction; this goes to the coordinator of the group."""
    request = exchange.request
    entries = offsets_to_commit(request.topics)
    native = t.TxnOffsetCommitRequest(
        request.transactional_id,
        request.producer_id,
        request.producer_epoch,
        request.group_id,
        entries,
        request.generation_id,
        request.member_id,
        request.group_instance_id,
    )

    def committed(outcome: Outcome) -> None:
        results = results_of(outcome, entries, g.PartitionCommitted)
        topics = by_topic(
            results,
            lambda entry: {
                "partition_index": entry.partition,
                "error_code": _commit_code_told(entry.error_code, exchange.version),
            },
        )
        exchange.reply({"topics": topics})

    exchange.ask(native, committed)


def _commit_code_told(code: int, version: int) -> int:
    """The error that a client is told: no version of TxnOffsetCommit has PRODUCER_FENCED."""
    if code == CoordinatorLoadInProgressError.code and version < _LOADING_FROM:
        return CoordinatorNotAvailableError.code
    return _code_told(code, fenced=False)


# ---- administration


def describe_producers(exchange: Exchange) -> None:
    """Describe the producers of partitions that are led by this node (KIP-664)."""
    entries = [
        g.TopicPartitionEntry(topic.name, index)
        for topic in exchange.request.topics
        for index in topic.partition_indexes
    ]

    def described(outcome: Outcome) -> None:
        results = results_of(outcome, entries, t.PartitionProducers)
        exchange.reply({"topics": by_topic(results, _producers)})

    exchange.ask(t.DescribeProducersRequest(entries), described)


def _producers(found: t.PartitionProducers) -> dict[str, Any]:
    return {
        "partition_index": found.partition,
        **code_and_text(found),
        "active_producers": [
            {
                "producer_id": producer.producer_id,
                "producer_epoch": producer.producer_epoch,
                "last_sequence": producer.last_sequence,
                "last_timestamp": producer.last_timestamp,
                "coordinator_epoch": producer.coordinator_epoch,
                "current_txn_start_offset": producer.transaction_start_offset,
            }
            for producer in found.producers
        ],
    }


def describe_transactions(exchange: Exchange) -> None:
    """Describe transactional ids that this node coordinates."""
    ids: list[str] = exchange.request.transactional_ids

    def described(outcome: Outcome) -> None:
        error = outcome.error
        found: list[t.TransactionDescription] = (
            outcome.body.transactions
            if error is None
            else [t.TransactionDescription(each, error.code, error.message) for each in ids]
        )
        exchange.reply({"transaction_states": [_transaction(each) for each in found]})

    exchange.ask(t.DescribeTransactionsRequest(ids), described)


def _transaction(found: t.TransactionDescription) -> dict[str, Any]:
    return {
        "error_code": found.error_code,
        "transactional_id": found.transactional_id,
        "transaction_state": found.state,
        "transaction_timeout_ms": found.timeout_ms,
        "transaction_start_time_ms": found.start_ms,
        "producer_id": found.producer_id,
        "producer_epoch": found.producer_epoch,
        "topics": by_topic(found.partitions, lambda entry: entry.partition, topic="topic"),
    }


def list_transactions(exchange: Exchange) -> None:
    """List the transactional ids that this node coordinates."""
    request = exchange.request

    def listed(outcome: Outcome) -> None:
        if outcome.error is not None:
            exchange.reply(failed(outcome.error))
            return
        body: t.ListTransactionsReply = outcome.body
        states = [
            {
                "transactional_id": each.transactional_id,
                "producer_id": each.producer_id,
                "transaction_state": each.state,
            }
            for each in body.transactions
        ]
        exchange.reply({"unknown_state_filters": body.unknown_states, "transaction_states": states})

    native = t.ListTransactionsRequest(request.state_filters, request.producer_id_filters, request.duration_filter)
    exchange.ask(native, listed)
