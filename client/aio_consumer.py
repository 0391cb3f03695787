"""The consumer for event loops."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..transport.messages import EARLIEST, LATEST
from .aio_loop import LoopDriver
from .consumer import Consumer
from .options import ConsumerOptions, make_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from typing import Self

    from typing_extensions import Unpack

    from .commits import CommitCallback
    from .consumer_settings import ConsumerSettings
    from .group_methods import Committed, Offsets
    from .rebalance_listener import ConsumerGroupMetadata, ConsumerRebalanceListener
    from .types import ConsumerRecord, OffsetAndTimestamp, TopicPartition


class AsyncConsumer:
    """Reads records in an event loop: `client.consumer.Consumer` without a thread of its own.

    ``async for record in consumer``, or ``await consumer.poll(...)``.
    """

    def __init__(self, *topics: str, **settings: Unpack[ConsumerSettings]) -> None:
        self._core = core = Consumer.without_thread(topics, make_options(ConsumerOptions, settings))
        self._driver = LoopDriver(core.io)

    async def start(self) -> None:
        """Attach to the running loop; the other methods do so too."""
        self._driver.start()

    # ---- what to read

    def subscribe(
        self,
        topics: str | Iterable[str] = (),
        pattern: str | None = None,
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        """Read these topics, or those that match, as `Consumer.subscribe`; the listener's methods may be coroutines."""
        self._core.subscribe(topics, pattern, listener)

    def unsubscribe(self) -> None:
        """Read nothing, and leave the group, as `Consumer.unsubscribe`."""
        self._core.unsubscribe()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions; those that were read before go on where they are."""
        self._core.assign(partitions)

    def subscription(self) -> set[str] | None:
        """The topics subscribed to; None if partitions are assigned by hand."""
        return self._core.subscription()

    def assignment(self) -> set[TopicPartition]:
        """The partitions that are read."""
        return self._core.assignment()

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these partitions until `resume`."""
        self._core.pause(*partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        """Go on with partitions that were paused."""
        self._core.resume(*partitions)

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        return self._core.paused()

    # ---- records

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

    # ---- positions

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at an offset, as `Consumer.seek`."""
        self._core.seek(partition, offset)

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go on at the first record of these partitions; of all if none are named."""
        self._core.seek_to_beginning(*partitions)

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go on with the record after the last that is there when the brokers are asked."""
        self._core.seek_to_end(*partitions)

    def seek_to_time(self, timestamp_ms: int, *partitions: TopicPartition) -> None:
        """Go on at the first record that is not older (ms since 1970); at the end where all are."""
        self._core.seek_to_time(timestamp_ms, *partitions)

    async def position(self, partition: TopicPartition) -> int:
        """The offset of the next record of a partition."""
        return await self._driver.run(self._core.positioned(partition))

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record of each partition that is not older than a time (ms since 1970); None: all are older."""
        return await self._driver.run(self._core.offsets_by_time(timestamps))

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset of each partition."""
        return await self._driver.run(self._core.offsets(partitions, EARLIEST))

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset after the last readable record of each partition."""
        return await self._driver.run(self._core.offsets(partitions, LATEST))

    def highwater(self, partition: TopicPartition) -> int | None:
        """The high watermark of a partition as of the last fetch; None: there was none."""
        return self._core.highwater(partition)

    # ---- the group

    async def commit(self, offsets: Offsets | None = None, timeout_ms: float | None = None) -> None:
        """Commit offsets, as `Consumer.commit`."""
        await self._driver.run(self._core.committing(offsets, timeout_ms))

    def commit_async(self, offsets: Offsets | None = None, callback: CommitCallback | None = None) -> None:
        """Commit without waiting, as `Consumer.commit_async`."""
        self._core.commit_async(offsets, callback)

    async def committed(
        self, partitions: TopicPartition | Iterable[TopicPartition], *, metadata: bool = False
    ) -> Committed:
        """Committed offsets, as `Consumer.committed`."""
        return await self._driver.run(self._core.asking_committed(partitions, metadata=metadata))

    def group_metadata(self, partitions: Iterable[TopicPartition] = ()) -> ConsumerGroupMetadata:
        """Who this consumer is in its group at the moment, as `Consumer.group_metadata`."""
        return self._core.group_metadata(partitions)

    # ---- the cluster

    async def partitions_for_topic(self, topic: str) -> set[int] | None:
        """The partitions of a topic; None if it does not exist."""
        return await self._driver.run(self._core.topic_partitions(topic))

    async def topics(self) -> set[str]:
        """All topics that are no internal ones."""
        return await self._driver.run(self._core.all_topics())

    def bootstrap_connected(self) -> bool:
        """Whether some broker is connected."""
        return self._core.bootstrap_connected()

    def metrics(self) -> dict[str, float]:
        """Counters since the start, and what is buffered now."""
        return self._core.metrics()

    async def close(self, timeout_ms: float = 5_000) -> None:
        """Commit, leave the group and disconnect, as `Consumer.close`."""
        in_work = sys.exc_info()[1] is not None
        try:
            if not self._core.io.closed:
                await self._driver.run(self._core.closing(timeout_ms, in_work=in_work))
        finally:
            self._driver.close()
            self._core.shut()

    async def __aenter__(self) -> Self:
        """The consumer itself."""
        self._driver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()
