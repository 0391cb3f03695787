"""What every client stands on: its connections, its lock, and who waits for their sockets.

One lock guards all state of a client. Any thread that holds it may pump: hear what came, run the state machines
(drivers), send what is due. Nothing blocks under it, and user callbacks run after it is released.

Who waits for the sockets? Handing an answer from one thread to another costs more than the broker takes to give it
(Python's threads share one lock, and a busy thread yields it every 5 ms only). So a user's thread that waits for
something does the waiting itself and pumps (`wait_until`), one that sends pumps as it goes, and the client's background
thread takes over when the users' threads are away: it steps aside while they receive the answers. At any time there is
one poller at most: the background thread, one waiting user thread, or an event loop; other waiters hear from it.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from ..errors import ClosedError, ZmqBrokerError
from .connection import FOREVER, Answer, Call, Connection, NoAnswerError
from .metadata import ClusterMetadata

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from ..transport.message_base import Request
    from .options import CommonOptions

T = TypeVar("T")

_ASIDE_S = 0.002
"""How long the background thread steps aside before it looks again whether the users' threads do its work."""
_LONGEST_WAIT_S = 60.0


class Driver(Protocol):
    """A state machine that is run in each pass."""

    def step(self, now: float) -> None:
        """Submit what is due."""
        ...

    def next_deadline(self) -> float:
        """When `step` has something to do though nothing came."""
        ...


class Wait(NamedTuple):
    """What a flow waits for: a condition that is checked under the lock, until a time on the clock of `now`."""

    condition: Callable[[], Any]
    deadline: float
    user_task: Awaitable[Any] | None = None
    """Instead of these: what a user's callback returned, for an event loop to await."""


Flow: TypeAlias = "Generator[Wait, Any, T]"
"""Something that takes several answers: yields what it waits for, gets the condition's value, returns its result.

Written once, run by `ClientIO.run` in a thread or awaited by the asyncio clients. It runs without the lock.
"""


class ClientIO:
    """Connections by address, and the passes that drive them."""

    def __init__(self, options: CommonOptions) -> None:
        self.options = options
        self.lock = threading.Lock()
        self.cluster_id: str | None = None
        self.closed = False
        self.submitted = False
        """Set by connections: a request was submitted since the sockets were last read."""
        self.progress = 0
        """Counts what waiters may wait for: answers, failures, changes of state."""
        self.connections: dict[str, Connection] = {}
        self.drivers: list[Driver] = []
        self.after: list[Callable[[], None]] = []
        """What to run once the lock is released: user callbacks."""
        self.metadata = ClusterMetadata(self)
        self.drivers.append(self.metadata)
        self.now = time.monotonic
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread: threading.Thread | None = None
        self._poller: object = None
        self._poll_until = FOREVER
        self._followers = threading.Condition()
        self._followers_count = 0
        self._user_receives = 0
        self._poll_stints = 0
        self._aside = threading.Semaphore(0)
        self._thread_sleeps = False
        self._loop_kick: Callable[[], None] | None = None

    # ---- life

    def start_thread(self, name: str) -> None:
        """Start the background thread; an event loop's client has none."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def attach_loop(self, kick: Callable[[], None]) -> int:
        """Let an event loop be the poller: it watches the descriptor returned, and hears of earlier deadlines."""
        self._poller = "loop"
        self._loop_kick = kick
        return self._selector.fileno()

    def close(self) -> None:
        """Close every connection; calls under way fail with NetworkError, waiters wake up."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            for connection in self.connections.values():
                connection.close()
            self.progress += 1
            self._wake()
            self._aside.release()
        self._notify_followers()
        self.run_after()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(5.0)
        with self.lock:
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_write = -1

    def check_open(self) -> None:
        """Raise ClosedError if the client was closed."""
        if self.closed:
            message = "this client is closed; make a new one"
            raise ClosedError(message)

    # ---- connections

    def connection(self, address: str) -> Connection:
        """The connection to an address, made when first asked for; it connects when something is submitted."""
        connection = self.connections.get(address)
        if connection is None:
            connection = self.connections[address] = Connection(self, address)
        return connection

    def watch_fds(self, fds: tuple[int, int]) -> None:
        """Poll a dealer's descriptors from now on."""
        for fd in fds:
            self._selector.register(fd, selectors.EVENT_READ)

    def forget_fds(self, fds: tuple[int, int]) -> None:
        """Poll them no more."""
        for fd in fds:
            self._selector.unregister(fd)

    def connection_failed(self, connection: Connection) -> None:
        """A connection broke: what it knew of leaders may be outdated."""
        self.progress += 1
        self.metadata.connection_failed(connection)

    # ---- passes

    def pump(self, *, by_user: bool = True) -> None:
        """One pass under the lock: hear, drive, send, until nothing is left to do at once."""
        if self.closed:
            return
        received = 0
        for _ in range(16):
            self.submitted = False
            now = self.now()
            for connection in list(self.connections.values()):
                received += connection.pump(now)
            for driver in self.drivers:
                driver.step(now)
            if not self.submitted:
                break
        else:
            self._wake()  # other threads get the lock in between
        if received:
            self.progress += received
            if by_user:
                self._user_receives += 1

    def run_after(self) -> None:
        """Run what the last passes left for outside of the lock, and tell waiters in other threads."""
        while self.after:
            try:
                callback = self.after.pop(0)
            except IndexError:
                return  # another thread took it
            callback()

    def pass_and_release(self) -> None:
        """A user's pass, begun with the lock held: pump, let go, run callbacks, tell waiters."""
        before = self.progress
        try:
            self.pump()
            self.rearm()
        finally:
            changed = self.progress != before
            self.lock.release()
        if changed:
            self.tell_waiters()
        if self.after:
            self.run_after()

    def tell_waiters(self) -> None:
        """Something that other threads may wait for has changed."""
        poller = self._poller
        if isinstance(poller, threading.Thread) and poller not in (self._thread, threading.current_thread()):
            self._wake()
        self._notify_followers()

    def rearm(self) -> None:
        """Make sure that the poller wakes up for a deadline that a user's pass may have made."""
        if self._poller is None or self._poller is threading.current_thread():
            return
        if self._loop_kick is not None:
            self._loop_kick()
        elif self.next_deadline() < self._poll_until:
            self._wake()

    def wakes_by(self, deadline: float) -> bool:
        """Whether there is a pass by then, or somebody finds out about the next deadline before waiting for it."""
        return self._loop_kick is None and (self._poller is None or self._poll_until <= deadline)

    def next_deadline(self) -> float:
        """When the next pass is due though nothing came."""
        deadline = FOREVER
        for connection in self.connections.values():
            deadline = min(deadline, connection.next_deadline())
        for driver in self.drivers:
            deadline = min(deadline, driver.next_deadline())
        return deadline

    def loop_pass(self) -> float:
        """An event loop's pass; returns the next deadline on the clock of `now`."""
        with self.lock:
            if self.closed:
                return FOREVER
            self._drain_wake()
            self.pump()
            deadline = self.next_deadline()
        self.run_after()
        return deadline

    # ---- waiting

    def wait_until(self, condition: Callable[[], T], deadline: float) -> T:
        """Pump and wait until the condition, checked under the lock, is truthy or the deadline over; its value."""
        me = threading.current_thread()
        if self._loop_kick is not None:
            message = "this client belongs to an event loop: await its methods there, do not wait in a thread"
            raise RuntimeError(message)
        while True:
            with self.lock:
                before = self.progress
                self.pump()
                changed = self.progress != before
                value = condition()
                now = self.now()
                done = bool(value) or now >= deadline or self.closed
                leads = not done and (self._poller is None or self._poller is self._thread)
                timeout, seen = 0.0, self.progress
                if leads:
                    self._poller = me
                    self._poll_stints += 1
                    self._poll_until = min(deadline, self.next_deadline())
                    timeout = self._poll_until - now
                elif not done:
                    self._followers_count += 1
                    timeout = min(deadline - now, 0.05)
            if changed and not leads:
                self.tell_waiters()
            elif changed:
                self._notify_followers()
            if self.after:
                self.run_after()
            if done:
                return value
            if leads:
                self._lead(timeout)
            else:
                self._follow(timeout, seen)

    def _lead(self, timeout: float) -> None:
        """Wait for the sockets on behalf of everybody."""
        try:
            self._select(timeout)
        finally:
            with self.lock:
                self._drain_wake()
                self._poller = None
                poke, self._thread_sleeps = self._thread_sleeps, False
            if poke:
                self._aside.release()
            # A follower takes over; this thread may be done.
            self._notify_followers()

    def _select(self, timeout: float) -> None:
        try:
            self._selector.select(max(0.0, min(timeout, _LONGEST_WAIT_S)))
        except (ValueError, OSError):
            if not self.closed:  # closing the client closes the selector, also under a thread that is about to wait
                raise

    def _follow(self, timeout: float, seen: int) -> None:
        """Wait for the thread that waits for the sockets."""
        try:
            with self._followers:
                if self.progress == seen and self._poller is not None:
                    self._followers.wait(max(0.0, timeout))
        finally:
            with self.lock:
                self._followers_count -= 1

    def _notify_followers(self) -> None:
        if self._followers_count:
            with self._followers:
                self._followers.notify_all()

    def _wake(self) -> None:
        if self._wake_write >= 0:
            with suppress(BlockingIOError):  # enough wake-ups are waiting already
                os.write(self._wake_write, b"\0")

    def _drain_wake(self) -> None:
        if self._wake_write >= 0:
            with suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    # ---- the background thread

    def _run(self) -> None:
        try:
            self._run_passes()
        except Exception:
            import logging  # noqa: PLC0415 - only a broken client needs it

            # Nobody would serve time-outs and retries any more: better to fail everything, and loudly.
            logging.getLogger(__name__).exception("the client's background thread failed; the client is closed")
            self.close()

    def _run_passes(self) -> None:
        seen_receives = seen_stints = -1
        while True:
            with self.lock:
                if self.closed:
                    return
                user_polls = self._poller is not None and self._poller is not self._thread
                before = self.progress
                if not user_polls:
                    self.pump(by_user=False)
                changed = self.progress != before
                timeout = 0.0
                aside = user_polls or self._user_receives != seen_receives
                # One user thread has been waiting since the last look: sleep until it leaves.
                sleeps = user_polls and self._poll_stints == seen_stints
                seen_receives, seen_stints = self._user_receives, self._poll_stints
                if sleeps:
                    self._thread_sleeps = True
                elif not aside:
                    self._poller = self._thread
                    self._poll_until = self.next_deadline()
                    timeout = self._poll_until - self.now()
            if changed:
                self._notify_followers()
            self._run_after_safely()
            if aside:
                self._aside.acquire(timeout=None if sleeps else _ASIDE_S)
                continue
            self._select(timeout)
            with self.lock:
                if self._poller is self._thread:
                    self._poller = None
                    if not self.closed:
                        self._drain_wake()

    def _run_after_safely(self) -> None:
        try:
            self.run_after()
        except Exception:
            import logging  # noqa: PLC0415 - only a faulty callback needs it

            logging.getLogger(__name__).exception("a callback of the user raised")

    # ---- flows

    def run(self, flow: Flow[T]) -> T:
        """Run a flow in this thread. Raises what it raises."""
        try:
            wait = next(flow)
            while True:
                if wait.user_task is not None:
                    if isinstance(wait.user_task, Coroutine):
                        wait.user_task.close()
                    message = "the callback is a coroutine, which only the asyncio clients can await"
                    wait = flow.throw(TypeError(message))
                    continue
                value = self.wait_until(wait.condition, wait.deadline)
                self.check_open()
                wait = flow.send(value)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def call(self, request: Request, connection: Connection, timeout_s: float) -> Flow[Answer]:
        """Send one request and wait for its answer. Raises what went wrong."""
        outcome: list[Answer | ZmqBrokerError] = []
        now = self.now()
        with self.lock:
            self.check_open()
            connection.submit(Call(request, outcome.append, now + timeout_s), now)
        yield Wait(lambda: outcome, now + timeout_s + 1.0)
        if not outcome:
            message = f"{connection.address} did not answer {type(request).__name__} within {timeout_s:g} s"
            raise NoAnswerError(message)
        if isinstance(outcome[0], ZmqBrokerError):
            raise outcome[0]
        return outcome[0]

    def pause(self, seconds: float) -> Flow[None]:
        """Let some time pass."""
        yield Wait(lambda: None, self.now() + seconds)


def body_of(answer: Answer, cls: type[T]) -> T:
    """An answer's body, whose type the request has fixed."""
    body: Any = answer.body
    assert isinstance(body, cls)
    return body
