"""The real network: one ZeroMQ context for a node, and the listeners made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from .listener import IoPoller, ListenerLimits, ZmqListener

if TYPE_CHECKING:
    from .network import OnMessage


class ZmqNetwork:
    """Listeners over ZeroMQ, served by the reactor's poller."""

    def __init__(self, poller: IoPoller, limits: ListenerLimits) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = poller
        self._limits = limits

    def listen(self, address: str, on_message: OnMessage) -> ZmqListener:
        """Listen at ``tcp://HOST:PORT``. Raises ListenError."""
        return ZmqListener(self._context, self._poller, address, self._limits, on_message)

    def close(self) -> None:
        """Close the context; every listener has been closed before, and waits for its linger time here."""
        self._context.term()
