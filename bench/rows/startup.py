"""Rows: how long from the start of a broker to its first answer, as a process and embedded in a test."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .basics import Figure
from .row import Row

if TYPE_CHECKING:
    from .row import Bench, Measured

CHILD = Path(__file__).with_name("child.py")


def start_process(bench: Bench) -> Measured:
    """From the start of the command on an empty folder to the answer; the client is there already."""
    broker = bench.make_broker()
    client = broker.client
    begun = time.perf_counter()
    broker.launch()
    client.wait_ready()
    seconds = time.perf_counter() - begun
    broker.kill()
    return {"first answer": seconds * 1000}


def start_embedded(_bench: Bench) -> Measured:
    """In a fresh interpreter, whose imports are done before the clock starts."""
    done = subprocess.run([sys.executable, CHILD, "embedded"], capture_output=True, timeout=60, check=True)
    return {name: value * 1000 for name, value in json.loads(done.stdout).items()}


ROWS = (
    Row(
        "start process",
        "empty folder, default settings",
        (Figure("first answer", "ms", "< 500", "Kafka 4.1: 3,700"),),
        start_process,
    ),
    Row(
        "start embedded",
        "testing.Broker, after imports",
        (Figure("first answer", "ms", "< 100"), Figure("imports", "ms")),
        start_embedded,
    ),
)
