"""Supervision: which of a reactor's actors come back after a failure, and when.

An actor that failed lost its state, but not its place: its address stays taken, messages to it find nobody, and after
a delay it is made anew from the same class and arguments. The delay doubles with each failure, and starts anew once the
actor has stayed alive for a minute.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from .timers import Timer, Timers

logger = logging.getLogger(__name__)

RESTART_DELAY_MS_MIN: Final = 100.0
RESTART_DELAY_MS_MAX: Final = 10_000.0
STEADY_AFTER_MS: Final = 60_000.0
"""An actor that lived this long has recovered: its next failure counts as its first."""


class _Supervised:
    """One supervised actor, through all its lives."""

    __slots__ = ("delay_ms", "start", "started_ms", "timer")

    def __init__(self, start: Callable[[], object], started_ms: float) -> None:
        self.start = start
        self.started_ms = started_ms
        self.delay_ms = RESTART_DELAY_MS_MIN
        self.timer: Timer | None = None
        """Set while the actor is down."""


class Supervisor:
    """Restarts the supervised actors of one reactor."""

    def __init__(self, clock: Clock, timers: Timers) -> None:
        self._clock = clock
        self._timers = timers
        self._supervised: dict[str, _Supervised] = {}

    def watch(self, address: str, start: Callable[[], object]) -> None:
        """From now on the actor at this address, just started, is started anew by calling start when it fails."""
        assert address not in self._supervised, f"{address} is supervised already"
        self._supervised[address] = _Supervised(start, self._clock.monotonic_ms())

    def is_down(self, address: str) -> bool:
        """Whether the actor failed and waits for its restart."""
        supervised = self._supervised.get(address)
        return supervised is not None and supervised.timer is not None

    def actor_gone(self, address: str, *, failed: bool) -> None:
        """The actor at this address is gone; if it failed and is supervised, it comes back."""
        supervised = self._supervised.get(address)
        if supervised is None:
            return
        if failed:
            self._restart_later(address, supervised)
        else:
            del self._supervised[address]

    def forget(self, address: str) -> bool:
        """Never restart the actor again; True if it was down, so that this was all there was to stop."""
        supervised = self._supervised.pop(address, None)
        if supervised is None or supervised.timer is None:
            return False
        supervised.timer.cancel()
        return True

    def forget_all(self) -> None:
        """Restart nothing any more."""
        for address in list(self._supervised):
            self.forget(address)

    def _restart_later(self, address: str, supervised: _Supervised) -> None:
        assert supervised.timer is None, f"{address} failed while it was down"
        if self._clock.monotonic_ms() - supervised.started_ms >= STEADY_AFTER_MS:
            supervised.delay_ms = RESTART_DELAY_MS_MIN
        delay_ms = supervised.delay_ms
        supervised.delay_ms = min(delay_ms * 2, RESTART_DELAY_MS_MAX)
        logger.warning("the actor %s failed and restarts in %d ms", address, delay_ms)
        supervised.timer = self._timers.call_later(delay_ms, lambda: self._restart(address, supervised))

    def _restart(self, address: str, supervised: _Supervised) -> None:
        supervised.timer = None
        supervised.started_ms = self._clock.monotonic_ms()
        try:
            supervised.start()
        except AssertionError:
            raise
        except Exception:
            logger.exception("the actor %s could not be made again", address)
            self._restart_later(address, supervised)
