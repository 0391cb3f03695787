"""Rows: what this machine does at this moment without any broker, to set the other figures against."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import zmq

from .basics import Figure
from .broker import free_port
from .row import Row, percentiles
from .startup import CHILD

if TYPE_CHECKING:
    from .row import Bench, Measured

LOOPS = 2_000_000
COPIED_BYTES = 64 << 20
ROUND_TRIPS = 2_000
MESSAGES = 50_000
MESSAGE_BYTES = 100
WINDOW = 500
FLUSHES = 200
TIMEOUT_MS = 10_000


def machine(bench: Bench) -> Measured:
    """Interpreter, memory, disk."""
    begun = time.perf_counter()
    total = 0
    for number in range(LOOPS):
        total += number
    looped = time.perf_counter() - begun
    source = bytearray(COPIED_BYTES)
    target = bytearray(COPIED_BYTES)
    begun = time.perf_counter()
    target[:] = source
    copied = time.perf_counter() - begun
    return {
        "Python loop": looped / LOOPS * 1e9,
        "memcpy": COPIED_BYTES / copied / 1e9,
        **{f"fdatasync {name}": value for name, value in _flush(bench).items()},
    }


def _flush(bench: Bench) -> Measured:
    path = bench.folder / "fdatasync"
    times = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        for _ in range(bench.scaled(FLUSHES)):
            os.write(file, bytes(4096))
            begun = time.perf_counter()
            os.fdatasync(file)
            times.append(time.perf_counter() - begun)
    finally:
        os.close(file)
        path.unlink()
    return percentiles(times, {"p50": 50, "p99": 99})


def loopback(bench: Bench) -> Measured:
    """ZeroMQ between two processes, with a ROUTER that only sends back."""
    address = f"tcp://127.0.0.1:{free_port()}"
    process = subprocess.Popen([sys.executable, CHILD, "echo", address], stdin=subprocess.DEVNULL)
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.RECONNECT_IVL, 2)
    dealer.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(address)
    try:
        payload = bytes(MESSAGE_BYTES)
        for _ in range(100):
            dealer.send(payload)
            dealer.recv()
        times = []
        for _ in range(bench.scaled(ROUND_TRIPS)):
            begun = time.perf_counter()
            dealer.send(payload)
            dealer.recv()
            times.append(time.perf_counter() - begun)
        rate = _rate(dealer, payload, bench.scaled(MESSAGES))
        dealer.send(b"")
        dealer.recv()
        process.wait(TIMEOUT_MS / 1000)
    finally:
        dealer.close(0)
        context.term()
        process.kill()
        process.wait()
    return {"messages": rate, **percentiles(times, {"round trip p50": 50, "round trip p99": 99})}


def _rate(dealer: zmq.Socket[bytes], payload: bytes, count: int) -> float:
    begun = time.perf_counter()
    for number in range(count):
        dealer.send(payload)
        if number >= WINDOW:
            dealer.recv()
    for _ in range(min(count, WINDOW)):
        dealer.recv()
    return count / (time.perf_counter() - begun)


ROWS = (
    Row(
        "calibration: machine",
        "no broker",
        (
            Figure("Python loop", "ns"),
            Figure("memcpy", "GB/s"),
            Figure("fdatasync p50", "us"),
            Figure("fdatasync p99", "us"),
        ),
        machine,
    ),
    Row(
        "calibration: loopback",
        f"no broker; pyzmq DEALER and ROUTER echo, {MESSAGE_BYTES} B",
        (Figure("round trip p50", "us"), Figure("round trip p99", "us"), Figure("messages", "1/s")),
        loopback,
    ),
)
