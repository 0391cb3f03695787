"""A process of child.py: it is ready, it is told to begin, it says what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rows.talk import Child as RowsChild

if TYPE_CHECKING:
    from contextlib import ExitStack

PROGRAM = Path(__file__).with_name("child.py")
READY_SECONDS = 180.0
FINISH_SECONDS = 900.0


class Child(RowsChild):
    """One that ends with a stack at the latest, by its own process."""

    def __init__(self, closing: ExitStack, *words: object) -> None:
        self._verb = str(words[0])
        command = [sys.executable, str(PROGRAM), *map(str, words)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        closing.enter_context(self)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Return when it has said that it is ready. Raises TimeoutError."""
        self.wait_for_word(READY_SECONDS)

    def begin(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """What it found; one that works until there is a word gets one. Raises RuntimeError if it failed."""
        said, _ = self._process.communicate(b"\n", timeout=FINISH_SECONDS)
        if self._process.returncode:
            message = f"{self._verb} ended with exit code {self._process.returncode}"
            raise RuntimeError(message)
        return json.loads(said)

    def work(self) -> Any:
        """Wait until it is ready, let it begin, and return what it found."""
        self.wait_ready()
        self.begin()
        return self.result()
