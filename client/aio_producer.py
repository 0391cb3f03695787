"""The producer for event loops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..errors import ZmqBrokerError
from .aio_loop import LoopDriver
from .options import ProducerOptions, make_options
from .producer import Producer, ProducerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from typing_extensions import Unpack

    from .futures import BatchesFuture, RecordFuture


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
    ) -> RecordFuture:
        """Send one record; waits (max_block_ms) while the buffer is full or the topic unknown.

        The future can be awaited. Raises as `Producer.send`.
        """
        await self._ready(topic)
        self._sent += 1
        if self._sent % _FAIR == 0:
            await asyncio.sleep(0)  # a task that sends in a tight loop lets others run
        return self._core.send(topic, value, key, headers, partition, timestamp_ms)

    async def send_and_wait(self, topic: str, value: Any = None, key: Any = None, **more: Any) -> Any:
        """Send one record and wait for its outcome."""
        return await (await self.send(topic, value, key, **more))

    async def send_many(
        self, topic: str, values: Iterable[Any], *, key: Any = None, partition: int | None = None
    ) -> BatchesFuture:
        """Send many records, waiting while the buffer is full. The future can be awaited."""
        from .futures import BatchesFuture  # noqa: PLC0415 - typing aside, only this method needs it

        values = list(values)
        parts: list[Any] = []
        for start in range(0, len(values), _PIECE):
            await self._ready(topic)
            piece = self._core.send_many(topic, values[start : start + _PIECE], key=key, partition=partition)
            parts.extend(piece.parts())
        return BatchesFuture(parts)

    async def _ready(self, topic: str) -> None:
        self._driver.start()
        if not self._core.knows(topic):
            await self._driver.run(self._core.topic_known(topic))
        if not self._core.has_room():
            await self._driver.run(self._core.room())

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as the synchronous twin
        """Wait until all is acknowledged. Raises as `Producer.flush`."""
        await self._driver.run(self._core.flushed(timeout))

    async def partitions_for(self, topic: str) -> set[int]:
        """The partitions of a topic."""
        self._driver.start()
        if not self._core.knows(topic):
            await self._driver.run(self._core.topic_known(topic))
        return self._core.partitions_for(topic)

    def metrics(self) -> dict[str, float]:
        """Counters, as `Producer.metrics`."""
        return self._core.metrics()

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as the synchronous twin
        """Send what is buffered, wait for it, disconnect. Raises as `Producer.close`."""
        if self._core.closed:
            return
        try:
            await self._driver.run(self._core.drained(timeout))
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


_PIECE = 10_000
"""Records that are given to the core at once, before the loop may run again."""
_FAIR = 256
