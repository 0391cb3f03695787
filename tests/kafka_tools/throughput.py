"""Our Kafka listener and a real Kafka broker side by side: the same clients, the same topics, in turns, in one run.

    KAFKA_LIBS=build/kafka-libs python tests/kafka_tools/throughput.py [--rounds N] [--records N]

Both brokers run with one node, one partition and acks=all. Kafka does not wait for its disk (its default, and what its
own figures are of); ours is measured that way (`flush=os`) and with its own default, that what is acknowledged is on
the disk.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, Producer
from kafka_server import KafkaBroker, run_java
from zmqbroker.testing import BrokerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (100, 1000)
_TOOLS = "org.apache.kafka.tools"


def confluent_produce(at: str, topic: str, size: int, count: int) -> float:
    """Records a second of confluent-kafka's producer."""
    settings: dict[str, Any] = {
        "bootstrap.servers": at,
        "acks": -1,
        "linger.ms": 5,
        "queue.buffering.max.messages": 2_000_000,
        "queue.buffering.max.kbytes": 2_000_000,
    }
    producer = Producer(settings)
    producer.list_topics(topic, timeout=30)
    value = b"x" * size
    began = time.perf_counter()
    for number in range(count):
        producer.produce(topic, value)
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0
    return count / (time.perf_counter() - began)


def confluent_consume(at: str, topic: str, size: int, count: int) -> float:
    """Records a second of confluent-kafka's consumer, from the first one that it has."""
    del size
    group = f"{topic}-{time.monotonic_ns()}"
    settings: dict[str, Any] = {
        "bootstrap.servers": at,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "fetch.queue.backoff.ms": 5,  # a second by default, in which the client asks nobody for anything
    }
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    while not consumer.consume(1, 5.0):
        pass
    read, began = 1, time.perf_counter()
    while read < count:
        read += len(consumer.consume(min(10_000, count - read), 1.0))  # it waits for as many as it is asked for
    rate = read / (time.perf_counter() - began)
    consumer.close()
    return rate


def java_produce(at: str, topic: str, size: int, count: int) -> float:
    """Records a second of kafka-producer-perf-test."""
    told = run_java(
        f"{_TOOLS}.ProducerPerformance", "--topic", topic, "--num-records", str(count), "--record-size", str(size),
        "--throughput", "-1", "--producer-props", f"bootstrap.servers={at}", "acks=all", "linger.ms=5",
    )  # fmt: skip
    found = re.findall(r"([\d.]+) records/sec", told)
    return float(found[-1])


def java_consume(at: str, topic: str, size: int, count: int) -> float:
    """Records a second of kafka-consumer-perf-test, without the rebalance."""
    del size
    told = run_java(
        f"{_TOOLS}.ConsumerPerformance", "--topic", topic, "--messages", str(count), "--bootstrap-server", at,
        "--timeout", "30000",
    )  # fmt: skip
    return float(told.splitlines()[-1].split(",")[-1])


JOBS: tuple[tuple[str, Callable[[str, str, int, int], float]], ...] = (
    ("confluent-kafka produces", confluent_produce),
    ("confluent-kafka consumes", confluent_consume),
    ("Java produces", java_produce),
    ("Java consumes", java_consume),
)


def main() -> None:
    """Measure in turns and print a table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=1_000_000, help="of 100 B; a fifth of it for 1 kB")
    args = parser.parse_args()
    figures: dict[tuple[str, int, str], list[float]] = {}
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="kafka-throughput-")))
        quiet = ("--set", "log.level=WARNING")
        brokers = {
            "Kafka 4.1": closing.enter_context(KafkaBroker(folder)).bootstrap,
            "ours, flush=os": closing.enter_context(
                BrokerProcess(flags=[*quiet, "--set", "log.flush=os"])
            ).kafka_bootstrap,
            "ours, flush=ack": closing.enter_context(BrokerProcess(flags=quiet)).kafka_bootstrap,
        }
        for turn in range(args.rounds):
            for size in SIZES:
                count = args.records if size == SIZES[0] else args.records // 5
                for job, measure in JOBS:
                    client = job.split()[0].split("-")[0]
                    for name, at in brokers.items():
                        rate = measure(at, f"{client}-{size}-{turn}", size, count)
                        figures.setdefault((job, size, name), []).append(rate)
                        print(f"round {turn + 1}: {job} {size} B, {name}: {rate:,.0f}/s", flush=True)
    print_table(figures, list(brokers))


def print_table(figures: dict[tuple[str, int, str], list[float]], names: list[str]) -> None:
    """Medians with their ranges, and ours as a multiple of Kafka's."""
    for job, _ in JOBS:
        for size in SIZES:
            theirs = statistics.median(figures[job, size, names[0]])
            for name in names:
                rates = figures[job, size, name]
                middle = statistics.median(rates)
                spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
                print(f"{job}, {size} B, {name}: {middle:,.0f}/s ({spread}), {middle / theirs:.2f} of Kafka's")


if __name__ == "__main__":
    main()
