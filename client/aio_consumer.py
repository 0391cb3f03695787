"""The consumer for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..transport.messages import EARLIEST, LATEST
from .aio_loop import LoopDriver
from .consumer import Consumer, ConsumerSettings
from .lookup import list_offsets
from .options import ConsumerOptions, make_options
from .types import ConsumerRecord, OffsetAndTimestamp, TopicPartition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from typing import Self

    from typing_extensions import Unpack


class AsyncConsumer:
    """Reads records in an event loop: `client.consumer.Consumer` without a thread of its own.

    ``async for record in consumer``, or ``await consumer.poll(...)``.
    """

    def __init__(self, *topics: str, **settings: Unpack[ConsumerSettings]) -> None:
        self._options = make_options(ConsumerOptions, settings)
        self._core = core = Consumer.without_thread(topics, self._options)
        self._driver = LoopDriver(core.io)
        # What asks no broker is the core's own.
        self.subscribe = core.subscribe
        self.unsubscribe = core.unsubscribe
        self.assign = core.assign
        self.subscription = core.subscription
        self.assignment = core.assignment
        self.pause = core.pause
        self.resume = core.resume
        self.paused = core.paused
        self.seek = core.seek
        self.seek_to_beginning = core.seek_to_beginning
        self.seek_to_end = core.seek_to_end
        self.seek_to_time = core.seek_to_time
        self.highwater = core.highwater
        self.metrics = core.metrics

    async def start(self) -> None:
        """Attach to the running loop; the other methods do so too."""
        self._driver.start()

    async def poll(
        self, timeout_ms: float = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The next records, as `Consumer.poll`."""
        return await self._driver.run(self._core.polled(timeout_ms, max_records))

    async def __aiter__(self) -> AsyncIterator[ConsumerRecord]:
        """Iterate over records for ever, or until none came for consumer_timeout_ms."""
        self._driver.start()
        while True:
            chunk = self._core.take_chunk()
            if chunk is None:
                chunk = await self._driver.run(self._core.chunk_came())
                if chunk is None:
                    return
            for record in chunk:
                yield record

    async def getone(self) -> ConsumerRecord:
        """The next record; waits for it."""
        while True:
            batch = await self.poll(1_000, 1)
            for records in batch.values():
                return records[0]

    async def position(self, partition: TopicPartition) -> int:
        """The offset of the next record of a partition."""
        return await self._driver.run(self._core.positioned(partition))

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record of each partition that is not older than a time (ms since 1970); None: all are older."""
        timeout_s = self._options.request_timeout_ms / 1000
        found = await self._driver.run(list_offsets(self._core.io, timestamps, timeout_s))
        return {
            tp: None if entry.offset < 0 else OffsetAndTimestamp(entry.offset, entry.timestamp, entry.leader_epoch)
            for tp, entry in found.items()
        }

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset of each partition."""
        return await self._driver.run(self._core.offsets(partitions, EARLIEST))

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset after the last readable record of each partition."""
        return await self._driver.run(self._core.offsets(partitions, LATEST))

    async def partitions_for_topic(self, topic: str) -> set[int] | None:
        """The partitions of a topic; None if it does not exist."""
        return await self._driver.run(self._core.topic_partitions(topic))

    async def topics(self) -> set[str]:
        """All topics that are no internal ones."""
        return await self._driver.run(self._core.all_topics())

    async def close(self) -> None:
        """Disconnect."""
        self._driver.close()
        self._core.close()

    async def __aenter__(self) -> Self:
        """The consumer itself."""
        self._driver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()
