"""Safety rules of the broker that can be taken away, one at a time, to see that the simulator notices.

A checker that nothing makes fail checks nothing. Each mutation patches one rule out of the production code while it is
applied, and some seed of the first few hundred has to end in a violation.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..log.data_folder import DataFolder
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
    only: frozenset[str] = frozenset()
    """The faults that show that it is gone, if a swarm of all of them seldom does."""
    redundant: str = ""
    """Why nothing goes wrong without it, as long as all other rules hold; it is then not expected to be noticed."""


MUTATIONS: dict[str, Mutation] = {}


def mutation(
    name: str, rule: str, nodes_min: int = 1, only: str = "", redundant: str = ""
) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Register a context manager that takes a rule away; only: kinds of faults, with spaces."""

    def register(applied: Callable[[], Iterator[None]]) -> None:
        MUTATIONS[name] = Mutation(rule, contextmanager(applied), nodes_min, frozenset(only.split()), redundant)

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


@mutation(
    "write-again", "what a failed flush may have left in memory alone is written again", only="failed-flush power"
)
def _write_again() -> Iterator[None]:
    with patched(Recovery, "_rewrite", lambda *_: None):
        yield


@mutation("recovered-before-clean", "a stop is clean only if what an unclean end left is recovered", 3, "loss stop")
def _recovered_before_clean() -> Iterator[None]:
    close = DataFolder.close

    def trusting(self: Any, clean: bool, epoch: int = -1, incarnation: str = "") -> None:  # noqa: FBT001 - as it is
        self._unrecovered.clear()
        close(self, clean, epoch, incarnation)

    with patched(DataFolder, "close", trusting):
        yield
