"""Transactional producers of Kafka's clients, behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .kafka_members import DEADLINE_S, LoopThread, unclosed_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class FencedError(Exception):
    """Another producer has the transactional id now."""


class Transactions(Protocol):
    """A producer with a transactional id, which has made that its own."""

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def send(self, topic: str, values: Sequence[bytes]) -> None:
        """Write records as part of it, each with its value as its key too, and return when they are written."""
        ...

    def send_offsets(self, topic: str, offsets: Mapping[int, int], group: Any) -> None:
        """Commit offsets of partitions as part of it; the group is as a member of the same client tells it."""
        ...

    def commit(self) -> None:
        """Commit it. Raises FencedError."""
        ...

    def abort(self) -> None:
        """Abort it."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class KafkaPythonTransactions:
    """kafka-python's producer."""

    def __init__(self, bootstrap: str, transactional_id: str, timeout_ms: int = 60_000) -> None:
        from kafka import KafkaProducer

        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, transactional_id=transactional_id, transaction_timeout_ms=timeout_ms
        )
        self._producer.init_transactions()

    def begin(self) -> None:
        self._producer.begin_transaction()

    def send(self, topic: str, values: Sequence[bytes]) -> None:
        for sent in [self._producer.send(topic, value, key=value) for value in values]:
            sent.get(DEADLINE_S)

    def send_offsets(self, topic: str, offsets: Mapping[int, int], group: Any) -> None:
        from kafka import TopicPartition
        from kafka.structs import OffsetAndMetadata

        named = {TopicPartition(topic, each): OffsetAndMetadata(offset, "", -1) for each, offset in offsets.items()}
        self._producer.send_offsets_to_transaction(named, group)

    def commit(self) -> None:
        from kafka.errors import ProducerFencedError

        try:
            self._producer.commit_transaction()
        except ProducerFencedError as error:
            raise FencedError from error

    def abort(self) -> None:
        self._producer.abort_transaction()

    @unclosed_sockets()
    def close(self) -> None:
        self._producer.close(DEADLINE_S)
        del self._producer


class AioTransactions:
    """aiokafka's producer."""

    def __init__(self, bootstrap: str, transactional_id: str, timeout_ms: int = 60_000) -> None:
        from aiokafka import AIOKafkaProducer

        self._thread = LoopThread()

        async def start() -> Any:
            producer = AIOKafkaProducer(
                bootstrap_servers=bootstrap, transactional_id=transactional_id, transaction_timeout_ms=timeout_ms
            )
            await producer.start()
            return producer

        self._producer = self._thread.run(start())

    def begin(self) -> None:
        self._thread.run(self._producer.begin_transaction())

    def send(self, topic: str, values: Sequence[bytes]) -> None:
        async def write() -> None:
            for sent in [await self._producer.send(topic, value, key=value) for value in values]:
                await sent

        self._thread.run(write())

    def send_offsets(self, topic: str, offsets: Mapping[int, int], group: Any) -> None:
        from aiokafka import TopicPartition

        named = {TopicPartition(topic, partition): offset for partition, offset in offsets.items()}
        self._thread.run(self._producer.send_offsets_to_transaction(named, group))

    def commit(self) -> None:
        from aiokafka.errors import ProducerFenced

        try:
            self._thread.run(self._producer.commit_transaction())
        except ProducerFenced as error:
            raise FencedError from error

    def abort(self) -> None:
        self._thread.run(self._producer.abort_transaction())

    def close(self) -> None:
        self._thread.run(self._producer.stop())
        self._thread.close()


class ConfluentTransactions:
    """confluent-kafka's producer, and so librdkafka's."""

    def __init__(self, bootstrap: str, transactional_id: str, timeout_ms: int = 60_000) -> None:
        from confluent_kafka import Producer

        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": timeout_ms,
            }
        )
        self._producer.init_transactions(DEADLINE_S)

    def begin(self) -> None:
        self._producer.begin_transaction()

    def send(self, topic: str, values: Sequence[bytes]) -> None:
        for value in values:
            self._producer.produce(topic, value, key=value)
        assert self._producer.flush(DEADLINE_S) == 0  # what has failed of it is the commit's error

    def send_offsets(self, topic: str, offsets: Mapping[int, int], group: Any) -> None:
        from confluent_kafka import TopicPartition

        named = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        self._producer.send_offsets_to_transaction(named, group, DEADLINE_S)

    def commit(self) -> None:
        from confluent_kafka import KafkaError, KafkaException

        try:
            self._producer.commit_transaction(DEADLINE_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._FENCED:
                raise
            raise FencedError from error

    def abort(self) -> None:
        self._producer.abort_transaction(DEADLINE_S)

    def close(self) -> None:
        del self._producer


PRODUCERS: dict[str, Callable[..., Transactions]] = {
    "kafka-python": KafkaPythonTransactions,
    "aiokafka": AioTransactions,
    "confluent-kafka": ConfluentTransactions,
}
"""Called with the bootstrap address, the transactional id, and maybe ``timeout_ms``."""
