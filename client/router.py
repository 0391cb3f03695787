"""Which queue a record goes to: by partition, partitioner, key, or the topic's sticky partition of the moment.

Without a key the records of a topic go to one partition until its batch is closed, then to the next (KIP-480): full
batches, evenly spread. All of it is changed under the client's lock.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ..errors import UnknownTopicOrPartitionError
from .accumulator import PartitionQueue, ProducerBatch
from .partitioner import positive_hash

if TYPE_CHECKING:
    from .metadata import ClusterMetadata, PartitionState
    from .options import ProducerOptions


_random = random.Random()  # noqa: S311 - no secret; its own, so that a program's seed is left alone


class Router:
    """The queues of one producer, and the short cuts to them that make `send` cheap."""

    def __init__(self, options: ProducerOptions, metadata: ClusterMetadata) -> None:
        self.open_batches: dict[str, ProducerBatch] = {}
        """The open batch of each topic's sticky partition: what has no key and fits is just appended to it. Always
        empty if values have a serializer."""
        self.keyed: dict[str, list[PartitionQueue]] = {}
        """A topic's queues in order, where the hash of a key, as it is, says which."""
        self._metadata = metadata
        self._partitioner = options.partitioner
        self._plain_values = options.value_serializer is None
        self._plain = self._plain_values and options.key_serializer is None and options.partitioner is None
        self._version = -1
        self._queues: dict[str, dict[int, PartitionQueue]] = {}
        self._sticky: dict[str, int] = {}
        self._turns: dict[str, int] = {}

    def queue(self, topic: str, key: bytes | None, partition: int | None) -> PartitionQueue:
        """The queue for a record. Raises ValueError for a partition that the topic does not have."""
        metadata = self._metadata
        if metadata.version != self._version:
            self._version = metadata.version
            self.keyed.clear()  # a topic may have more partitions now
        states = metadata.topics.get(topic)
        if not states:
            message = f"topic {topic!r} is not known any more; was it deleted?"
            raise UnknownTopicOrPartitionError(message)
        queues = self._queues.setdefault(topic, {})
        if partition is None:
            partition = self._choose(topic, key, states)
        if partition not in states:
            message = f"topic {topic!r} has no partition {partition!r}; it has {len(states)}"
            raise ValueError(message)
        if key is not None and self._plain and topic not in self.keyed:
            self.keyed[topic] = [queues.setdefault(n, PartitionQueue(topic, n)) for n in range(len(states))]
        return queues.setdefault(partition, PartitionQueue(topic, partition))

    def _choose(self, topic: str, key: bytes | None, states: dict[int, PartitionState]) -> int:
        if self._partitioner is None and key is not None:
            return positive_hash(key) % len(states)
        if self._partitioner is None and topic in self._sticky:
            return self._sticky[topic]
        led = [number for number, state in states.items() if state.leader >= 0]
        if self._partitioner is not None:
            return self._partitioner(key, list(states), led)
        choice = led or list(states)
        # The start is random, so that many producers do not all begin at the same partition.
        turn = self._turns.get(topic, _random.randrange(len(choice))) + 1
        self._turns[topic] = turn
        self._sticky[topic] = choice[turn % len(choice)]
        return self._sticky[topic]

    def opened(self, batch: ProducerBatch) -> None:
        """A queue has a new open batch. Whether it stays open the next pass says: if so, `send` just appends to it."""
        queue = batch.queue
        if self._plain_values and self._sticky.get(queue.topic) == queue.partition:
            self.open_batches[queue.topic] = batch

    def closed(self, batch: ProducerBatch) -> None:
        """Nothing more goes into a batch: the next partition's turn."""
        topic = batch.queue.topic
        if self.open_batches.get(topic) is batch:
            del self.open_batches[topic]
        if self._sticky.get(topic) == batch.queue.partition:
            del self._sticky[topic]

    def clear(self) -> None:
        """Take no short cuts any more."""
        self.open_batches.clear()
        self.keyed.clear()
