"""A node's reactor on virtual time: its clock, its poller, and the events that run its passes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..actors.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from .world import Event, World

WALL_START_MS = 1_700_000_000_000
_MONOTONIC_START_MS = 1_000.0
_PASS_COST_MS = (0.01, 0.1)
"""What a pass takes: so time moves on under load, and no two nodes run in lockstep."""
_CALLBACKS_A_WAIT = 256
_ROUNDING_MS = 1e-6
"""A timer's due time goes from the node's clock to the world's and back."""


class SimClock:
    """A node's clock: a little too fast or too slow, and its wall clock somewhat off."""

    def __init__(self, world: World, *, rate: float = 1.0, skew_ms: float = 0.0) -> None:
        self._world = world
        self._rate = rate
        self.skew_ms = skew_ms
        """May be changed at any time: wall clocks jump."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, as this node believes."""
        return int(WALL_START_MS + self.skew_ms + self._world.now_ms * self._rate)

    def monotonic_ms(self) -> float:
        """Milliseconds since some fixed moment."""
        return _MONOTONIC_START_MS + self._world.now_ms * self._rate

    def world_ms(self, monotonic_ms: float) -> float:
        """When the monotonic clock will show this, by the world's time."""
        return (monotonic_ms - _MONOTONIC_START_MS) / self._rate


class SimPoller:
    """I/O that is ready when the simulated network says so; waiting never blocks."""

    def __init__(self, on_wake: Callable[[], None]) -> None:
        self._on_wake = on_wake
        self._ready: deque[Callable[[], object]] = deque()

    @property
    def ready(self) -> bool:
        """Whether there is anything to run."""
        return bool(self._ready)

    def add(self, callback: Callable[[], object]) -> None:
        """Have a callback run by the next wait."""
        self._ready.append(callback)
        self._on_wake()

    def wait(self, timeout_ms: float | None) -> None:  # noqa: ARG002 - time moves by events alone
        """Run the callbacks that are ready."""
        for _ in range(min(len(self._ready), _CALLBACKS_A_WAIT)):
            self._ready.popleft()()

    def wake(self) -> None:
        """Have the reactor look again."""
        self._on_wake()

    def close(self) -> None:
        """Nothing is held."""


class ReactorRunner:
    """Runs a reactor's passes as events: as long as there is work, then at the next timer or I/O.

    ``on_end`` hears once how it ended: None for an orderly end, or the exception that left the reactor.
    """

    def __init__(
        self, world: World, name: str, clock: SimClock, on_end: Callable[[BaseException | None], None]
    ) -> None:
        self._world = world
        self._name = name
        self._clock = clock
        self._on_end = on_end
        self._random = world.stream(f"{name}/passes")
        self.poller = SimPoller(self._wake)
        self.reactor = Reactor(clock, self.poller)
        self._next: Event | None = None
        self._free_at_ms = 0.0
        self._in_pass = False
        self._woken = False
        self._paused = False
        self.over = False

    def start(self) -> None:
        """Run the first pass now."""
        self._wake()

    def pause(self) -> None:
        """Run nothing, as a stopped process; what comes in waits."""
        self._paused = True
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def resume(self) -> None:
        """Go on."""
        self._paused = False
        self._wake()

    def kill(self) -> None:
        """Run nothing any more, and tell nobody."""
        self.over = True
        self.pause()

    def _wake(self) -> None:
        if self._in_pass:
            self._woken = True
        else:
            self._schedule(self._world.now_ms)

    def _schedule(self, when_ms: float) -> None:
        if self.over or self._paused:
            return
        when_ms = max(when_ms, self._free_at_ms)
        if self._next is not None:
            if self._next.when_ms <= when_ms:
                return
            self._next.cancel()
        self._next = self._world.at(when_ms, self._name, self._run)

    def _run(self) -> None:
        self._next = None
        self._in_pass, self._woken = True, False
        self._world.active = self._world.ran = self._name
        try:
            more = self.reactor.run_pass(0.0)
        except Exception as error:  # noqa: BLE001 - whoever owns the node judges it
            self._end(error)
            return
        finally:
            self._in_pass = False
            self._world.active = ""
        if self.reactor.stopped:
            self._end(None)
            return
        self._free_at_ms = self._world.now_ms + self._random.uniform(*_PASS_COST_MS)
        if more or self._woken or self.poller.ready:
            self._schedule(self._free_at_ms)
        elif (due_ms := self.reactor.next_due_ms()) is not None:
            self._schedule(self._clock.world_ms(due_ms) + _ROUNDING_MS)

    def _end(self, error: BaseException | None) -> None:
        self.over = True
        self._on_end(error)
