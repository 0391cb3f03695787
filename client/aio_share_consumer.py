"""The share consumer for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .aio_loop import LoopDriver
from .options import ShareConsumerOptions, make_options
from .share_consumer import ShareConsumer, ShareConsumerSettings
from .share_types import AcknowledgeKind, ShareRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from typing import Self

    from typing_extensions import Unpack

    from .types import TopicPartition


class AsyncShareConsumer:
    """Takes records out of a queue in an event loop: `client.share_consumer.ShareConsumer` without a thread of its own.

    ``async for record in consumer``, or ``await consumer.poll(...)``. Saying what became of a record does not wait; it
    is sent within milliseconds, and ``await consumer.commit()`` waits for it.
    """

    def __init__(self, *topics: str, **settings: Unpack[ShareConsumerSettings]) -> None:
        options = make_options(ShareConsumerOptions, settings)
        self._core = core = ShareConsumer.without_thread(topics, options)
        self._driver = LoopDriver(core.io)
        self._implicit = options.acknowledgement_mode == "implicit"

    async def start(self) -> None:
        """Attach to the running loop; the other methods do so too."""
        self._driver.start()

    # ---- what to take

    def subscribe(self, topics: str | Iterable[str]) -> None:
        """Take records of these topics, instead of what was taken before."""
        self._core.subscribe(topics)

    def unsubscribe(self) -> None:
        """Take nothing more; what was not handed out goes back."""
        self._core.unsubscribe()

    def subscription(self) -> set[str]:
        """The topics subscribed to."""
        return self._core.subscription()

    # ---- records

    async def poll(self, timeout_ms: float = 0, max_records: int | None = None) -> list[ShareRecord]:
        """The next records, as `ShareConsumer.poll`."""
        self._driver.start()
        self._core.finish_given()
        return await self._driver.run(self._core.polled(timeout_ms, max_records))

    async def __aiter__(self) -> AsyncIterator[ShareRecord]:
        """Iterate over records for ever, or until none came for consumer_timeout_ms."""
        self._driver.start()
        core = self._core
        while True:
            record = core.take_one()
            if record is None:
                if not await self._driver.run(core.more_came()):
                    return
                continue
            yield record
            if self._implicit:
                core.accept(record)

    # ---- what became of them

    def acknowledge(
        self, records: ShareRecord | Iterable[ShareRecord], kind: AcknowledgeKind = AcknowledgeKind.ACCEPT
    ) -> None:
        """Say what became of one or several records. Raises as `ShareConsumer.acknowledge`."""
        self._core.acknowledge(records, kind)

    def release(self, records: ShareRecord | Iterable[ShareRecord], delay_ms: int | None = None) -> None:
        """Have records delivered again, to anybody: after a delay, or the group's back-off."""
        self._core.release(records, delay_ms)

    def reject(self, records: ShareRecord | Iterable[ShareRecord], reason: str = "") -> None:
        """Give records up: they go to the dead-letter topic, with the reason."""
        self._core.reject(records, reason)

    def renew(self, records: ShareRecord | Iterable[ShareRecord]) -> None:
        """Let the leases of records begin anew."""
        self._core.renew(records)

    async def commit(self, timeout_ms: float | None = None) -> dict[TopicPartition, int]:
        """Send what was said and wait until it is durable. Raises as `ShareConsumer.commit`."""
        return await self._driver.run(self._core.committed(timeout_ms))

    async def flush(self, timeout_ms: float | None = None) -> dict[TopicPartition, int]:
        """`commit`, as producers call it."""
        return await self.commit(timeout_ms)

    def commit_async(self) -> None:
        """Send what was said at once, and do not wait."""
        self._driver.start()
        self._core.commit_async()

    # ---- the rest

    def bootstrap_connected(self) -> bool:
        """Whether some broker is connected."""
        return self._core.bootstrap_connected()

    def metrics(self) -> dict[str, float]:
        """Counters since the start, and how many records are held now."""
        return self._core.metrics()

    async def close(self, timeout_ms: float = 5_000) -> None:
        """Send what was said, give back the rest at once, and disconnect."""
        if self._core.io.closed:
            return
        try:
            await self._driver.run(self._core.leaving(timeout_ms))
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
