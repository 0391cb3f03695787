"""The process of `zmqbroker start`: it spawns each node in a process of its own and restarts one that dies.

Separate processes, because a failed assertion ends a node on purpose (it restarts from its log), and something has to
be there to start it again. The supervisor therefore imports next to nothing and holds no state that matters: killed, it
takes nothing with it, and the nodes, which watch it, stop in good order by themselves.

What is decided here::

    a node is refused by its cluster               ->  say why, and do not start it again: it was removed, or is a copy
    a node says why it cannot start or go on       ->  say why, and restart it like one that died; if no node was ready
                                                       yet, stop the others and exit 1: it would be refused again
    no node is left                                ->  exit 1
    a node died                                    ->  restart it after 100 ms, doubling to 10 s; from 100 ms again
                                                       after 60 s alive
    SIGTERM, SIGINT (Ctrl-C)                       ->  the nodes stop in good order, exit 0
    a signal again a second later, or no stop      ->  the nodes are killed, exit 1
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

from .node_process import Ready, Refused, Stop, node_main

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.context import SpawnProcess

    from ..settings import BrokerConfig
    from .node import OpenGateway

BACKOFF_MS_MIN: Final = 100
BACKOFF_MS_MAX: Final = 10_000
BACKOFF_RESET_MS: Final = 60_000
IMPATIENCE_MS: Final = 1_000
"""A second signal this long after the first kills. Sooner ones do not: `make` and `timeout` send each signal twice."""
KILL_GRACE_MS: Final = 5_000
"""How long nodes may take beyond their own graceful_shutdown_timeout_ms before they are killed."""


def run_supervised(
    configs: Sequence[BrokerConfig],
    *,
    open_gateway: OpenGateway | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Run nodes until SIGTERM or SIGINT and return the exit code: 0 after a stop in good order, else 1.

    open_gateway makes each node's second way in; it is handed over to the nodes' processes by its name.
    Must be called on the main thread, because it handles signals. One line with the word `ready` goes to out when a
    node answers, one with the word `restarted` each time it does so again.
    """
    children = [_Child(config, open_gateway) for config in configs]
    return _Supervisor(children, out or sys.stdout, err or sys.stderr).run()


def next_backoff_ms(last_ms: int, alive_ms: float) -> int:
    """How long to wait before a restart, given the last wait (0: none yet) and how long the node has lived since."""
    if last_ms == 0 or alive_ms >= BACKOFF_RESET_MS:
        return BACKOFF_MS_MIN
    return min(last_ms * 2, BACKOFF_MS_MAX)


class _Child:
    """One node: its process, if it has one, and what is known of it."""

    def __init__(self, config: BrokerConfig, open_gateway: OpenGateway | None) -> None:
        self.config = config
        self._open_gateway = open_gateway
        self.process: SpawnProcess | None = None
        self.messages: Connection | None = None
        self.refused: Refused | None = None
        """Why its last process has ended, if it said so."""
        self.dropped = False
        """Its cluster does not take it: it is not started again."""
        self.told = ""
        """The last reason that was printed, until the node is ready again."""
        self.starts = 0
        """How often it has said that it is ready."""
        self.exitcode: int | None = 0
        self.restart_at = 0.0
        self._started_at = 0.0
        self._backoff_ms = 0

    def spawn(self) -> None:
        """Start the node's process."""
        context = get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(
            target=node_main, args=(self.config, theirs, self._open_gateway), name="zmqbroker-node"
        )
        with _no_resource_tracker(), _sigint_blocked():
            process.start()
        theirs.close()
        self._started_at = time.monotonic()
        self.process, self.messages, self.refused = process, mine, None

    def stop(self, siblings: tuple[int, ...]) -> None:
        """Tell the process to stop; siblings: the nodes that are told so at the same time, itself among them."""
        if self.process is None or self.process.pid is None:
            return
        with suppress(OSError):
            if len(siblings) > 1 and self.messages is not None:
                self.messages.send(Stop(siblings))
            else:
                os.kill(self.process.pid, signal.SIGTERM)

    def heard(self) -> Ready | None:
        """Read what the process has said; Ready if it is."""
        assert self.messages is not None
        try:
            message = self.messages.recv()
        except (EOFError, OSError):
            self.messages.close()
            self.messages = None
            return None
        if isinstance(message, Refused):
            self.refused = message
        return message if isinstance(message, Ready) else None

    def ended(self) -> str:
        """The process has ended, and all that it said was read: how, once the time of the restart is set."""
        assert self.process is not None
        self.process.join()
        self.exitcode = self.process.exitcode
        self.process = None
        now = time.monotonic()
        alive_ms = (now - self._started_at) * 1000
        self._backoff_ms = next_backoff_ms(self._backoff_ms, alive_ms)
        self.restart_at = now + self._backoff_ms / 1000
        if self.messages is not None:
            self.messages.close()
            self.messages = None
        how = f"{how_it_ended(self.exitcode)} after {alive_ms:.0f} ms" if self.refused is None else self.refused.reason
        return f"{how}; restart in {self._backoff_ms} ms"

    def sources(self) -> list[Connection | int]:
        """What to wait for: what the process says and, once all of that was read, its end."""
        sources: list[Connection | int] = [] if self.messages is None else [self.messages]
        return sources if self.process is None else [*sources, self.process.sentinel]


class _Supervisor:
    """All nodes of one `zmqbroker start`."""

    def __init__(self, children: Sequence[_Child], out: TextIO, err: TextIO) -> None:
        self._children = children
        self._out = out
        self._err = err
        self._signals = 0
        self._failed = False
        self._stop_by: float | None = None
        self._impatient_at = 0.0

    def run(self) -> int:
        """Spawn, watch, restart; return the exit code."""
        with self._signal_pipe() as signals:
            while True:
                if self._stop_by is None:
                    self._spawn_due()
                elif not any(child.process for child in self._children):
                    return self._exit_code()
                ended = wait([signals, *self._sources()], timeout=self._timeout())
                if signals in ended:
                    os.read(signals, 512)
                    self._begin_stop()
                self._kill_if_late()
                for child in self._children:
                    self._look_at(child, ended)

    def _spawn_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is None and not child.dropped and child.restart_at <= now:
                child.spawn()
                if self._signals:  # one that came before there was a process to pass it on to
                    self._begin_stop()
                    return

    def _sources(self) -> list[Connection | int]:
        return [source for child in self._children for source in child.sources()]

    def _timeout(self) -> float | None:
        """Seconds until something has to be done without being told."""
        due = [child.restart_at for child in self._children if child.process is None and not child.dropped]
        if self._stop_by is not None:
            due = [self._stop_by]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _look_at(self, child: _Child, ended: Sequence[object]) -> None:
        if child.messages is not None and child.messages in ended:
            ready = child.heard()
            if ready is not None:
                self._announce(child, ready)
        elif child.process is not None and child.process.sentinel in ended:
            how = child.ended()
            if self._stop_by is None and child.refused is not None:
                self._refused(child, child.refused, how)
            elif self._stop_by is None:
                self._say(self._err, f"zmqbroker: {self._name(child)} {how}")

    def _refused(self, child: _Child, refused: Refused, how: str) -> None:
        """A node has said why it cannot go on. Those that serve are not stopped for it."""
        child.dropped = refused.for_good
        serves = any(other.starts for other in self._children)
        if all(other.dropped for other in self._children) or not (serves or child.dropped):
            self._say(self._err, f"zmqbroker: {refused.reason}")
            self._failed = True
            self._begin_stop()
        elif child.dropped:
            self._say(self._err, f"zmqbroker: {self._name(child)} is not started again: {refused.reason}")
        elif refused.reason != child.told:
            child.told = refused.reason
            self._say(self._err, f"zmqbroker: {self._name(child)} does not run: {how}")

    def _name(self, child: _Child) -> str:
        return "the node" if len(self._children) == 1 else f"node {child.config.node_id}"

    def _announce(self, child: _Child, ready: Ready) -> None:
        word = "restarted and ready" if child.starts else "ready"
        # A port and an id that were chosen are kept when the node restarts.
        kafka_listen = f"tcp://{ready.kafka}" if ready.kafka else child.config.kafka_listen
        child.config = replace(child.config, listen=ready.address, node_id=ready.node_id, kafka_listen=kafka_listen)
        child.starts += 1
        child.told = ""
        data_dir = os.path.abspath(child.config.data_dir)  # noqa: PTH100 - pathlib costs a start-up 10 ms
        kafka = f", for Kafka's clients on {ready.kafka}" if ready.kafka else ""
        where = f"listening on {ready.address}{kafka}, data in {data_dir}"
        pid = None if child.process is None else child.process.pid
        self._say(self._out, f"zmqbroker {word}: {where} (node {ready.node_id}, process {pid})")

    # ---- the end

    def _begin_stop(self) -> None:
        now = time.monotonic()
        if self._stop_by is None:
            grace_ms = max(child.config.graceful_shutdown_timeout_ms for child in self._children) + KILL_GRACE_MS
            self._stop_by = now + grace_ms / 1000
            self._impatient_at = now + IMPATIENCE_MS / 1000
            self._pass_on()
        elif now >= self._impatient_at:
            self._kill()

    def _pass_on(self) -> None:
        """Tell the nodes to stop; several stop together, and need not move their leaders to one another first."""
        siblings = tuple(child.config.node_id for child in self._children if child.process is not None)
        for child in self._children:
            child.stop(siblings)

    def _kill_if_late(self) -> None:
        if self._stop_by is not None and time.monotonic() >= self._stop_by:
            self._stop_by = float("inf")
            self._kill()

    def _kill(self) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.kill()

    def _exit_code(self) -> int:
        wrong = [
            child for child in self._children if child.refused is None and child.exitcode not in (0, -signal.SIGTERM)
        ]  # a signal itself: before the node had begun to listen to it
        for child in wrong:
            how = how_it_ended(child.exitcode)
            self._say(self._err, f"zmqbroker: {self._name(child)} {how} while it was stopping")
        return 1 if wrong or self._failed else 0

    @staticmethod
    def _say(stream: TextIO, line: str) -> None:
        with suppress(BrokenPipeError):  # whoever read our output has gone; the nodes serve on
            print(line, file=stream, flush=True)

    @contextmanager
    def _signal_pipe(self) -> Iterator[int]:
        """A file descriptor that turns readable when a signal has come.

        SIGINT is not passed on as it is: at a terminal Ctrl-C reaches all processes, and the nodes ignore it, so that
        the one order to stop comes from here.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)

        def handle(_number: int, _frame: object) -> None:
            self._signals += 1
            os.write(writer, b"!")

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield reader
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)


def how_it_ended(exitcode: int | None) -> str:
    """The end of a process in words."""
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
