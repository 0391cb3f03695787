"""Safety rules of the broker that can be taken away, one at a time, to see that the simulator notices.

A checker that nothing makes fail checks nothing. Each mutation patches one rule out of the production code while it is
applied, and some seed of the first few hundred has to end in a violation.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..log.partition_log import PartitionLog
from ..log.producer_state import ProducerStates
from ..log.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

SEEDS_EACH = 300


class Mutation(NamedTuple):
    """A rule, and how to take it away for a while."""

    rule: str
    applied: Callable[[], AbstractContextManager[None]]
    nodes_min: int = 1


MUTATIONS: dict[str, Mutation] = {}


def mutation(name: str, rule: str, nodes_min: int = 1) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Register a context manager that takes a rule away."""

    def register(applied: Callable[[], Iterator[None]]) -> None:
        MUTATIONS[name] = Mutation(rule, contextmanager(applied), nodes_min)

    return register


@contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """Give a class another attribute for a while, where it has it from."""
    owner = next(cls for cls in owner.__mro__ if name in cls.__dict__)
    before = owner.__dict__[name]
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def patched_module(module: Any, name: str, replacement: Any) -> Iterator[None]:
    """Give a module another function for a while."""
    before = getattr(module, name)
    setattr(module, name, replacement)
    try:
        yield
    finally:
        setattr(module, name, before)


@mutation("ack-before-flush", "with flush=ack nothing counts as stored before it is flushed")
def _ack_before_flush() -> Iterator[None]:
    with patched(PartitionLog, "flushed_offset", property(lambda log: log.log_end_offset)):
        yield


@mutation("no-sequences", "a repeated batch of an idempotent producer is not stored again")
def _no_sequences() -> Iterator[None]:
    with patched(ProducerStates, "check", lambda *_: None):
        yield


@mutation("no-recovery", "after a start that follows no clean stop the logs are looked through")
def _no_recovery() -> Iterator[None]:
    run = Recovery.run

    def trusting(self: Recovery, **options: Any) -> None:
        run(self, **{**options, "clean": True})

    with patched(Recovery, "run", trusting):
        yield
