"""Redis Streams: the server, redis-py with many commands in a pipeline, and redis-benchmark."""

from __future__ import annotations

import csv
import time
from importlib.metadata import version
from typing import Any

from typing_extensions import override

from .programs import ask, find_program, output_of
from .system import Server, absent

CHUNK = 1_000
"""Commands in a pipeline, whose answers are all read before the next one is sent."""
PAGE = 5_000
"""Entries of an answer where records are read."""
GROUP = "workers"
FLUSHES = {"everysec": "appendfsync=everysec: page cache, flushed each second", "always": "on disk before the ack"}
"""The two ways in which it is measured."""


class Redis(Server):
    """One server with an append-only file, and without the snapshots that it would make beside."""

    name = "Redis"
    settings = (
        "appendonly yes, save '' (no snapshots beside the log); appendfsync=everysec (its default) or always, as the "
        "line says"
    )

    @classmethod
    @override
    def missing(cls) -> str:
        if not find_program("redis-server"):
            return "no redis-server on the PATH; apt-get install redis-server"
        return absent("redis", "hiredis")

    @classmethod
    @override
    def version(cls) -> str:
        server = output_of(find_program("redis-server"), "--version").partition("v=")[2].split()[0]
        return f"Redis {server}, redis-py {version('redis')} with hiredis {version('hiredis')}"

    @override
    def command(self) -> list[str]:
        words = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        return [find_program("redis-server"), *words, "--appendonly", "yes", "--save", "", "--appendfsync", "everysec"]

    @override
    def answers(self) -> bool:
        return ask(self.port, b"PING\r\n", b"+PONG")

    def client(self, flush: str) -> Any:
        """A client, once the server flushes in this way."""
        from redis import Redis as Client  # noqa: PLC0415 - the lines of a client that is missing shall fail alone

        found = Client(port=self.port, socket_timeout=120.0)
        found.config_set("appendfsync", flush)
        return found


def produce(redis: Redis, stream: str, value: bytes, count: int, flush: str = "everysec") -> float:
    """Seconds from the first command to the last answer."""
    client = redis.client(flush)
    begun = time.perf_counter()
    for _ in range(count // CHUNK):
        pipeline = client.pipeline(transaction=False)
        add = pipeline.execute_command  # half the cost of pipeline.xadd()
        for _ in range(CHUNK):
            add("XADD", stream, "*", b"v", value)
        pipeline.execute()
    seconds = time.perf_counter() - begun
    assert client.xlen(stream) == count
    return seconds


def fill(redis: Redis, stream: str, value: bytes, count: int) -> None:
    """Store records."""
    produce(redis, stream, value, count)


def benchmark(redis: Redis, stream: str, value: bytes, count: int, flush: str) -> float:
    """Commands a second of redis-benchmark with one connection and the same pipeline, by its own account."""
    program = find_program("redis-benchmark")
    assert program, "no redis-benchmark on the PATH; apt-get install redis-tools"
    redis.client(flush)
    words = ("-p", str(redis.port), "-c", "1", "-P", str(CHUNK), "-n", str(count), "--csv")
    told = output_of(program, *words, "XADD", stream, "*", "v", value.decode())
    return float(list(csv.reader(told.splitlines()))[-1][1])


def delete(redis: Redis, stream: str) -> None:
    """Forget a stream."""
    redis.client("everysec").unlink(stream)


def acknowledge(redis: Redis, stream: str, value: bytes, count: int, flush: str) -> list[float]:
    """How long each of so many XADD took, one after the other."""
    client = redis.client(flush)
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        client.xadd(stream, {b"v": value})
        times.append(time.perf_counter() - begun)
    return times


def consume(redis: Redis, stream: str, count: int) -> float:
    """Seconds from the first page of a stream to its last, with XRANGE, which costs the client less than XREAD."""
    client = redis.client("everysec")
    taken, position, begun = 0, "-", 0.0
    while taken < count:
        entries = client.xrange(stream, min=position, count=PAGE)
        begun = begun or time.perf_counter()
        assert entries, f"only {taken} of {count} records came"
        taken += len(entries)
        position = "(" + entries[-1][0].decode()
    return time.perf_counter() - begun


def work_off(redis: Redis, stream: str, count: int, flush: str) -> float:
    """Seconds from the first page that XREADGROUP gives to the last XACK; one of these has all the ids of a page."""
    client = redis.client(flush)
    client.xgroup_create(stream, GROUP, id="0")
    taken, begun = 0, 0.0
    while taken < count:
        answer = client.execute_command("XREADGROUP", "GROUP", GROUP, "one", "COUNT", str(PAGE), "STREAMS", stream, ">")
        begun = begun or time.perf_counter()
        ids = ids_of(answer)
        assert ids, f"only {taken} of {count} records came"
        client.xack(stream, GROUP, *ids)
        taken += len(ids)
    seconds = time.perf_counter() - begun
    left = client.xpending(stream, GROUP)["pending"]
    client.xgroup_destroy(stream, GROUP)
    assert not left, f"{left} records are not acknowledged"
    return seconds


def ids_of(answer: Any) -> list[bytes]:
    """The ids in what XREADGROUP answers; redis-py gives that in a shape which depends on its version."""
    entries = next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
    if entries and isinstance(entries[0], list):
        (entries,) = entries
    return [number for number, _fields in entries]
