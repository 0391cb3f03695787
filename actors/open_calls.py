"""OpenCalls: the requests of one client that are being worked on, with their bytes and deadlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..clock import Clock
    from .actor import Home
    from .calls import Call
    from .timers import Timer


class OpenCalls:
    """The calls of one session. One timer is set for the earliest deadline of all."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self.bytes = 0
        """What the requests hold."""
        self._home = home
        self._clock = clock
        self._calls: dict[Call, None] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        """Go over those that are open now and still are when their turn comes: one may end the others."""
        return (call for call in list(self._calls) if not call.closed)

    def start(self, call: Call) -> None:
        """Begin to work on a call, which may end here already."""
        self._calls[call] = None
        self.bytes += call.size
        call.start()
        if not call.closed:
            self._watch(call)

    def end(self, call: Call) -> None:
        """A call has its answer."""
        assert call in self._calls, f"{call!r} is finished twice"
        del self._calls[call]
        self.bytes -= call.size
        call.closed = True

    def drain(self) -> None:
        """Have those answered that wait for something which may never come."""
        for call in self:
            call.drain()

    def abandon(self) -> list[Call]:
        """End all without an answer, and say which they were."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        abandoned = list(self._calls)
        for call in abandoned:
            call.closed = True
            call.abandon()
        self._calls.clear()
        self.bytes = 0
        return abandoned

    def _watch(self, call: Call) -> None:
        timer = self._timer
        if timer is None or call.deadline_ms < timer.when_ms:
            if timer is not None:
                timer.cancel()
            wait_ms = max(0.0, call.deadline_ms - self._clock.monotonic_ms())
            self._timer = self._home.call_later(wait_ms, self._check)

    def _check(self) -> None:
        self._timer = None
        now_ms = self._clock.monotonic_ms()
        for call in self:
            if call.deadline_ms <= now_ms:
                call.on_deadline()
        if self._calls:
            self._watch(min(self._calls, key=lambda call: call.deadline_ms))
