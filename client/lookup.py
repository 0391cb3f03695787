"""Finding offsets by time: at the leaders, again and again until each partition has answered or time is up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import LeaderNotAvailableError, ZmqBrokerError, error_for
from ..transport.messages import (
    READ_UNCOMMITTED,
    ListOffsetsReply,
    ListOffsetsRequest,
    PartitionOffset,
    PartitionTimestamp,
)
from .connection import Answer, Call, Connection
from .io import Wait, body_of
from .types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .io import ClientIO, Flow

Outcomes = dict[TopicPartition, "PartitionOffset | ZmqBrokerError"]


def known_topics(io: ClientIO, topics: set[str], deadline: float) -> Flow[None]:
    """Wait until topics are known. Raises why one is not."""
    with io.lock:
        io.check_open()
        io.metadata.add_topics(topics)
        missing = topics - io.metadata.topics.keys()
        if missing:
            io.metadata.refresh()

    def settled() -> bool:
        metadata = io.metadata
        return all(
            topic in metadata.topics or (topic in metadata.errors and not metadata.errors[topic].retriable)
            for topic in topics
        )

    if missing:
        yield Wait(settled, deadline)
    for topic in topics - io.metadata.topics.keys():
        raise io.metadata.why_unknown(topic)


def ask_leaders(
    io: ClientIO,
    wanted: Mapping[TopicPartition, int],
    done: Callable[[Outcomes], None],
    deadline: float,
    isolation: int = READ_UNCOMMITTED,
) -> list[TopicPartition]:
    """Send ListOffsets to the leaders, under the lock; `done` hears of each leader's partitions.

    Returns the partitions that were asked for; the others have no leader that is known and in reach.
    """
    now = io.now()
    by_leader: dict[Connection, list[TopicPartition]] = {}
    for partition in wanted:
        leader = io.metadata.leader(*partition)
        if leader is not None and not leader.is_backing_off:
            by_leader.setdefault(leader, []).append(partition)
    for leader, partitions in by_leader.items():
        entries = [PartitionTimestamp(tp.topic, tp.partition, wanted[tp]) for tp in partitions]
        call = Call(ListOffsetsRequest(entries, isolation), _collect(io, leader, partitions, done), deadline)
        leader.submit(call, now)
    return [partition for partitions in by_leader.values() for partition in partitions]


def _collect(
    io: ClientIO, leader: Connection, partitions: list[TopicPartition], done: Callable[[Outcomes], None]
) -> Callable[[Answer | ZmqBrokerError], None]:
    def answered(outcome: Answer | ZmqBrokerError) -> None:
        found: Outcomes = {}
        if isinstance(outcome, ZmqBrokerError):
            found = dict.fromkeys(partitions, outcome)
        else:
            for entry in body_of(outcome, ListOffsetsReply).partitions:
                partition = TopicPartition(entry.topic, entry.partition)
                found[partition] = error_for(entry.error_code, entry.error_message) if entry.error_code else entry
        if any(isinstance(result, ZmqBrokerError) for result in found.values()):
            io.metadata.refresh(besides=leader)
        done(found)

    return answered


def list_offsets(
    io: ClientIO, wanted: Mapping[TopicPartition, int], timeout_s: float, isolation: int = READ_UNCOMMITTED
) -> Flow[dict[TopicPartition, PartitionOffset]]:
    """The offset of each partition at a timestamp (or LATEST, EARLIEST, MAX_TIMESTAMP). Raises the first error left."""
    deadline = io.now() + timeout_s
    found: dict[TopicPartition, PartitionOffset] = {}
    error: ZmqBrokerError | None = None
    yield from known_topics(io, {partition.topic for partition in wanted}, deadline)
    while left := {partition: stamp for partition, stamp in wanted.items() if partition not in found}:
        outcomes: Outcomes = {}
        request_deadline = min(deadline, io.now() + io.options.request_timeout_ms / 1000)
        with io.lock:
            io.check_open()
            asked = ask_leaders(io, left, outcomes.update, request_deadline, isolation)
        yield Wait(lambda asked=asked, outcomes=outcomes: len(outcomes) >= len(asked), request_deadline + 0.1)  # type: ignore[misc]
        for partition, outcome in outcomes.items():
            if not isinstance(outcome, ZmqBrokerError):
                found[partition] = outcome
            elif not outcome.retriable:
                raise outcome
            else:
                error = outcome
        if len(found) < len(wanted):
            if io.now() >= deadline:
                raise error or _why_unasked(io, next(partition for partition in wanted if partition not in found))
            yield from io.pause(io.options.retry_backoff_ms / 1000)
    return found


def _why_unasked(io: ClientIO, partition: TopicPartition) -> ZmqBrokerError:
    """Why a partition's leader could not be asked in all that time."""
    with io.lock:
        if io.metadata.state(*partition) is None:
            return io.metadata.why_unknown(partition.topic)
        leader = io.metadata.leader(*partition)
        if leader is not None and leader.last_error is not None:
            return leader.last_error
        return LeaderNotAvailableError(f"{partition.topic}-{partition.partition} has no leader that is known")
