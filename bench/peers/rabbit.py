"""RabbitMQ with a quorum queue of one replica, and pika on its own event loop, with publisher confirms."""

from __future__ import annotations

import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from .programs import Program, ask, descendants, find_program, free_ports
from .system import Server, absent

if TYPE_CHECKING:
    from collections.abc import Callable

DEBIAN_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The program itself; what Debian puts on the PATH changes the user, and so may not write into a temporary folder."""
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"
WINDOW = 4_000
"""Messages that await their confirms, and deliveries that await their acknowledgements."""
DONE_SECONDS = 600.0


class RabbitMQ(Server):
    """One node, with an epmd of its own; its home folder, cookie and all else is in its folder."""

    name = "RabbitMQ"
    settings = "durable quorum queue, one member: what is confirmed is on the disk; no plugins"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._distribution, self._mapper = free_ports(2)
        self._epmd: Program | None = None
        (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n")
        (folder / "environment.conf").write_text("")
        (folder / "plugins").write_text("[].\n")

    @classmethod
    @override
    def missing(cls) -> str:
        if not (DEBIAN_SCRIPT.exists() or find_program("rabbitmq-server")):
            return "no rabbitmq-server on the PATH; apt-get install rabbitmq-server"
        if not find_program("epmd"):
            return "no epmd on the PATH; apt-get install erlang-base"
        return absent("pika")

    @classmethod
    @override
    def version(cls) -> str:
        return f"RabbitMQ {cls.server or '(its version shows when it runs)'}, pika {version('pika')}"

    server = ""
    """What the server has said of itself when it was first connected to."""

    @override
    def environment(self) -> dict[str, str]:
        """Everything in the folder: no file of the system's own RabbitMQ is read or written."""
        folder = self.folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return kept | {
            "HOME": str(folder),  # where the cookie is
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "peer@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "environment.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }

    @override
    def command(self) -> list[str]:
        return [str(DEBIAN_SCRIPT) if DEBIAN_SCRIPT.exists() else find_program("rabbitmq-server")]

    @override
    def launch(self) -> None:
        mapper = [find_program("epmd"), "-port", str(self._mapper), "-address", "127.0.0.1"]
        log = self.folder / "epmd.txt"
        self._epmd = Program(mapper, log, self.environment())  # the node would start one, and leave it behind
        super().launch()

    @override
    def answers(self) -> bool:
        return ask(self.port, PROTOCOL_HEADER, METHOD_FRAME)

    @override
    def close(self) -> None:
        super().close()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.kill()

    @property
    @override
    def node_pid(self) -> int:
        """The Erlang machine, which a script has started."""
        names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in descendants(self.program.pid)}
        return next((pid for pid, name in names.items() if name == "beam.smp"), self.program.pid)

    def run(self, job: Callable[[Any, Callable[[], None]], None]) -> None:
        """Give a job a channel, and run its callbacks until it calls what it is given besides."""
        import pika  # noqa: PLC0415 - the lines of a client that is missing shall fail alone

        problems: list[object] = []
        is_done = False

        def opened(connection: Any) -> None:
            told = connection.server_properties
            RabbitMQ.server = f"{told['version']} on {told['platform']}"
            connection.channel(on_open_callback=lambda channel: job(channel, finish))

        def closed(_connection: Any, reason: Any) -> None:
            if not is_done:
                problems.append(reason)
            loop.stop()

        def finish() -> None:
            nonlocal is_done
            is_done = True
            connection.close()

        def overdue() -> None:
            problems.append(f"not done within {DONE_SECONDS:g} s")
            loop.stop()

        parameters = pika.ConnectionParameters("127.0.0.1", self.port)
        connection: Any = pika.SelectConnection(parameters, opened, closed, closed)
        loop = connection.ioloop
        loop.call_later(DONE_SECONDS, overdue)
        loop.start()
        if problems:
            message = f"RabbitMQ: {problems[0]}"
            raise RuntimeError(message)


class _Publisher:
    """Publishes so many messages with so many of them awaiting their confirms, and keeps how long that took."""

    def __init__(self, queue: str, value: bytes, count: int, window: int) -> None:
        self._queue, self._value, self._count, self._window = queue, value, count, window
        self._channel: Any = None
        self._finish: Callable[[], None] = lambda: None
        self._sent = self._confirmed = 0
        self._sent_at = self._begun = 0.0
        self.seconds = 0.0
        self.times: list[float] = []
        """How long each took, which means something if the window is one."""

    def __call__(self, channel: Any, finish: Callable[[], None]) -> None:
        self._channel, self._finish = channel, finish
        quorum = {"x-queue-type": "quorum"}
        channel.queue_declare(self._queue, durable=True, arguments=quorum, callback=self._declared)

    def _declared(self, _frame: Any) -> None:
        self._channel.confirm_delivery(self._on_confirm, callback=self._begin)

    def _begin(self, _frame: Any) -> None:
        self._begun = time.perf_counter()
        self._publish()

    def _publish(self) -> None:
        publish, queue, value = self._channel.basic_publish, self._queue, self._value
        for _ in range(min(self._window - self._sent + self._confirmed, self._count - self._sent)):
            self._sent_at = time.perf_counter()
            publish("", queue, value)
            self._sent += 1

    def _on_confirm(self, frame: Any) -> None:
        now = time.perf_counter()
        method = frame.method
        assert method.NAME == "Basic.Ack", f"a message was refused: {method}"
        self._confirmed = method.delivery_tag if method.multiple else self._confirmed + 1
        self.times.append(now - self._sent_at)
        if self._confirmed < self._count:
            self._publish()
        elif not self.seconds:
            self.seconds = now - self._begun
            self._finish()


class _Taker:
    """Takes so many messages, and acknowledges each by a call of its own unless the server need not be told."""

    def __init__(self, queue: str, count: int, *, acknowledges: bool) -> None:
        self._queue, self._count, self._acknowledges = queue, count, acknowledges
        self._channel: Any = None
        self._finish: Callable[[], None] = lambda: None
        self._taken = 0
        self._begun = 0.0
        self.seconds = 0.0

    def __call__(self, channel: Any, finish: Callable[[], None]) -> None:
        self._channel, self._finish = channel, finish
        channel.basic_qos(prefetch_count=WINDOW, callback=self._begin)

    def _begin(self, _frame: Any) -> None:
        self._channel.basic_consume(self._queue, self._take, auto_ack=not self._acknowledges)

    def _take(self, channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._begun = self._begun or time.perf_counter()
        if self._acknowledges:
            channel.basic_ack(method.delivery_tag)
        self._taken += 1
        if self._taken == self._count:
            # the answer to a question that comes after them says that the acknowledgements were taken
            channel.basic_qos(prefetch_count=WINDOW, callback=self._end)

    def _end(self, _frame: Any) -> None:
        self.seconds = time.perf_counter() - self._begun
        self._finish()


def produce(server: RabbitMQ, queue: str, value: bytes, count: int) -> float:
    """Seconds from the first publish to the last confirm, into a queue that is made if there is none."""
    publisher = _Publisher(queue, value, count, WINDOW)
    server.run(publisher)
    return publisher.seconds


def fill(server: RabbitMQ, queue: str, value: bytes, count: int) -> None:
    """Store messages."""
    produce(server, queue, value, count)


def acknowledge(server: RabbitMQ, queue: str, value: bytes, count: int) -> list[float]:
    """How long each of so many messages took from its publish to its confirm, one after the other."""
    publisher = _Publisher(queue, value, count, 1)
    server.run(publisher)
    return publisher.times


def consume(server: RabbitMQ, queue: str, count: int) -> float:
    """Seconds from the first message to the last, taken without acknowledgements; the queue is empty afterwards."""
    taker = _Taker(queue, count, acknowledges=False)
    server.run(taker)
    return taker.seconds


def work_off(server: RabbitMQ, queue: str, count: int) -> float:
    """The same, with basic_ack() for each."""
    taker = _Taker(queue, count, acknowledges=True)
    server.run(taker)
    return taker.seconds


def delete(server: RabbitMQ, queue: str) -> None:
    """Forget a queue."""
    server.run(lambda channel, finish: channel.queue_delete(queue, callback=lambda _frame: finish()))
