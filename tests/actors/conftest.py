"""A clock and a poller of virtual time, and a reactor on each kind of poller."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from zmqbroker.actors.reactor import Reactor
from zmqbroker.clock import SystemClock
from zmqbroker.transport.poller import ZmqPoller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 10.0


class FakeClock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now_ms = 1000.0

    def wall_ms(self) -> int:
        return int(self.now_ms)

    def monotonic_ms(self) -> float:
        return self.now_ms


class FakePoller:
    """I/O that is never ready, unless a test queues a callback: waiting moves the clock on, at once."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.wakes = 0
        self.waits: list[float | None] = []
        self.ready: list[Callable[[], object]] = []

    def wait(self, timeout_ms: float | None) -> None:
        self.waits.append(timeout_ms)
        ready, self.ready = self.ready, []
        if timeout_ms is not None and not ready:
            self.clock.now_ms += timeout_ms
        for callback in ready:
            callback()

    def wake(self) -> None:
        self.wakes += 1

    def close(self) -> None:
        pass


class BackgroundReactor:
    """A reactor that runs in a thread, on real time and sockets."""

    def __init__(self) -> None:
        self.poller = ZmqPoller()
        self.reactor = Reactor(SystemClock(), self.poller)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="reactor")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.reactor.run()
        except BaseException as error:  # noqa: BLE001  the test looks at it
            self.error = error

    def call(self, function: Callable[[], Any]) -> Any:
        """What the function returns or raises on the reactor's thread."""
        done = threading.Event()
        outcome: list[Any] = [None, None]

        def run() -> None:
            try:
                outcome[0] = function()
            except Exception as error:  # noqa: BLE001  raised again below
                outcome[1] = error
            done.set()

        assert self.reactor.call_from_thread(run)
        assert done.wait(DEADLINE_S)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def spawn(self, cls: Any, *args: Any, **kwargs: Any) -> Any:
        return self.call(lambda: self.reactor.spawn(cls, *args, **kwargs))

    def join(self) -> None:
        """Wait for the end that the test has brought about."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.reactor.stop()
        self.join()
        self.poller.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def poller(clock: FakeClock) -> FakePoller:
    return FakePoller(clock)


@pytest.fixture
def reactor(clock: FakeClock, poller: FakePoller) -> Reactor:
    return Reactor(clock, poller)


@pytest.fixture
def run_idle(reactor: Reactor) -> Callable[[], None]:
    """Run passes until nothing is ready; the clock stands still."""

    def run() -> None:
        while reactor.run_pass(0.0):
            pass

    return run


@pytest.fixture
def run_for(reactor: Reactor, clock: FakeClock) -> Callable[[float], None]:
    """Let so many milliseconds of virtual time go by."""

    def run(duration_ms: float) -> None:
        end_ms = clock.now_ms + duration_ms
        while reactor.run_pass(end_ms - clock.now_ms) or clock.now_ms < end_ms:
            pass
        while reactor.run_pass(0.0):
            pass

    return run


@pytest.fixture
def background() -> Iterator[BackgroundReactor]:
    background = BackgroundReactor()
    yield background
    background.close()
