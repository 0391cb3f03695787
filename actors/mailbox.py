"""The mailbox of an actor on a reactor: it schedules its actor, and ends the actor's turn.

pykka's loop calls ``inbox.get()`` outside of its ``try``. So an exception raised there leaves the loop without touching
the actor, and calling the loop again later takes it up where it was: one turn is one call of pykka's own loop. All
semantics of dispatch, answers and failures therefore stay pykka's.

Only the reactor's thread touches the queue and the ``scheduled`` flag, so that path needs no lock; the other threads
hand their envelopes to the reactor's entry queue.
"""

from __future__ import annotations

from collections import deque
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from pykka import ActorDeadError
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, _ActorStop

from .future import Answerer, ReactorFuture

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pykka import Future

A = TypeVar("A")

TURN_MESSAGES_MAX: Final = 64
"""Messages that an actor handles before the next actor has its turn."""

# The hook goes through pykka's loop as a message, so that it fails exactly as a message fails.
_TURN_END: Final = Envelope(ProxyCall(attr_path=("on_turn_end",), args=(), kwargs={}))


class Drained(Exception):  # noqa: N818  it reports no error: it is the way out of pykka's endless loop
    """The turn is over: the mailbox is empty or the budget used up."""


class Scheduler(Answerer, Protocol[A]):
    """What a mailbox knows of the reactor that gives its actor turns. The actor is only passed on: of any type."""

    thread_id: int | None

    def schedule(self, actor: A) -> None:
        """Give the actor a turn."""
        ...

    def deliver_from_thread(self, mailbox: Mailbox[A], envelope: Envelope[Any]) -> None:
        """Call the mailbox's ``deliver`` on the reactor's thread."""
        ...

    def count_dead_letters(self, messages: Iterable[Any], where: str) -> None:
        """Account for messages that nobody will handle, nor be told about."""
        ...


class Mailbox(Generic[A]):
    """The messages that wait for one actor, oldest first."""

    __slots__ = ("_actor", "_handled", "_hook_due", "_queue", "_reactor", "closed", "current", "scheduled")

    def __init__(self) -> None:
        self._queue: deque[Envelope[Any]] = deque()
        self._actor: A | None = None
        self._reactor: Scheduler[A]
        self._handled = 0
        self._hook_due = False
        self.closed = False
        """The actor is gone; every further envelope is refused."""
        self.current: Envelope[Any] | None = None
        """What the actor handles at this moment."""
        self.scheduled = True
        """The actor is in the reactor's run queue, or has its turn now, or is not yet started."""

    def bind(self, actor: A, reactor: Scheduler[A]) -> None:
        """Say whose mailbox this is; pykka makes it without arguments."""
        self._actor = actor
        self._reactor = reactor

    def put(self, envelope: Envelope[Any], /) -> None:
        """Take an envelope from any thread."""
        if envelope.reply_to is not None and isinstance(envelope.reply_to, ReactorFuture):
            envelope.reply_to.answerer = self._reactor
        if get_ident() == self._reactor.thread_id:
            self.deliver(envelope)
        else:
            self._reactor.deliver_from_thread(self, envelope)

    def deliver(self, envelope: Envelope[Any]) -> None:
        """Take an envelope, on the reactor's thread (or on any, once the mailbox is closed)."""
        if self.closed:
            self._refuse(envelope)
            return
        self._queue.append(envelope)
        if not self.scheduled:
            assert self._actor is not None, "an open mailbox has an actor"
            self.scheduled = True
            self._reactor.schedule(self._actor)

    def begin_turn(self, *, with_hook: bool) -> None:
        """Allow the next turn's messages, followed by ``on_turn_end`` if the actor has that hook."""
        assert self.scheduled, "a turn without being scheduled"
        self._handled = 0
        self._hook_due = with_hook

    def end_turn(self) -> int:
        """Forget the last envelope, so that an idle actor keeps no message alive; return how many were handled."""
        self.current = None
        return self._handled

    def get(self) -> Envelope[Any]:
        """The next envelope of this turn.

        Raises:
            Drained: the turn is over.

        """
        queue = self._queue
        if queue and (self._handled < TURN_MESSAGES_MAX or self.closed):
            envelope = queue.popleft()
            if envelope.message.__class__ is not _ActorStop or not self._handled or self.closed:
                self._handled += 1
                self.current = envelope
                return envelope
            # A stop waits for a turn of its own: so on_turn_end, where work of the turn is finished, precedes on_stop.
            queue.appendleft(envelope)
        if self._hook_due:
            self._hook_due = False
            self._handled = TURN_MESSAGES_MAX  # what the hook tells its own actor is for the next turn
            self.current = _TURN_END
            return _TURN_END
        raise Drained

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._queue

    def take_told(self) -> list[Any]:
        """Take away the messages that wait and that nobody asked, for an actor that ends and answers them itself."""
        told = [e.message for e in self._queue if e.reply_to is None and not isinstance(e.message, _ActorStop)]
        self._queue = deque(e for e in self._queue if e.reply_to is not None or isinstance(e.message, _ActorStop))
        return told

    def close(self) -> tuple[list[Any], bool]:
        """Refuse what comes from now on; return the told messages left behind, and whether a stop was among the rest.

        The asks stay in the queue: pykka's teardown takes and answers them.
        """
        self.closed = True
        self._actor = None  # refs hold the mailbox: they shall not keep a dead actor alive
        self.current = None
        stop_asked = any(isinstance(envelope.message, _ActorStop) for envelope in self._queue)
        told = [e.message for e in self._queue if e.reply_to is None and not isinstance(e.message, _ActorStop)]
        self._queue = deque(e for e in self._queue if e.reply_to is not None)
        return told, stop_asked

    def take_reply_to(self) -> Future[Any] | None:
        """Take away the future that waits for the current message, so that pykka's loop answers nothing."""
        if self.current is None or self.current.reply_to is None:
            return None
        future, self.current.reply_to = self.current.reply_to, None
        return future

    def _refuse(self, envelope: Envelope[Any]) -> None:
        if envelope.reply_to is not None:
            error = ActorDeadError("the actor stopped before the message reached it")
            envelope.reply_to.set_exception((ActorDeadError, error, None))
        elif not isinstance(envelope.message, _ActorStop):
            self._reactor.count_dead_letters([envelope.message], "an actor that has stopped")
