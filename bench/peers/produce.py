"""Rows: how many records a second one producer gets acknowledged, from the first call to the last acknowledgement."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from rows import produce as ours_produce

from . import jetstream, kafka_clients, rabbit, redis_streams
from .jetstream import JetStream
from .kafka_broker import Kafka
from .kafka_clients import Topics, send_batches, send_each
from .ours import Ours, OursCluster
from .rabbit import RabbitMQ
from .redis_streams import FLUSHES, Redis
from .row import Entry, Figure, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from .row import Measured
    from .stage import Stage

CHUNK = 1_000
COUNTS = {100: 1_000_000, 1000: 300_000}
SLOW_COUNTS = {100: 300_000, 1000: 100_000}
"""Where a record costs several microseconds at least."""
SLOWEST_COUNT = 30_000
"""Where it costs some fifty."""
RECORDS = Figure("records", "1/s")

PAGE_CACHE = "page cache before the ack"
ON_DISK = "on the disk before the ack"
KAFKA_EACH = "Kafka, confluent-kafka produce()"
KAFKA_BATCH = "Kafka, confluent-kafka produce_batch()"
MOST = {1: "most that Kafka takes", 3: "most that three nodes of Kafka take"}
"""By the number of replicas: under which name the rate of produce() at Kafka is kept for the rows about latency."""


def ours(
    stage: Stage,
    *,
    kind: type[Ours | OursCluster] = Ours,
    value_bytes: int,
    acks: int,
    how: Callable[..., None],
) -> Measured:
    """Our own client."""
    from zmqbroker import Producer  # noqa: PLC0415 - the lines of a client that is missing shall fail alone

    system, topic, count = stage.system(kind), stage.name("produce"), stage.scaled(COUNTS[value_bytes], CHUNK)
    topics = Topics(system.kafka_bootstrap)
    topics.create(topic, kind.replicas)
    with Producer(bootstrap_servers=system.servers, acks="all" if acks < 0 else acks) as producer:
        value = bytes(value_bytes)
        producer.send(topic, value).get(timeout=ours_produce.FLUSH_SECONDS)
        begun = time.perf_counter()
        how(producer, topic, value, count)
        producer.flush(ours_produce.FLUSH_SECONDS)
        seconds = time.perf_counter() - begun
    topics.wait_end(topic, count + 1)
    topics.delete(topic)
    return {"records": count / seconds}


def confluent(
    stage: Stage, *, kind: type[Kafka | Ours | OursCluster], value_bytes: int, acks: int, how: Callable[..., None]
) -> Measured:
    """confluent-kafka, at Kafka or at us."""
    at, topic, count = (
        stage.system(kind).kafka_bootstrap,
        stage.name("produce"),
        stage.scaled(COUNTS[value_bytes], CHUNK),
    )
    topics = Topics(at)
    topics.create(topic, kind.replicas)
    seconds = kafka_clients.produce(at, topic, bytes(value_bytes), count, acks=acks, how=how)
    topics.wait_end(topic, count + 1)
    topics.delete(topic)
    return {"records": count / seconds}


def java(stage: Stage, *, kind: type[Kafka] = Kafka, value_bytes: int, acks: int) -> Measured:
    """kafka-producer-perf-test."""
    at, topic, count = stage.system(kind).kafka_bootstrap, stage.name("produce"), stage.scaled(COUNTS[value_bytes])
    topics = Topics(at)
    topics.create(topic, kind.replicas)
    rate = kafka_clients.java_produce(at, topic, value_bytes, count, acks)
    topics.wait_end(topic, count)
    topics.delete(topic)
    return {"records": rate}


def redis_py(stage: Stage, *, value_bytes: int, flush: str) -> Measured:
    """redis-py, a thousand XADD in a pipeline."""
    system, stream, count = stage.system(Redis), stage.name("produce"), stage.scaled(SLOW_COUNTS[value_bytes], CHUNK)
    seconds = redis_streams.produce(system, stream, bytes(value_bytes), count, flush)
    redis_streams.delete(system, stream)
    return {"records": count / seconds}


def redis_benchmark(stage: Stage, *, value_bytes: int, flush: str) -> Measured:
    """redis-benchmark XADD, with the same pipeline."""
    system, stream, count = stage.system(Redis), stage.name("produce"), stage.scaled(SLOW_COUNTS[value_bytes], CHUNK)
    rate = redis_streams.benchmark(system, stream, b"x" * value_bytes, count, flush)
    redis_streams.delete(system, stream)
    return {"records": rate}


def nats_py(stage: Stage, *, value_bytes: int) -> Measured:
    """nats-py, publish_async()."""
    system, stream, count = stage.system(JetStream), stage.name("produce"), stage.scaled(SLOWEST_COUNT)
    seconds = jetstream.produce(system, stream, bytes(value_bytes), count)
    jetstream.delete(system, stream)
    return {"records": count / seconds}


def pika(stage: Stage, *, value_bytes: int) -> Measured:
    """pika, publisher confirms."""
    system, queue, count = stage.system(RabbitMQ), stage.name("produce"), stage.scaled(SLOWEST_COUNT)
    seconds = rabbit.produce(system, queue, bytes(value_bytes), count)
    rabbit.delete(system, queue)
    return {"records": count / seconds}


def _ours(value_bytes: int, acks: int, durability: str, goals: tuple[Goal, Goal]) -> tuple[Entry, ...]:
    ways = (
        ("send()", ours_produce.send, goals[0]),
        ("send_many()", ours_produce.send_many, goals[1]),
    )
    own = [
        Entry(Ours, name, durability, partial(ours, value_bytes=value_bytes, acks=acks, how=how), None, (goal,))
        for name, how, goal in ways
    ]
    foreign = [
        Entry(
            Ours,
            f"confluent-kafka {name}",
            durability,
            partial(confluent, kind=Ours, value_bytes=value_bytes, acks=acks, how=how),
        )
        for name, how in (("produce()", send_each), ("produce_batch()", send_batches))
    ]
    return (*own, *foreign)


def _kafka(value_bytes: int, acks: int) -> tuple[Entry, ...]:
    each = partial(confluent, kind=Kafka, value_bytes=value_bytes, acks=acks, how=send_each)
    batch = partial(confluent, kind=Kafka, value_bytes=value_bytes, acks=acks, how=send_batches)
    tool = partial(java, value_bytes=value_bytes, acks=acks)
    return (
        Entry(Kafka, "confluent-kafka produce()", PAGE_CACHE, each),
        Entry(Kafka, "confluent-kafka produce_batch()", PAGE_CACHE, batch),
        Entry(Kafka, "kafka-producer-perf-test", PAGE_CACHE, tool),
    )


def _redis(value_bytes: int, flush: str) -> tuple[Entry, ...]:
    suffix = ", appendfsync=always" if flush == "always" else ""
    durability = FLUSHES[flush]
    return (
        Entry(Redis, f"redis-py pipeline{suffix}", durability, partial(redis_py, value_bytes=value_bytes, flush=flush)),
        Entry(
            Redis,
            f"redis-benchmark XADD{suffix}",
            durability,
            partial(redis_benchmark, value_bytes=value_bytes, flush=flush),
        ),
    )


def _others(value_bytes: int) -> tuple[Entry, ...]:
    return (
        Entry(JetStream, "nats-py publish_async()", PAGE_CACHE, partial(nats_py, value_bytes=value_bytes)),
        Entry(RabbitMQ, "pika, publisher confirms", ON_DISK, partial(pika, value_bytes=value_bytes)),
    )


def _goals(each: tuple[str, float], many: tuple[str, float]) -> tuple[Goal, Goal]:
    """One call a record is held against Kafka's client with one call a record, many a call against its best."""
    return (
        Goal(each[0], "records", each[1], (KAFKA_EACH,)),
        Goal(many[0], "records", many[1], (KAFKA_EACH, KAFKA_BATCH)),
    )


ABOUT = (
    "One producer, one partition; from the first call to the last acknowledgement. Each client sends as many records "
    "at a time as it likes to: ours and confluent-kafka by their defaults, redis-py and redis-benchmark 1,000, nats-py "
    "and pika 4,000."
)
ROWS = (
    Row(
        "produce 100 B, acks=1",
        ABOUT,
        (RECORDS,),
        (
            *_ours(
                100,
                1,
                PAGE_CACHE,
                _goals(
                    ("`send()` >= 1.0x confluent-kafka + Kafka", 1.0),
                    ("`send_many()` >= 2.5x confluent-kafka + Kafka", 2.5),
                ),
            ),
            *_kafka(100, 1),
            *_redis(100, "everysec"),
            *_others(100),
        ),
        keeps=(KAFKA_EACH, MOST[1]),
    ),
    Row(
        "produce 1 kB, acks=all",
        ABOUT,
        (RECORDS,),
        (
            *_ours(
                1000,
                -1,
                ON_DISK,
                _goals((">= 1.2x, with flush before ack", 1.2), (">= 1.2x, with flush before ack", 1.2)),
            ),
            *_kafka(1000, -1),
            *_redis(1000, "everysec"),
            *_redis(1000, "always"),
            *_others(1000),
        ),
    ),
)
