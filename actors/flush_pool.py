"""Threads that force files to the disk, so that the reactor never waits for it.

A partition has at most one job out at a time; what it appends meanwhile goes into its next job, so one fdatasync covers
everything that waits: group commit.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from .reactor import Reactor


class Flusher(Protocol):
    """Runs blocking disk work elsewhere; the simulator brings one that runs on virtual time."""

    def submit(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Run work in another thread, then call done on the reactor's thread with the error that it raised, if any."""
        ...

    def close(self) -> None:
        """Wait for what was submitted; nothing may be submitted after."""
        ...


class FlushPool:
    """A fixed number of threads that start when the first work comes."""

    def __init__(self, reactor: Reactor, threads: int) -> None:
        self._reactor = reactor
        self._wanted = threads
        self._queue: queue.SimpleQueue[tuple[Callable[[], None], Callable[[Exception | None], None]] | None]
        self._queue = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Run work in a thread of the pool."""
        if len(self._threads) < self._wanted:
            thread = threading.Thread(target=self._run, name=f"flush-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._queue.put((work, done))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, done = item
            self._reactor.call_from_thread(_Finished(done, attempt(work)))

    def close(self) -> None:
        """Wait for what was submitted."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()


class _Finished:
    """The call that brings a result back to the reactor's thread."""

    __slots__ = ("_done", "_error")

    def __init__(self, done: Callable[[Exception | None], None], error: Exception | None) -> None:
        self._done = done
        self._error = error

    def __call__(self) -> None:
        self._done(self._error)


def attempt(work: Callable[[], None]) -> Exception | None:
    """Run work and return what it raised."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - it is handed to the one who submitted the work
        return error
    return None
