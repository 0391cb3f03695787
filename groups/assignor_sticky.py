"""The sticky way to share out partitions: as balanced as the subscriptions allow, moving as little as that takes.

Everybody keeps what it has, what nobody has goes to whoever has least, and then partitions, these first, move from the
most loaded member to a less loaded one, over others if need be, while that makes a difference smaller. That this ends
in the best balance there is, is the theory of optimal semi-matchings (Harvey, Ladner, Lovasz and Tamir, 2003): an
assignment is as balanced as possible if no such "cost-reducing path" is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .consumer_protocol import NO_GENERATION, Partition, Subscription

if TYPE_CHECKING:
    from collections.abc import Mapping

Shares: TypeAlias = dict[str, list[Partition]]
"""The partitions of each member."""


class Claims(NamedTuple):
    """Who has what, as the members themselves say."""

    owners: dict[Partition, str]
    """Of several that claim a partition, the one of the highest generation (KIP-341, KIP-792); none if two have it."""
    claimants: dict[Partition, list[str]]

    def others(self, partition: Partition, member: str) -> bool:
        """Whether anybody but the member has the partition now."""
        return any(claimant != member for claimant in self.claimants.get(partition, ()))


def claims(members: Mapping[str, Subscription]) -> Claims:
    """What members had before the rebalance, as their subscriptions say."""
    claimants: dict[Partition, list[str]] = {}
    best: dict[Partition, int] = {}
    owners: dict[Partition, str] = {}
    for member, subscription in members.items():
        for partition in dict.fromkeys(subscription.owned):
            claimants.setdefault(partition, []).append(member)
            highest = best.get(partition, NO_GENERATION - 1)
            if subscription.generation > highest:
                best[partition] = subscription.generation
                owners[partition] = member
            elif subscription.generation == highest:
                owners.pop(partition, None)
    return Claims(owners, claimants)


def balance(
    members: Mapping[str, Subscription],
    subscribers: Mapping[str, list[str]],
    partitions: Mapping[str, int],
    owners: Mapping[Partition, str],
) -> Shares:
    """Share out the partitions of all topics that have subscribers. The same question always has the same answer."""
    table = _Table(members, subscribers, owners)
    for topic in sorted(subscribers, key=lambda topic: (len(subscribers[topic]), topic)):
        allowed = set(subscribers[topic])
        free = []
        for number in range(partitions[topic]):
            owner = owners.get((topic, number))
            if owner in allowed:
                table.give(topic, number, owner)
            else:
                free.append(number)
        table.free[topic] = free
    table.share_free()
    table.level(gained_only=True)
    table.level(gained_only=False)
    return table.shares()


class _Table:
    """Who has what while it is shared out."""

    def __init__(
        self,
        members: Mapping[str, Subscription],
        subscribers: Mapping[str, list[str]],
        owners: Mapping[Partition, str],
    ) -> None:
        self._subscribers = subscribers
        self._owners = owners
        self._kept: dict[str, dict[str, list[int]]] = {member: {} for member in members}
        """Of each member, by topic: what it had before ..."""
        self._gained: dict[str, dict[str, list[int]]] = {member: {} for member in members}
        """... and what it had not."""
        self._loads = dict.fromkeys(members, 0)
        self.free: dict[str, list[int]] = {}

    def shares(self) -> Shares:
        return {
            member: [
                (topic, number)
                for held in (self._kept[member], self._gained[member])
                for topic, numbers in held.items()
                for number in numbers
            ]
            for member in self._loads
        }

    def give(self, topic: str, number: int, member: str) -> None:
        held = self._kept if self._owners.get((topic, number)) == member else self._gained
        held[member].setdefault(topic, []).append(number)
        self._loads[member] += 1

    def share_free(self) -> None:
        """Give what nobody has to whoever has least: topics with few subscribers first, they have least choice."""
        for topic, numbers in self.free.items():
            for number in numbers:
                self.give(topic, number, min(self._subscribers[topic], key=self._loads.__getitem__))

    def level(self, *, gained_only: bool) -> None:
        """Move partitions while that makes the difference between two members smaller.

        First only what members did not have before, which is no move at all: if that is as balanced as it can be,
        everybody keeps everything. That is also how a cooperative group's second round ends as the first one planned.
        Members from whom no path leads down are final, with all that they reach: whatever moves later moves past them.
        """
        loads = self._loads
        moving = dict.fromkeys(loads)
        while moving:
            most = max(moving, key=loads.__getitem__)
            came_from, least = self._look_down(most, moving, gained_only=gained_only)
            if least is None:
                for member in came_from:
                    del moving[member]
                continue
            self._move_along(came_from, least)

    def _look_down(
        self, most: str, moving: Mapping[str, None], *, gained_only: bool
    ) -> tuple[dict[str, tuple[str, str] | None], str | None]:
        """Search breadth first for a member with at least two partitions less.

        The nearest, for a path moves a partition at each step, and of those the least loaded. Returns how each member
        was reached, (from whom, with a partition of which topic), and the one found.
        """
        loads = self._loads
        enough = min(loads[member] for member in moving)
        came_from: dict[str, tuple[str, str] | None] = {most: None}
        topics_seen: set[str] = set()
        layer = [most]
        while layer:
            reached: list[str] = []
            least: str | None = None
            for member in layer:
                for topic in (*self._gained[member], *(() if gained_only else self._kept[member])):
                    if topic in topics_seen:
                        continue
                    topics_seen.add(topic)
                    new = [other for other in self._subscribers[topic] if other in moving and other not in came_from]
                    came_from.update(dict.fromkeys(new, (member, topic)))
                    reached += new
                    least = min(reached, key=loads.__getitem__, default=None)
                    if least is not None and loads[least] == enough <= loads[most] - 2:
                        return came_from, least
            if least is not None and loads[least] <= loads[most] - 2:
                return came_from, least
            layer = reached
        return came_from, None

    def _move_along(self, came_from: Mapping[str, tuple[str, str] | None], to: str) -> None:
        """Move one partition along each step of the path that ends at a member."""
        step = came_from[to]
        while step is not None:
            giver, topic = step
            self._move(topic, giver, to)
            to, step = giver, came_from[giver]

    def _move(self, topic: str, giver: str, taker: str) -> None:
        """Move the partition whose move costs least: one the taker had before, else one that is new to the giver."""
        gained = topic in self._gained[giver]
        held = (self._gained if gained else self._kept)[giver]
        numbers = held[topic]
        at = -1
        if gained:
            at = max(range(len(numbers)), key=lambda n: (self._owners.get((topic, numbers[n])) == taker, n))
        number = numbers.pop(at)
        if not numbers:
            del held[topic]
        self._loads[giver] -= 1
        self.give(topic, number, taker)
