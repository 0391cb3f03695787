"""The broker's listening socket: a ROUTER on the reactor's poller, with limits, watched by a socket monitor.

Every connection has a routing id of its own, made by ZeroMQ and never used again, so a routing id stands for one TCP
connection. What a ROUTER does silently by default is made loud here: sending to a client that is gone or whose queue is
full is reported to the caller (ROUTER_MANDATORY), and a connection that never got through ZeroMQ's handshake (a
browser, a TLS or Kafka client, a stalled peer) is logged with its address.
"""

from __future__ import annotations

import errno
import logging
import os
import socket as sockets
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Protocol

import zmq

from ..errors import ZmqBrokerError
from .network import SendResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from .network import Frames, OnMessage

logger = logging.getLogger(__name__)

MONITOR_EVENT = Struct("=HI")
"""A socket monitor's message: the event, and a value, here the connection's descriptor. pyzmq's own reader of it
imports asyncio, which would be a twentieth of a node's start."""

_MESSAGES_A_CALL = 64
_BYTES_A_CALL = 8 * 1024 * 1024
_ZERO_COPY_BYTES = 64 * 1024

# Plain numbers: the enumerations of pyzmq cost a call at every use.
_NOW = int(zmq.NOBLOCK)
_NOW_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_READABLE = int(zmq.POLLIN)


class ListenError(ZmqBrokerError):
    """The address cannot be listened on."""


class IoPoller(Protocol):
    """What a listener needs of the reactor's poller."""

    def register(self, source: zmq.Socket[bytes] | int, callback: Callable[[], None]) -> None:
        """Call back on the reactor's thread whenever there is something to read."""
        ...

    def unregister(self, source: zmq.Socket[bytes] | int) -> None:
        """Stop calling back."""
        ...


@dataclass(frozen=True)
class ListenerLimits:
    """What a listener allows its peers; times in ms, sizes in bytes."""

    max_frame_bytes: int
    handshake_ivl_ms: int
    heartbeat_ivl_ms: int
    send_queue_messages: int = 100
    """Messages queued for a client that does not read, before it counts as slow."""
    receive_queue_messages: int = 100
    """Messages read ahead for each client, before its TCP connection is left unread."""


class ZmqListener:
    """A ROUTER bound to one address. All calls come from the reactor's thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: IoPoller,
        address: str,
        limits: ListenerLimits,
        on_message: OnMessage,
    ) -> None:
        self._poller = poller
        self._on_message = on_message
        self._listening = False
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.MAXMSGSIZE, limits.max_frame_bytes)
        router.setsockopt(zmq.HANDSHAKE_IVL, limits.handshake_ivl_ms)
        router.setsockopt(zmq.HEARTBEAT_IVL, limits.heartbeat_ivl_ms)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * limits.heartbeat_ivl_ms)
        router.setsockopt(zmq.SNDHWM, limits.send_queue_messages)
        router.setsockopt(zmq.RCVHWM, limits.receive_queue_messages)
        router.setsockopt(zmq.BACKLOG, 1024)
        if "[" in address:
            router.setsockopt(zmq.IPV6, 1)
        self._monitor = _ConnectionMonitor(router, poller)
        try:
            router.bind(address)
        except zmq.ZMQError as error:
            self._monitor.close()
            router.close(linger=0)
            raise ListenError(_why_not(address, error)) from error
        self._router = router
        self._address = router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.resume()

    @property
    def address(self) -> str:
        """What clients connect to."""
        return self._address

    def pause(self) -> None:
        """Stop hearing."""
        if self._listening:
            self._poller.unregister(self._router)
            self._listening = False

    def resume(self) -> None:
        """Hear again."""
        if not self._listening:
            self._poller.register(self._router, self._receive)
            self._listening = True

    def _receive(self) -> None:
        """Take in what is there, up to a budget, so that the actors get their turn under a flood."""
        router = self._router
        receive = router.recv
        budget = _BYTES_A_CALL
        for _ in range(_MESSAGES_A_CALL):
            try:
                routing_id = receive(_NOW)
            except zmq.Again:
                return  # its connection broke after the poll
            # A frame knows whether another follows; asking the socket costs more than making the frame object.
            frame = receive(_NOW, copy=False)
            frames = [frame.bytes]
            while frame.more:
                frame = receive(_NOW, copy=False)
                frames.append(frame.bytes)
            self._on_message(routing_id, frames)
            budget -= sum(map(len, frames))
            # Asked rather than tried: the exception of an empty socket costs three times as much.
            if budget < 0 or not self._listening or not int(router.getsockopt(_EVENTS)) & _READABLE:
                return

    def send(self, routing_id: bytes, frames: Frames) -> SendResult:
        """Queue one message for a client."""
        send = self._router.send
        try:
            # Only the routing id can be refused: once its frame is taken, there is room for the rest of the message.
            send(routing_id, _NOW_AND_MORE)
            for frame in frames[:-1]:
                send(frame, _NOW_AND_MORE)
            # A large frame is handed over as it is; keeping hold of a small one costs more than a copy of it.
            send(frames[-1], _NOW, copy=len(frames[-1]) < _ZERO_COPY_BYTES)
        except zmq.Again:
            return SendResult.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return SendResult.GONE
            raise
        return SendResult.SENT

    def close(self, linger_ms: int) -> None:
        """Stop listening."""
        self.pause()
        self._monitor.close()
        self._router.close(linger=linger_ms)


def _why_not(address: str, error: zmq.ZMQError) -> str:
    if error.errno == zmq.EADDRINUSE:
        return f"the address {address} is in use by another process: stop it or listen on another port"
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return f"the address {address} belongs to no interface of this host"
    if error.errno == zmq.EINVAL:
        return f"{address!r} is no address: it has to look like tcp://HOST:PORT"
    return f"cannot listen on {address}: {os.strerror(error.errno or 0)}"


class _ConnectionMonitor:
    """Logs connections that were dropped before ZeroMQ's handshake was through.

    ZeroMQ does not say which connection a finished handshake belongs to, nor what a stranger sent. Handshakes take
    microseconds, so each is counted for the oldest connection that waits for one: a wrong guess costs a log line that
    names the wrong client, nothing else.
    """

    def __init__(self, router: zmq.Socket[bytes], poller: IoPoller) -> None:
        self._router = router
        self._poller = poller
        self._waiting: dict[int, str] = {}  # accepted, handshake not seen yet: descriptor -> address
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self._socket = router.get_monitor_socket(events)
        poller.register(self._socket, self._on_event)

    def _on_event(self) -> None:
        while True:
            try:
                event, descriptor = MONITOR_EVENT.unpack(self._socket.recv_multipart(_NOW)[0])
            except zmq.Again:
                return
            if event == zmq.EVENT_ACCEPTED:
                self._waiting[descriptor] = _peer_of(descriptor)
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._waiting.pop(next(iter(self._waiting), -1), None)
            elif (peer := self._waiting.pop(descriptor, None)) is not None:
                logger.warning(
                    "closed the connection from %s: it did not speak ZeroMQ's protocol. A browser, a TLS or a Kafka"
                    " client on the native port looks like this, and so does a client that hangs",
                    peer,
                )

    def close(self) -> None:
        self._poller.unregister(self._socket)
        self._router.disable_monitor()
        self._socket.close(linger=0)


def _peer_of(descriptor: int) -> str:
    """The address at the other end of an accepted connection, if it is still there to be asked."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return "a client that was gone at once"
    try:
        # The number may belong to another file by now, which need be no socket at all.
        peer = sockets.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return "a client that was gone at once"
    with peer:
        try:
            host, port, *_ = peer.getpeername()
        except (OSError, ValueError):
            return "a client that was gone at once"
    return f"{host}:{port}"
