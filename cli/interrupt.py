"""Ctrl-C that cannot get lost: for commands that run until it comes.

Python drops an exception that a signal's handler raises while a finalizer or a callback of a C library happens to run:
it is printed as "ignored", and the loop around goes on. So the signal is remembered as well, and looked for.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self


class Interrupt:
    """SIGINT inside of this context raises KeyboardInterrupt, at once or at the next `check`. For the main thread."""

    def __init__(self) -> None:
        self._has_come = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._come)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if the signal has come."""
        if self._has_come:
            raise KeyboardInterrupt

    def _come(self, _signum: int, _frame: FrameType | None) -> None:
        self._has_come = True
        raise KeyboardInterrupt
