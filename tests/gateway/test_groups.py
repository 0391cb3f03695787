"""Consumer groups of Kafka's clients: two members share partitions, and rebalance when one comes or goes."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from .kafka_clients import DEADLINE_S, unclosed_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from zmqbroker.testing import Broker

    from .kafka_clients import Client

PARTITIONS = {0, 1}
"""Of each topic, as the broker's settings say."""


class Member(Protocol):
    """A member of a group."""

    def poll(self) -> list[bytes]:
        """Let it work for a moment; the values that it got."""
        ...

    def owned(self) -> set[int]:
        """Its partitions."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class KafkaPythonMember:
    """kafka-python's consumer."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        from kafka import KafkaConsumer

        self._consumer = KafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=topic,
            auto_offset_reset="earliest",
            heartbeat_interval_ms=300,
            auto_commit_interval_ms=100,
        )

    def poll(self) -> list[bytes]:
        return [record.value for records in self._consumer.poll(100).values() for record in records]

    def owned(self) -> set[int]:
        return {partition.partition for partition in self._consumer.assignment()}

    @unclosed_sockets()
    def close(self) -> None:
        self._consumer.close()
        del self._consumer


class ConfluentMember:
    """confluent-kafka's consumer."""

    def __init__(self, bootstrap: str, topic: str, strategy: str = "range") -> None:
        from confluent_kafka import Consumer

        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": topic,
                "auto.offset.reset": "earliest",
                "heartbeat.interval.ms": 300,
                "auto.commit.interval.ms": 100,
                "partition.assignment.strategy": strategy,
            }
        )
        self._consumer.subscribe([topic])

    def poll(self) -> list[bytes]:
        found = self._consumer.consume(100, 0.1)
        assert not [message.error() for message in found if message.error()]
        return [message.value() or b"" for message in found]

    def owned(self) -> set[int]:
        return {partition.partition for partition in self._consumer.assignment()}

    def close(self) -> None:
        self._consumer.close()


def cooperative(bootstrap: str, topic: str) -> ConfluentMember:
    """One that gives up partitions only when another is to have them (KIP-429)."""
    return ConfluentMember(bootstrap, topic, "cooperative-sticky")


class AioMember:
    """aiokafka's consumer, whose loop runs in a thread of its own: one that stands still neither joins nor heartbeats."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        from aiokafka import AIOKafkaConsumer

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aiokafka member")
        self._thread.start()

        async def start() -> Any:
            consumer = AIOKafkaConsumer(
                topic,
                bootstrap_servers=bootstrap,
                group_id=topic,
                auto_offset_reset="earliest",
                heartbeat_interval_ms=300,
                auto_commit_interval_ms=100,
            )
            await consumer.start()
            return consumer

        self._consumer = self._run(start())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    def poll(self) -> list[bytes]:
        found = self._run(self._consumer.getmany(timeout_ms=100))
        return [record.value for records in found.values() for record in records]

    def owned(self) -> set[int]:
        return {partition.partition for partition in self._consumer.assignment()}

    def close(self) -> None:
        self._run(self._consumer.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


MEMBERS: dict[str, Callable[[str, str], Member]] = {
    "kafka-python": KafkaPythonMember,
    "aiokafka": AioMember,
    "confluent-kafka": ConfluentMember,
    "confluent-kafka cooperative": cooperative,
}


def work_until(members: list[Member], done: Callable[[], bool], seen: list[bytes]) -> None:
    """Let members work in turns until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, [member.owned() for member in members]
        for member in members:
            seen += member.poll()


@pytest.fixture
def members() -> Iterator[list[Member]]:
    """Those that are to leave when the test is over, however it ends."""
    here: list[Member] = []
    yield here
    for member in here:
        member.close()


@pytest.mark.parametrize("name", MEMBERS)
def test_two_members_share_and_one_takes_over(
    name: str, broker: Broker, client_of: Callable[[str], Client], topic: str, members: list[Member]
) -> None:
    producer = client_of("confluent-kafka")
    producer.produce(topic, [b"first-%d" % number for number in range(50)])
    seen: list[bytes] = []
    first = MEMBERS[name](broker.kafka_bootstrap, topic)
    members.append(first)
    work_until(members, lambda: first.owned() == PARTITIONS and len(set(seen)) == 50, seen)
    second = MEMBERS[name](broker.kafka_bootstrap, topic)
    members.append(second)
    work_until(members, lambda: sorted(len(member.owned()) for member in members) == [1, 1], seen)
    assert first.owned() | second.owned() == PARTITIONS
    producer.produce(topic, [b"second-%d" % number for number in range(50)])
    work_until(members, lambda: len(set(seen)) == 100, seen)
    members.remove(first)
    first.close()
    work_until(members, lambda: second.owned() == PARTITIONS, seen)
    producer.produce(topic, [b"third-%d" % number for number in range(50)])
    work_until(members, lambda: len(set(seen)) == 150, seen)
