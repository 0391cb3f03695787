"""The way into a reactor from other threads: callbacks in order, one wake-up for all that come before it looks.

No lock: a deque's append and popleft are atomic, and each side writes first and looks second. A caller appends, then
looks whether a wake-up is under way; the reactor notes that it is awake, then takes what is there. Closing is the same
again: the queue is marked closed, then emptied; a caller who appended too late sees the mark, and empties it itself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class EntryQueue:
    """Callbacks that other threads want to run on the reactor's."""

    def __init__(self, wake: Callable[[], None], refuse: Callable[[Callable[[], object]], object]) -> None:
        """Wake makes the reactor look, from any thread; refuse is given each callback that will not run, on any."""
        self._entries: deque[Callable[[], object]] = deque()
        self._wake = wake
        self._refuse = refuse
        self._wake_sent = False
        self._closed = False

    def __len__(self) -> int:
        """Callbacks that wait."""
        return len(self._entries)

    def add(self, callback: Callable[[], object]) -> bool:
        """Queue a callback, from any thread; False if the queue is closed."""
        self._entries.append(callback)
        if self._closed:
            self._refuse_all()
            return False
        if not self._wake_sent:
            self._wake_sent = True
            self._wake()
        return True

    def run(self, call: Callable[[Callable[[], object]], object], limit: int) -> None:
        """Hand the oldest callbacks to call, up to limit of them, and none that is added meanwhile."""
        self._wake_sent = False
        for _ in range(min(limit, len(self._entries))):
            call(self._entries.popleft())

    def close(self) -> None:
        """Refuse what waits and what is still to come."""
        self._closed = True
        self._refuse_all()

    def _refuse_all(self) -> None:
        while True:
            try:
                callback = self._entries.popleft()
            except IndexError:  # asking first would race with another thread that is emptying the queue, too
                return
            self._refuse(callback)
