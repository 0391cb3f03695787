"""Row: how many records a second one consumer receives from a queue and acknowledges, each of them."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from . import jetstream, kafka_clients, rabbit, redis_streams
from .jetstream import JetStream
from .kafka_broker import Kafka
from .kafka_clients import Topics
from .ours import Ours
from .produce import RECORDS
from .rabbit import RabbitMQ
from .redis_streams import FLUSHES, Redis
from .row import Entry, Goal, Row

if TYPE_CHECKING:
    from .row import Measured
    from .stage import Stage

CHUNK = 1_000
COUNT = 300_000
SLOW_COUNT = 100_000
SLOWEST_COUNT = 30_000
VALUE = bytes(100)
TOPIC = "queue"
POLL_RECORDS = 5_000
IDLE_MS = 30_000
REDIS = "Redis, redis-py XREADGROUP, XACK"
REDIS_ALWAYS = "Redis, redis-py XREADGROUP, XACK, appendfsync=always"


def fill_topic(stage: Stage, kind: type[Kafka | Ours]) -> None:
    """Store what is worked off, by the same client for Kafka and for us."""
    at = stage.system(kind).kafka_bootstrap
    if (kind, TOPIC) not in stage.kept:
        stage.kept[kind, TOPIC] = count = stage.scaled(COUNT, CHUNK)
        Topics(at).create(TOPIC)
        kafka_clients.fill(at, TOPIC, VALUE, count)


def ours(stage: Stage, *, mode: str) -> Measured:
    """Our own client. What it has acknowledged is durable when commit() returns, and the queue has to be empty then."""
    from zmqbroker import Admin, ShareConsumer  # noqa: PLC0415 - the lines of a client that is missing shall fail alone

    servers, group, count = stage.system(Ours).servers, stage.name("workers"), stage.scaled(COUNT, CHUNK)
    taken, begun = 0, 0.0
    with ShareConsumer(
        TOPIC,
        bootstrap_servers=servers,
        group_id=group,
        acknowledgement_mode=mode,
        max_poll_records=POLL_RECORDS,
    ) as consumer:
        while taken < count:
            records = consumer.poll(timeout_ms=IDLE_MS)
            begun = begun or time.perf_counter()
            assert records, f"only {taken} of {count} records came"
            if mode == "explicit":
                for record in records:
                    consumer.acknowledge(record)
            taken += len(records)
        consumer.commit()
        seconds = time.perf_counter() - begun
    with Admin(bootstrap_servers=servers) as admin:
        (description,) = admin.describe_share_groups([group])
    left = sum(partition.lag for partition in description.partitions)
    assert not left, f"{left} records are not acknowledged"
    return {"records": count / seconds}


def confluent(stage: Stage) -> Measured:
    """confluent-kafka's share consumer, which is a preview."""
    at, group, count = stage.system(Kafka).kafka_bootstrap, stage.name("workers"), stage.scaled(COUNT, CHUNK)
    Topics(at).begin_share_group_at_start(group)
    return {"records": count / kafka_clients.share(at, TOPIC, group, count)}


def java(stage: Stage) -> Measured:
    """kafka-share-consumer-perf-test."""
    system, group, count = stage.system(Kafka), stage.name("workers"), stage.scaled(COUNT, CHUNK)
    Topics(system.kafka_bootstrap).begin_share_group_at_start(group)
    return {"records": kafka_clients.java_share(system.kafka_bootstrap, TOPIC, group, count, system.folder)}


def fill_redis(stage: Stage) -> None:
    """Store what is worked off."""
    system = stage.system(Redis)
    if (Redis, TOPIC) not in stage.kept:
        stage.kept[Redis, TOPIC] = count = stage.scaled(SLOW_COUNT, CHUNK)
        redis_streams.fill(system, TOPIC, VALUE, count)


def redis_py(stage: Stage, *, flush: str) -> Measured:
    """redis-py."""
    count = stage.scaled(SLOW_COUNT, CHUNK)
    return {"records": count / redis_streams.work_off(stage.system(Redis), TOPIC, count, flush)}


def fill_jetstream(stage: Stage) -> None:
    """Store what is worked off."""
    jetstream.fill(stage.system(JetStream), TOPIC, VALUE, stage.scaled(SLOWEST_COUNT))


def nats_py(stage: Stage) -> Measured:
    """nats-py."""
    count = stage.scaled(SLOWEST_COUNT)
    return {"records": count / jetstream.work_off(stage.system(JetStream), TOPIC, count)}


def pika(stage: Stage) -> Measured:
    """The same with pika. What is acknowledged is gone, so the queue is filled each time, which does not count."""
    system, queue, count = stage.system(RabbitMQ), stage.name("queue"), stage.scaled(SLOWEST_COUNT)
    rabbit.fill(system, queue, VALUE, count)
    seconds = rabbit.work_off(system, queue, count)
    rabbit.delete(system, queue)
    return {"records": count / seconds}


GOALS = (
    Goal(">= 150 k/s", "records", 150_000.0),
    Goal(">= 2x Redis Streams", "records", 2.0, (REDIS, REDIS_ALWAYS)),
)
FLUSHED = "acknowledgements on the disk"
CACHED = "acknowledgements in the page cache"
OURS_FULL = partial(fill_topic, kind=Ours)
KAFKA_FULL = partial(fill_topic, kind=Kafka)

ROWS = (
    Row(
        "queue: receive and acknowledge each record",
        "100 B, one consumer, records that were there before; from the first record to the last acknowledgement that "
        "the broker has taken. Pages: up to 5,000 records; RabbitMQ's prefetch: 4,000. redis-py acknowledges a page "
        "with one XACK, zmqbroker and confluent-kafka send what acknowledge() has noted with the next poll, nats-py "
        "and pika send each by itself. Kafka's Java tool counts from its start on.",
        (RECORDS,),
        (
            Entry(Ours, "ShareConsumer, explicit", FLUSHED, partial(ours, mode="explicit"), OURS_FULL, GOALS),
            Entry(Ours, "ShareConsumer, implicit", FLUSHED, partial(ours, mode="implicit"), OURS_FULL, GOALS),
            Entry(Kafka, "confluent-kafka ShareConsumer, explicit", CACHED, confluent, KAFKA_FULL),
            Entry(Kafka, "kafka-share-consumer-perf-test", CACHED, java, KAFKA_FULL),
            Entry(
                Redis,
                "redis-py XREADGROUP, XACK",
                FLUSHES["everysec"],
                partial(redis_py, flush="everysec"),
                fill_redis,
            ),
            Entry(
                Redis,
                "redis-py XREADGROUP, XACK, appendfsync=always",
                "acknowledgements on the disk",
                partial(redis_py, flush="always"),
                fill_redis,
            ),
            Entry(JetStream, "nats-py fetch(), ack()", CACHED, nats_py, fill_jetstream),
            Entry(RabbitMQ, "pika basic_ack()", "acknowledgements in the queue's log", pika),
        ),
    ),
)
