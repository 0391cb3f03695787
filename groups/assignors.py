"""How the partitions of a group's topics are shared out among its members: Kafka's four assignors. Pure functions.

The group's leader calls one of them with every member's subscription, and how many partitions each topic has; a topic
that is not there has none. The names are those that members of a group agree on.

range               of each topic, in order of the members, one contiguous range each: topics with equally many
                    partitions and the same members are shared out alike, so that they can be joined
roundrobin          all partitions of all topics dealt out like cards
sticky              balanced, and everybody keeps what it can (KIP-54); see assignor_sticky.py
cooperative-sticky  the same, but what changes its owner is given to nobody until its old owner has let go of it, so
                    that nobody has to stop reading what it keeps (KIP-429)

Members are taken in Kafka's order: static ones first, by their instance ids (KIP-345), then the others by member id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import InconsistentGroupProtocolError
from .assignor_sticky import balance, claims
from .consumer_protocol import Partition, Subscription, decode_sticky_data, encode_sticky_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .assignor_sticky import Shares

    Share = Callable[[Mapping[str, Subscription], Mapping[str, int]], Shares]
    UserData = Callable[[Iterable[Partition], int], bytes]


class Assignor:
    """One way to share out partitions."""

    def __init__(
        self, name: str, share: Share, *, cooperative: bool = False, user_data: UserData | None = None
    ) -> None:
        self.name = name
        self.cooperative: Final = cooperative
        """Members keep what they have while the group rebalances, and give up only what they are told to."""
        self._share = share
        self._user_data = user_data

    def assign(self, members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> Shares:
        """Share out so many partitions of each topic; every member has a list in the answer, sorted.

        Each partition of a topic that somebody subscribes to is given to one subscriber; if cooperative, those that
        change their owner are given to nobody: once they are let go of, the group rebalances again.
        """
        shares = self._share({member: members[member] for member in in_order(members)}, partitions)
        for share in shares.values():
            share.sort()
        return shares

    def user_data(self, owned: Iterable[Partition], generation: int) -> bytes | None:
        """What a member has to write into its subscription's user data, about what it had before this rebalance."""
        return None if self._user_data is None else self._user_data(owned, generation)


def in_order(members: Mapping[str, Subscription]) -> list[str]:
    """Member ids in the order of Kafka."""

    def rank(member: str) -> tuple[bool, str, str]:
        instance = members[member].group_instance_id
        return instance is None, instance or "", member

    return sorted(members, key=rank)


def _subscribers(members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> dict[str, list[str]]:
    """The members of each topic that has partitions, by topic name."""
    found: dict[str, list[str]] = {}
    for member, subscription in members.items():
        for topic in set(subscription.topics):
            if partitions.get(topic, 0):
                found.setdefault(topic, []).append(member)
    return dict(sorted(found.items()))


def _range(members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> Shares:
    shares: Shares = {member: [] for member in members}
    for topic, subscribers in _subscribers(members, partitions).items():
        each, more = divmod(partitions[topic], len(subscribers))
        start = 0
        for number, member in enumerate(subscribers):
            end = start + each + (number < more)
            shares[member] += [(topic, partition) for partition in range(start, end)]
            start = end
    return shares


def _round_robin(members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> Shares:
    shares: Shares = {member: [] for member in members}
    ring = list(members)
    at = 0
    for topic, subscribers in _subscribers(members, partitions).items():
        allowed = set(subscribers)
        for partition in range(partitions[topic]):
            while ring[at % len(ring)] not in allowed:
                at += 1
            shares[ring[at % len(ring)]].append((topic, partition))
            at += 1
    return shares


def _sticky(members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> Shares:
    """Eager members have given up everything before they join, and say in their user data what they had."""
    had = {member: _with_sticky_data(subscription) for member, subscription in members.items()}
    return balance(had, _subscribers(had, partitions), partitions, claims(had).owners)


def _with_sticky_data(subscription: Subscription) -> Subscription:
    if subscription.owned or not subscription.user_data:
        return subscription
    try:
        owned, generation = decode_sticky_data(subscription.user_data)
    except InconsistentGroupProtocolError:  # as Kafka: it helps to keep what one has, and nothing depends on it
        return subscription
    return subscription._replace(owned=owned, generation=generation)


def _cooperative_sticky(members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> Shares:
    claimed = claims(members)
    shares = balance(members, _subscribers(members, partitions), partitions, claimed.owners)
    for member, share in shares.items():
        share[:] = [
            partition
            for partition in share
            if claimed.owners.get(partition) == member or not claimed.others(partition, member)
        ]
    return shares


RANGE = Assignor("range", _range)
ROUND_ROBIN = Assignor("roundrobin", _round_robin)
STICKY = Assignor("sticky", _sticky, user_data=encode_sticky_data)
COOPERATIVE_STICKY = Assignor("cooperative-sticky", _cooperative_sticky, cooperative=True)

ASSIGNORS = {assignor.name: assignor for assignor in (RANGE, ROUND_ROBIN, STICKY, COOPERATIVE_STICKY)}
