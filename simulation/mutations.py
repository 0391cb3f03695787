"""Safety rules of the broker that can be taken away, one at a time, to see that the simulator notices.

A checker that nothing makes fail checks nothing. Each mutation patches one rule out of the production code while it is
applied, and some seed of the first few hundred has to end in a violation of an invariant that the rule is there for. An
exception, or a node that does not start, may come of the patch itself and shows nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..actors.commands import tell_back
from ..actors.coordinator import Coordinator
from ..groups.classic_group import ClassicGroup
from ..groups.share_partition import SharePartition
from ..groups.share_ranges import ACQUIRED
from ..log.data_folder import DataFolder
from ..log.partition_log import PartitionLog
from ..log.producer_state import ProducerStates
from ..log.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from .world import ViolationError

SEEDS_EACH = 300


class Mutation(NamedTuple):
    """A rule, and how to take it away for a while."""

    rule: str
    applied: Callable[[], AbstractContextManager[None]]
    shows: frozenset[str]
    """What may show that it is gone: invariants, each by the first word of its name (rules.py)."""
    nodes_min: int = 1
    only: frozenset[str] = frozenset()
    """The faults that show that it is gone, if a swarm of all of them seldom does."""
    redundant: str = ""
    """Why nothing goes wrong without it, as long as all other rules hold; it is then not expected to be noticed."""

    def is_shown_by(self, violation: ViolationError) -> bool:
        """Whether a violation is one that the rule is there to prevent."""
        return violation.invariant.split()[0] in self.shows


MUTATIONS: dict[str, Mutation] = {}


def mutation(
    name: str, rule: str, nodes_min: int = 1, only: str = "", *, shows: str = "", redundant: str = ""
) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Register a context manager that takes a rule away; only and shows: kinds of faults, invariants, with spaces."""
    assert bool(shows) != bool(redundant), f"{name}: either something shows that it is gone, or nothing has to"

    def register(applied: Callable[[], Iterator[None]]) -> None:
        faults, invariants = frozenset(only.split()), frozenset(shows.split())
        MUTATIONS[name] = Mutation(rule, contextmanager(applied), invariants, nodes_min, faults, redundant)

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


@mutation("ack-before-flush", "with flush=ack nothing counts as stored before it is flushed", shows="3 4 21 H11")
def _ack_before_flush() -> Iterator[None]:
    with patched(PartitionLog, "flushed_offset", property(lambda log: log.log_end_offset)):
        yield


@mutation("no-sequences", "a repeated batch of an idempotent producer is not stored again", shows="15 H13")
def _no_sequences() -> Iterator[None]:
    with patched(ProducerStates, "check", lambda *_: None):
        yield


@mutation("no-recovery", "after a start that follows no clean stop the logs are looked through", shows="21 5 H10")
def _no_recovery() -> Iterator[None]:
    run = Recovery.run

    def trusting(self: Recovery, **options: Any) -> None:
        run(self, **{**options, "clean": True})

    with patched(Recovery, "run", trusting):
        yield


@mutation(
    "write-again",
    "what a failed flush may have left in memory alone is written again",
    only="failed-flush power",
    shows="21 H11",
)
def _write_again() -> Iterator[None]:
    with patched(Recovery, "_rewrite", lambda *_: None):
        yield


@mutation(
    "recovered-before-clean",
    "a stop is clean only if what an unclean end left is recovered",
    3,
    "loss stop",
    shows="1 3 4 21 H11",
)
def _recovered_before_clean() -> Iterator[None]:
    close = DataFolder.close

    def trusting(self: Any, clean: bool, epoch: int = -1, incarnation: str = "") -> None:  # noqa: FBT001 - as it is
        self._unrecovered.clear()
        close(self, clean, epoch, incarnation)

    with patched(DataFolder, "close", trusting):
        yield


# ---- groups


@mutation("group-generation", "offsets are committed by the members of the current generation", shows="16")
def _group_generation() -> Iterator[None]:
    with patched(ClassicGroup, "check_commit", lambda *_: None):
        yield


@mutation(
    "lease-holder", "records are acknowledged by who has leased them now", 1, "pause slow-network break", shows="18"
)
def _lease_holder() -> Iterator[None]:
    check = SharePartition._check_held  # noqa: SLF001 - a rule is cut out of it

    def held_by_anybody(self: Any, member: str, ack: Any) -> None:
        found = list(self._ranges.overlapping(ack.first_offset, ack.last_offset))
        is_there = self.start_offset <= ack.first_offset and ack.last_offset < self.next_offset
        if not is_there or any(piece.state != ACQUIRED for piece in found):
            check(self, member, ack)

    with patched(SharePartition, "_check_held", held_by_anybody):
        yield


@mutation(
    "committed-before-answer",
    "a coordinator answers when what it has appended is committed",
    3,
    "partition kill-leader",
    shows="16 17 18 19",
)
def _committed_before_answer() -> Iterator[None]:
    with patched(Coordinator, "send", lambda _, to, message: tell_back(to, message)):
        yield


@mutation(
    "flush-claims-later",
    "a flush makes durable what the log held when it began, and nothing later",
    1,
    "power slow-flush",
    shows="3 4 9 21 H11",
)
def _flush_claims_later() -> Iterator[None]:
    finish = PartitionLog.finish_flush

    def of_all(self: PartitionLog, job: Any) -> None:
        job.end_offset = self.log_end_offset
        finish(self, job)

    with patched(PartitionLog, "finish_flush", of_all):
        yield


@mutation("producer-epoch", "a lower producer epoch is refused once a higher one has written", shows="15 H12")
def _producer_epoch() -> Iterator[None]:
    check = ProducerStates.check

    def of_any_epoch(self: ProducerStates, header: Any) -> Any:
        entry = self.get(header.producer_id)
        if entry is not None and header.producer_epoch < entry.epoch:
            header = header._replace(producer_epoch=entry.epoch)
        return check(self, header)

    with patched(ProducerStates, "check", of_any_epoch):
        yield
