"""What the members of one consumer group did and were told, held against invariants 16 and 17."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .history import Fate

if TYPE_CHECKING:
    from collections.abc import Callable

    from .history import History, Partition
    from .world import World

_NEVER = float("inf")
_NO_OFFSET = -1


@dataclass
class Commit:
    """One partition's offset that a member has committed; no two of a group are equal."""

    offset: int
    generation: int
    member_id: str
    sent_ms: float
    answered_ms: float = _NEVER
    fate: Fate = Fate.PENDING


class GroupHistory:
    """The group, as far as its members know it."""

    def __init__(self, world: World, history: History, group: str, is_coordinator: Callable[[str], bool]) -> None:
        self.group = group
        self.is_coordinator = is_coordinator
        """Whether a node's address is that of the group's coordinator, by the newest metadata."""
        self._world = world
        self._history = history
        self._offsets = 0
        self._commits: dict[Partition, dict[int, Commit]] = {}
        self._owners: dict[tuple[int, Partition], str] = {}
        self._generation = (-1, -1.0)
        """The newest that somebody was given a part of, and since when."""
        self._left: dict[str, float] = {}

    # ---- membership

    def assigned(self, member_id: str, generation: int, partitions: list[Partition]) -> None:
        """The coordinator has answered a member with its part (invariant 17)."""
        self._history.operations += 1
        for partition in partitions:
            owner = self._owners.setdefault((generation, partition), member_id)
            if owner != member_id:
                text = f"{partition} is {owner}'s and {member_id}'s in generation {generation} of {self.group}"
                self._world.violated("17 owners", text)
        if generation > self._generation[0]:
            self._generation = (generation, self._world.now_ms)

    def left(self, member_id: str) -> None:
        """The coordinator has answered that a member is gone."""
        self._history.operations += 1
        self._left.setdefault(member_id, self._world.now_ms)

    # ---- offsets

    def commit(self, partition: Partition, generation: int, member_id: str) -> Commit:
        """A member is about to commit."""
        self._offsets += 1
        made = Commit(self._offsets, generation, member_id, self._world.now_ms)
        self._commits.setdefault(partition, {})[made.offset] = made
        return made

    def settle(self, commit: Commit, fate: Fate) -> None:
        """The member knows what became of its commit, which may be nothing."""
        commit.fate = fate
        if fate is not Fate.ACKED:
            return
        commit.answered_ms = self._world.now_ms
        self._history.operations += 1
        generation, since_ms = self._generation
        if commit.generation < generation and since_ms < commit.sent_ms:
            self._world.violated("16 commits", f"{self.group} took {commit} in generation {generation}")
        if self._left.get(commit.member_id, _NEVER) < commit.sent_ms:
            self._world.violated("16 commits", f"{self.group} took {commit} of a member that had left")

    def fetched(self, partition: Partition, offset: int, asked_ms: float) -> None:
        """The coordinator has said what is committed: the newest of what was acked before, or of what is in doubt."""
        self._history.operations += 1
        commits = self._commits.get(partition, {})
        found = commits.get(offset)
        if offset != _NO_OFFSET and (found is None or found.fate is Fate.FAILED):
            self._world.violated("16 commits", f"{self.group} has offset {offset} of {partition}: {found}")
            return
        for other in commits.values():
            if other.fate is Fate.ACKED and other.answered_ms < asked_ms and _is_before(found, other):
                text = f"{self.group} has {found} of {partition}, and had acked {other}"
                self._world.violated("16 commits", text)
                return


def _is_before(found: Commit | None, other: Commit) -> bool:
    """Whether a commit was carried out before the other for certain."""
    return found is None or found.answered_ms < other.sent_ms or found.generation < other.generation
