"""What Kafka's clients do, at Kafka and at our Kafka listener alike: confluent-kafka, and Kafka's own Java tools.

confluent-kafka's queues are made large enough for a whole run, its producer lingers 5 ms (its default) where a rate is
measured and not at all where a latency is, and its consumer does not pause for a second when its queue is full.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from rows.basics import wait_for

from .kafka_broker import run_java

if TYPE_CHECKING:
    from pathlib import Path

TOOLS = "org.apache.kafka.tools"
CHUNK = 1_000
"""Records in a call that takes many, and calls between two looks at what the library has to say."""
DONE_SECONDS = 120.0
ACK_SECONDS = 30.0
IDLE_SECONDS = 30.0
SHARE_TRIES = 10
SHARE_SECONDS = 10.0
PAGE = 10_000
PARTITION = 0


class KafkaSpeaker(Protocol):
    """A system that Kafka's clients can use."""

    @property
    def kafka_bootstrap(self) -> str:
        """HOST:PORT of each node, with commas."""


def common(at: str, **more: Any) -> dict[str, Any]:
    """Settings of any client; it keeps to itself what becomes of connections when a broker ends."""
    settings = {"bootstrap.servers": at, "log_level": 0, "log.connection.close": False}
    return settings | {name.replace("_", "."): value for name, value in more.items()}


def producer(at: str, acks: int, linger_ms: int) -> Any:
    """A producer with room for a whole run."""
    from confluent_kafka import Producer  # noqa: PLC0415 - the lines of a client that is missing shall fail alone

    room = {"queue.buffering.max.messages": 5_000_000, "queue.buffering.max.kbytes": 2_000_000}
    return Producer(common(at, acks=acks, linger_ms=linger_ms) | room)


# ---- topics


class Topics:
    """Makes and looks after topics of one partition."""

    def __init__(self, at: str) -> None:
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415

        self._at = at
        self._admin: Any = AdminClient(common(at))

    def create(self, name: str, replicas: int = 1) -> None:
        """Create a topic and return when all its replicas are in sync."""
        from confluent_kafka.admin import NewTopic  # noqa: PLC0415

        for future in self._admin.create_topics([NewTopic(name, 1, replicas)]).values():
            future.result(DONE_SECONDS)
        self.wait_in_sync(name, replicas)

    def delete(self, name: str) -> None:
        """Delete a topic."""
        for future in self._admin.delete_topics([name]).values():
            future.result(DONE_SECONDS)

    def leader(self, name: str) -> int:
        """The node that leads the topic's partition; -1: none at the moment, or nobody knows."""
        found = self._described(name)
        return int(found.leader) if found is not None else -1

    def wait_in_sync(self, name: str, replicas: int) -> None:
        """Wait until the topic has a leader and so many replicas in sync."""

        def in_sync() -> bool:
            found = self._described(name)
            return found is not None and found.leader >= 0 and len(found.isrs) == replicas

        wait_for(in_sync, f"{replicas} replicas of {name} in sync", DONE_SECONDS)

    def _described(self, name: str) -> Any:
        from confluent_kafka import KafkaException  # noqa: PLC0415

        with suppress(KafkaException):  # the node that was asked has just died
            return self._admin.list_topics(name, timeout=5.0).topics[name].partitions.get(PARTITION)
        return None

    def wait_end(self, name: str, end: int) -> None:
        """Wait until all the records can be read: what was acknowledged has to be there."""
        from confluent_kafka import Consumer, TopicPartition  # noqa: PLC0415

        consumer: Any = Consumer(common(self._at, group_id="end"))
        partition = TopicPartition(name, PARTITION)
        try:
            wait_for(
                lambda: consumer.get_watermark_offsets(partition, timeout=ACK_SECONDS)[1] == end,
                f"{end} records of {name} readable",
                DONE_SECONDS,
            )
        finally:
            consumer.close()

    def begin_share_group_at_start(self, group: str) -> None:
        """Let a share group of Kafka's begin with what is in its topics."""
        from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # noqa: PLC0415

        entry = ConfigEntry("share.auto.offset.reset", "earliest", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=[entry])
        for future in self._admin.incremental_alter_configs([resource]).values():
            future.result(DONE_SECONDS)


# ---- confluent-kafka


def send_each(client: Any, topic: str, value: bytes, count: int) -> None:
    """`produce()`: one call a record."""
    for number in range(count):
        client.produce(topic, value)
        if not number % CHUNK:
            client.poll(0)


def send_batches(client: Any, topic: str, value: bytes, count: int) -> None:
    """`produce_batch()`: one call for a thousand records."""
    for _ in range(count // CHUNK):
        client.produce_batch(topic, [{"value": value}] * CHUNK)
        client.poll(0)


def produce(at: str, topic: str, value: bytes, count: int, *, acks: int, how: Any) -> float:
    """Seconds from the first call to the last acknowledgement; the topic gets one record more, before."""
    client = producer(at, acks, 5)
    client.produce(topic, value)
    _flush(client)
    begun = time.perf_counter()
    how(client, topic, value, count)
    _flush(client)
    return time.perf_counter() - begun


def _flush(client: Any) -> None:
    left = client.flush(DONE_SECONDS)
    assert left == 0, f"{left} records were not acknowledged within {DONE_SECONDS:g} s"


def fill(at: str, topic: str, value: bytes, count: int) -> None:
    """Store records in the batches that confluent-kafka makes by default, and return when they can be read."""
    client = producer(at, -1, 5)
    send_batches(client, topic, value, count)
    _flush(client)
    Topics(at).wait_end(topic, count)


def acknowledge(at: str, topic: str, value: bytes, count: int, acks: int) -> list[float]:
    """How long each of so many records took from the call to its acknowledgement, one after the other."""
    client = producer(at, acks, 0)
    errors: list[Any] = []

    def delivered(error: Any, _message: Any) -> None:
        if error is not None:
            errors.append(error)

    times = []
    for _ in range(count):
        begun = time.perf_counter()
        client.produce(topic, value, on_delivery=delivered)
        left = client.flush(ACK_SECONDS)
        times.append(time.perf_counter() - begun)
        assert not left, f"no acknowledgement within {ACK_SECONDS:g} s"
        assert not errors, f"a record failed: {errors[0]}"
    return times


def consume(at: str, topic: str, count: int) -> float:
    """Seconds from the first record that the client has to the last one."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition  # noqa: PLC0415

    client: Any = Consumer(common(at, group_id=f"{topic}-readers", fetch_queue_backoff_ms=5, enable_auto_commit=False))
    try:
        client.assign([TopicPartition(topic, PARTITION, OFFSET_BEGINNING)])
        taken = len(client.consume(1, IDLE_SECONDS))
        begun = time.perf_counter()
        while taken < count:
            found = client.consume(min(PAGE, count - taken), IDLE_SECONDS)  # it waits until it has so many
            assert found, f"only {taken} of {count} records came"
            taken += len(found)
        return time.perf_counter() - begun
    finally:
        client.close()


def share(at: str, topic: str, group: str, count: int) -> float:
    """Seconds from a share group's first record to the last acknowledgement, each record acknowledged by a call.

    librdkafka's share consumer is a preview: about every other one is never given a record, and the next one of the
    same group is given all. So one that gets nothing is made anew, which is over before the clock starts.
    """
    from confluent_kafka import ShareConsumer  # noqa: PLC0415

    explicit = {"share.acknowledgement.mode": "explicit"}
    for _ in range(SHARE_TRIES):
        client: Any = ShareConsumer(common(at, group_id=group) | explicit)
        try:
            client.subscribe([topic])
            found = client.poll(SHARE_SECONDS)
            if len(found):
                return _work_off(client, found, count)
        finally:
            client.close()
    message = f"{SHARE_TRIES} share consumers were given nothing within {SHARE_SECONDS:g} s each"
    raise TimeoutError(message)


def _work_off(client: Any, found: Any, count: int) -> float:
    taken = 0
    begun = time.perf_counter()
    while True:
        for message in found:
            assert message.error() is None, message.error()
            client.acknowledge(message)
        taken += len(found)
        if taken >= count:
            break
        found = client.poll(IDLE_SECONDS)
        assert len(found), f"only {taken} of {count} records came"
    refused = [error for error in client.commit_sync(DONE_SECONDS).values() if error is not None]
    assert not refused, f"acknowledgements were refused: {refused[0]}"
    return time.perf_counter() - begun


# ---- Java


def java_produce(at: str, topic: str, value_bytes: int, count: int, acks: int) -> float:
    """Records a second of kafka-producer-perf-test, by its own account."""
    told = run_java(
        f"{TOOLS}.ProducerPerformance", "--topic", topic, "--num-records", str(count), "--record-size",
        str(value_bytes), "--throughput", "-1", "--producer-props", f"bootstrap.servers={at}", f"acks={acks}",
    )  # fmt: skip
    return float(re.findall(r"([\d.]+) records/sec", told)[-1])


def java_consume(at: str, topic: str, count: int) -> float:
    """Records a second of kafka-consumer-perf-test, by its own account, which leaves the rebalance out."""
    told = run_java(
        f"{TOOLS}.ConsumerPerformance", "--topic", topic, "--messages", str(count), "--bootstrap-server", at,
        "--timeout", "30000",
    )  # fmt: skip
    return float(told.splitlines()[-1].split(",")[-1])


def java_share(at: str, topic: str, group: str, count: int, folder: Path) -> float:
    """Records a second of kafka-share-consumer-perf-test, by its own account, from its start on."""
    config = folder / "share-consumer.properties"
    config.write_text("max.poll.records=5000\n")
    told = run_java(
        f"{TOOLS}.ShareConsumerPerformance", "--topic", topic, "--group", group, "--messages", str(count),
        "--bootstrap-server", at, "--timeout", "30000", "--consumer.config", str(config),
    )  # fmt: skip
    return float(told.splitlines()[-1].split(",")[4])
