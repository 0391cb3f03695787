"""How many records a share consumer asks for: what it works off soon, so that a slow one leaves the rest to others.

The time that a record takes is measured between one request of the user for records and the next. A worker that
turned out faster than thought is believed at once, a slower one bit by bit: the user may have had something else to do.
"""

from __future__ import annotations

from .connection import FOREVER

_HELD_S = 0.2
"""A worker holds what it works off in this time: enough to hide the way to the broker and back, and little to spread
unfairly."""
_LEASE_SHARE = 4
"""... but at most in this part of the lease."""
_BUSY_PATIENCE_S = 1.0


class Pace:
    """The speed of one consumer's user. Called under the client's lock."""

    def __init__(self, most: int) -> None:
        self.lease_s = FOREVER
        """As the broker said last; not yet known: for ever."""
        self._most = most
        self._record_s: float | None = None
        self._count = 0
        self._since = 0.0

    def handed_out(self, count: int, now: float) -> None:
        """The user got so many records and works on them now."""
        if not self._count:
            self._since = now
        self._count += count

    def asked(self, now: float) -> None:
        """The user asks for more: it has done what it was given."""
        if not self._count:
            return
        took = (now - self._since) / self._count
        self._count = 0
        known = self._record_s
        self._record_s = took if known is None or took < known else (known + took) / 2

    @property
    def target(self) -> int:
        """How many records to hold at a time; 1 as long as nothing is known."""
        return 1 if self._record_s is None else self._within(_HELD_S, self._most)

    def at_once(self, most: int) -> int:
        """How many records to ask for when the user waits for up to so many, to work on them together."""
        return most if self._record_s is None else self._within(self.lease_s / _LEASE_SHARE, most)

    def _within(self, seconds: float, most: int) -> int:
        assert self._record_s is not None
        seconds = min(seconds, self.lease_s / _LEASE_SHARE)
        if seconds >= self._record_s * most:
            return most
        return max(1, int(seconds / self._record_s))

    def patience_s(self, *, is_busy: bool) -> float:
        """How long records may wait to be handed out before others should have them."""
        if is_busy:  # they were thought to be done in a fraction of this
            return min(_BUSY_PATIENCE_S, self.lease_s / _LEASE_SHARE)
        return self.lease_s - self.lease_s / _LEASE_SHARE  # perhaps the user looks in now and then
