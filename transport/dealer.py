"""The client's socket: one ZeroMQ DEALER for one TCP connection, watched by a socket monitor.

A DEALER left to itself reconnects in silence, and a request that was under way is then never answered. So this one
never reconnects: the monitor says when the connection stands and when it is gone, whoever owns the dealer fails its
requests at once, throws the dealer away and makes a new one. Events as seen with libzmq 4.3.5 and a reconnect interval
of -1:

    refused                  CONNECT_DELAYED CLOSED
    connected                CONNECT_DELAYED CONNECTED HANDSHAKE_SUCCEEDED
    peer died                DISCONNECTED
    peer speaks no ZMTP      CONNECT_DELAYED CONNECTED HANDSHAKE_FAILED_NO_DETAIL DISCONNECTED
    name does not resolve    CONNECT_DELAYED or nothing at all: only a time-out tells

A dealer may be used by any thread, by one at a time: its owner holds a lock around every call.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

import zmq

if TYPE_CHECKING:
    from collections.abc import Sequence

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"

_MONITOR_EVENT = Struct("=HI")
# Plain numbers: arithmetic on enumerations costs more than the calls it is for.
_NOBLOCK = int(zmq.NOBLOCK)
_SNDMORE_NOBLOCK = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
_EVENTS = zmq.EVENTS
_RCVMORE = zmq.RCVMORE

_numbers = itertools.count()
_shared: list[tuple[int, Context]] = []

_WATCHED = (
    zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)  # fmt: skip
_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


def shared_context() -> Context:
    """The process's ZeroMQ context for clients: one I/O thread in C++ serves them all. A forked child gets its own."""
    if not _shared or _shared[-1][0] != os.getpid():
        # The parent's context stays referenced: closing it in the child would wait for threads that are not there.
        _shared.append((os.getpid(), zmq.Context()))
    return _shared[-1][1]


class DealerState(Enum):
    """How far the connection is."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    BROKEN = "broken"


@dataclass(frozen=True)
class DealerLimits:
    """What a dealer allows its peer; times in ms, sizes in bytes."""

    max_frame_bytes: int = 256 * 1024 * 1024
    handshake_ivl_ms: int = 5_000
    heartbeat_ivl_ms: int = 3_000
    """How often ZeroMQ's own thread asks a silent peer for a sign of life."""
    heartbeat_timeout_ms: int = 6_000
    """How long it waits for one before it gives the connection up: a stopped or unreachable host is noticed."""
    queue_messages: int = 1_000


class Dealer:
    """One connection to ``tcp://HOST:PORT``; once BROKEN it stays so.

    Raises ValueError if the address cannot be one.
    """

    def __init__(self, context: Context, address: str, limits: DealerLimits) -> None:
        self.state = DealerState.CONNECTING
        self.reason = ""
        """Why the connection broke."""
        self._address = address
        self._socket = socket = context.socket(zmq.DEALER)
        endpoint = f"inproc://dealer-monitor-{os.getpid()}-{next(_numbers)}"
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.MAXMSGSIZE, limits.max_frame_bytes)
        socket.setsockopt(zmq.HANDSHAKE_IVL, limits.handshake_ivl_ms)
        socket.setsockopt(zmq.HEARTBEAT_IVL, limits.heartbeat_ivl_ms)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, limits.heartbeat_timeout_ms)
        socket.setsockopt(zmq.SNDHWM, limits.queue_messages)
        socket.setsockopt(zmq.RCVHWM, limits.queue_messages)
        if "[" in address:
            socket.setsockopt(zmq.IPV6, 1)
        socket.monitor(endpoint, _WATCHED)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(endpoint)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            message = f"{address} is not an address that ZeroMQ can connect to: {error}"
            raise ValueError(message) from error
        self._send = socket.send
        self._recv = socket.recv
        self._get = socket.getsockopt
        self.fds: tuple[int, int] = (int(socket.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD)))
        """Readable when there may be something to do. Edge-triggered: drain `receive` and `check` after every use."""

    def check(self) -> DealerState:
        """Hear what the monitor has to say."""
        while self.state is not DealerState.BROKEN and int(self._monitor.getsockopt(_EVENTS)) & _POLLIN:
            frames = self._monitor.recv_multipart(_NOBLOCK)
            event, _ = _MONITOR_EVENT.unpack(frames[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.state = DealerState.CONNECTED
            elif event == zmq.EVENT_DISCONNECTED:
                self._break("the connection was lost")
            elif event & _HANDSHAKE_FAILED:
                self._break("what listens there does not speak this protocol (ZMTP), or hung during its handshake")
            elif event == zmq.EVENT_CLOSED and self.state is DealerState.CONNECTING:
                self._break("the connection was refused")
        return self.state

    def _break(self, reason: str) -> None:
        self.state = DealerState.BROKEN
        self.reason = reason

    def send(self, frames: Sequence[bytes]) -> bool:
        """Queue one message; False if the queue is full or the connection gone: `check` tells which."""
        try:
            last = len(frames) - 1
            for position in range(last):
                self._send(frames[position], _SNDMORE_NOBLOCK)
            self._send(frames[last], _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[bytes] | None:
        """The frames of the next message, or None."""
        if not int(self._get(_EVENTS)) & _POLLIN:
            return None
        recv = self._recv
        frames = [recv(_NOBLOCK)]
        while self._get(_RCVMORE):
            frames.append(recv(_NOBLOCK))
        return frames

    def close(self, linger_ms: int = 0) -> None:
        """Give the connection up; what was sent has this long to leave, in the background."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)
