"""Polling: waits until a ZeroMQ socket or a file descriptor is readable, and calls the callback registered for it.

Level-triggered: a callback that leaves something unread is called again by the next wait. So a callback should read a
bounded number of messages and return, to let the others have their turn.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import zmq

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_WAKES_READ_MAX: Final = 4096
_WAIT_MS_MAX: Final = 2**31 - 1


class ZmqPoller:
    """The reactor's poller on real sockets. One thread uses it; any thread may wake it."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._callbacks: dict[Any, Callable[[], object]] = {}
        # A lock, lest a wake writes to a descriptor that close() has given back and another file has taken since;
        # re-entrant, because a signal handler may wake in the midst of a wake.
        self._lock = threading.RLock()
        self._wake_sent = False
        self._closed = False
        self.callback_errors = 0
        """Exceptions raised by callbacks."""
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.settimeout(0.0)
        self._wake_writer.settimeout(0.0)
        self.register(self._wake_reader.fileno(), self._read_wakes)

    def register(self, source: zmq.Socket[Any] | int, callback: Callable[[], object]) -> None:
        """Call back whenever the source, a socket or a descriptor, is readable or (a descriptor only) in error.

        Raises:
            ValueError: it is registered already.

        """
        if source in self._callbacks:
            message = f"{source!r} is registered already: unregister it first"
            raise ValueError(message)
        self._poller.register(source, zmq.POLLIN)
        self._callbacks[source] = callback

    def unregister(self, source: zmq.Socket[Any] | int) -> None:
        """Call back no more, not even for what the wait under way has found.

        To be done before the source is closed: pyzmq polls something else in place of a closed socket.

        Raises:
            KeyError: it is not registered.

        """
        del self._callbacks[source]
        self._poller.unregister(source)

    def wait(self, timeout_ms: float | None) -> None:
        """Wait until something is readable, wake() is called, or the time is up (None: never), and call back.

        A failed assertion in a callback is raised here; any other exception is logged and counted, because the callback
        of one connection must not end all the others.
        """
        # Rounded up: a wait that is a little short would come back again and again before a timer is due.
        limit = None if timeout_ms is None else min(math.ceil(timeout_ms), _WAIT_MS_MAX)
        for source, _ in self._poller.poll(limit):
            callback = self._callbacks.get(source)
            if callback is None:  # unregistered by the callback of another
                continue
            try:
                callback()
            except AssertionError:
                raise
            except Exception:
                self.callback_errors += 1
                logger.exception("the callback of %r failed", source)

    def wake(self) -> None:
        """End the wait under way, or the next one; from any thread. Many wakes before it cost one. None after close."""
        with self._lock:
            if not self._wake_sent and not self._closed:
                self._wake_sent = True
                self._wake_writer.send(b"\0")

    def close(self) -> None:
        """Forget all sockets (they stay open: they are their owners') and close the wake-up channel."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for source in list(self._callbacks):
            self.unregister(source)
        self._wake_reader.close()
        self._wake_writer.close()

    def _read_wakes(self) -> None:
        with self._lock:
            self._wake_sent = False
            self._wake_reader.recv(_WAKES_READ_MAX)
