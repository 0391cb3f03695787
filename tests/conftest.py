"""What every test may ask for: brokers in processes of their own, the command line, waiting for a condition."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from zmqbroker.cli.main import main
from zmqbroker.testing import BrokerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_SECONDS = 30.0
"""How long anything may take before a test fails; nothing normally takes a hundredth of it."""


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell starts what runs in the background with SIGINT ignored, and processes of tests would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Wait until a function returns something true, and return that; fail after the deadline."""

    def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
        deadline = time.monotonic() + seconds
        breath = threading.Event()  # never set: another process has nothing to wake us with
        while not (found := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {seconds} s")
            breath.wait(0.005)
        return found

    return wait_for


@pytest.fixture
def broker_process() -> Iterator[Callable[..., BrokerProcess]]:
    """Make brokers in processes of their own, not started yet; they are killed when the test ends."""
    with ExitStack() as closing:

        def make(**options: Any) -> BrokerProcess:
            broker = BrokerProcess(**options)
            closing.callback(broker.close)
            return broker

        yield make


@pytest.fixture
def zmqbroker_process() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run `zmqbroker WORDS...` in a process of its own to its end."""

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "zmqbroker", *words]
        return subprocess.run(command, capture_output=True, timeout=DEADLINE_SECONDS, check=False)

    return run


@pytest.fixture
def zmqbroker_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run `zmqbroker WORDS...` inside of this process, which takes milliseconds, with bytes for its standard input."""

    def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        out, err = io.BytesIO(), io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="utf-8", write_through=True))
            patch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding="utf-8", write_through=True))
            code = main(words)
            sys.stdout.flush()
            return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def refused() -> Callable[[subprocess.CompletedProcess[bytes]], str]:
    """Check that a command failed as it should: exit code 1, one sentence on standard error, no traceback."""

    def check(done: subprocess.CompletedProcess[bytes]) -> str:
        sentence = done.stderr.decode()
        assert done.returncode == 1, sentence
        assert sentence.startswith("zmqbroker: ")
        assert sentence.count("\n") == 1, sentence
        assert "Traceback" not in sentence
        return sentence

    return check


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody answers: bound, so that nobody else takes it, but not listened on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
