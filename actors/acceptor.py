"""The acceptor: where clients' messages enter a node. Each routing id, so each connection, gets a session actor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .commands import Frames
from .session import ClientSession

if TYPE_CHECKING:
    from ..transport.network import Network
    from .context import NodeContext

_PREFIX = "session/"


class Acceptor:
    """Listens, and brings what it hears to the sessions. It hears nothing before ``open`` and after ``close``."""

    def __init__(self, context: NodeContext, network: Network) -> None:
        self._context = context
        self._listener = network.listen(context.config.listen, self._on_message)
        self._listener.pause()

    @property
    def address(self) -> str:
        """Where it listens, with the real port."""
        return self._listener.address

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The same in two parts."""
        host, _, port = self._listener.address.removeprefix("tcp://").rpartition(":")
        return host.strip("[]"), int(port)

    def open(self) -> None:
        """Begin to hear clients."""
        self._context.listeners.append(self._listener)
        self._listener.resume()

    def close(self) -> None:
        """Hear no more; answers still leave."""
        self._listener.pause()

    def shut_down(self, linger_ms: int) -> None:
        """Give the address back; what is queued has this long to leave. A network closes only after its listeners."""
        self._listener.close(linger_ms)

    def _on_message(self, routing_id: bytes, frames: list[bytes]) -> None:
        address = _PREFIX + routing_id.hex()
        reactor = self._context.reactor
        session = reactor.lookup(address)
        if session is None:
            session = reactor.spawn(
                ClientSession, self._context, self._listener, routing_id, self._on_message, address=address
            )
            self._context.counters["sessions-opened"] += 1
        session.tell(Frames(frames))

    def tell_sessions(self, message: Any) -> None:
        """Tell every session."""
        for address in self._context.reactor.addresses():
            if address.startswith(_PREFIX):
                self._context.reactor.tell(address, message)
