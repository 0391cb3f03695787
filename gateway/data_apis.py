"""Records: Produce, Fetch, and where offsets are. Batches pass as they are, between the socket and the log."""

from __future__ import annotations

from itertools import groupby
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from ..errors import BrokerError, InvalidRequestError, error_for
from ..transport import messages as m
from .encoding import put_varint
from .fetch_session import INITIAL_EPOCH
from .protocol import begin_response, end_response, is_flexible
from .shapes import by_topic, failed, flat, results_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from .exchange import Exchange, Outcome

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
        results = results_of(outcome, entries, m.PartitionProduced)
        if request.acks != 0:
            exchange.reply({"responses": by_topic(results, _produced, partitions="partition_responses")})
            return
        refused = next((result for result in results if result.error_code), None)
        exchange.finish(())
        if refused is not None:
            exchange.connection.disconnect(error_for(refused.error_code, refused.error_message))

    # With acks=0 the native request would say nothing of what was refused.
    acks, timeout_ms = request.acks or 1, max(0, request.timeout_ms)
    exchange.ask(m.ProduceRequest(acks, timeout_ms, entries, request.transactional_id), produced, batches)


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
    wait_ms, min_bytes, max_bytes = max(0, request.max_wait_ms), max(0, request.min_bytes), max(0, request.max_bytes)
    native = m.FetchRequest(wait_ms, min_bytes, max_bytes, entries, request.rack_id, request.isolation_level)

    def fetched(outcome: Outcome) -> None:
        if outcome.error is not None:
            failures = results_of(outcome, entries, m.PartitionFetched)
            _send_fetched(exchange, [(failure, b"") for failure in failures], session.session_id())
            return
        is_first = request.session_epoch <= INITIAL_EPOCH
        news = session.news(outcome.body.partitions, outcome.data, is_first=is_first)
        _send_fetched(exchange, news, session.session_id())

    exchange.ask(native, fetched)


_PARTITION_4 = Struct(">ihqq")
_PARTITION_5 = Struct(">ihqqq")
_INT32 = Struct(">i")
_ABORTED = Struct(">qq")


def _send_fetched(exchange: Exchange, news: Sequence[tuple[m.PartitionFetched, bytes]], session_id: int) -> None:
    """Write the response around the batches, which are not copied."""
    version = exchange.version
    flexible = is_flexible(exchange.header.api.key, version)
    committed = exchange.request.isolation_level == m.READ_COMMITTED
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
            _put_state(out, result, version)
            _put_aborted(out, result.aborted if committed else None, flexible=flexible)
            if version >= 11:  # noqa: PLR2004 - the version that has it
                out += _INT32.pack(result.preferred_read_replica)
            _put_count(out, len(batches), flexible=flexible)
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


def _put_state(out: bytearray, result: m.PartitionFetched, version: int) -> None:
    state = (result.partition, result.error_code, result.high_watermark, result.last_stable_offset)
    out += _PARTITION_5.pack(*state, result.log_start_offset) if version >= 5 else _PARTITION_4.pack(*state)  # noqa: PLR2004


def _put_aborted(out: bytearray, aborted: Sequence[m.AbortedTransaction] | None, *, flexible: bool) -> None:
    """Name the aborted transactions for who reads committed records; for others there is no list, as with Kafka."""
    if aborted is None:
        _put_count(out, -1, flexible=flexible)
        return
    _put_count(out, len(aborted), flexible=flexible)
    for transaction in aborted:
        out += _ABORTED.pack(transaction.producer_id, transaction.first_offset)
        if flexible:
            out.append(0)


# ---- offsets


def list_offsets(exchange: Exchange) -> None:
    """Find offsets by time."""
    request = exchange.request
    entries = [
        m.PartitionTimestamp(topic, entry.partition_index, entry.timestamp, entry.current_leader_epoch)
        for topic, entry in flat(request.topics)
    ]

    def listed(outcome: Outcome) -> None:
        topics = by_topic(
            results_of(outcome, entries, m.PartitionOffset),
            lambda found: {
                "partition_index": found.partition,
                "error_code": found.error_code,
                "timestamp": found.timestamp,
                "offset": found.offset,
                "leader_epoch": found.leader_epoch,
            },
        )
        exchange.reply({"topics": topics})

    exchange.ask(m.ListOffsetsRequest(entries, request.isolation_level), listed)


def offset_for_leader_epoch(exchange: Exchange) -> None:
    """Find where leader epochs end (KIP-320)."""
    request = exchange.request
    entries = [
        m.PartitionEpoch(topic, entry.partition, entry.leader_epoch, entry.current_leader_epoch)
        for topic, entry in flat(request.topics, topic="topic")
    ]

    def found(outcome: Outcome) -> None:
        topics = by_topic(
            results_of(outcome, entries, m.PartitionEpochEnd),
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
        topics = by_topic(
            results_of(outcome, entries, m.PartitionDeleted),
            lambda result: {
                "partition_index": result.partition,
                "error_code": result.error_code,
                "low_watermark": result.low_watermark,
            },
        )
        exchange.reply({"topics": topics})

    exchange.ask(m.DeleteRecordsRequest(entries, max(0, request.timeout_ms)), deleted)
