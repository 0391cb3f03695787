"""The reactor: one thread that runs all actors, timers and I/O callbacks of a node.

It works in passes: wait for I/O (not at all if there is work), then run what is due of timers, of calls from other
threads, of ``call_soon``, and of the actors' messages. Each part of a pass is bounded, so that I/O is looked at
regularly however busily actors tell one another. Nothing here asks the machine for the time or for randomness: with a
clock and a poller of virtual time, a run depends on its inputs alone.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar

from pykka._envelope import Envelope

from ..errors import ZmqBrokerError
from .actor import ReactorActor, construct
from .entry_queue import EntryQueue
from .future import enter_pass, leave_pass
from .supervision import Supervisor
from .timers import Timer, Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pykka import ActorRef

    from ..clock import Clock
    from .mailbox import Mailbox

logger = logging.getLogger(__name__)

A = TypeVar("A", bound=ReactorActor)

PASS_MESSAGES_MAX: Final = 512
"""Messages handled between two looks at I/O, about: the last turn is not cut short. A turn counts as one at least."""

PASS_ENTRIES_MAX: Final = 1024
"""Calls from other threads that are run between two looks at I/O."""


class NodeFatalError(ZmqBrokerError):
    """An invariant failed: what the node holds in memory is not to be trusted, and it has to start from its log."""


class Poller(Protocol):
    """The reactor's view of I/O; ``transport.poller.ZmqPoller`` is the real one."""

    def wait(self, timeout_ms: float | None) -> None:
        """Block until I/O is ready, wake() is called, or the time is up (None: never); run the ready callbacks.

        What a callback raises is the poller's to handle: whatever leaves wait() is fatal.
        """
        ...

    def wake(self) -> None:
        """End the wait under way, or the next one; from any thread, even after close()."""
        ...

    def close(self) -> None:
        """Give back what the poller holds. Who made the poller calls it, not the reactor."""
        ...


class _AbortError(Exception):
    """The way out of a pass in which abort() was called."""


class _Mail:
    """An envelope from another thread, on its way to a mailbox."""

    __slots__ = ("_envelope", "_mailbox")

    def __init__(self, mailbox: Mailbox[ReactorActor], envelope: Envelope[Any]) -> None:
        self._mailbox = mailbox
        self._envelope = envelope

    def __call__(self) -> None:
        self._mailbox.deliver(self._envelope)


class Reactor:
    """Runs actors, timers and callbacks on the one thread that calls run() or run_pass().

    Before the first pass no thread owns it: whoever built it may spawn and set timers. Later only the owning thread
    may; other threads have ``tell``, the actors' refs, ``call_from_thread`` and ``stop``.

    An AssertionError in an actor, a timer or a callback ends the reactor at once, without on_stop, and leaves run() as
    NodeFatalError. Any other exception fails its actor; that of a callback, which belongs to no actor, is logged.
    """

    def __init__(self, clock: Clock, poller: Poller) -> None:
        self.clock = clock
        self.thread_id: int | None = None
        """The thread that runs the actors; None before the first pass."""
        self.dead_letters = 0
        """Messages that were accepted by tell, but whose actor stopped before it handled them."""
        self._poller = poller
        self._actors: dict[str, ReactorActor] = {}  # in order of birth; keeps them alive: an ActorRef does not
        self._run_queue: deque[ReactorActor] = deque()
        self._soon: deque[Callable[[], object]] = deque()
        self._entries = EntryQueue(poller.wake, self._refuse)
        self._timers = Timers(clock)
        self._supervisor = Supervisor(clock, self._timers)
        self._in_pass = False
        self._stopping = False
        self._stopped = False
        self._asked_to_stop: ReactorActor | None = None
        self._fatal: tuple[BaseException, str] | None = None
        self._callbacks_lost = 0
        self._dead_letters_lock = Lock()

    @property
    def stopping(self) -> bool:
        """Whether stop() was called."""
        return self._stopping

    @property
    def stopped(self) -> bool:
        """Whether all is over: no actor lives, and no pass can be run."""
        return self._stopped

    # Actors and messages

    def spawn(self, cls: type[A], *args: Any, address: str, supervised: bool = False, **kwargs: Any) -> ActorRef[A]:
        """Make an actor that lives at the address, which must be free.

        The constructor runs here and now (what it raises is raised here), ``on_start`` as the actor's first step in a
        later turn, before any message. A supervised actor that fails is made again from the same class and arguments.

        Raises:
            ValueError: the address is taken, or reserved for an actor that will be restarted.
            RuntimeError: called on another thread, or after the reactor has stopped.

        """
        self._check_thread("spawn()")
        if self._stopped:
            message = f"the reactor has stopped: it cannot spawn {address!r}"
            raise RuntimeError(message)
        if address in self._actors or self._supervisor.is_down(address):
            message = f"the address {address!r} is taken: stop the actor that lives there, or will be restarted there"
            raise ValueError(message)
        ref: ActorRef[A] = self._start(cls, args, kwargs, address).actor_ref
        if supervised:
            self._supervisor.watch(address, lambda: self._start(cls, args, kwargs, address))
        return ref

    def lookup(self, address: str) -> ActorRef[Any] | None:
        """A reference to the actor that lives at the address now; None if there is none, or it waits for a restart."""
        actor = self._actors.get(address)
        return None if actor is None or actor.actor_stopped.is_set() else actor.actor_ref

    def addresses(self) -> list[str]:
        """Where actors live now, the oldest first."""
        return list(self._actors)

    def tell(self, address: str, message: Any) -> bool:
        """Put a message into the mailbox at the address, from any thread; False if nobody lives there."""
        actor = self._actors.get(address)
        if actor is None or actor.actor_stopped.is_set():
            return False
        actor.actor_inbox.put(Envelope(message))
        return True

    def stop_actor(self, address: str) -> bool:
        """Stop the actor at the address once it has handled what is in its mailbox, and do not restart it.

        False if nobody lives there and nobody was to be restarted there.
        """
        self._check_thread("stop_actor()")
        if self._supervisor.forget(address):
            return True
        ref = self.lookup(address)
        if ref is None:
            return False
        ref.stop(block=False)
        return True

    # Callbacks

    def call_later(self, delay_ms: float, callback: Callable[[], object]) -> Timer:
        """Run the callback in delay_ms, in order of due time and then of this call.

        A timer does not die with the actor that set it: let its callback tell the actor's address.
        """
        self._check_thread("call_later()")
        return self._timers.call_later(delay_ms, callback)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run the callback in this pass, or in the next one if this has come to its callbacks already."""
        self._check_thread("call_soon()")
        self._soon.append(callback)

    def call_from_thread(self, callback: Callable[[], object]) -> bool:
        """Run the callback on the reactor's thread, from any thread; False if the reactor has stopped.

        Calls and messages of one thread are taken in order. The reactor is woken once for all that come before it
        looks.
        """
        return self._entries.add(callback)

    # Running

    def run(self) -> None:
        """Run passes on this thread until stop() has been called and every actor has stopped.

        Raises:
            NodeFatalError: an assertion failed; it is the cause.

        """
        while not self._stopped:
            self.run_pass(None)

    def stop(self) -> None:
        """Begin to stop, from any thread: the actors are stopped one after the other, the last one spawned first.

        Each handles what is in its mailbox and runs its on_stop; messages and I/O go on for the others meanwhile.
        """
        self._stopping = True
        self._poller.wake()

    def abort(self) -> None:
        """End as a crash would: no hook runs, asks are answered ActorDeadError.

        Here and now, or, called inside of a pass, when the turn or the callback under way is over.
        """
        self._check_thread("abort()")
        if self._in_pass:
            self.fail(_AbortError(), "abort()")
        else:
            self._close()

    def run_pass(self, max_wait_ms: float | None = 0.0) -> bool:
        """Wait for at most max_wait_ms (None: without limit), run one pass; True if there is work for another.

        Raises:
            NodeFatalError: an assertion failed; the reactor has been aborted.
            RuntimeError: another thread runs this reactor, or this is a call from inside a pass, or all has stopped.

        """
        first_pass = self._claim_thread()
        self._in_pass = True
        enter_pass()
        try:
            self._poller.wait(self._wait_ms(max_wait_ms))
            self._raise_if_fatal()
            for callback in self._timers.take_due():
                self._call(callback)
            # What came before the first pass came from the thread that may be the owner now: it must not be overtaken.
            self._entries.run(self._call, len(self._entries) if first_pass else PASS_ENTRIES_MAX)
            for _ in range(len(self._soon)):
                self._call(self._soon.popleft())
            self._run_actors()
            if self._stopping:
                self._stop_next()
        except _AbortError:
            self._close()
        except Exception as error:  # noqa: BLE001  raised again as the cause of another
            self._close()
            self._raise_fatal(error)
        except BaseException:
            self._close()
            raise
        finally:
            leave_pass()
            self._in_pass = False
        return self._has_work()

    def next_due_ms(self) -> float | None:
        """When the next timer is due, by the clock's monotonic_ms; None if there is none."""
        return self._timers.next_due_ms()

    # For the actor kind

    def is_own_thread(self) -> bool:
        """Whether the calling thread is the one that runs the actors."""
        return get_ident() == self.thread_id

    def schedule(self, actor: ReactorActor) -> None:
        """Give the actor a turn, after all that have one coming."""
        self._run_queue.append(actor)

    def deliver_from_thread(self, mailbox: Mailbox[ReactorActor], envelope: Envelope[Any]) -> None:
        """Deliver the envelope on the reactor's thread."""
        self._entries.add(_Mail(mailbox, envelope))

    def count_dead_letters(self, messages: Iterable[Any], where: str) -> None:
        """Account for messages that nobody will handle, nor be told about."""
        kinds = Counter(type(message).__name__ for message in messages)
        if not kinds:
            return
        with self._dead_letters_lock:
            self.dead_letters += kinds.total()
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        logger.warning("%d messages were left behind by %s: %s", kinds.total(), where, listed)

    def fail(self, error: BaseException, where: str) -> None:
        """Have this pass end with the error; the first one counts."""
        if self._fatal is None:
            self._fatal = (error, where)

    # Inside

    def _start(self, cls: type[A], args: tuple[Any, ...], kwargs: Mapping[str, Any], address: str) -> A:
        actor = construct(cls, args, kwargs, reactor=self, address=address)
        assert address not in self._actors, f"the constructor of {address} spawned another actor at its own address"
        self._actors[address] = actor
        actor._start_actor_loop()  # noqa: SLF001  Actor.start() would also put it into pykka's registry
        return actor

    def _claim_thread(self) -> bool:
        """Make the calling thread the owner; True if there was none before."""
        if self._stopped:
            message = "the reactor has stopped: it runs no more passes"
            raise RuntimeError(message)
        if self._in_pass:
            message = "run_pass() was called while a pass is running"
            raise RuntimeError(message)
        if self.thread_id is None:
            self.thread_id = get_ident()
            return True
        self._check_thread("run_pass()")
        return False

    def _check_thread(self, what: str) -> None:
        if self.thread_id is not None and self.thread_id != get_ident():
            message = f"{what} belongs to the reactor's own thread: use call_from_thread()"
            raise RuntimeError(message)

    def _has_work(self) -> bool:
        if self._stopped:
            return False
        return bool(self._run_queue or self._soon or self._entries or self._stopping)

    def _wait_ms(self, max_wait_ms: float | None) -> float | None:
        if self._has_work():
            return 0.0
        due_ms = self._timers.next_due_ms()
        if due_ms is None:
            return max_wait_ms
        wait_ms = max(due_ms - self.clock.monotonic_ms(), 0.0)
        return wait_ms if max_wait_ms is None else min(wait_ms, max_wait_ms)

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except AssertionError as error:
            self.fail(error, f"the callback {callback!r}")
        except Exception:
            logger.exception("the callback %r failed", callback)
        self._raise_if_fatal()

    def _run_actors(self) -> None:
        run_queue = self._run_queue
        budget = PASS_MESSAGES_MAX
        while run_queue and budget > 0:
            actor = run_queue.popleft()
            budget -= actor.take_turn()
            if self._fatal is not None:
                self._raise_if_fatal()
            if actor.actor_stopped.is_set():
                self._bury(actor)
            elif actor.actor_inbox.empty():
                actor.actor_inbox.scheduled = False
            else:
                run_queue.append(actor)

    def _bury(self, actor: ReactorActor) -> None:
        remains = actor.tear_down()
        del self._actors[actor.address]
        self.count_dead_letters(remains.told, str(actor))
        self._supervisor.actor_gone(actor.address, failed=remains.failed)

    def _stop_next(self) -> None:
        self._supervisor.forget_all()
        last = next(reversed(self._actors.values()), None)
        if last is None:
            self._close()
        elif last is not self._asked_to_stop:
            self._asked_to_stop = last
            last.stop()

    def _close(self) -> None:
        """End all: no actor, no callback, no timer is left, and who comes later is told so."""
        if self._stopped:
            return
        self._stopping = self._stopped = True
        self._supervisor.forget_all()
        self._timers.clear()
        while self._actors:
            _, actor = self._actors.popitem()
            self.count_dead_letters(actor.tear_down().told, str(actor))
        self._run_queue.clear()
        self._asked_to_stop = None
        while self._soon:
            self._refuse(self._soon.popleft())
        self._entries.close()
        if self._callbacks_lost:
            logger.info("the reactor stopped before it ran %d callbacks", self._callbacks_lost)

    def _refuse(self, callback: Callable[[], object]) -> None:
        if isinstance(callback, _Mail):
            callback()  # the mailbox is closed: it answers, or counts
        else:
            self._callbacks_lost += 1

    def _raise_if_fatal(self) -> None:
        if self._fatal is not None:
            raise self._fatal[0]

    def _raise_fatal(self, error: Exception) -> NoReturn:
        where = self._fatal[1] if self._fatal is not None else "the reactor"
        message = f"{where} failed, the node cannot go on and must restart from its log: {error!r}"
        raise NodeFatalError(message) from error
