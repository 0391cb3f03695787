"""Kafka's clients behind one small interface, so that the same jobs run through each of them."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEADLINE_S = 60.0
SESSION_MS = 6_000


class Record(NamedTuple):
    """What was read."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class Client(Protocol):
    """One of Kafka's clients."""

    def produce(self, topic: str, values: Sequence[bytes], *, acks: int = -1, compression: str = "none") -> None:
        """Write records, each with its value as its key too, and return when the client says that all are written."""
        ...

    def consume(self, topic: str, count: int, group: str) -> list[Record]:
        """Read so many records as the only member of a group, from its committed offsets on, and commit."""
        ...


@contextmanager
def unclosed_sockets() -> Iterator[None]:
    """kafka-python leaves the socket pair by which it wakes itself to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


class KafkaPython:
    """kafka-python."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    @unclosed_sockets()
    def produce(self, topic: str, values: Sequence[bytes], *, acks: int = -1, compression: str = "none") -> None:
        from kafka import KafkaProducer

        producer = KafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks=acks if acks >= 0 else "all",
            enable_idempotence=acks == -1,
            compression_type=None if compression == "none" else compression,
        )
        sent = [producer.send(topic, value, key=value) for value in values]
        for each in sent:
            each.get(DEADLINE_S)
        producer.close()

    @unclosed_sockets()
    def consume(self, topic: str, count: int, group: str) -> list[Record]:
        from kafka import KafkaConsumer

        consumer = KafkaConsumer(topic, bootstrap_servers=self._bootstrap, group_id=group, auto_offset_reset="earliest")
        found: list[Record] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(found) < count and time.monotonic() < deadline:
            for records in consumer.poll(500).values():
                found += [Record(each.partition, each.offset, each.key, each.value) for each in records]
        consumer.close()
        return found


class AioKafka:
    """aiokafka."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def produce(self, topic: str, values: Sequence[bytes], *, acks: int = -1, compression: str = "none") -> None:
        from aiokafka import AIOKafkaProducer

        async def main() -> None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                acks=acks if acks >= 0 else "all",
                enable_idempotence=acks == -1,
                compression_type=None if compression == "none" else compression,
            )
            await producer.start()
            try:
                sent = [await producer.send(topic, value, key=value) for value in values]
                await asyncio.wait_for(asyncio.gather(*sent), DEADLINE_S)
            finally:
                await producer.stop()

        asyncio.run(main())

    def consume(self, topic: str, count: int, group: str) -> list[Record]:
        from aiokafka import AIOKafkaConsumer

        async def main() -> list[Record]:
            consumer = AIOKafkaConsumer(
                topic, bootstrap_servers=self._bootstrap, group_id=group, auto_offset_reset="earliest"
            )
            await consumer.start()
            found: list[Record] = []
            deadline = time.monotonic() + DEADLINE_S
            try:
                while len(found) < count and time.monotonic() < deadline:
                    for records in (await consumer.getmany(timeout_ms=500)).values():
                        found += [Record(each.partition, each.offset, each.key, each.value) for each in records]
                await consumer.commit()
            finally:
                await consumer.stop()
            return found

        return asyncio.run(main())


class ConfluentKafka:
    """confluent-kafka, and so librdkafka."""

    def __init__(self, bootstrap: str) -> None:
        self._settings: dict[str, Any] = {"bootstrap.servers": bootstrap}

    def produce(self, topic: str, values: Sequence[bytes], *, acks: int = -1, compression: str = "none") -> None:
        from confluent_kafka import Producer

        idempotent = {"enable.idempotence": acks == -1, "acks": acks, "compression.type": compression}
        producer = Producer({**self._settings, **idempotent})
        errors: list[Any] = []
        for value in values:
            producer.produce(topic, value, key=value, on_delivery=lambda error, _: errors.append(error))
        assert producer.flush(DEADLINE_S) == 0
        assert errors == [None] * len(values)

    def consume(self, topic: str, count: int, group: str) -> list[Record]:
        from confluent_kafka import Consumer

        consumer = Consumer({**self._settings, "group.id": group, "auto.offset.reset": "earliest"})
        consumer.subscribe([topic])
        found: list[Record] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(found) < count and time.monotonic() < deadline:
            for message in consumer.consume(1000, 0.5):
                assert message.error() is None, message.error()
                found.append(Record(message.partition(), message.offset(), message.key(), message.value()))
        consumer.commit(asynchronous=False)
        consumer.close()
        return found


class Kcat:
    """kcat, librdkafka's command line."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def _run(self, *words: str, given: bytes = b"") -> bytes:
        command = ["kcat", "-b", self._bootstrap, *words]
        return subprocess.run(command, input=given, capture_output=True, check=True, timeout=DEADLINE_S).stdout

    def produce(self, topic: str, values: Sequence[bytes], *, acks: int = -1, compression: str = "none") -> None:
        lines = b"".join(value + b":" + value + b"\n" for value in values)
        idempotent = f"enable.idempotence={'true' if acks == -1 else 'false'}"
        self._run("-P", "-t", topic, "-K:", "-X", f"acks={acks}", "-X", idempotent, "-z", compression, given=lines)

    def consume(self, topic: str, count: int, group: str) -> list[Record]:
        shown = self._run(
            "-G", group, "-q", "-X", "auto.offset.reset=earliest", "-c", str(count), "-f", "%p %o %k %s\n", topic
        )
        rows = [line.split(b" ") for line in shown.splitlines()]
        return [Record(int(partition), int(offset), key, value) for partition, offset, key, value in rows]


CLIENTS: dict[str, Callable[[str], Client]] = {
    "kafka-python": KafkaPython,
    "aiokafka": AioKafka,
    "confluent-kafka": ConfluentKafka,
    "kcat": Kcat,
}
