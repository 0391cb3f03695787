"""The future of an ask: an answer for other threads, an error where waiting for it would hang the reactor."""

from __future__ import annotations

import threading
from typing import Any, Protocol, TypeVar

from pykka import ThreadingFuture

from ..errors import ZmqBrokerError

T = TypeVar("T")


class BlockingOnReactorError(ZmqBrokerError, RuntimeError):
    """Code on a reactor's thread waited for an answer that only this thread could give."""


class _Passes(threading.local):
    """How many reactor passes this thread is inside of."""

    depth: int = 0


_passes = _Passes()


def enter_pass() -> None:
    """From now on this thread runs actors: no future may make it wait."""
    _passes.depth += 1


def leave_pass() -> None:
    """Undo one enter_pass."""
    _passes.depth -= 1


class Answerer(Protocol):
    """What a future knows of the reactor that will answer it."""

    def is_own_thread(self) -> bool:
        """Whether the calling thread is the one that runs the reactor."""
        ...


class ReactorFuture(ThreadingFuture[T]):
    """pykka's ThreadingFuture, except that ``get()`` refuses to wait where waiting would stop the actors.

    That is on a thread inside of any reactor's pass (a handler never waits), and on the thread that runs the answering
    reactor even between its passes (nobody else would ever answer).
    """

    def __init__(self) -> None:
        super().__init__()
        self.answerer: Answerer | None = None
        """Set by the mailbox that takes the ask."""

    def get(self, *, timeout: float | None = None) -> Any:
        """The answer, or its exception raised.

        A future with a get hook asks other futures, which make this check for themselves.

        Raises:
            BlockingOnReactorError: no answer is there yet and the reactor's thread may not wait for one.
            pykka.Timeout: no answer came within ``timeout`` seconds.

        """
        if self._result is None and self._get_hook is None and self._may_not_wait():
            message = "ask().get() on the reactor's thread would wait for ever: tell, and take the reply as a message"
            raise BlockingOnReactorError(message)
        return super().get(timeout=timeout)

    def _may_not_wait(self) -> bool:
        return _passes.depth > 0 or (self.answerer is not None and self.answerer.is_own_thread())
