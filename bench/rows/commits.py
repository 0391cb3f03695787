"""Rows: how many offset commits a second a group's coordinator takes: one after the other, and many at a time."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .basics import Figure
from .row import Row

if TYPE_CHECKING:
    from .row import Bench, Measured

SYNC_COMMITS = 1_000
ASYNC_COMMITS = 5_000
"""By each of the consumers."""
CONSUMERS = 4
WINDOW = 100
"""Commits of one consumer that await their answers."""
TIMEOUT_SECONDS = 60.0
TOPIC = "committed"


def consumer_of(bench: Bench, number: int) -> Any:
    """A consumer that reads one partition, assigned by hand, in a group of its own; it has committed once."""
    from zmqbroker import Consumer, TopicPartition  # noqa: PLC0415 - a row that misses its client shall fail alone

    broker = bench.shared_broker
    if TOPIC not in bench.kept:
        broker.client.create_topic(TOPIC)
        bench.kept[TOPIC] = True
    group = f"commits-{number}-{time.monotonic_ns()}"
    consumer = Consumer(bootstrap_servers=broker.servers, group_id=group, enable_auto_commit=False)
    consumer.assign([TopicPartition(TOPIC, 0)])
    consumer.commit(at(0))
    return consumer


def at(offset: int) -> Any:
    """What is committed."""
    from zmqbroker import TopicPartition  # noqa: PLC0415
    from zmqbroker.client.types import OffsetAndMetadata  # noqa: PLC0415

    return {TopicPartition(TOPIC, 0): OffsetAndMetadata(offset, "")}


def sync_commits(bench: Bench) -> Measured:
    """Each waits for the one before."""
    count = bench.scaled(SYNC_COMMITS)
    with consumer_of(bench, 0) as consumer:
        begun = time.perf_counter()
        for number in range(1, count + 1):
            consumer.commit(at(number))
        seconds = time.perf_counter() - begun
    return {"commits": count / seconds, "each": seconds / count * 1e6}


def async_commits(bench: Bench) -> Measured:
    """Several consumers, each with many commits under way."""
    count = bench.scaled(ASYNC_COMMITS)
    failures: list[Exception] = []

    def run(consumer: Any) -> None:
        free = threading.Semaphore(WINDOW)

        def done(_offsets: Any, result: Any) -> None:
            if isinstance(result, Exception):
                failures.append(result)
            free.release()

        for number in range(1, count + 1):
            while not free.acquire(blocking=False):  # callbacks come with polls
                consumer.poll(timeout_ms=1)
            consumer.commit_async(at(number), callback=done)
        consumer.commit(at(count + 1))

    with ExitStack() as closing:
        consumers = [closing.enter_context(consumer_of(bench, number)) for number in range(CONSUMERS)]
        threads = [threading.Thread(target=run, args=(consumer,)) for consumer in consumers]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)
        seconds = time.perf_counter() - begun
        if failures:
            raise failures[0]
        if any(thread.is_alive() for thread in threads):
            message = f"the commits were not done within {TIMEOUT_SECONDS:.0f} s"
            raise TimeoutError(message)
    return {"commits": CONSUMERS * count / seconds}


ROWS = (
    Row(
        "offset commits, one consumer",
        "commit(), each flushed before it is answered",
        (Figure("commits", "1/s"), Figure("each", "us")),
        sync_commits,
    ),
    Row(
        f"offset commits, {CONSUMERS} consumers",
        f"commit_async(), {WINDOW} of each under way, flushed before they are answered",
        (Figure("commits", "1/s"),),
        async_commits,
    ),
)
