"""The real network: one ZeroMQ context for a node, and the listeners and links made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from .dealer import DealerLimits
from .listener import IoPoller, ListenerLimits, ZmqListener
from .network import LINK_QUEUE_MESSAGES
from .peer_link import LinkParts, Loop, ZmqPeerLink

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .network import Frames, OnMessage, OnState

_CONNECT_TIMEOUT_MS = 1000
_LINK_HEARTBEAT_MS = 1000
"""How often a link probes the other node, at most: a connection over which packets were lost for a while is made anew
sooner than TCP, whose pauses double, would try it again."""


class ZmqNetwork:
    """Listeners and links over ZeroMQ, served by the reactor's poller.

    The loop is the reactor, for the time between two attempts to connect; the random number generator spreads them.
    """

    def __init__(self, poller: IoPoller, limits: ListenerLimits, loop: Loop, random: Random) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = poller
        self._limits = limits
        heartbeat_ms = min(limits.heartbeat_ivl_ms, _LINK_HEARTBEAT_MS)
        link_limits = DealerLimits(
            max_frame_bytes=limits.max_frame_bytes,
            handshake_ivl_ms=limits.handshake_ivl_ms,
            heartbeat_ivl_ms=heartbeat_ms,
            heartbeat_timeout_ms=3 * heartbeat_ms,
            queue_messages=LINK_QUEUE_MESSAGES,
            connect_timeout_ms=_CONNECT_TIMEOUT_MS,
            tell_refusal=True,
        )
        self._links: list[ZmqPeerLink] = []
        self._link_parts = LinkParts(self._context, poller, loop, random, link_limits)

    def listen(self, address: str, on_message: OnMessage) -> ZmqListener:
        """Listen at ``tcp://HOST:PORT``. Raises ListenError."""
        return ZmqListener(self._context, self._poller, address, self._limits, on_message)

    def link(self, address: str, on_message: Callable[[Frames], None], on_state: OnState) -> ZmqPeerLink:
        """Connect to ``tcp://HOST:PORT`` and stay connected."""
        link = ZmqPeerLink(self._link_parts, address, on_message, on_state)
        self._links = [*(other for other in self._links if not other.closed), link]
        return link

    def close(self) -> None:
        """Close links and the context; every listener has been closed before, and waits for its linger time here."""
        for link in self._links:
            link.close()
        self._context.term()
