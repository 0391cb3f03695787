"""The Kafka listener of one node: it accepts connections, makes an actor for each, and says who did not speak Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..transport.listener import ListenError
from ..transport.tcp import TcpListener

if TYPE_CHECKING:
    from ..actors.context import NodeContext
    from ..transport.listener import IoPoller
    from ..transport.tcp import TcpConnection, TcpHandler

_PREFIX = "kafka/"


class KafkaGateway:
    """Listens at ``kafka.listen`` from its making on. It hears nobody before ``open`` and after ``close``."""

    def __init__(self, context: NodeContext, poller: IoPoller) -> None:
        self._context = context
        self._made = 0
        try:
            self._listener = TcpListener(
                poller,
                context.reactor,
                context.config.kafka_listen,
                max_frame_bytes=context.config.socket_request_max_bytes,
                on_connection=self._accept,
                explain=explain,
            )
        except ListenError as error:
            message = (
                f"kafka.listen, where Kafka's clients connect: {error.message}. --kafka-listen HOST:PORT names another"
                " address, and --kafka-listen none does without"
            )
            raise ListenError(message) from error

    @property
    def listen_address(self) -> str:
        """Where it listens, as ``tcp://HOST:PORT`` with the real port."""
        host, _, _ = self._context.config.kafka_listen.rpartition(":")
        return f"{host}:{self._listener.port}"

    def open(self) -> None:
        """Begin to hear clients."""
        self._context.listeners.append(self._listener)
        self._listener.resume()

    def close(self) -> None:
        """Hear no more; answers still leave."""
        self._listener.pause()

    @property
    def is_sending(self) -> bool:
        """Whether responses are on their way to clients."""
        return self._listener.unsent_bytes > 0

    def tell_connections(self, message: Any) -> None:
        """Tell every connection's actor."""
        for address in self._context.reactor.addresses():
            if address.startswith(_PREFIX):
                self._context.reactor.tell(address, message)

    def shut_down(self) -> None:
        """Give the address back."""
        self._listener.close()

    def _accept(self, wire: TcpConnection) -> TcpHandler:
        # Kafka's schemas take 0.3 s to import: the first client waits for that, and not the node's start.
        from .connection import KafkaConnection, Wire  # noqa: PLC0415

        self._made += 1
        self._context.counters["kafka-connections-opened"] += 1
        address = f"{_PREFIX}{self._made}"
        return Wire(self._context.reactor.spawn(KafkaConnection, self._context, wire, address=address))


_STRANGERS = (
    (b"\x16\x03", "TLS, which the Kafka listener does not speak: set security.protocol=PLAINTEXT"),
    (b"GET ", "HTTP: this is no web server"),
    (b"POST", "HTTP: this is no web server"),
    (b"PUT ", "HTTP: this is no web server"),
    (b"HEAD", "HTTP: this is no web server"),
    (b"OPTI", "HTTP: this is no web server"),
    (b"\xff\0\0\0", "ZeroMQ: clients of zmqbroker connect to the port of `listen`"),
)
"""What others send first."""


def explain(begun: bytes, length: int) -> str:
    """What a client seems to be whose first bytes are no request of an allowed length."""
    for start, what in _STRANGERS:
        if begun.startswith(start):
            return f"it speaks {what}"
    return f"a request begins with a length of {length} bytes, which is none or more than socket.request.max.bytes"
