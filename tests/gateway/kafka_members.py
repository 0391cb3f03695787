"""Consumers of Kafka's clients, as members of groups, behind one small interface."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

DEADLINE_S = 60.0


@contextmanager
def unclosed_sockets() -> Iterator[None]:
    """kafka-python leaves the socket pair by which it wakes itself to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


class Record(NamedTuple):
    """What was read."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class Member(Protocol):
    """A member of a group, which begins with the earliest records and commits what it has read now and then."""

    def poll(self) -> list[Record]:
        """Let it work for a moment; what it got."""
        ...

    def owned(self) -> set[int]:
        """Its partitions."""
        ...

    def commit(self) -> None:
        """Commit what it has read."""
        ...

    def group(self) -> Any:
        """What its client's producers want to know of its group when they commit for it."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class MemberKind(Protocol):
    """Makes members of one client."""

    def __call__(
        self, bootstrap: str, topic: str, group: str, *, isolation: str = "read_uncommitted", commits: bool = True
    ) -> Member:
        """Join a group. One that does not commit by itself leaves that to a producer, or to who calls it."""
        ...


class KafkaPythonMember:
    """kafka-python's consumer."""

    def __init__(
        self, bootstrap: str, topic: str, group: str, *, isolation: str = "read_uncommitted", commits: bool = True
    ) -> None:
        from kafka import KafkaConsumer

        self._consumer = KafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            isolation_level=isolation,
            enable_auto_commit=commits,
            heartbeat_interval_ms=300,
            auto_commit_interval_ms=100,
        )

    def poll(self) -> list[Record]:
        found = self._consumer.poll(500)  # a call that ends while it joins joins again with the next
        return [Record(each.partition, each.offset, each.key, each.value) for part in found.values() for each in part]

    def owned(self) -> set[int]:
        return {partition.partition for partition in self._consumer.assignment()}

    def commit(self) -> None:
        self._consumer.commit()

    def group(self) -> Any:
        return self._consumer.group_metadata()

    @unclosed_sockets()
    def close(self) -> None:
        self._consumer.close()
        del self._consumer


class ConfluentMember:
    """confluent-kafka's consumer."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        group: str,
        *,
        isolation: str = "read_uncommitted",
        commits: bool = True,
        strategy: str = "range",
    ) -> None:
        from confluent_kafka import Consumer

        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "isolation.level": isolation,
                "enable.auto.commit": commits,
                "heartbeat.interval.ms": 300,
                "auto.commit.interval.ms": 100,
                "partition.assignment.strategy": strategy,
            }
        )
        self._consumer.subscribe([topic])

    def poll(self) -> list[Record]:
        found = self._consumer.consume(1000, 0.1)
        assert not [message.error() for message in found if message.error()]
        return [Record(each.partition(), each.offset(), each.key(), each.value()) for each in found]

    def owned(self) -> set[int]:
        return {partition.partition for partition in self._consumer.assignment()}

    def commit(self) -> None:
        self._consumer.commit(asynchronous=False)

    def group(self) -> Any:
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        self._consumer.close()


def cooperative(
    bootstrap: str, topic: str, group: str, *, isolation: str = "read_uncommitted", commits: bool = True
) -> Member:
    """One that gives up partitions only when another is to have them (KIP-429)."""
    strategy = "cooperative-sticky"
    return ConfluentMember(bootstrap, topic, group, isolation=isolation, commits=commits, strategy=strategy)


class LoopThread:
    """An event loop in a thread of its own: an asyncio client whose loop stands still neither joins nor heartbeats."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aiokafka")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What comes of a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class AioMember:
    """aiokafka's consumer."""

    def __init__(
        self, bootstrap: str, topic: str, group: str, *, isolation: str = "read_uncommitted", commits: bool = True
    ) -> None:
        from aiokafka import AIOKafkaConsumer

        self._group = group
        self._thread = LoopThread()

        async def start() -> Any:
            consumer = AIOKafkaConsumer(
                topic,
                bootstrap_servers=bootstrap,
                group_id=group,
                auto_offset_reset="earliest",
                isolation_level=isolation,
                enable_auto_commit=commits,
                heartbeat_interval_ms=300,
                auto_commit_interval_ms=100,
            )
            await consumer.start()
            return consumer

        self._consumer = self._thread.run(start())

    def poll(self) -> list[Record]:
        found = self._thread.run(self._consumer.getmany(timeout_ms=100))
        return [Record(each.partition, each.offset, each.key, each.value) for part in found.values() for each in part]

    def owned(self) -> set[int]:
        return {partition.partition for partition in self._consumer.assignment()}

    def commit(self) -> None:
        self._thread.run(self._consumer.commit())

    def group(self) -> Any:
        return self._group

    def close(self) -> None:
        self._thread.run(self._consumer.stop())
        self._thread.close()


MEMBERS: dict[str, MemberKind] = {
    "kafka-python": KafkaPythonMember,
    "aiokafka": AioMember,
    "confluent-kafka": ConfluentMember,
    "confluent-kafka cooperative": cooperative,
}


def read(member: Member, count: int) -> list[Record]:
    """Let a member work until it has so many records, or for as long as that may take."""
    found: list[Record] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < deadline:
        found += member.poll()
    return found
