"""One ZeroMQ DEALER for one TCP connection, of a client or to another node, watched by a socket monitor.

A DEALER left to itself reconnects in silence, and a request that was under way is then never answered. So this one
never reconnects: the monitor says when the connection stands and when it is gone, whoever owns the dealer fails its
requests at once, throws the dealer away and makes a new one. Events as seen with libzmq 4.3.5:

    refused                  CONNECT_DELAYED CLOSED
    connected                CONNECT_DELAYED CONNECTED HANDSHAKE_SUCCEEDED
    peer died                DISCONNECTED
    peer speaks no ZMTP      CONNECT_DELAYED CONNECTED HANDSHAKE_FAILED_NO_DETAIL DISCONNECTED
    host out of reach        CONNECT_DELAYED CLOSED, once the kernel or connect_timeout_ms gives up
    name does not resolve    CONNECT_DELAYED or nothing at all: only a time-out tells

So no event tells a refusal from a host out of reach. A dealer that stops connecting when it is refused tells it in
another way: it drops the queue that it had made for the peer, and nothing can be sent any more (`was_refused`).

A dealer may be used by any thread, by one at a time: its owner holds a lock around every call.
"""

from __future__ import annotations

import itertools
import os
import socket as sockets
from contextlib import ExitStack, suppress
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
_POLLOUT = int(zmq.POLLOUT)
_EVENTS = zmq.EVENTS
_RCVMORE = zmq.RCVMORE

_NEVER_MS = 3_600_000
"""When ZeroMQ would reconnect: long after the dealer was thrown away. With -1, which means never, it would drop what
was received and not yet read as soon as the connection breaks."""

_numbers = itertools.count()
_shared: list[tuple[int, Context]] = []

_WATCHED = (
    zmq.EVENT_CONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
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
    connect_timeout_ms: int = 0
    """How long a TCP connection may take to stand; 0: as long as the kernel tries."""
    tell_refusal: bool = False
    """Whether `was_refused` shall know. What is queued for a peer that refuses is then dropped at once."""


class DealerError(Exception):
    """No connection can be tried; says why."""


class Dealer:
    """One connection to ``tcp://HOST:PORT``; once BROKEN it stays so.

    Raises DealerError if the address cannot be one, or if this process may have no more sockets or files.
    """

    def __init__(self, context: Context, address: str, limits: DealerLimits) -> None:
        self.state = DealerState.CONNECTING
        self.reason = ""
        """Why the connection broke."""
        self.has_connected = False
        """Whether somebody took the TCP connection; it may still be no node, or none that answers."""
        self._address = address
        self._was_refused = False
        with ExitStack() as made:
            try:
                self._open(context, address, limits, made)
            except zmq.ZMQError as error:
                message = f"ZeroMQ cannot connect to {address}: {error}"
                raise DealerError(message) from error
            made.pop_all()

    def _open(self, context: Context, address: str, limits: DealerLimits, made: ExitStack) -> None:
        """Make the sockets; what was made before one that cannot be made is closed by whoever has given the stack."""
        self._socket = socket = context.socket(zmq.DEALER)
        made.callback(socket.close, 0)
        endpoint = f"inproc://dealer-monitor-{os.getpid()}-{next(_numbers)}"
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, limits.max_frame_bytes)
        socket.setsockopt(zmq.HANDSHAKE_IVL, limits.handshake_ivl_ms)
        socket.setsockopt(zmq.HEARTBEAT_IVL, limits.heartbeat_ivl_ms)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, limits.heartbeat_timeout_ms)
        socket.setsockopt(zmq.SNDHWM, limits.queue_messages)
        socket.setsockopt(zmq.RCVHWM, limits.queue_messages)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, limits.connect_timeout_ms)
        if limits.tell_refusal:
            with suppress(zmq.ZMQError):  # libzmq before 4.3.5 may not know it: then nobody ever refuses
                socket.setsockopt(zmq.RECONNECT_STOP, zmq.RECONNECT_STOP_CONN_REFUSED)
        if "[" in address:
            socket.setsockopt(zmq.IPV6, 1)
        socket.monitor(endpoint, _WATCHED)
        made.callback(socket.disable_monitor)
        self._monitor = context.socket(zmq.PAIR)
        made.callback(self._monitor.close, 0)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(endpoint)
        socket.connect(address)
        self._send = socket.send
        self._recv = socket.recv
        self._get = socket.getsockopt
        self.fds: tuple[int, int] = (int(socket.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD)))
        """Readable when there may be something to do. Edge-triggered: drain `receive` and `check` after every use."""

    @property
    def sockets(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """The socket that `receive` reads and the one that `check` reads, for ZeroMQ's own poller."""
        return self._socket, self._monitor

    @property
    def was_refused(self) -> bool:
        """Whether the peer's host said that nobody listens there; known a moment after the state has become BROKEN."""
        if self.state is not DealerState.BROKEN or self.has_connected:
            return self._was_refused
        return not int(self._get(_EVENTS)) & _POLLOUT

    def check(self) -> DealerState:
        """Hear what the monitor has to say."""
        while self.state is not DealerState.BROKEN and int(self._monitor.getsockopt(_EVENTS)) & _POLLIN:
            frames = self._monitor.recv_multipart(_NOBLOCK)
            event, value = _MONITOR_EVENT.unpack(frames[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.state = DealerState.CONNECTED
            elif event == zmq.EVENT_CONNECTED:
                self.has_connected = True
                if _is_own_end(value):
                    # Done at once: as long as it stands, it keeps the node whose port this is from listening.
                    self._was_refused = True
                    self._break("nobody listens there: TCP connected the port to itself")
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

    def send(self, frames: Sequence[bytes], *, copy: bool = True) -> bool:
        """Queue one message; False if the queue is full or the connection gone: `check` tells which.

        Without copy, frames of 64 KiB or more are sent from where they are, and must not change.
        """
        try:
            last = len(frames) - 1
            for position in range(last):
                self._send(frames[position], _SNDMORE_NOBLOCK, copy)
            self._send(frames[last], _NOBLOCK, copy)
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


def _is_own_end(descriptor: int) -> bool:
    """Whether a connection is one of a port with itself, which TCP allows: a client's port may be the one it calls."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return False
    try:
        # The number may belong to another file by now, which need be no socket at all.
        end = sockets.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return False
    with end:
        try:
            return bool(end.getsockname() == end.getpeername())
        except OSError:
            return False
