"""Rows: how many records a second one consumer takes, from the first record that it has to the last one."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from rows import consume as ours_consume

from . import jetstream, kafka_clients, rabbit, redis_streams
from .jetstream import JetStream
from .kafka_broker import Kafka
from .kafka_clients import Topics
from .ours import Ours
from .produce import RECORDS
from .rabbit import RabbitMQ
from .redis_streams import Redis
from .row import Entry, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from .row import Measured
    from .stage import Stage

CHUNK = 1_000
COUNTS = {100: 1_000_000, 1000: 300_000}
SLOW_COUNTS = {100: 200_000, 1000: 100_000}
SLOWEST_COUNT = 50_000
PAGE_CACHE = "read from the page cache"
MEMORY = "read from memory"
KAFKA = "Kafka, confluent-kafka consume()"


def fill_topic(stage: Stage, kind: type[Kafka | Ours], value_bytes: int) -> None:
    """Store what is read, by the same client for Kafka and for us."""
    at, topic = stage.system(kind).kafka_bootstrap, _topic(value_bytes)
    if (kind, topic) in stage.kept:
        return
    count = stage.scaled(COUNTS[value_bytes], CHUNK)
    Topics(at).create(topic)
    kafka_clients.fill(at, topic, bytes(value_bytes), count)
    stage.kept[kind, topic] = count


def _topic(value_bytes: int) -> str:
    return f"consume-{value_bytes}"


def ours(stage: Stage, *, value_bytes: int, how: Callable[..., None]) -> Measured:
    """Our own client."""
    from zmqbroker import Consumer  # noqa: PLC0415 - the lines of a client that is missing shall fail alone

    system, topic, count = stage.system(Ours), _topic(value_bytes), stage.scaled(COUNTS[value_bytes], CHUNK)
    with Consumer(
        topic,
        bootstrap_servers=system.servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=ours_consume.TIMEOUT_MS,
    ) as consumer:
        next(iter(consumer))
        begun = time.perf_counter()
        how(consumer, count - 1)
        return {"records": (count - 1) / (time.perf_counter() - begun)}


def confluent(stage: Stage, *, kind: type[Kafka | Ours], value_bytes: int) -> Measured:
    """confluent-kafka, at Kafka or at us."""
    count = stage.scaled(COUNTS[value_bytes], CHUNK)
    seconds = kafka_clients.consume(stage.system(kind).kafka_bootstrap, _topic(value_bytes), count)
    return {"records": (count - 1) / seconds}


def java(stage: Stage, *, value_bytes: int) -> Measured:
    """kafka-consumer-perf-test."""
    count = stage.scaled(COUNTS[value_bytes], CHUNK)
    return {"records": kafka_clients.java_consume(stage.system(Kafka).kafka_bootstrap, _topic(value_bytes), count)}


def fill_redis(stage: Stage, value_bytes: int) -> None:
    """Store what is read."""
    count = stage.scaled(SLOW_COUNTS[value_bytes], CHUNK)
    redis_streams.fill(stage.system(Redis), _topic(value_bytes), bytes(value_bytes), count)


def redis_py(stage: Stage, *, value_bytes: int) -> Measured:
    """redis-py."""
    count = stage.scaled(SLOW_COUNTS[value_bytes], CHUNK)
    return {"records": count / redis_streams.consume(stage.system(Redis), _topic(value_bytes), count)}


def fill_jetstream(stage: Stage, value_bytes: int) -> None:
    """Store what is read."""
    count = stage.scaled(SLOW_COUNTS[value_bytes], CHUNK)
    jetstream.fill(stage.system(JetStream), _topic(value_bytes), bytes(value_bytes), count)


def nats_py(stage: Stage, *, value_bytes: int) -> Measured:
    """nats-py."""
    count = stage.scaled(SLOW_COUNTS[value_bytes], CHUNK)
    return {"records": (count - 1) / jetstream.consume(stage.system(JetStream), _topic(value_bytes), count)}


def pika(stage: Stage, *, value_bytes: int) -> Measured:
    """The same with pika. What is taken from a queue is gone, so it is filled each time, which does not count."""
    system, queue, count = stage.system(RabbitMQ), stage.name("consume"), stage.scaled(SLOWEST_COUNT)
    rabbit.fill(system, queue, bytes(value_bytes), count)
    seconds = rabbit.consume(system, queue, count)
    rabbit.delete(system, queue)
    return {"records": (count - 1) / seconds}


def _row(value_bytes: int, name: str, goal_text: str, limit: float) -> Row:
    goal = Goal(goal_text, "records", limit, (KAFKA,))
    size = value_bytes
    ours_full = partial(fill_topic, kind=Ours, value_bytes=size)
    kafka_full = partial(fill_topic, kind=Kafka, value_bytes=size)
    one_by_one = partial(ours, value_bytes=size, how=ours_consume.iterate)
    polled = partial(ours, value_bytes=size, how=ours_consume.poll)
    at_ours = partial(confluent, kind=Ours, value_bytes=size)
    at_kafka = partial(confluent, kind=Kafka, value_bytes=size)
    redis_full = partial(fill_redis, value_bytes=size)
    nats_full = partial(fill_jetstream, value_bytes=size)
    return Row(
        name,
        "One consumer reads one partition from its beginning; at Kafka and zmqbroker, confluent-kafka has filled it.",
        (RECORDS,),
        (
            Entry(Ours, "iteration", PAGE_CACHE, one_by_one, ours_full, (goal,)),
            Entry(Ours, "poll()", PAGE_CACHE, polled, ours_full, (goal,)),
            Entry(Ours, "confluent-kafka consume()", PAGE_CACHE, at_ours, ours_full),
            Entry(Kafka, "confluent-kafka consume()", PAGE_CACHE, at_kafka, kafka_full),
            Entry(Kafka, "kafka-consumer-perf-test", PAGE_CACHE, partial(java, value_bytes=size), kafka_full),
            Entry(Redis, "redis-py XRANGE", MEMORY, partial(redis_py, value_bytes=size), redis_full),
            Entry(
                JetStream, "nats-py ordered push consumer", PAGE_CACHE, partial(nats_py, value_bytes=size), nats_full
            ),
            Entry(RabbitMQ, "pika basic_consume, auto_ack", "taken from the queue", partial(pika, value_bytes=size)),
        ),
    )


ROWS = (
    _row(100, "consume 100 B", ">= 2.5x confluent-kafka + Kafka", 2.5),
    _row(1000, "consume 1 kB", ">= 1.0x", 1.0),
)
