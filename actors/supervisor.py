"""The process of `zmqbroker start`: it spawns the node in a process of its own and restarts one that dies.

Two processes, because a failed assertion ends the node on purpose (it restarts from its log), and something has to be
there to start it again. The supervisor therefore imports next to nothing and holds no state that matters: killed, it
takes nothing with it, and the node, which watches it, stops in good order by itself.

What is decided here::

    the node was never ready and refused to start  ->  say why, exit 1: a restart would be refused again
    the node died                                  ->  restart it after 100 ms, doubling to 10 s; from 100 ms again
                                                       after 60 s alive
    SIGTERM, SIGINT (Ctrl-C)                       ->  the node stops in good order, exit 0
    a signal again a second later, or no stop      ->  the node is killed, exit 1
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Final, TextIO

from .node_process import Ready, Refused, node_main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import SpawnProcess

    from ..settings import BrokerConfig

BACKOFF_MS_MIN: Final = 100
BACKOFF_MS_MAX: Final = 10_000
BACKOFF_RESET_MS: Final = 60_000
IMPATIENCE_MS: Final = 1_000
"""A second signal this long after the first kills. Sooner ones do not: `make` and `timeout` send each signal twice."""
KILL_GRACE_MS: Final = 5_000
"""How long the node may take beyond its own graceful_shutdown_timeout_ms before it is killed."""


def run_supervised(config: BrokerConfig, *, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Run a node until SIGTERM or SIGINT and return the exit code: 0 after a stop in good order, else 1.

    Must be called on the main thread, because it handles signals. One line with the word `ready` goes to out when the
    node answers, one with the word `restarted` each time it does so again.
    """
    return _Supervisor(config, out or sys.stdout, err or sys.stderr).run()


def next_backoff_ms(last_ms: int, alive_ms: float) -> int:
    """How long to wait before a restart, given the last wait (0: none yet) and how long the node has lived since."""
    if last_ms == 0 or alive_ms >= BACKOFF_RESET_MS:
        return BACKOFF_MS_MIN
    return min(last_ms * 2, BACKOFF_MS_MAX)


class _Supervisor:
    """One node process at a time, and what is known of it."""

    def __init__(self, config: BrokerConfig, out: TextIO, err: TextIO) -> None:
        self._config = config
        self._out = out
        self._err = err
        self._signals = 0
        self._starts = 0
        self._process: SpawnProcess | None = None

    def run(self) -> int:
        """Spawn, watch, restart; return the exit code."""
        with self._signal_pipe() as signals:
            backoff_ms = 0
            while True:
                started_at = time.monotonic()
                process, messages = self._spawn()
                refused = self._watch(process, messages, signals)
                process.join()
                self._process = None
                if refused is not None:
                    self._say(self._err, f"zmqbroker: {refused.reason}")
                    return 1
                if self._signals:
                    return self._stopped(process)
                alive_ms = (time.monotonic() - started_at) * 1000
                backoff_ms = next_backoff_ms(backoff_ms, alive_ms)
                how = _how_it_ended(process.exitcode)
                self._say(self._err, f"zmqbroker: the node {how} after {alive_ms:.0f} ms; restart in {backoff_ms} ms")
                if wait([signals], timeout=backoff_ms / 1000):
                    return 0

    def _spawn(self) -> tuple[SpawnProcess, Connection]:
        context = get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=node_main, args=(self._config, sender), name="zmqbroker-node")
        with _no_resource_tracker(), _sigint_blocked():
            process.start()
        sender.close()
        self._process = process
        if self._signals:  # one that came before there was a process to pass it on to
            process.terminate()
        return process, receiver

    def _watch(self, process: SpawnProcess, messages: Connection, signals: int) -> Refused | None:
        """Return when the process has ended: why it refused to start, or None."""
        refused = None
        deadline: float | None = None
        impatient_at = 0.0
        open_ends: list[Connection | int] = [process.sentinel, messages, signals]
        while process.sentinel in open_ends:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            ended = wait(open_ends, timeout=timeout)
            if signals in ended:
                os.read(signals, 512)
                now = time.monotonic()
                if deadline is None:
                    grace_ms = self._config.graceful_shutdown_timeout_ms + KILL_GRACE_MS
                    deadline = now + grace_ms / 1000
                    impatient_at = now + IMPATIENCE_MS / 1000
                elif now >= impatient_at:
                    process.kill()
            elif not ended:
                process.kill()
                deadline = None
            if messages in ended:
                try:
                    message = messages.recv()
                except (EOFError, OSError):
                    open_ends.remove(messages)
                    messages.close()
                else:
                    refused = message if isinstance(message, Refused) else refused
                    if isinstance(message, Ready):
                        self._announce(message, process.pid)
            elif process.sentinel in ended:  # only once everything it said has been read
                open_ends.remove(process.sentinel)
        return refused

    def _announce(self, ready: Ready, pid: int | None) -> None:
        word = "restarted and ready" if self._starts else "ready"
        self._config = replace(self._config, listen=ready.address)  # a port that was chosen is kept when it restarts
        self._starts += 1
        data_dir = os.path.abspath(self._config.data_dir)  # noqa: PTH100 - pathlib costs a start-up 10 ms
        where = f"listening on {ready.address}, data in {data_dir}"
        self._say(self._out, f"zmqbroker {word}: {where} (node {self._config.node_id}, process {pid})")

    def _stopped(self, process: SpawnProcess) -> int:
        if process.exitcode in (0, -signal.SIGTERM):  # SIGTERM itself: before the node had begun to listen to it
            return 0
        self._say(self._err, f"zmqbroker: the node {_how_it_ended(process.exitcode)} while it was stopping")
        return 1

    @staticmethod
    def _say(stream: TextIO, line: str) -> None:
        with suppress(BrokenPipeError):  # whoever read our output has gone; the node serves on
            print(line, file=stream, flush=True)

    @contextmanager
    def _signal_pipe(self) -> Iterator[int]:
        """A file descriptor that turns readable when a signal has come; the handlers pass SIGTERM on to the node.

        SIGINT is not passed on as it is: at a terminal Ctrl-C reaches both processes, and the node ignores it, so that
        the one order to stop is SIGTERM from here.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)

        def handle(_number: int, _frame: object) -> None:
            self._signals += 1
            if self._process is not None:
                self._process.terminate()
            os.write(writer, b"!")

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield reader
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"ended with exit code {exitcode}"
    return f"was ended by {signal.Signals(-exitcode).name}"


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Let what is started meanwhile never hear SIGINT, not even before its first line; ours waits until the end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def _no_resource_tracker() -> Iterator[None]:
    """Spawn without multiprocessing's resource tracker, a third process that would watch semaphores we do not have.

    The tracker's pipe, whose write end a spawned process is given, is replaced by /dev/null while the process starts.
    Should a later Python look elsewhere for it, the tracker is started as ever: a process more, nothing worse.
    """
    getfd = resource_tracker.getfd
    nowhere = os.open(os.devnull, os.O_WRONLY)
    resource_tracker.getfd = lambda: nowhere
    try:
        yield
    finally:
        resource_tracker.getfd = getfd
        os.close(nowhere)
