"""Records: Produce, Fetch, and where offsets are. Batches pass as they are, between the socket and the log."""

from __future__ import annotations

from itertools import groupby
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from ..errors import BrokerError, InvalidRequestError, TransactionalIdAuthorizationFailedError, error_for
from ..transport import messages as m
from .encoding import put_varint
from .exchange import Outcome
from .fetch_session import INITIAL_EPOCH
from .protocol import begin_response, end_response, is_flexible
from .shapes import by_topic, error_of, failed, flat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from .exchange import Exchange

_NO_TRANSACTIONS: Final = "transactions are not served yet: produce without a transactional id"
_CONSUMER: Final = -1
"""The replica id of whoever is no broker."""


# ---- Produce


def produce(exchange: Exchange) -> None:
    """Append batches. With acks=0 nothing is answered; if one is refused the connection ends, as Kafka does it.

    A producer that waits for no answer learns so that its metadata may be old, and asks for them again.
    """
    request = exchange.request
    entries: list[m.PartitionData] = []
    batches: list[bytes] = []
    for topic in request.topic_data:
        for partition in topic.partition_data:
            entries.append(m.PartitionData(topic.name, partition.index))
            batches.append(partition.records or b"")
            partition.records = None  # held once: the answer may take long

    def produced(outcome: Outcome) -> None:
        results = _all_failed(entries, outcome.error) if outcome.error is not None else outcome.body.partitions
        if request.acks != 0:
            exchange.reply({"responses": by_topic(results, _produced, partitions="partition_responses")})
            return
        refused = next((result for result in results if result.error_code), None)
        exchange.finish(())
        if refused is not None:
            exchange.connection.disconnect(error_for(refused.error_code, refused.error_message))

    if request.transactional_id is not None:
        produced(Outcome(None, [], TransactionalIdAuthorizationFailedError(_NO_TRANSACTIONS)))
        return
    # With acks=0 the native request would say nothing of what was refused.
    native = m.ProduceRequest(request.acks or 1, max(0, request.timeout_ms), entries)
    exchange.ask(native, produced, batches)


def _all_failed(entries: Sequence[m.PartitionData], error: BrokerError) -> list[m.PartitionProduced]:
    return [m.PartitionProduced(entry.topic, entry.partition, error.code, error.message) for entry in entries]


def _produced(result: m.PartitionProduced) -> dict[str, Any]:
    return {
        "index": result.partition,
        "error_code": result.error_code,
        "error_message": result.error_message,
        "base_offset": result.base_offset,
        "log_append_time_ms": result.log_append_time_ms,
        "log_start_offset": result.log_start_offset,
    }


# ---- Fetch


def fetch(exchange: Exchange) -> None:
    """Read batches, with a long poll."""
    request = exchange.request
    if request.replica_id != _CONSUMER:
        message = f"replica {request.replica_id} fetches as a broker would: nodes of a cluster do that in another way"
        raise InvalidRequestError(message)
    named = [
        m.PartitionFetch(
            topic,
            partition.partition,
            partition.fetch_offset,
            max(0, partition.partition_max_bytes),
            partition.current_leader_epoch,
        )
        for topic, partition in flat(request.topics, topic="topic")
    ]
    forgotten = [(topic.topic, index) for topic in request.forgotten_topics_data for index in topic.partitions]
    session = exchange.connection.fetch_session
    try:
        entries = session.ask(request.session_id, request.session_epoch, named, forgotten)
    except BrokerError as error:
        exchange.reply({**failed(error), "responses": []})
        return
    native = m.FetchRequest(
        max(0, request.max_wait_ms), max(0, request.min_bytes), max(0, request.max_bytes), entries, request.rack_id
    )

    def fetched(outcome: Outcome) -> None:
        if outcome.error is not None:
            failures = [m.PartitionFetched(entry.topic, entry.partition, outcome.error.code) for entry in entries]
            _send_fetched(exchange, [(failure, b"") for failure in failures], session.session_id())
            return
        is_first = request.session_epoch <= INITIAL_EPOCH
        news = session.news(outcome.body.partitions, outcome.data, is_first=is_first)
        _send_fetched(exchange, news, session.session_id())

    exchange.ask(native, fetched)


_PARTITION_4 = Struct(">ihqq")
_PARTITION_5 = Struct(">ihqqq")
_INT32 = Struct(">i")
_NO_ABORTED = -1


def _send_fetched(exchange: Exchange, news: Sequence[tuple[m.PartitionFetched, bytes]], session_id: int) -> None:
    """Write the response around the batches, which are not copied."""
    version = exchange.version
    flexible = is_flexible(exchange.header.api.key, version)
    out = begin_response(exchange.header)
    out += _INT32.pack(exchange.throttle_ms)
    if version >= 7:  # noqa: PLR2004 - the version that has it
        out += bytes(2)  # no error
        out += _INT32.pack(session_id)
    buffers: list[Buffer] = []
    more_bytes = 0
    topics = [(topic, list(group)) for topic, group in groupby(news, key=lambda pair: pair[0].topic)]
    _put_count(out, len(topics), flexible=flexible)
    for topic, partitions in topics:
        name = topic.encode()
        if flexible:
            put_varint(out, len(name) + 1)
        else:
            out += len(name).to_bytes(2, "big")
        out += name
        _put_count(out, len(partitions), flexible=flexible)
        for result, batches in partitions:
            _put_partition(out, result, version, len(batches), flexible=flexible)
            if batches:
                buffers += (out, batches)
                more_bytes += len(out) + len(batches)
                out = bytearray()
            if flexible:
                out.append(0)
        if flexible:
            out.append(0)
    if flexible:
        out.append(0)
    buffers.append(out)
    first = buffers[0]
    assert isinstance(first, bytearray), "a response begins with its header"
    total = more_bytes + len(out)
    end_response(first, total - len(first))
    exchange.finish(buffers)


def _put_count(out: bytearray, count: int, *, flexible: bool) -> None:
    if flexible:
        put_varint(out, count + 1)
    else:
        out += _INT32.pack(count)


def _put_partition(out: bytearray, result: m.PartitionFetched, version: int, length: int, *, flexible: bool) -> None:
    state = (result.partition, result.error_code, result.high_watermark, result.last_stable_offset)
    out += _PARTITION_5.pack(*state, result.log_start_offset) if version >= 5 else _PARTITION_4.pack(*state)  # noqa: PLR2004
    if flexible:
        out.append(0)  # no aborted transactions
    else:
        out += _INT32.pack(_NO_ABORTED)
    if version >= 11:  # noqa: PLR2004 - the version that has it
        out += _INT32.pack(result.preferred_read_replica)
    _put_count(out, length, flexible=flexible)


# ---- offsets


def list_offsets(exchange: Exchange) -> None:
    """Find offsets by time."""
    request = exchange.request
    entries = [
        m.PartitionTimestamp(topic, entry.partition_index, entry.timestamp, entry.current_leader_epoch)
        for topic, entry in flat(request.topics)
    ]

    def listed(outcome: Outcome) -> None:
        if outcome.error is not None:
            results = [m.PartitionOffset(entry.topic, entry.partition, outcome.error.code) for entry in entries]
        else:
            results = outcome.body.partitions
        topics = by_topic(
            results,
            lambda found: {
                "partition_index": found.partition,
                "error_code": found.error_code,
                "timestamp": found.timestamp,
                "offset": found.offset,
                "leader_epoch": found.leader_epoch,
            },
        )
        exchange.reply({"topics": topics})

    exchange.ask(m.ListOffsetsRequest(entries), listed)


def offset_for_leader_epoch(exchange: Exchange) -> None:
    """Find where leader epochs end (KIP-320)."""
    request = exchange.request
    entries = [
        m.PartitionEpoch(topic, entry.partition, entry.leader_epoch, entry.current_leader_epoch)
        for topic, entry in flat(request.topics, topic="topic")
    ]

    def found(outcome: Outcome) -> None:
        if outcome.error is not None:
            results = [m.PartitionEpochEnd(entry.topic, entry.partition, outcome.error.code) for entry in entries]
        else:
            results = outcome.body.partitions
        topics = by_topic(
            results,
            lambda end: {
                "partition": end.partition,
                "error_code": end.error_code,
                "leader_epoch": end.leader_epoch,
                "end_offset": end.end_offset,
            },
            topic="topic",
        )
        exchange.reply({"topics": topics})

    exchange.ask(m.OffsetForLeaderEpochRequest(entries), found)


def delete_records(exchange: Exchange) -> None:
    """Move log start offsets forward."""
    request = exchange.request
    entries = [m.PartitionDeletion(topic, entry.partition_index, entry.offset) for topic, entry in flat(request.topics)]

    def deleted(outcome: Outcome) -> None:
        if outcome.error is not None:
            results = [m.PartitionDeleted(entry.topic, entry.partition, outcome.error.code) for entry in entries]
        else:
            results = outcome.body.partitions
        topics = by_topic(
            results,
            lambda result: {
                "partition_index": result.partition,
                "error_code": result.error_code,
                "low_watermark": result.low_watermark,
            },
        )
        exchange.reply({"topics": topics})

    exchange.ask(m.DeleteRecordsRequest(entries, max(0, request.timeout_ms)), deleted)


def init_producer_id(exchange: Exchange) -> None:
    """Give an idempotent producer its id, or the next epoch of the one that it has."""
    request = exchange.request

    def given(outcome: Outcome) -> None:
        if outcome.error is not None:
            exchange.reply({**error_of(outcome), "producer_id": -1, "producer_epoch": -1})
        else:
            exchange.reply({"producer_id": outcome.body.producer_id, "producer_epoch": outcome.body.producer_epoch})

    if request.transactional_id is not None:
        error = TransactionalIdAuthorizationFailedError(_NO_TRANSACTIONS)
        exchange.reply({**failed(error), "producer_id": -1, "producer_epoch": -1})
        return
    known = exchange.version >= 3  # noqa: PLR2004 - the version from which on a producer may name its id (KIP-360)
    native = (
        m.InitProducerIdRequest(request.producer_id, request.producer_epoch) if known else m.InitProducerIdRequest()
    )
    exchange.ask(native, given)
