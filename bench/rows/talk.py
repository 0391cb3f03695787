"""A process of child.py that says a word when it is ready, works until it hears one, and then says what it found."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from .startup import CHILD

if TYPE_CHECKING:
    from types import TracebackType


class Child:
    """Ends with its `with` block at the latest."""

    def __init__(self, *words: str) -> None:
        self._verb = words[0]
        self._process = subprocess.Popen([sys.executable, CHILD, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def wait_for_word(self, seconds: float) -> None:
        """Return when it has said that it is ready. Raises TimeoutError."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            message = f"{self._verb} was not ready within {seconds:g} s"
            raise TimeoutError(message)
        self._process.stdout.readline()

    def finish(self, seconds: float) -> Any:
        """Let it end; what it found."""
        said, _ = self._process.communicate(b"\n", timeout=seconds)
        return json.loads(said)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
