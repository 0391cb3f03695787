"""How the benchmarks of the command line count and what they print."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from .common import print_json

if TYPE_CHECKING:
    from argparse import Namespace

PERCENTILES = (50.0, 95.0, 99.0, 99.9)


def payload(size: int) -> bytes:
    """Make a value of this size, half as compressible as text: random letters of a fixed seed."""
    return bytes(random.Random(size).choices(b"abcdefghijklmnopqrstuvwxyz", k=size))  # noqa: S311 - no secret


class Latencies:
    """Times from a start to an end, in milliseconds."""

    def __init__(self) -> None:
        self._taken: list[float] = []

    @staticmethod
    def now() -> float:
        """Read the clock that starts are given by, in seconds."""
        return time.perf_counter()

    def finish(self, started: float, *_result: object) -> None:
        """Count one that began at this reading of the clock and is over now."""
        self._taken.append((self.now() - started) * 1000)

    def summary(self) -> dict[str, float]:
        """Percentiles and the maximum, by name; empty if nothing was counted."""
        taken = sorted(self._taken)
        if not taken:
            return {}
        found = {f"p{mark:g}": taken[min(len(taken) - 1, int(len(taken) * mark / 100))] for mark in PERCENTILES}
        return {**found, "max": taken[-1]}


def report(args: Namespace, *, records: int, size: float, seconds: float, latencies: Latencies) -> int:
    """Print the outcome as --format says; the exit code."""
    rate = records / seconds
    mb_rate = records * size / seconds / 1e6
    taken = latencies.summary()
    if args.format == "json":
        rounded = {name: round(value, 4) for name, value in taken.items()}
        print_json(
            {
                "records": records,
                "seconds": round(seconds, 4),
                "records_per_second": round(rate, 1),
                "mb_per_second": round(mb_rate, 3),
                "latency_ms": rounded,
            }
        )
        return 0
    print(f"{records:,} records in {seconds:.2f} s: {rate:,.0f} records/s, {mb_rate:,.1f} MB/s")
    if taken:
        print("latency: " + ", ".join(f"{name} {value:.3f} ms" for name, value in taken.items()))
    return 0
