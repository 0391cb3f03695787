"""What the rows and the broker that they measure both stand on: figures, and a way to wait."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Figure:
    """One number of a row."""

    name: str
    unit: str
    goal: str = ""
    """What this project holds itself to, if that is an absolute number."""
    elsewhere: str = ""
    """What another system reached on another machine: for orientation, comparable to nothing measured here."""


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait until something is so. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            message = f"{what}: not within {seconds:g} s"
            raise TimeoutError(message)
        time.sleep(0.005)
