"""What the consumers of one share group were given and what they said of it, held against invariants 18 and 19."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from ..transport.share_messages import AcquiredRecords, SharePartitionInfo
    from .history import History, Partition
    from .world import World

_DRIFT = 0.001
"""Clocks of nodes run at rates that differ by less."""


class Lease(NamedTuple):
    """A record is one consumer's until a time, if its coordinator lives on."""

    member_id: str
    heard_ms: float
    until_ms: float
    coordinator: tuple[int, ...]
    lease: int = 0


class ShareHistory:
    """The group, as far as its consumers know it."""

    def __init__(
        self,
        world: World,
        history: History,
        group: str,
        limit: int,
        coordinator: Callable[[], tuple[int, ...]],
        *,
        is_coordinator: Callable[[str], bool],
    ) -> None:
        self.group = group
        self.is_coordinator = is_coordinator
        """Whether a node's address is that of the group's coordinator, by the newest metadata."""
        self._world = world
        self._history = history
        self._limit = limit
        self._coordinator = coordinator
        self._leases: dict[tuple[Partition, int], Lease] = {}
        self._final: dict[tuple[Partition, int], float] = {}
        """Records that are acknowledged or rejected, and since when."""
        self._doubtful: set[tuple[Partition, int]] = set()
        """Records that may be: whoever said so was not answered."""
        self._deliveries: dict[tuple[Partition, int], int] = {}
        """The highest count that anybody was given."""
        self._unheard: list[int] = []
        """How many records each fetch may have been given whose answer was not heard."""
        self.dead_letters: set[tuple[Partition, int]] = set()
        """Records that stand in the dead-letter topic."""
        self.letters_stay = False
        """Whether what is in the dead-letter topic outlives the faults of this run."""
        self._starts: dict[Partition, tuple[int, float]] = {}

    def coordinator(self) -> tuple[int, ...]:
        """Which leader of the state topic there is now: leases end with it."""
        return self._coordinator()

    def delivered(
        self,
        member_id: str,
        partition: Partition,
        acquired: AcquiredRecords,
        lease_ms: float,
        asked: tuple[float, tuple[int, ...]],
        *,
        lease_id: int = 0,
    ) -> None:
        """A consumer has been given records that it had asked for at a time, of a coordinator."""
        now_ms, (asked_ms, coordinator) = self._world.now_ms, asked
        self._history.operations += 1
        where = f"{self.group} gave {partition} {acquired} to {member_id}"
        if not 1 <= acquired.delivery_count <= self._limit:
            self._world.violated("18 share records", f"{where}, and the limit is {self._limit}")
        for offset in range(acquired.first_offset, acquired.last_offset + 1):
            key = (partition, offset)
            if self._final.get(key, now_ms) < asked_ms:
                self._world.violated("19 acknowledged", f"{where}, and {offset} was finished {self._final[key]}")
            lease = self._leases.get(key)
            if (
                lease is not None
                and lease.heard_ms < asked_ms
                and now_ms < lease.until_ms
                and lease.coordinator == coordinator == self.coordinator()
            ):
                self._world.violated("18 share records", f"{where}, and {offset} is leased: {lease}")
            until_ms = asked_ms + lease_ms * (1 - _DRIFT)
            self._leases[key] = Lease(member_id, now_ms, until_ms, coordinator, lease_id)
            self._deliveries[key] = max(self._deliveries.get(key, 0), acquired.delivery_count)

    def unheard(self, records_max: int) -> None:
        """A fetch for so many records was not answered: they may have been delivered."""
        self._unheard.append(records_max)

    def others_lease(self, member_id: str, random: Random) -> tuple[Partition, int, Lease] | None:
        """A record that another consumer may have at the moment."""
        found = [(*key, lease) for key, lease in self._leases.items() if lease.member_id != member_id]
        return random.choice(found) if found else None

    def given_back(self, member_id: str, partition: Partition, first: int, last: int) -> None:
        """A consumer is about to say something of records: from now on another one may get them."""
        for offset in range(first, last + 1):
            lease = self._leases.get((partition, offset))
            if lease is not None and lease.member_id == member_id:
                del self._leases[partition, offset]

    def gone(self, member_id: str) -> None:
        """A consumer leaves, or dies: what it had may go to others."""
        self._leases = {key: lease for key, lease in self._leases.items() if lease.member_id != member_id}

    def finished(self, partition: Partition, first: int, last: int) -> None:
        """The coordinator has answered that records are acknowledged, or rejected."""
        self._history.operations += 1
        for offset in range(first, last + 1):
            since_ms = self._final.setdefault((partition, offset), self._world.now_ms)
            if since_ms != self._world.now_ms:
                text = f"{self.group} took an acknowledgement of {partition} {offset}, which was final since {since_ms}"
                self._world.violated("18 share records", text)

    def doubted(self, partition: Partition, first: int, last: int) -> None:
        """Nobody has answered whether records are acknowledged, or rejected."""
        self._doubtful.update((partition, offset) for offset in range(first, last + 1))

    def taken_wrongly(self, what: str) -> None:
        """The coordinator has accepted what it had to refuse."""
        self._world.violated("18 share records", f"{self.group} took {what}")

    def described(self, info: SharePartitionInfo, asked_ms: float) -> None:
        """The coordinator has said where the group begins."""
        self._history.operations += 1
        partition = (info.topic, info.partition)
        start, since_ms = self._starts.get(partition, (-1, 0.0))
        if info.start_offset < start and since_ms < asked_ms:
            text = f"{self.group} begins at {info.start_offset} of {partition}, and began at {start}"
            self._world.violated("19 start offset", text)
        if info.start_offset > start:
            self._starts[partition] = (info.start_offset, self._world.now_ms)

    def lag(self, topic: str, partitions: Sequence[SharePartitionInfo]) -> bool:
        """Whether the group has not yet finished all records of a topic that anybody has read."""
        finished = {(info.topic, info.partition): info.start_offset for info in partitions if not info.lag}
        return any(
            finished.get(partition, -1) <= max(offsets)
            for partition, offsets in self._history.read.items()
            if partition[0] == topic and offsets
        )

    def drained(self, topic: str) -> None:
        """All records of a topic are finished: each was acknowledged, rejected, or given up after all its deliveries.

        Records are given up that nobody has seen, if the answers that brought them were lost: there must be so many
        such answers. If the dead-letter topic has lost nothing, it has them.
        """
        missing: Counter[int] = Counter()
        for partition, offsets in self._history.read.items():
            if partition[0] != topic:
                continue
            for key in ((partition, offset) for offset in offsets):
                if key in self._final or key in self._doubtful or key in self.dead_letters:
                    continue
                left = self._limit - self._deliveries.get(key, 0)
                if self.letters_stay or left > len(self._unheard):
                    text = f"{partition} {key[1]} was delivered {self._limit - left} times, never finished, and is gone"
                    self._world.violated("18 share records", f"{self.group}: {text}")
                missing[left] += 1
        total = sum(left * count for left, count in missing.items())
        if total > sum(self._unheard):
            text = f"{total} deliveries are missing, and {sum(self._unheard)} may have been lost: {dict(missing)}"
            self._world.violated("18 share records", f"{self.group}: {text}")
