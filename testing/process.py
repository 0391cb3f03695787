"""A broker in processes of its own, as `zmqbroker start` runs it: a test may stop it, kill it, and start it again.

Slower to start than the embedded broker, by the start of two interpreters; it is there for what that one cannot show.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, NamedTuple, Self

from ..errors import ClosedError, RequestTimedOutError, UnknownServerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

READY_TIMEOUT_MS = 30_000
STOP_TIMEOUT_MS = 30_000
_READY = re.compile(
    r"\bready: listening on (tcp://\S+?)(?:, for Kafka's clients on (\S+?))?, data in (.+)"
    r" \(node (\d+), process (\d+)\)$"
)


class ReadyLine(NamedTuple):
    """What the line that `zmqbroker start` prints when it answers says."""

    address: str
    data_dir: str
    node_id: int
    node_pid: int
    kafka: str = ""
    """HOST:PORT for Kafka's clients; empty: nowhere."""


def parse_ready(line: str) -> ReadyLine | None:
    """Read a line of `zmqbroker start`; None if it is another one."""
    found = _READY.search(line.rstrip("\n"))
    return found and ReadyLine(found[1], found[3], int(found[4]), int(found[5]), found[2] or "")


class BrokerProcess:
    """A broker in a supervisor and a node process, in a process group of their own.

    ``flags`` are more words for `zmqbroker start`, such as ``["--set", "log.flush=os"]``. Without ``data_dir`` the data
    are in a temporary folder that ``close`` removes. After the first start, further ones use the same ports.
    ``prefix`` are words before the command, of a program that becomes it, such as ``["nsenter", "--net=..."]``; ``env``
    are more environment variables; what it writes to standard error is appended to the file ``error_path``.
    """

    def __init__(
        self,
        *,
        data_dir: str | None = None,
        listen: str = "tcp://127.0.0.1:0",
        flags: Sequence[str] = (),
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        error_path: str | None = None,
    ) -> None:
        self._owns_data = data_dir is None
        self.data_dir = data_dir if data_dir is not None else mkdtemp(prefix="zmqbroker-")
        self._listen = listen
        self._flags = tuple(flags)
        self._prefix = tuple(prefix)
        self._env = None if env is None else {**os.environ, **env}
        self._error_path = error_path
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self.ready: ReadyLine | None = None
        """The last line with the word ready; None before the first one."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The supervisor's process. Raises ClosedError if it was not started."""
        if self._process is None:
            message = "the broker process is not started"
            raise ClosedError(message)
        return self._process

    @property
    def bootstrap_servers(self) -> str:
        """What clients connect to, as ``host:port``. Raises ClosedError before the first ready line."""
        if self.ready is None:
            message = "the broker process has not said that it is ready, so its address is unknown"
            raise ClosedError(message)
        return self.ready.address.removeprefix("tcp://")

    def start(self, timeout_ms: int = READY_TIMEOUT_MS) -> Self:
        """Start it and return when it has said that it is ready."""
        self.launch()
        self.wait_ready(timeout_ms)
        return self

    def launch(self) -> None:
        """Start it and return at once."""
        assert self._process is None, "the broker process runs already"
        listen = self._listen if self.ready is None else self.ready.address
        kafka = "127.0.0.1:0" if self.ready is None else self.ready.kafka or "none"
        command = [sys.executable, "-m", "zmqbroker", "start", "--data-dir", self.data_dir, "--listen", listen]
        command += ["--kafka-listen", kafka]
        with nullcontext() if self._error_path is None else Path(self._error_path).open("ab") as errors:
            # A session of its own: one killpg reaches both processes, and Ctrl-C at the terminal only the caller.
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [*self._prefix, *command, *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._env,
                start_new_session=True,
            )
        self._unread = b""

    def wait_ready(self, timeout_ms: int = READY_TIMEOUT_MS) -> ReadyLine:
        """Read lines until the next one that says ready.

        Raises UnknownServerError if the process ends instead, RequestTimedOutError if neither happens in time.
        """
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            line = self._read_line(deadline)
            if line is None:
                message = f"the broker process ended with exit code {self.process.wait()} before it was ready"
                raise UnknownServerError(message)
            ready = parse_ready(line)
            if ready is not None:
                self.ready = ready
                return ready

    @property
    def kafka_bootstrap(self) -> str:
        """What Kafka's clients connect to, as ``host:port``. Raises ClosedError if there is no such address."""
        if self.ready is None or not self.ready.kafka:
            message = "the broker process is not ready, or was started with --kafka-listen none"
            raise ClosedError(message)
        return self.ready.kafka

    @property
    def is_running(self) -> bool:
        """Whether there is a supervisor; one that has ended by itself is reaped."""
        if self._process is not None and self._process.poll() is not None:
            self._reap(STOP_TIMEOUT_MS)
        return self._process is not None

    @property
    def node_pid(self) -> int | None:
        """The process of the node that runs at the moment, also of one that the supervisor has just started."""
        if self._process is None:
            return None
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        except OSError:
            return None
        return next((int(child) for child in children if process_is_alive(int(child))), None)

    def stop(self, timeout_ms: int = STOP_TIMEOUT_MS) -> int:
        """Send SIGTERM and return the exit code when all is over. Raises RequestTimedOutError."""
        self.process.terminate()
        return self._reap(timeout_ms)

    def kill(self, timeout_ms: int = STOP_TIMEOUT_MS) -> None:
        """Kill supervisor and node with SIGKILL, at once, and return when both are gone."""
        with suppress(ProcessLookupError):  # both have ended by themselves
            os.killpg(self.process.pid, signal.SIGKILL)
        self._reap(timeout_ms)

    def kill_node(self) -> None:
        """Kill the node with SIGKILL, and not the supervisor, which will start another."""
        self.signal_node(signal.SIGKILL)

    def signal_node(self, number: signal.Signals) -> None:
        """Send the node a signal, if it runs."""
        pid = self.node_pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """Kill what still runs, and remove the data folder if it is temporary."""
        if self._process is not None:
            self.kill()
        if self._owns_data:
            from shutil import rmtree  # noqa: PLC0415 - not needed before the end

            rmtree(self.data_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _reap(self, timeout_ms: int) -> int:
        """Wait for the supervisor, then for the end of its output, which the node shares."""
        process = self.process
        deadline = time.monotonic() + timeout_ms / 1000
        try:
            code = process.wait(timeout_ms / 1000)
        except subprocess.TimeoutExpired as error:
            message = f"the broker process has not ended within {timeout_ms} ms"
            raise RequestTimedOutError(message) from error
        while self._read_line(deadline) is not None:
            pass
        assert process.stdout is not None
        process.stdout.close()
        self._process = None
        return code

    def _read_line(self, deadline: float) -> str | None:
        """One line of standard output; None at its end. Raises RequestTimedOutError."""
        assert self.process.stdout is not None
        source = self.process.stdout.fileno()
        while b"\n" not in self._unread:
            if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
                message = f"the broker process said nothing more in time; it has said {self._unread!r}"
                raise RequestTimedOutError(message)
            data = os.read(source, 65536)
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace")


def process_is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
