"""Ctrl-C in a moment in which Python drops exceptions."""

from __future__ import annotations

import os
import signal

import pytest
from zmqbroker.cli.interrupt import Interrupt


class InterruptedAtItsEnd:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10):  # the handler runs here, between two lines, and what it raises goes nowhere
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_whose_exception_is_dropped_is_noticed_by_the_next_check():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        interrupt.check()
        one = InterruptedAtItsEnd()
        del one
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_ends_what_runs_at_once():
    with Interrupt(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
