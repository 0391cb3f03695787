"""The producer for event loops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..errors import ZmqBrokerError
from .aio_loop import LoopDriver
from .futures import BatchesFuture
from .options import ProducerOptions, make_options
from .producer import Producer
from .values import pairs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from typing_extensions import Unpack

    from .accumulator import ProducerBatch
    from .futures import RecordFuture
    from .producer_settings import ProducerSettings
    from .rebalance_listener import ConsumerGroupMetadata
    from .transaction_methods import GroupReader, Transaction
    from .types import OffsetAndMetadata, TopicPartition


class AsyncProducer:
    """Sends records from an event loop: `client.producer.Producer` without a thread of its own.

    ``future = await producer.send(...)`` waits only for room in the buffer; ``await future`` waits for the outcome.
    """

    def __init__(self, **settings: Unpack[ProducerSettings]) -> None:
        self._core = Producer.without_thread(make_options(ProducerOptions, settings))
        self._driver = LoopDriver(self._core.io)
        self._sent = 0

    async def start(self) -> None:
        """Attach to the running loop; the other methods do so too."""
        self._driver.start()

    async def send(  # noqa: PLR0917 - as the synchronous twin
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        deliver_at: int | datetime | None = None,
    ) -> RecordFuture:
        """Send one record; waits (max_block_ms) while the buffer is full or the topic unknown.

        The future can be awaited. Raises as `Producer.send`.
        """
        self._sent += 1
        if self._sent % _FAIR == 0:
            await asyncio.sleep(0)  # a task that sends in a tight loop lets others run
        await self._ready(topic)
        return self._core.send(topic, value, key, headers, partition, timestamp_ms, deliver_at)

    async def send_and_wait(self, topic: str, value: Any = None, key: Any = None, **more: Any) -> Any:
        """Send one record and wait for its outcome."""
        return await (await self.send(topic, value, key, **more))

    async def send_many(
        self,
        topic: str,
        values: Iterable[Any],
        *,
        key: Any = None,
        keys: Sequence[Any] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> BatchesFuture:
        """Send many records as `Producer.send_many`, waiting while the buffer is full. The future can be awaited."""
        core = self._core
        values = values if isinstance(values, list) else list(values)
        parts: list[tuple[ProducerBatch, int, int]] = []
        if keys is not None:
            for value, its_key in pairs_of(values, keys):
                parts.append((await self.send(topic, value, its_key, None, partition, timestamp_ms)).position())
            return BatchesFuture(parts)
        values, raw_key, stamp = core.prepare_many(values, key, timestamp_ms)
        position = 0
        while position < len(values):
            await asyncio.sleep(0)  # a batch was filled: others may run
            await self._ready(topic)
            position = core.send_some(topic, values, position, raw_key, partition, stamp, parts)
        return BatchesFuture(parts)

    async def _ready(self, topic: str) -> None:
        """Wait until the core can take records without waiting; nothing may be awaited between this and that."""
        self._driver.start()
        core = self._core
        deadline = None
        while not (core.knows(topic) and core.has_room()):
            core.check_may_send()
            if not core.knows(topic):
                await self._driver.run(core.topic_known(topic))
            else:
                deadline = deadline or core.block_deadline()
                await self._driver.run(core.room(deadline))

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as the synchronous twin
        """Wait until all is acknowledged. Raises as `Producer.flush`."""
        await self._driver.run(self._core.flushed(timeout))

    # ---- transactions

    async def init_transactions(self) -> None:
        """Take the transactional id over, as `Producer.init_transactions`."""
        await self._driver.run(self._core.initialising())

    async def begin_transaction(self) -> None:
        """Open a transaction."""
        self._core.begin_transaction()

    async def send_offsets_to_transaction(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int],
        group: str | ConsumerGroupMetadata | GroupReader,
    ) -> None:
        """Commit a group's offsets with the transaction, as `Producer.send_offsets_to_transaction`."""
        await self._driver.run(self._core.sending_offsets(offsets, group))

    async def commit_transaction(self) -> None:
        """Commit, as `Producer.commit_transaction`."""
        await self._driver.run(self._core.committing())

    async def abort_transaction(self) -> None:
        """Abort, as `Producer.abort_transaction`."""
        await self._driver.run(self._core.aborting())

    def transaction(self) -> AsyncTransaction:
        """A block that is a transaction, as `Producer.transaction`: ``async with producer.transaction():``."""
        return AsyncTransaction(self, self._core.transaction())

    # ---- everything else

    async def partitions_for(self, topic: str) -> set[int]:
        """The partitions of a topic."""
        self._driver.start()
        while not self._core.knows(topic):
            await self._driver.run(self._core.topic_known(topic))
        return self._core.partitions_for(topic)

    def bootstrap_connected(self) -> bool:
        """Whether some broker is connected."""
        return self._core.bootstrap_connected()

    def metrics(self) -> dict[str, float]:
        """Counters, as `Producer.metrics`."""
        return self._core.metrics()

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as the synchronous twin
        """Send what is buffered, wait for it, disconnect. Raises as `Producer.close`."""
        if self._core.closed:
            return
        try:
            await self._driver.run(self._core.closing(timeout))
        except (TimeoutError, ZmqBrokerError):
            pass  # counted: what is left fails now, and that is raised
        finally:
            self._driver.close()
            self._core.shut()
        self._core.raise_failures()

    async def __aenter__(self) -> Self:
        """The producer itself."""
        self._driver.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; what made the block fail is more important than records that failed."""
        try:
            await self.close()
        except Exception:
            if error is None:
                raise


class AsyncTransaction:
    """One transaction as a block of an event loop."""

    def __init__(self, producer: AsyncProducer, block: Transaction) -> None:
        self._producer = producer
        self._block = block

    async def __aenter__(self) -> Self:
        """Begin."""
        await self._producer.begin_transaction()
        self._block.entered()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or abort; what made the block fail is more important than what becomes of the abort."""
        if error is not None:
            await self._abort(error)
        elif self._block.is_mine:
            try:
                await self._producer.commit_transaction()
            except BaseException as failure:
                await self._abort(failure)
                raise

    async def _abort(self, error: BaseException) -> None:
        if self._block.may_abort:
            try:
                await self._producer.abort_transaction()
            except ZmqBrokerError as failure:
                error.add_note(f"the transaction could not be aborted: {failure.message}")


_FAIR = 256
"""So many records are sent before other tasks may run."""
