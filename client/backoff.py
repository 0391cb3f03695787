"""How long to wait before something is tried again: briefly at first, since most faults are short, then ever longer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import CommonOptions

_random = random.Random()  # noqa: S311 - no secret; its own, so that a program's seed is left alone

_GROWTH = 1.5
"""Gentle: what is found out by asking again and again is found out at most half an outage too late."""


def retry_wait_s(options: CommonOptions, failures: int) -> float:
    """The wait after so many failures in a row, with jitter."""
    grown = options.retry_backoff_ms * _GROWTH ** min(max(failures - 1, 0), 60)
    longest = max(options.retry_backoff_ms, options.retry_backoff_max_ms)
    return min(grown, longest) / 1000 * _random.uniform(0.8, 1.0)
