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


class LinkState(Enum):
    """How the connection to another node is."""

    UP = "up"
    """Connected, ZeroMQ's handshake included; whether it is the right node is for the two to find out."""
    DOWN = "down"
    """Not connected; whether the node lives is unknown."""
    REFUSED = "refused"
    """Not connected, and its host says that nobody listens there: the node's process is gone."""


LINK_QUEUE_MESSAGES = 1000
"""Messages that a link queues for a node that does not read, before it says FULL."""

OnState: TypeAlias = "Callable[[LinkState], None]"


class PeerLink(Protocol):
    """A way to one other node: ordered while it holds, and everything not yet answered is lost when it breaks.

    It connects again by itself, with back-off, and tells of each change of its state. After a change to UP nothing that
    was sent before arrives, and no answer to it.
    """

    @property
    def state(self) -> LinkState:
        """How the connection is; DOWN at first."""
        ...

    def send(self, frames: Frames) -> SendResult:
        """Queue one message for the node: FULL if too much is queued, GONE unless the link is UP."""
        ...

    def close(self) -> None:
        """Give the link up; tells nothing any more."""
        ...


class Network(Protocol):
    """Makes listeners, and links to other nodes."""

    def listen(self, address: str, on_message: OnMessage) -> Listener:
        """Listen at ``tcp://HOST:PORT``; port 0 picks a free one. Raises ListenError."""
        ...

    def link(self, address: str, on_message: Callable[[Frames], None], on_state: OnState) -> PeerLink:
        """Connect to ``tcp://HOST:PORT`` and stay connected. on_message has the frames of each reply."""
        ...

    def close(self) -> None:
        """Close what is still open."""
        ...
