"""NATS JetStream: the server with a file store, and nats-py on uvloop."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from .programs import ask, find_program, output_of
from .system import Server, absent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

T = TypeVar("T")

PAGE = 5_000
DONE_SECONDS = 300.0
ACK_SECONDS = 30.0
LOOK_SECONDS = 0.001
CONNECT = b'CONNECT {"verbose": false}\r\nPING\r\n'
CONFIG = """\
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}" }}
"""


class JetStream(Server):
    """One server."""

    name = "NATS JetStream"
    settings = "file storage, its defaults: what is acknowledged is in the page cache, flushed every two minutes"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._config = folder / "nats.conf"
        self._config.write_text(CONFIG.format(port=self.port, folder=folder / "store"))

    @classmethod
    @override
    def missing(cls) -> str:
        if not find_program("nats-server"):
            return "no nats-server on the PATH; apt-get install nats-server"
        return absent("nats", "uvloop")

    @classmethod
    @override
    def version(cls) -> str:
        server = output_of(find_program("nats-server"), "--version").rpartition("v")[2]
        return f"nats-server {server}, nats-py {version('nats-py')} on uvloop {version('uvloop')}"

    @override
    def command(self) -> list[str]:
        return [find_program("nats-server"), "-c", str(self._config)]

    @override
    def answers(self) -> bool:
        return ask(self.port, CONNECT, b"PONG", greets=True)

    def run(self, job: Callable[[Any, Any], Awaitable[T]]) -> T:
        """Run a job with a connection and its JetStream context; it has to end in time."""
        import nats  # noqa: PLC0415 - the lines of a client that is missing shall fail alone
        import uvloop  # noqa: PLC0415

        async def connected() -> T:
            connection: Any = await nats.connect(f"nats://127.0.0.1:{self.port}", allow_reconnect=False)
            try:
                return await asyncio.wait_for(job(connection, connection.jetstream()), DONE_SECONDS)
            finally:
                await connection.close()

        found: T = uvloop.run(connected())
        return found


async def _create(context: Any, stream: str) -> None:
    from nats.js.api import StorageType, StreamConfig  # noqa: PLC0415

    await context.add_stream(StreamConfig(name=stream, subjects=[stream], storage=StorageType.FILE))


async def _stored(context: Any, stream: str) -> int:
    return int((await context.stream_info(stream)).state.messages)


def produce(server: JetStream, stream: str, value: bytes, count: int) -> float:
    """Seconds from the first publish_async() to the last acknowledgement, into a new stream."""

    async def job(_connection: Any, context: Any) -> float:
        await _create(context, stream)
        begun = time.perf_counter()
        for _ in range(count):
            await context.publish_async(stream, value, wait_stall=ACK_SECONDS)
        await context.publish_async_completed()
        seconds = time.perf_counter() - begun
        stored = await _stored(context, stream)
        assert stored == count, f"{stored} of {count} records were stored"
        return seconds

    return server.run(job)


def fill(server: JetStream, stream: str, value: bytes, count: int) -> None:
    """Store records in a new stream, without an acknowledgement for each, which takes nats-py much longer."""

    async def job(connection: Any, context: Any) -> None:
        await _create(context, stream)
        for number in range(count):
            await connection.publish(stream, value)
            if not number % PAGE:
                await connection.flush(ACK_SECONDS)
        await connection.flush(ACK_SECONDS)
        while await _stored(context, stream) < count:  # noqa: ASYNC110 - the server says it when it is asked
            await asyncio.sleep(LOOK_SECONDS)

    server.run(job)


def delete(server: JetStream, stream: str) -> None:
    """Forget a stream."""

    async def job(_connection: Any, context: Any) -> None:
        await context.delete_stream(stream)

    server.run(job)


def acknowledge(server: JetStream, stream: str, value: bytes, count: int) -> list[float]:
    """How long each of so many publish() took in a new stream, one after the other."""

    async def job(_connection: Any, context: Any) -> list[float]:
        await _create(context, stream)
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            await context.publish(stream, value, timeout=ACK_SECONDS)
            times.append(time.perf_counter() - begun)
        return times

    return server.run(job)


def consume(server: JetStream, stream: str, count: int) -> float:
    """Seconds from the first message to the last, with an ordered push consumer and a callback, its fastest way."""

    async def job(_connection: Any, context: Any) -> float:
        done = asyncio.Event()
        taken, begun, ended = 0, 0.0, 0.0

        async def take(_message: Any) -> None:
            nonlocal taken, begun, ended
            taken += 1
            if taken == 1:
                begun = time.perf_counter()
            elif taken == count:
                ended = time.perf_counter()
                done.set()

        bounds = {"pending_msgs_limit": -1, "pending_bytes_limit": -1}
        subscription = await context.subscribe(stream, ordered_consumer=True, cb=take, **bounds)
        await done.wait()
        await subscription.unsubscribe()
        return ended - begun

    return server.run(job)


def work_off(server: JetStream, stream: str, count: int) -> float:
    """Seconds from a pull consumer's first messages to the last acknowledgement, each message by its own ack()."""
    from nats.js.api import AckPolicy, ConsumerConfig  # noqa: PLC0415

    name = f"workers-{time.monotonic_ns()}"
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=2 * PAGE)

    async def job(_connection: Any, context: Any) -> float:
        subscription = await context.pull_subscribe(stream, durable=name, config=config)
        taken, begun = 0, 0.0
        while taken < count:
            messages = await subscription.fetch(min(PAGE, count - taken), timeout=ACK_SECONDS)
            begun = begun or time.perf_counter()
            for message in messages:
                await message.ack()
            taken += len(messages)
        while (await subscription.consumer_info()).num_ack_pending:  # noqa: ASYNC110 - an ack() is not answered
            await asyncio.sleep(LOOK_SECONDS)
        seconds = time.perf_counter() - begun
        await context.delete_consumer(stream, name)
        return seconds

    return server.run(job)
