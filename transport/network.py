"""The network as the broker sees it: protocols that ZeroMQ and the simulator both satisfy.

A listener hears messages from clients, each under the routing id of its connection, and sends answers back to it. A
peer link carries messages to one other node. Neither ever blocks, and neither drops a message without saying so.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Frames = list[bytes]
OnMessage: TypeAlias = "Callable[[bytes, list[bytes]], None]"
"""Called with the routing id and the frames of one message."""


class SendResult(Enum):
    """What became of a message given to a listener."""

    SENT = "sent"
    FULL = "full"
    """The client reads too slowly and its queue is full: try again later."""
    GONE = "gone"
    """No connection has this routing id any more."""


class Listener(Protocol):
    """Where clients connect."""

    @property
    def address(self) -> str:
        """What clients connect to, such as ``tcp://127.0.0.1:9292``; never port 0."""
        ...

    def send(self, routing_id: bytes, frames: Frames) -> SendResult:
        """Queue one message for a client."""
        ...

    def pause(self) -> None:
        """Stop hearing: messages stay with the operating system, which slows their senders down."""
        ...

    def resume(self) -> None:
        """Hear again."""
        ...

    def close(self, linger_ms: int) -> None:
        """Stop listening; what is queued has this long to leave."""
        ...


class PeerLink(Protocol):
    """A way to one other node: ordered while it holds, and everything not yet answered is lost when it breaks."""

    @property
    def node_id(self) -> int:
        """The node at the other end."""
        ...

    def send(self, frames: Frames) -> SendResult:
        """Queue one message for the node; GONE while the link is down."""
        ...

    def close(self) -> None:
        """Give the link up."""
        ...


class Network(Protocol):
    """Makes listeners."""

    def listen(self, address: str, on_message: OnMessage) -> Listener:
        """Listen at ``tcp://HOST:PORT``; port 0 picks a free one. Raises ListenError."""
        ...

    def close(self) -> None:
        """Close what is still open."""
        ...


class PeerNetwork(Network, Protocol):
    """Makes links to other nodes too: what a cluster's nodes need of a network."""

    def link(self, node_id: int, address: str, on_message: OnMessage, on_state: Callable[[bool], None]) -> PeerLink:
        """Connect to another node and stay connected; on_state hears of every gain and loss of the connection."""
        ...
