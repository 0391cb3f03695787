"""Programs of others: where they are, how they are started, and how all that they have started is ended again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

START_SECONDS = 120.0
END_SECONDS = 20.0
PAUSE_SECONDS = 0.005
SAID_BYTES = 600
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")
"""Where Debian puts servers, and where the PATH of somebody who is not root does not look."""


def find_program(name: str) -> str:
    """Where a program is; empty: nowhere on the PATH, nor where servers are put."""
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    return shutil.which(name, path=folders) or ""


def output_of(*words: str) -> str:
    """What a program says about itself, on either stream."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=END_SECONDS, check=False)
    return (done.stdout + done.stderr).strip()


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on now, all of them different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return found


class Program:
    """A server in a session of its own, so that Ctrl-C at the terminal reaches the benchmark alone, which then ends it.

    SIGKILL is what ends it: its data are thrown away anyway, and a stop in good order may wait for nodes that are gone.
    """

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def kill(self) -> None:
        """End it and everything that it has started, in whatever session that is, and return when it is gone."""
        helpers = descendants(self.pid)
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        for helper in helpers:
            with suppress(ProcessLookupError):
                os.kill(helper, signal.SIGKILL)
        self._process.wait(END_SECONDS)

    def said(self) -> str:
        """The end of what it has printed, for the report of a failure."""
        with suppress(OSError):
            return " ".join(self._log.read_text(errors="replace")[-SAID_BYTES:].split())
        return ""

    def wait_for(self, answers: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
        """Wait until it answers. Raises RuntimeError if it ends instead, TimeoutError if neither happens in time."""
        deadline = time.monotonic() + seconds
        while not answers():
            if self._process.poll() is not None:
                message = f"{what} has ended with exit code {self._process.returncode}: {self.said()}"
                raise RuntimeError(message)
            if time.monotonic() > deadline:
                message = f"{what} did not answer within {seconds:g} s: {self.said()}"
                raise TimeoutError(message)
            time.sleep(PAUSE_SECONDS)


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on, as far as they run now."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text(encoding="ascii").split()):
                found += [child, *descendants(child)]
    return found


def ask(port: int, question: bytes, beginning: bytes, *, greets: bool = False, seconds: float = END_SECONDS) -> bool:
    """Whether a server on this port answers a question with what begins so; one that ``greets`` speaks first."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), seconds) as connection:
        if greets:
            connection.recv(65536)
        connection.sendall(question)
        return connection.recv(65536).startswith(beginning)
    return False
