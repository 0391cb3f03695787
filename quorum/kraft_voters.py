"""Who votes: the voter sets that stand in the log, and the arithmetic of majorities. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..transport.quorum_messages import Voter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Voters: TypeAlias = "Mapping[int, str]"
"""Node id -> directory id."""

BOOTSTRAP_OFFSET = -1
"""The offset of a voter set that is not in the log, but in its founder's head."""

N = TypeVar("N", int, float)


def majority(voters: int) -> int:
    """How many of so many are a majority."""
    return voters // 2 + 1


def reached_by_majority(values: Iterable[N]) -> N:
    """The largest value that a majority has reached; there has to be one value for each voter."""
    ordered = sorted(values, reverse=True)
    return ordered[majority(len(ordered)) - 1]


class VoterHistory:
    """The voter sets of the log and of the snapshot that it begins after; the latest counts, committed or not."""

    __slots__ = ("_sets",)

    def __init__(self, sets: Iterable[tuple[int, Sequence[Voter]]]) -> None:
        self._sets: list[tuple[int, Voters]] = []
        for offset, voters in sets:
            self.append(offset, voters)

    @property
    def latest(self) -> Voters:
        """Those that vote; nobody, if the log does not say."""
        return self._sets[-1][1] if self._sets else {}

    @property
    def latest_offset(self) -> int:
        """Where the latest set stands; BOOTSTRAP_OFFSET: not in the log."""
        return self._sets[-1][0] if self._sets else BOOTSTRAP_OFFSET

    def below(self, end_offset: int) -> tuple[int, list[Voter]]:
        """(offset, voters) as the log says it below an offset: what a snapshot that ends there has to hold."""
        for offset, voters in reversed(self._sets):
            if offset < end_offset:
                return offset, as_list(voters)
        return BOOTSTRAP_OFFSET, []

    def may_stand(self, me: Voter, high_watermark: int) -> bool:
        """Whether a node votes, or did before changes that are not known to be committed.

        A leader that has begun to remove itself may be the only one that can be elected (Ongaro's thesis, 4.2.2).
        """
        for offset, voters in reversed(self._sets):
            if voters.get(me.node_id) == me.directory_id:
                return True
            if offset < high_watermark:
                break
        return False

    def append(self, offset: int, voters: Sequence[Voter]) -> None:
        """A set was appended to the log."""
        assert offset > self.latest_offset or not self._sets, (offset, self.latest_offset)
        self._sets.append((offset, {voter.node_id: voter.directory_id for voter in voters}))

    def truncate(self, end_offset: int) -> None:
        """The log was cut: go back to the voters before."""
        while self._sets and self._sets[-1][0] >= end_offset:
            self._sets.pop()

    def forget_before(self, start_offset: int) -> None:
        """The log starts here now; one set at or before it is what it starts with."""
        while len(self._sets) > 1 and self._sets[1][0] < start_offset:
            del self._sets[0]

    def install(self, offset: int, voters: Sequence[Voter]) -> None:
        """A snapshot took the place of the whole log."""
        self._sets.clear()
        self.append(offset, voters)


def as_list(voters: Voters) -> list[Voter]:
    """The set as messages and records have it, by node id."""
    return [Voter(node_id, voters[node_id]) for node_id in sorted(voters)]
