"""A link to another node: a DEALER on the reactor's poller that is made anew, never reconnected, when it breaks.

    waiting --back-off over--> (looking the name up) --> connecting --handshake--> UP
       ^                                                     |                      |
       `-- DOWN, or REFUSED: settled a moment later ---------'-------- broken ------'

ZeroMQ would reconnect by itself, and send what it still holds to the node's next life. Here each connection has a
socket of its own: what was under way is lost with it, which whoever asked is told by the change of state.

REFUSED is only said when the host answered the TCP connection with a refusal. A host that is out of reach, a name that
does not resolve, a process that hangs: all that is DOWN.
"""

from __future__ import annotations

import logging
import socket as sockets
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from .dealer import Dealer, DealerError, DealerState
from .network import LinkState, SendResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    import zmq

    from .dealer import Context, DealerLimits
    from .listener import IoPoller
    from .network import Frames, OnState

logger = logging.getLogger(__name__)

RETRY_MS_MIN = 10.0
RETRY_MS_MAX = 500.0
_STEADY_AFTER_MS = 1000.0
"""A connection that has stood for so long is worth a quick retry again; one that breaks at once is not."""
_SETTLE_MS = 3.0
"""How long after a failed connect it is known whether it was refused: some 10 us, if ZeroMQ's thread may run."""

_MESSAGES_A_CALL = 64
_BYTES_A_CALL = 8 * 1024 * 1024


class Cancellable(Protocol):
    """A timer."""

    def cancel(self) -> None:
        """Never run."""
        ...


class Loop(Protocol):
    """What links need of the reactor that runs them."""

    def call_later(self, delay_ms: float, callback: Callable[[], object]) -> Cancellable:
        """Run the callback in delay_ms."""
        ...

    def call_from_thread(self, callback: Callable[[], object]) -> bool:
        """Run the callback on the reactor's thread, from any thread; False if that has ended."""
        ...


@dataclass(frozen=True)
class LinkParts:
    """What all links of a node share."""

    context: Context
    poller: IoPoller
    loop: Loop
    random: Random
    limits: DealerLimits


class ZmqPeerLink:
    """One link. All calls come from the reactor's thread."""

    def __init__(self, parts: LinkParts, address: str, on_message: Callable[[Frames], None], on_state: OnState) -> None:
        self.state = LinkState.DOWN
        self._context, self._limits = parts.context, parts.limits
        self._poller, self._loop, self._random = parts.poller, parts.loop, parts.random
        self._address = address
        self._on_message = on_message
        self._on_state = on_state
        self._dealer: Dealer | None = None
        self._watched: tuple[zmq.Socket[bytes], ...] = ()
        self._timer: Cancellable | None = None
        """Of the next step: a retry, the settling of a failure, or that the connection counts as steady."""
        self._retry_ms = RETRY_MS_MIN
        self._last_failure = ""
        self.closed = False
        self._connect()

    def send(self, frames: Frames) -> SendResult:
        """Queue one message: FULL if too much is queued, GONE unless the link is UP."""
        if self.state is not LinkState.UP or self._dealer is None:
            return SendResult.GONE
        return SendResult.SENT if self._dealer.send(frames, copy=False) else SendResult.FULL

    def close(self) -> None:
        """Give the link up; tells nothing any more."""
        self.closed = True
        self.state = LinkState.DOWN
        if self._timer is not None:
            self._timer.cancel()
        self._drop_dealer()

    # ---- connecting

    def _connect(self) -> None:
        """Make the next connection, to a numeric address.

        ZeroMQ would look a name up on the thread that moves the bytes of all connections, and a name server that does
        not answer would stop them all.
        """
        host, _, port = self._address.removeprefix("tcp://").rpartition(":")
        host = host.strip("[]")
        found = look_up(host, port, sockets.AI_NUMERICHOST)
        if found is not None:
            self._open(found)
            return

        def find() -> None:
            address = look_up(host, port)
            self._loop.call_from_thread(partial(self._looked_up, address))

        try:
            threading.Thread(target=find, name=f"look-up-{host}", daemon=True).start()
        except RuntimeError as error:
            self._failed(f"the name in {self._address} cannot be looked up: {error}")

    def _looked_up(self, address: str | None) -> None:
        if self.closed:
            return
        if address is not None:
            self._open(address)
            return
        self._failed(f"the name in {self._address} is not known")

    def _open(self, address: str) -> None:
        try:
            self._dealer = dealer = Dealer(self._context, address, self._limits)
        except DealerError as error:
            self._failed(f"no link can be made: {error}")
            return
        self._watched = data, monitor = dealer.sockets
        self._poller.register(data, self._receive)
        self._poller.register(monitor, self._watch)

    def _failed(self, why: str) -> None:
        """There is nothing to watch: try again later. Why is logged once for each reason in a row."""
        if why != self._last_failure:
            self._last_failure = why
            logger.warning("%s", why)
        self._retry_later()
        self._change(LinkState.DOWN)

    def _watch(self) -> None:
        """Hear of the connection's life."""
        dealer = self._dealer
        if dealer is None:
            return
        state = dealer.check()
        if state is DealerState.CONNECTED:
            if self.state is not LinkState.UP:
                self._last_failure = ""
                self._set_timer(_STEADY_AFTER_MS, self._count_as_steady)
                self._change(LinkState.UP)
        elif state is DealerState.BROKEN:
            self._end(dealer)
        elif dealer.has_connected and self.state is LinkState.REFUSED:
            self._change(LinkState.DOWN)  # somebody listens there again

    def _end(self, dealer: Dealer) -> None:
        """A connection has broken, or an attempt failed."""
        if self.state is LinkState.UP:
            while self._dealer is dealer and (frames := dealer.receive()) is not None:
                self._on_message(frames)  # an answer that came before the end is an answer
        if self._dealer is not dealer:
            return  # closed by whoever heard the message
        if dealer.has_connected:
            self._settle()
        else:
            self._unwatch()
            self._set_timer(_SETTLE_MS, self._settle)

    def _settle(self) -> None:
        """Say what a failure means: now it is known."""
        assert self._dealer is not None, "an attempt is settled that was never made"
        state = LinkState.REFUSED if self._dealer.was_refused else LinkState.DOWN
        self._drop_dealer()
        self._retry_later()
        self._change(state)

    def _retry_later(self) -> None:
        self._set_timer(self._retry_ms * self._random.uniform(0.5, 1.0), self._connect)
        self._retry_ms = min(2 * self._retry_ms, RETRY_MS_MAX)

    def _count_as_steady(self) -> None:
        self._retry_ms = RETRY_MS_MIN

    def _set_timer(self, delay_ms: float, callback: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_ms, callback)

    def _drop_dealer(self) -> None:
        self._unwatch()
        dealer, self._dealer = self._dealer, None
        if dealer is not None:
            dealer.close()

    def _unwatch(self) -> None:
        for source in self._watched:
            self._poller.unregister(source)
        self._watched = ()

    def _change(self, state: LinkState) -> None:
        if state is not self.state:
            self.state = state
            self._on_state(state)

    # ---- messages

    def _receive(self) -> None:
        """Take in what is there, up to a budget, so that the actors get their turn under a flood."""
        self._watch()  # the handshake's end may not have been heard yet, though it came before
        dealer = self._dealer
        if dealer is None or self.state is not LinkState.UP:
            return
        budget = _BYTES_A_CALL
        for _ in range(_MESSAGES_A_CALL):
            frames = dealer.receive()
            if frames is None:
                return
            budget -= sum(map(len, frames))
            self._on_message(frames)
            if budget < 0 or self._dealer is not dealer:
                return


def look_up(host: str, port: str, flags: int = 0) -> str | None:
    """An address for ZeroMQ with a number instead of a name; of IPv4 if there is one. None: the name is not known."""
    try:
        found = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):
        return None
    found.sort(key=lambda entry: entry[0] is not sockets.AF_INET)
    number = found[0][4][0]
    return f"tcp://[{number}]:{port}" if found[0][0] is sockets.AF_INET6 else f"tcp://{number}:{port}"
