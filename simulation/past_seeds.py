"""Runs that have shown a mistake of the broker once; all are run with the tests, and have to stay well."""

from __future__ import annotations

from .faults import Plan

PAST: dict[str, Plan] = {
    "a stop before registration counted as clean, and what a power cut had torn was never looked through": Plan(
        18, nodes_min=3, only=frozenset({"loss", "stop"})
    ),
    "what a failed flush had left in memory alone counted as flushed after the next one, and a power cut took it": Plan(
        2, only=frozenset({"failed-flush", "power"})
    ),
}
"""By what was wrong."""
