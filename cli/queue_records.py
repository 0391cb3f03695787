"""Looking at what a queue has not finished, without leasing any of it: states by asking, records by reading them."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ..client.group_admin_types import ShareRecordState
from ..client.types import TopicPartition
from ..errors import GroupIdNotFoundError, UnknownTopicOrPartitionError
from ..groups.share_batches import DELIVER_AT
from .group_tables import EARLIEST, LATEST, reader

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from ..client.admin import Admin
    from ..client.consumer import Consumer
    from ..client.types import ConsumerRecord

FINISHED = ("acknowledged", "archived")
STATES_LIMIT = 10_000
_POLL_MS = 100


class Waiting(NamedTuple):
    """A record that a queue has not finished, and what the queue knows of it."""

    record: ConsumerRecord
    state: str
    delivery_count: int
    member_id: str
    until_ms: int
    """When its lease or delay ends; -1: neither."""


def partitions_of(client: Admin, group_id: str, topics: Sequence[str] | None) -> list[TopicPartition]:
    """The partitions of topics, or those that the queue has read so far."""
    if topics:
        return [
            TopicPartition(topic.name, partition.partition)
            for topic in client.describe_topics(topics)
            for partition in topic.partitions
        ]
    (group,) = client.describe_share_groups([group_id])
    return [TopicPartition(found.topic, found.partition) for found in group.partitions]


def waiting(
    client: Admin, args: Namespace, group_id: str, partitions: list[TopicPartition], limit: int | None
) -> list[Waiting]:
    """The first records of each partition that are not finished, in order of their timestamps; limit None: all."""
    found: list[Waiting] = []
    with reader(args) as consumer:
        for partition in partitions:
            states = _unfinished(client, group_id, partition)
            if states:
                consumer.assign([partition])
                found += islice(_read(consumer, partition, states, args.request_timeout_ms / 1000), limit)
    found.sort(key=lambda one: (one.record.timestamp, one.record.topic_partition, one.record.offset))
    return found[:limit]


def _unfinished(client: Admin, group_id: str, partition: TopicPartition) -> list[ShareRecordState]:
    """Ranges of offsets that are there; a partition that the queue never read is new from its start on."""
    first = client.list_offsets({partition: EARLIEST})[partition].offset
    try:
        states = client.share_record_states(group_id, partition, limit=STATES_LIMIT).states
    except (GroupIdNotFoundError, UnknownTopicOrPartitionError):
        end = client.list_offsets({partition: LATEST})[partition].offset
        states = [ShareRecordState(first, end - 1, "new", 0, "", -1)]
    return [state for state in states if state.state not in FINISHED and first <= state.last_offset]


def _read(
    consumer: Consumer, partition: TopicPartition, states: list[ShareRecordState], seconds: float
) -> Iterator[Waiting]:
    """The records of ranges that ascend; what was compacted away, or does not come in time, is left out."""
    now_ms = int(time.time() * 1000)
    for state in states:
        consumer.seek(partition, max(0, state.first_offset))
        deadline = time.monotonic() + seconds
        while consumer.position(partition) <= state.last_offset and time.monotonic() < deadline:
            for record in consumer.poll(timeout_ms=_POLL_MS).get(partition, ()):
                if state.first_offset <= record.offset <= state.last_offset:
                    yield _waiting(record, state, now_ms)


def _waiting(record: ConsumerRecord, state: ShareRecordState, now_ms: int) -> Waiting:
    """Tell a message that is not due from others that were never delivered."""
    due = next((value for name, value in record.headers if name == DELIVER_AT and value), b"")
    if state.state == "new" and due.isdigit() and int(due) > now_ms:
        return Waiting(record, "delayed", 0, "", int(due))
    return Waiting(record, state.state, state.delivery_count, state.member_id, state.until_ms)
