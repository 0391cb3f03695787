"""Kafka's clients behind one small interface, so that the same jobs run through each of them."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING, Any, Protocol

from .kafka_members import DEADLINE_S, AioMember, ConfluentMember, KafkaPythonMember, Record, read, unclosed_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .kafka_members import Member


class Client(Protocol):
    """One of Kafka's clients."""

    def produce(self, topic: str, values: Sequence[bytes], *, acks: int = -1, compression: str = "none") -> None:
        """Write records, each with its value as its key too, and return when the client says that all are written."""
        ...

    def consume(self, topic: str, count: int, group: str, *, isolation: str = "read_uncommitted") -> list[Record]:
        """Read so many records as the only member of a group, from its committed offsets on, and commit."""
        ...


def _consume(member: Member, count: int) -> list[Record]:
    try:
        found = read(member, count)
        member.commit()
    finally:
        member.close()
    return found


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

    def consume(self, topic: str, count: int, group: str, *, isolation: str = "read_uncommitted") -> list[Record]:
        return _consume(KafkaPythonMember(self._bootstrap, topic, group, isolation=isolation, commits=False), count)


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

    def consume(self, topic: str, count: int, group: str, *, isolation: str = "read_uncommitted") -> list[Record]:
        return _consume(AioMember(self._bootstrap, topic, group, isolation=isolation, commits=False), count)


class ConfluentKafka:
    """confluent-kafka, and so librdkafka."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def produce(self, topic: str, values: Sequence[bytes], *, acks: int = -1, compression: str = "none") -> None:
        from confluent_kafka import Producer

        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": acks == -1,
                "acks": acks,
                "compression.type": compression,
            }
        )
        errors: list[Any] = []
        for value in values:
            producer.produce(topic, value, key=value, on_delivery=lambda error, _: errors.append(error))
        assert producer.flush(DEADLINE_S) == 0
        assert errors == [None] * len(values)

    def consume(self, topic: str, count: int, group: str, *, isolation: str = "read_uncommitted") -> list[Record]:
        return _consume(ConfluentMember(self._bootstrap, topic, group, isolation=isolation, commits=False), count)


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

    def consume(self, topic: str, count: int, group: str, *, isolation: str = "read_uncommitted") -> list[Record]:
        settings = ("-X", "auto.offset.reset=earliest", "-X", f"isolation.level={isolation}")
        shown = self._run("-G", group, "-q", *settings, "-c", str(count), "-f", "%p %o %k %s\n", topic)
        rows = [line.split(b" ") for line in shown.splitlines()]
        return [Record(int(partition), int(offset), key, value) for partition, offset, key, value in rows]


CLIENTS: dict[str, Callable[[str], Client]] = {
    "kafka-python": KafkaPython,
    "aiokafka": AioKafka,
    "confluent-kafka": ConfluentKafka,
    "kcat": Kcat,
}
