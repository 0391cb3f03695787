"""Rows: how much memory one node holds after a million records were produced, and how long its start takes."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from rows import produce as ours_produce
from rows import startup
from rows.broker import memory_bytes

from . import jetstream, kafka_clients, rabbit, redis_streams
from .jetstream import JetStream
from .kafka_broker import Kafka
from .kafka_clients import Topics
from .ours import Ours, OursForKafka
from .rabbit import RabbitMQ
from .redis_streams import Redis
from .row import Entry, Figure, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from .row import Measured
    from .stage import S, Stage
    from .system import System

CHUNK = 1_000
RECORDS = 1_000_000
VALUE = bytes(100)
TOPIC = "memory"
MB = 1e6


def memory(stage: Stage, *, kind: type[S], fill: Callable[[S, int], None]) -> Measured:
    """Of a system of its own, so that nothing else counts."""
    with stage.fresh(kind) as system:
        system.start()
        idle, _ = memory_bytes(system.node_pid)
        fill(system, stage.scaled(RECORDS, CHUNK))
        now, most = memory_bytes(system.node_pid)
    return {"resident after": now / MB, "most ever": most / MB, "idle at start": idle / MB}


def fill_ours(system: Ours, count: int) -> None:
    """Our own client's send_many()."""
    from zmqbroker import Producer  # noqa: PLC0415 - the lines of a client that is missing shall fail alone

    topics = Topics(system.kafka_bootstrap)
    topics.create(TOPIC)
    with Producer(bootstrap_servers=system.servers, acks=1) as producer:
        ours_produce.send_many(producer, TOPIC, VALUE, count)
        producer.flush(ours_produce.FLUSH_SECONDS)
    topics.wait_end(TOPIC, count)


def fill_confluent(system: Ours | Kafka, count: int) -> None:
    """confluent-kafka."""
    Topics(system.kafka_bootstrap).create(TOPIC)
    kafka_clients.fill(system.kafka_bootstrap, TOPIC, VALUE, count)


def fill_redis(system: Redis, count: int) -> None:
    """redis-py."""
    redis_streams.fill(system, TOPIC, VALUE, count)


def fill_jetstream(system: JetStream, count: int) -> None:
    """nats-py."""
    jetstream.fill(system, TOPIC, VALUE, count)


def fill_rabbit(system: RabbitMQ, count: int) -> None:
    """Publisher confirms of pika."""
    rabbit.fill(system, TOPIC, VALUE, count)


def first_answer(stage: Stage, *, kind: type[System]) -> Measured:
    """From the start of the program on empty folders to its answer to a client that asks all the time."""
    with stage.fresh(kind) as system:
        return {"first answer": system.seconds_to_answer() * 1000}


def embedded(_stage: Stage) -> Measured:
    """In a fresh interpreter, whose imports are done before the clock starts."""
    done = subprocess.run([sys.executable, startup.CHILD, "embedded"], capture_output=True, timeout=60, check=True)
    return {"first answer": json.loads(done.stdout)["first answer"] * 1000}


def _memory(system: type[S], client: str, fill: Callable[[S, int], None], *goals: Goal) -> Entry:
    return Entry(system, client, "", partial(memory, kind=system, fill=fill), None, goals)


def _start(system: type[System], client: str, *goals: Goal) -> Entry:
    return Entry(system, client, "", partial(first_answer, kind=system), None, goals)


ROWS = (
    Row(
        "memory of one node after the produce test",
        "Resident memory of the process that holds the data, as the kernel counts it, after 1,000,000 records of "
        "100 B; it was started for this. Redis holds all records in memory, by design.",
        (
            Figure("resident after", "MB", "less"),
            Figure("most ever", "MB", "less", is_drawn=False),
            Figure("idle at start", "MB", "less", is_drawn=False),
        ),
        (
            _memory(Ours, "send_many()", fill_ours, Goal("< 90 MB", "resident after", 90.0)),
            _memory(Ours, "confluent-kafka produce_batch()", fill_confluent),
            _memory(Kafka, "confluent-kafka produce_batch()", fill_confluent),
            _memory(Redis, "redis-py pipeline", fill_redis),
            _memory(JetStream, "nats-py publish() without acks", fill_jetstream),
            _memory(RabbitMQ, "pika, publisher confirms", fill_rabbit),
        ),
        warms_up=False,
        uses_shared=False,
    ),
    Row(
        "start to first answer",
        "From the start of the program on empty folders to its answer to a bare client that asks every 5 ms (our own "
        "protocol's: every 2 ms); what has to be done once before (Kafka's format) is left out.",
        (Figure("first answer", "ms", "less"),),
        (
            _start(Ours, "own protocol", Goal("< 0.5 s", "first answer", 500.0)),
            _start(OursForKafka, "Kafka listener", Goal("Kafka listener < 1.0 s", "first answer", 1000.0)),
            Entry(
                Ours,
                "embedded in a test, after imports",
                "",
                embedded,
                None,
                (Goal("embedded in a test < 0.1 s after imports", "first answer", 100.0),),
            ),
            _start(Kafka, "ApiVersions"),
            _start(Redis, "PING"),
            _start(JetStream, "PING"),
            _start(RabbitMQ, "protocol header"),
        ),
        warms_up=False,
        uses_shared=False,
    ),
)
