"""Rows: how long one record takes to its acknowledgement, one after the other, alone and beside a steady load."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from rows.latency import MARKS
from rows.row import percentiles

from . import jetstream, kafka_clients, produce, rabbit, redis_streams
from .jetstream import JetStream
from .kafka_broker import Kafka, KafkaCluster
from .kafka_clients import Topics, send_each
from .ours import Ours, OursCluster
from .produce import ON_DISK, PAGE_CACHE
from .rabbit import RabbitMQ
from .redis_streams import FLUSHES, Redis
from .row import Entry, Figure, Goal, Row
from .stage import MissingError
from .talk import PeerChild

if TYPE_CHECKING:
    from collections.abc import Callable

    from .row import Measured
    from .stage import Stage

WARM_UP = 200
"""Records at the beginning that do not count."""
COUNT = 2_000
BUSY_COUNT = 1_000
VALUE = bytes(100)
READY_SECONDS = 60.0
ACK_SECONDS = 30.0
LATENCIES = tuple(Figure(name, "us", "less") for name in MARKS)
LOAD = Figure("load", "1/s", is_drawn=False)
KAFKA = "Kafka, confluent-kafka acks=1"

Speaker = type[Ours | OursCluster | Kafka]
"""Whom Kafka's clients can use."""


def _seen(times: list[float]) -> Measured:
    return percentiles(times[WARM_UP:], MARKS)


def _own_times(system: Ours | OursCluster, topic: str, count: int, acks: int) -> list[float]:
    from zmqbroker import Producer  # noqa: PLC0415 - the lines of a client that is missing shall fail alone

    times = []
    with Producer(bootstrap_servers=system.servers, acks="all" if acks < 0 else acks) as producer:
        for _ in range(count):
            begun = time.perf_counter()
            producer.send(topic, VALUE).get(timeout=ACK_SECONDS)
            times.append(time.perf_counter() - begun)
    return times


def own(stage: Stage, *, kind: type[Ours | OursCluster] = Ours, acks: int, is_loaded: bool = False) -> Measured:
    """Our own client."""
    system = stage.system(kind)

    def probe(topic: str, count: int) -> list[float]:
        return _own_times(system, topic, count, acks)

    if is_loaded:
        return _beside_load(stage, kind, ("ours", system.servers, str(acks)), probe)
    return _alone(stage, kind, probe)


def confluent(stage: Stage, *, kind: Speaker, acks: int, is_loaded: bool = False) -> Measured:
    """confluent-kafka, which does not linger here."""
    at = stage.system(kind).kafka_bootstrap

    def probe(topic: str, count: int) -> list[float]:
        return kafka_clients.acknowledge(at, topic, VALUE, count, acks)

    if is_loaded:
        return _beside_load(stage, kind, ("confluent", at, str(acks)), probe)
    return _alone(stage, kind, probe)


def _alone(stage: Stage, kind: Speaker, probe: Callable[[str, int], list[float]]) -> Measured:
    topics, topic = Topics(stage.system(kind).kafka_bootstrap), stage.name("latency")
    topics.create(topic, kind.replicas)
    found = _seen(probe(topic, WARM_UP + stage.scaled(COUNT)))
    topics.delete(topic)
    return found


def _beside_load(
    stage: Stage, kind: Speaker, words: tuple[str, ...], probe: Callable[[str, int], list[float]]
) -> Measured:
    """The same while another process sends to the same partition, with the same client and acks."""
    topics, topic = Topics(stage.system(kind).kafka_bootstrap), stage.name("latency")
    topics.create(topic, kind.replicas)
    rate = half_load(stage, kind.replicas)
    with PeerChild("load", *words, topic, str(rate)) as other:
        other.wait_for_word(READY_SECONDS)
        found = _seen(probe(topic, WARM_UP + stage.scaled(BUSY_COUNT)))
        load = other.finish(READY_SECONDS)
    topics.delete(topic)
    return {**found, "load": load}


def half_load(stage: Stage, replicas: int) -> float:
    """Half of what confluent-kafka's produce() got Kafka to acknowledge in this run; of ours, if there is no Kafka.

    The rows about producing note their median; if they were not asked for, it is measured now, once.
    """
    key = produce.MOST[replicas]
    if key not in stage.kept:
        measure = partial(produce.confluent, value_bytes=100, acks=1 if replicas == 1 else -1, how=send_each)
        try:
            found = measure(stage, kind=Kafka if replicas == 1 else KafkaCluster)
        except MissingError:
            found = measure(stage, kind=Ours if replicas == 1 else OursCluster)
        stage.kept[key] = found["records"]
    return stage.kept[key] / 2


def redis_py(stage: Stage, *, flush: str) -> Measured:
    """redis-py."""
    system, stream = stage.system(Redis), stage.name("latency")
    found = _seen(redis_streams.acknowledge(system, stream, VALUE, WARM_UP + stage.scaled(COUNT), flush))
    redis_streams.delete(system, stream)
    return found


def nats_py(stage: Stage) -> Measured:
    """nats-py."""
    system, stream = stage.system(JetStream), stage.name("latency")
    found = _seen(jetstream.acknowledge(system, stream, VALUE, WARM_UP + stage.scaled(COUNT)))
    jetstream.delete(system, stream)
    return found


def pika(stage: Stage) -> Measured:
    """Publisher confirms of pika."""
    system, queue = stage.system(RabbitMQ), stage.name("latency")
    found = _seen(rabbit.acknowledge(system, queue, VALUE, WARM_UP + stage.scaled(COUNT)))
    rabbit.delete(system, queue)
    return found


def held(text: str, limit: float, peer: str, *figures: str) -> tuple[Goal, ...]:
    """A goal for each of these percentiles."""
    return tuple(Goal(text, figure, limit, (peer,)) for figure in figures)


SAME = held("<= 1.0x / <= 1.0x, acks=1", 1.0, KAFKA, "p50", "p99")
FLUSHED = held("<= 2x with flush", 2.0, KAFKA, "p50", "p99")

ROWS = (
    Row(
        "latency of one record, idle",
        "100 B, sent when the one before is acknowledged; confluent-kafka with linger.ms=0 and flush().",
        LATENCIES,
        (
            Entry(Ours, "send().get(), acks=1", PAGE_CACHE, partial(own, acks=1), None, SAME),
            Entry(Ours, "send().get(), acks=all", ON_DISK, partial(own, acks=-1), None, FLUSHED),
            Entry(Ours, "confluent-kafka acks=1", PAGE_CACHE, partial(confluent, kind=Ours, acks=1)),
            Entry(Kafka, "confluent-kafka acks=1", PAGE_CACHE, partial(confluent, kind=Kafka, acks=1)),
            Entry(Redis, "redis-py xadd()", FLUSHES["everysec"], partial(redis_py, flush="everysec")),
            Entry(Redis, "redis-py xadd(), appendfsync=always", FLUSHES["always"], partial(redis_py, flush="always")),
            Entry(JetStream, "nats-py publish()", PAGE_CACHE, nats_py),
            Entry(RabbitMQ, "pika, publisher confirms", ON_DISK, pika),
        ),
    ),
    Row(
        "latency of one record, half load",
        "The same while another process sends 100 B to the same partition with the same client and acks: at all of "
        "them half as many records a second as confluent-kafka's produce() got Kafka to acknowledge with acks=1.",
        (*LATENCIES, LOAD),
        (
            Entry(Ours, "send().get(), acks=1", PAGE_CACHE, partial(own, acks=1, is_loaded=True), None, SAME),
            Entry(Ours, "send().get(), acks=all", ON_DISK, partial(own, acks=-1, is_loaded=True), None, FLUSHED),
            Entry(Ours, "confluent-kafka acks=1", PAGE_CACHE, partial(confluent, kind=Ours, acks=1, is_loaded=True)),
            Entry(Kafka, "confluent-kafka acks=1", PAGE_CACHE, partial(confluent, kind=Kafka, acks=1, is_loaded=True)),
        ),
    ),
)
