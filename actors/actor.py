"""The kind of actor that the broker is made of: a pykka actor that a reactor runs, many on one thread.

Three of pykka's methods say what kind an actor is, and are replaced: the mailbox, the future, and how the loop starts.
Two more are wrapped, to keep three things from pykka's loop: a failed assertion must end the node, but pykka would hand
it to whoever asked; KeyboardInterrupt and its like would make pykka stop every actor of the process, also those that
are not ours; and a supervisor must know whether the actor failed or was stopped.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import pykka
from pykka import ActorDeadError

from .future import ReactorFuture
from .mailbox import TURN_MESSAGES_MAX, Drained, Mailbox, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from pykka import ActorRef, Future

    from .timers import Timer

A = TypeVar("A", bound="ReactorActor")

_dispatch: Final = pykka.Actor._handle_receive  # noqa: SLF001  a super() call costs a tenth of a message's way


class Home(Scheduler["ReactorActor"], Protocol):
    """What an actor uses of its reactor, on its thread (tell: on any); the ``Reactor`` says more of each method."""

    def spawn(self, cls: type[A], *args: Any, address: str, supervised: bool = False, **kwargs: Any) -> ActorRef[A]:
        """Make an actor that lives at the address, which must be free."""
        ...

    def lookup(self, address: str) -> ActorRef[Any] | None:
        """A reference to the actor that lives at the address now, if any."""
        ...

    def tell(self, address: str, message: Any) -> bool:
        """Put a message into the mailbox at the address; False if nobody lives there."""
        ...

    def stop_actor(self, address: str) -> bool:
        """Stop the actor at the address, and do not restart it; False if there is none."""
        ...

    def call_later(self, delay_ms: float, callback: Callable[[], object]) -> Timer:
        """Run the callback in delay_ms."""
        ...

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run the callback in this pass or the next."""
        ...

    def fail(self, error: BaseException, where: str) -> None:
        """End with the error: an invariant does not hold."""
        ...


class _Births(threading.local):
    """The place in life of the actor that this thread is constructing: pykka gives constructors no such argument."""

    place: tuple[Home, str] | None = None


_births = _Births()


def construct(cls: type[A], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, reactor: Home, address: str) -> A:
    """Make an actor that finds its reactor and address as soon as pykka's constructor has run. Reactor.spawn calls it.

    Raises:
        TypeError: the class's constructor did not call ``super().__init__()``.

    """
    outer = _births.place  # an actor's constructor may spawn another
    _births.place = (reactor, address)
    try:
        actor = cls(*args, **kwargs)
        if _births.place is not None:
            message = f"{cls.__name__}.__init__() did not call super().__init__()"
            raise TypeError(message)
    finally:
        _births.place = outer
    return actor


class Remains(NamedTuple):
    """What an actor leaves behind."""

    told: list[Any]
    """Messages that it never handled and nobody waits for; asks have been answered ActorDeadError."""

    failed: bool
    """It died of an exception, and nobody had asked it to stop."""


class ReactorActor(pykka.Actor):
    """An actor that shares its reactor's thread: spawn it with ``Reactor.spawn``; ``start()`` is not for it.

    Hooks, all on the reactor's thread (none may block; they send with tell, and take replies as messages):

    - ``on_start()``: the first step, in a turn of its own, before any message
    - ``on_receive(message)``: for each message
    - ``on_turn_end()``: after each turn of up to 64 messages, the place to finish together what they began. It fails as
      a message that was told does. A turn always ends before a stop is handled.
    - ``on_stop()``: it was asked to stop
    - ``on_failure(...)``: a message that was told, or on_turn_end, raised an exception; on_turn_end does not follow
    """

    actor_inbox: Mailbox[ReactorActor]  # pyright: ignore[reportIncompatibleVariableOverride]  nobody ever sets another

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        place, _births.place = _births.place, None
        if place is None:
            message = f"{type(self).__name__} needs a reactor: make it with Reactor.spawn(), not directly or by start()"
            raise RuntimeError(message)
        self.reactor, self.address = place
        super().__init__(*args, **kwargs)
        self.actor_inbox.bind(self, self.reactor)
        self._has_turn_end = type(self).on_turn_end is not ReactorActor.on_turn_end
        self._started = False
        self._failed = False

    @property
    def actor_urn(self) -> str:
        """The address: pykka would draw a uuid4, and no run of the simulator would equal another."""
        return self.address

    @actor_urn.setter
    def actor_urn(self, value: str) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]  set as before
        """Ignore what pykka's constructor sets."""

    def on_crash(self, error: BaseException | None) -> None:
        """Clean up after an exception, which has been logged, and before a supervisor makes the actor again."""

    def on_failure(
        self,
        exception_type: type[BaseException] | None,  # noqa: ARG002 - pykka's signature
        exception_value: BaseException | None,
        traceback: TracebackType | None,  # noqa: ARG002 - pykka's signature
    ) -> None:
        """Pass pykka's hook on to the simpler one."""
        self.on_crash(exception_value)

    def on_turn_end(self) -> None:
        """Run code after each turn of up to 64 messages."""

    @staticmethod
    def _create_actor_inbox() -> Mailbox[ReactorActor]:
        return Mailbox()

    @staticmethod
    def _create_future() -> Future[Any]:
        return ReactorFuture()

    def _start_actor_loop(self) -> None:
        self.reactor.schedule(self)

    def take_turn(self) -> int:
        """Start, or handle the next messages; return how many these count as. For the reactor alone."""
        if not self._started:
            self._started = True
            self._actor_loop_setup()
            return TURN_MESSAGES_MAX  # a start may open files: a thousand of them must not hold up the I/O
        self.actor_inbox.begin_turn(with_hook=self._has_turn_end)
        try:  # noqa: SIM105  suppress() costs as much as half a message
            self._actor_loop_running()
        except Drained:
            pass
        return self.actor_inbox.end_turn()

    def tear_down(self) -> Remains:
        """Close the mailbox and answer its asks. For the reactor alone, once the actor has stopped or must."""
        self.actor_stopped.set()
        told, stop_asked = self.actor_inbox.close()
        self._actor_loop_teardown()
        return Remains(told, failed=self._failed and not stop_asked)

    def _handle_receive(self, message: Any) -> Any:
        try:
            return _dispatch(self, message)
        except AssertionError as error:
            self._crash(error)
        except Exception:
            raise
        except BaseException as error:  # noqa: BLE001  the reactor raises it again, outside of pykka's loop
            self._crash(error)

    def _handle_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exception_value, AssertionError):
            self._crash(exception_value)
            return
        # Already stopped, it is on_stop or on_failure that raised: no second failure.
        self._failed = self._failed or not self.actor_stopped.is_set()
        super()._handle_failure(exception_type, exception_value, traceback)

    def _crash(self, error: BaseException) -> None:
        """Have the reactor end with this error, and let pykka's loop end as if all were well."""
        future = self.actor_inbox.take_reply_to()
        if future is not None:
            dead = ActorDeadError(f"{self} stopped before answering: its node met a fatal error")
            future.set_exception((ActorDeadError, dead, None))
        self.actor_stopped.set()
        self.reactor.fail(error, str(self))
