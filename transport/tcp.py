"""A TCP listener whose messages are frames with a length before them, as in Kafka's protocol; on the reactor's poller.

All connections wait in one epoll (or kqueue) of the listener, whose own descriptor the reactor's poller watches: a
thousand idle connections cost a poll nothing. A frame's bytes are received where they stay, and a reply's parts leave
with one gathering write. Nothing here blocks.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket as sockets
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from .listener import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

    from .listener import IoPoller
    from .peer_link import Loop

logger = logging.getLogger(__name__)

Frame: TypeAlias = bytes | bytearray

LENGTH_BYTES: Final = 4
_RECEIVE_BYTES: Final = 64 * 1024
_FRAME_STEP: Final = 1024 * 1024
"""A longer frame gets its room as its bytes come: who only says that much will come costs no more than this."""
_BYTES_A_CALL: Final = 1024 * 1024
"""What one connection may bring before the others, and the actors, get their turn."""
_BUFFERS_A_WRITE: Final = 1024
"""IOV_MAX: more are refused by the system."""
_ACCEPTS_A_CALL: Final = 64
_ACCEPT_AGAIN_MS: Final = 100.0
_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE


class TcpHandler(Protocol):
    """Who hears one connection."""

    def on_frames(self, frames: list[Frame]) -> None:
        """Whole frames have come, without their lengths."""
        ...

    def on_drained(self) -> None:
        """All that was to be sent has left, which the system had not taken at once."""
        ...

    def on_closed(self, why: str) -> None:
        """The connection is over, by whoever's will; nothing comes after this."""
        ...


class TcpConnection:
    """One accepted connection. All calls come from the reactor's thread."""

    def __init__(self, listener: TcpListener, socket: sockets.socket, peer: str) -> None:
        self.peer = peer
        """HOST:PORT of the client."""
        self.unsent_bytes = 0
        """What was given to ``send`` and has not left yet."""
        self.handler: TcpHandler
        self._listener = listener
        self._socket = socket
        self._head = b""
        """The beginning of a frame whose length is not yet complete, or which is short."""
        self._frame: bytearray | None = None
        """A long frame that is being received, with room for some of it."""
        self._length = 0
        self._got = 0
        self._outbox: deque[memoryview] = deque()
        self._reading = True
        self._events = 0
        self.closed = False

    # ---- receiving

    def pause(self) -> None:
        """Hear no more: what the client sends stays with the operating system, which slows it down."""
        self._reading = False
        self.watch()

    def resume(self) -> None:
        """Hear again."""
        self._reading = True
        self.watch()

    def watch(self) -> None:
        """Have the selector wait for what is wanted now."""
        if self.closed:
            return
        wanted = (_READ if self._reading and self._listener.hearing else 0) | (_WRITE if self._outbox else 0)
        if wanted != self._events:
            self._listener.select(self._socket, self._events, wanted, self._ready)
            self._events = wanted

    def _ready(self, events: int) -> None:
        if events & _WRITE and self._outbox:
            self._write()
            if not self._outbox and not self.closed:
                self.handler.on_drained()
        if events & _READ and self._reading and self._listener.hearing and not self.closed:
            self._read()

    def _read(self) -> None:
        frames: list[Frame] = []
        try:
            left = _BYTES_A_CALL
            while left > 0:
                count = self._receive(frames)
                if count == 0:
                    break
                left -= count
        except _FrameError as error:
            self._tell(frames)
            logger.warning("closed the connection from %s: %s", self.peer, error)
            self.close(str(error))
            return
        except EOFError:
            self._tell(frames)
            self.close("the client has closed it")
            return
        except OSError as error:
            self._tell(frames)
            self.close(os.strerror(error.errno or 0))
            return
        self._tell(frames)

    def _tell(self, frames: list[Frame]) -> None:
        if frames:
            self.handler.on_frames(frames)

    def _receive(self, frames: list[Frame]) -> int:
        """Receive once; 0: there is no more for now. Raises OSError, EOFError, or _FrameError for what is no frame."""
        try:
            if self._frame is not None:
                return self._receive_long(self._frame, frames)
            data = self._socket.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return 0
        if not data:
            raise EOFError
        self._split(self._head + data if self._head else data, frames)
        return len(data) if len(data) == _RECEIVE_BYTES else 0

    def _receive_long(self, frame: bytearray, frames: list[Frame]) -> int:
        with memoryview(frame) as view:
            count = self._socket.recv_into(view[self._got :])
        if not count:
            raise EOFError
        self._got += count
        if self._got == self._length:
            self._frame = None
            frames.append(frame)
        elif self._got == len(frame):
            frame.extend(bytes(min(len(frame), self._length - len(frame))))
        return count

    def _split(self, data: bytes, frames: list[Frame]) -> None:
        position, end = 0, len(data)
        while position + LENGTH_BYTES <= end:
            length = int.from_bytes(data[position : position + LENGTH_BYTES], "big", signed=True)
            if not 0 < length <= self._listener.max_frame_bytes:
                raise _FrameError(self._listener.explain(data[position:], length))
            start = position + LENGTH_BYTES
            if start + length > end:
                if length > _RECEIVE_BYTES:
                    self._begin_long(data[start:], length)
                    position = end
                break
            frames.append(data[start : start + length])
            position = start + length
        self._head = data[position:]

    def _begin_long(self, begun: bytes, length: int) -> None:
        self._frame = bytearray(min(length, _FRAME_STEP))
        self._frame[: len(begun)] = begun
        self._length, self._got = length, len(begun)

    # ---- sending

    def send(self, buffers: Iterable[Buffer]) -> None:
        """Send all of it, in order; what the system does not take at once leaves later."""
        if self.closed:
            return
        was_empty = not self._outbox
        for buffer in buffers:
            view = memoryview(buffer)
            if view.nbytes:
                self._outbox.append(view)
                self.unsent_bytes += view.nbytes
        if was_empty and self._outbox:
            self._write()

    def _write(self) -> None:
        outbox = self._outbox
        while outbox:
            batch = outbox if len(outbox) <= _BUFFERS_A_WRITE else [outbox[index] for index in range(_BUFFERS_A_WRITE)]
            try:
                count = self._socket.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self.close(os.strerror(error.errno or 0))
                return
            self.unsent_bytes -= count
            while count:
                view = outbox[0]
                if view.nbytes > count:
                    outbox[0] = view[count:]
                    break
                count -= view.nbytes
                outbox.popleft()
        self.watch()

    # ---- the end

    def close(self, why: str) -> None:
        """End the connection; what has not left is dropped. The handler hears of it."""
        if self.closed:
            return
        if self._events:
            self._listener.select(self._socket, self._events, 0, self._ready)
        self.closed = True
        self._outbox.clear()
        self._frame = None
        self._head = b""
        self._socket.close()
        self._listener.forget(self)
        self.handler.on_closed(why)


class TcpListener:
    """A listening TCP socket and the connections that it has accepted.

    on_connection makes the handler of each. max_frame_bytes is the longest frame that a client may send; explain says
    what a client seems to be whose first bytes are no frame of an allowed length.
    """

    def __init__(
        self,
        poller: IoPoller,
        loop: Loop,
        address: str,
        *,
        max_frame_bytes: int,
        on_connection: Callable[[TcpConnection], TcpHandler],
        explain: Callable[[bytes, int], str],
    ) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.explain = explain
        self.hearing = False
        self._accepting = False
        self._poller = poller
        self._loop = loop
        self._on_connection = on_connection
        self._connections: dict[TcpConnection, None] = {}
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        host = host.strip("[]")
        try:
            family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
            self._socket = sockets.create_server(("" if host == "*" else host, int(port)), family=family, backlog=1024)
        except OSError as error:
            raise ListenError(_why_not(address, error)) from error
        self._socket.setblocking(False)  # noqa: FBT003 - the system call's own signature
        self._selector = selectors.DefaultSelector()
        self._poller.register(self._selector.fileno(), self._select)

    @property
    def port(self) -> int:
        """The real one."""
        return int(self._socket.getsockname()[1])

    @property
    def unsent_bytes(self) -> int:
        """What was to be sent to all clients and has not left yet."""
        return sum(connection.unsent_bytes for connection in self._connections)

    # ---- connections

    def resume(self) -> None:
        """Hear clients, and accept new ones."""
        if not self.hearing:
            self.hearing = True
            self._set_accepting(wanted=True)
            for connection in self._connections:
                connection.watch()

    def pause(self) -> None:
        """Hear nobody; replies still leave."""
        if self.hearing:
            self.hearing = False
            self._set_accepting(wanted=False)
            for connection in self._connections:
                connection.watch()

    def select(self, socket: sockets.socket, now: int, wanted: int, callback: Callable[[int], None]) -> None:
        """Change what is waited for on a connection's socket. For connections alone."""
        if not now:
            self._selector.register(socket, wanted, callback)
        elif wanted:
            self._selector.modify(socket, wanted, callback)
        else:
            self._selector.unregister(socket)

    def forget(self, connection: TcpConnection) -> None:
        """A connection is over. For connections alone."""
        self._connections.pop(connection, None)

    def _select(self) -> None:
        for key, events in self._selector.select(0):
            key.data(events)

    def _set_accepting(self, *, wanted: bool) -> None:
        if wanted and not self._accepting:
            self._selector.register(self._socket, _READ, lambda _: self._accept())
        elif self._accepting and not wanted:
            self._selector.unregister(self._socket)
        self._accepting = wanted

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_CALL):
            try:
                socket, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors left, most likely: asking again at once would help nobody
                logger.error("a connection cannot be accepted: %s", os.strerror(error.errno or 0))  # noqa: TRY400
                self._set_accepting(wanted=False)
                self._loop.call_later(_ACCEPT_AGAIN_MS, lambda: self._set_accepting(wanted=self.hearing))
                return
            socket.setblocking(False)  # noqa: FBT003 - the system call's own signature
            socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
            connection = TcpConnection(self, socket, f"{host}:{peer[1]}")
            self._connections[connection] = None
            connection.handler = self._on_connection(connection)
            connection.watch()

    def close(self) -> None:
        """Stop listening, and end all connections."""
        self.pause()
        for connection in list(self._connections):
            connection.close("the node stops")
        self._poller.unregister(self._selector.fileno())
        self._selector.close()
        self._socket.close()


class _FrameError(Exception):
    """What has come is no frame."""


def _why_not(address: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"the address {address} is in use by another process: stop it or listen on another port"
    if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return f"the address {address} belongs to no interface of this host"
    return f"cannot listen on {address}: {error.strerror or error}"
