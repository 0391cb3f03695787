"""What the growth runs in processes of its own beside the nodes: `python child.py VERB ARGS...`.

Each says on standard output when it is ready, waits for a word on standard input, works, and prints what it found as
JSON. It ends when its standard input does, so that none is left if the benchmark is killed.
"""

from __future__ import annotations

import json
import select
import statistics
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this folder is a package of its parent's

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1_000
CHUNK_BYTES = 1 << 20
UNDER_WAY = 10_000
FLUSH_SECONDS = 300.0
FIRST_SECONDS = 120.0
POLL_MS = 200
TICK_SECONDS = 0.005
WINDOW_SECONDS = 1.0
P99 = 0.99


def _acks(word: str) -> int | str:
    return word if word == "all" else int(word)


def ready() -> None:
    """Say so, and wait for the word to begin."""
    print("ready", flush=True)
    sys.stdin.readline()


def told_to_end() -> Callable[[], bool]:
    """A look at whether there was another word, or nobody is there any more to say one."""
    words = select.poll()
    words.register(sys.stdin, select.POLLIN | select.POLLHUP)
    return lambda: bool(words.poll(0))


class Windows:
    """How long records took to their acks, summed up second by second: what this process holds hardly grows."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._number = 0
        self._times: list[float] = []
        self._found: list[tuple[float, float, float]] = []

    def take(self, sent: float, _metadata: object) -> None:
        """An ack has come for what was sent at a time."""
        now = time.perf_counter()
        number = int((now - self._begun) / WINDOW_SECONDS)
        if number != self._number:
            self._close()
            self._number = number
        self._times.append(now - sent)

    def _close(self) -> None:
        if self._times:
            ordered = sorted(self._times)
            high = ordered[min(len(ordered) - 1, int(len(ordered) * P99))]
            self._found.append(((self._number + 0.5) * WINDOW_SECONDS, statistics.median(ordered), high))
            self._times.clear()

    def end(self) -> list[tuple[float, float, float]]:
        """The middle of each second since the beginning, its median and its 99th percentile, all in seconds."""
        self._close()
        return self._found


def produce(  # noqa: PLR0917 - words of a command line
    servers: str,
    topic: str,
    seconds: str,
    value_bytes: str,
    partitions: str,
    bytes_max: str,
    acks: str = "1",
    linger_ms: str = "0",
) -> None:
    """Send as fast as it goes: one by one to each of several partitions in turn; for 0 many at a time to the first.

    One by one only so many are under way: else what one second has sent could take minutes to be stored.
    """
    from zmqbroker import Producer  # noqa: PLC0415

    under_way: deque[Any] = deque()
    value, turns = bytes(int(value_bytes)), int(partitions)
    chunk = [value] * max(1, min(CHUNK, CHUNK_BYTES // len(value)))
    count, count_max = 0, int(bytes_max) // len(value)
    with Producer(bootstrap_servers=servers, acks=_acks(acks), linger_ms=float(linger_ms)) as producer:
        producer.send(topic, value, partition=0).get(FIRST_SECONDS)
        ready()
        begun, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - begun < float(seconds) and count < count_max:
            if turns == 0:
                producer.send_many(topic, chunk, partition=0)
            else:
                for number in range(count, count + len(chunk)):
                    under_way.append(producer.send(topic, value, partition=number % turns))
                while len(under_way) > UNDER_WAY:
                    under_way.popleft().get(FIRST_SECONDS)
            count += len(chunk)
        producer.flush(FLUSH_SECONDS)
        passed = time.perf_counter() - begun
        cpu = time.process_time() - cpu
    print(json.dumps({"records": count, "seconds": passed, "cpu": cpu}))


def consume(servers: str, topic: str, offset: str, seconds: str, records_max: str) -> None:
    """Read partition 0 from an offset on."""
    from zmqbroker import Consumer, TopicPartition  # noqa: PLC0415

    count = size = 0
    partition = TopicPartition(topic, 0)
    with Consumer(bootstrap_servers=servers) as consumer:
        consumer.assign([partition])
        consumer.seek(partition, int(offset))
        ready()
        begun = time.perf_counter()
        while (passed := time.perf_counter() - begun) < float(seconds) and count < int(records_max):
            for records in consumer.poll(timeout_ms=POLL_MS, max_records=5_000).values():
                count += len(records)
                size += sum(len(record.value) for record in records)
    print(json.dumps({"records": count, "bytes": size, "seconds": passed}))


def connect(address: str, topic: str, connections: str, depth: str, seconds: str) -> None:
    """So many connections, each with so many Produce requests of one record under way: who is answered asks again."""
    from growth.swarm import Swarm  # noqa: PLC0415

    swarm = Swarm(address, topic, int(connections), int(depth))
    swarm.fill()
    ready()
    print(json.dumps(swarm.run(float(seconds))))
    swarm.close()


def load(servers: str, topic: str, rate: str, acks: str) -> None:
    """Send so many records of 100 B a second, until there is a word; how long one of each tick took to its ack."""
    from zmqbroker import Producer  # noqa: PLC0415

    chunk = [bytes(100)] * max(0, int(float(rate) * TICK_SECONDS) - 1)
    failures: list[str] = []
    with Producer(bootstrap_servers=servers, acks=_acks(acks)) as producer:
        producer.send(topic, bytes(100)).get(FIRST_SECONDS)
        ready()
        ended, windows, begun, ticks = told_to_end(), Windows(), time.perf_counter(), 0
        while not ended():
            if chunk:
                producer.send_many(topic, chunk)
            future = producer.send(topic, bytes(100))
            future.add_callback(windows.take, time.perf_counter())
            future.add_errback(lambda error: failures.append(repr(error)))
            ticks += 1
            time.sleep(max(0.0, begun + ticks * TICK_SECONDS - time.perf_counter()))
        producer.flush(FLUSH_SECONDS)
        passed = time.perf_counter() - begun
    if failures:
        sys.exit(f"{len(failures)} records failed, the first with {failures[0]}")
    count = ticks * (len(chunk) + 1)
    print(json.dumps({"records": count, "rate": count / passed, "windows": windows.end()}))


def follow(servers: str, topic: str, group: str) -> None:
    """Read a topic as the only member of a group, which commits now and then, until there is a word."""
    from zmqbroker import Consumer  # noqa: PLC0415

    count = 0
    with Consumer(topic, bootstrap_servers=servers, group_id=group, auto_offset_reset="earliest") as consumer:
        ready()
        ended = told_to_end()
        while not ended():
            count += sum(map(len, consumer.poll(timeout_ms=POLL_MS).values()))
    print(json.dumps({"records": count}))


def fill(folder: str, size_bytes: str) -> None:
    """Fill the log in a folder."""
    from growth.sparse import fill as fill_sparse  # noqa: PLC0415

    ready()
    print(json.dumps({"end": fill_sparse(folder, int(size_bytes), int(time.time() * 1000))}))


if __name__ == "__main__":
    verbs = (produce, consume, connect, load, follow, fill)
    {verb.__name__: verb for verb in verbs}[sys.argv[1]](*sys.argv[2:])
