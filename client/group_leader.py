"""The leader of a group's generation: knows the topics of all members, shares them out, and sees when they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UnknownTopicOrPartitionError
from ..groups.assignors import ASSIGNORS
from ..groups.consumer_protocol import Assignment, decode_subscription, encode_assignment
from .connection import FOREVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..groups.consumer_protocol import Subscription
    from ..transport.group_messages import JoinedMember
    from .io import ClientIO


class GroupLeader:
    """The duties of a leader; empty-handed in a member that is none. Used under the client's lock."""

    def __init__(self, io: ClientIO, longest_wait_s: float) -> None:
        self.assignments: list[tuple[str, bytes]] = []
        """What to give everybody."""
        self.deadline = FOREVER
        """When to assign with what is known then."""
        self._io = io
        self._longest_wait_s = longest_wait_s
        self._members: dict[str, Subscription] = {}
        self._topics: set[str] = set()
        self._asked_at = -1
        self._counts: dict[str, int] | None = None
        """How many partitions the topics had when they were shared out."""
        self._seen = -1

    def resign(self) -> None:
        """The generation is over."""
        self.assignments = []
        self._members = {}
        self._counts = None
        self.deadline = FOREVER

    def lead(self, members: Sequence[JoinedMember]) -> None:
        """Begin with a generation of these members. Raises InconsistentGroupProtocolError."""
        self._members = {
            member.member_id: decode_subscription(member.metadata, member.group_instance_id) for member in members
        }
        self._topics = {topic for subscription in self._members.values() for topic in subscription.topics}
        metadata = self._io.metadata
        # What is known may be minutes old, and the members that have new topics know more: ask once.
        metadata.add_topics(self._topics)
        metadata.refresh(at_once=True)
        self._asked_at = metadata.version
        self.deadline = self._io.now() + self._longest_wait_s

    def is_ready(self, now: float) -> bool:
        """Whether the topics are known, or have been waited for long enough."""
        metadata = self._io.metadata
        known = metadata.version > self._asked_at and all(
            topic in metadata.topics or isinstance(metadata.errors.get(topic), UnknownTopicOrPartitionError)
            for topic in self._topics
        )
        return known or now >= self.deadline

    def assign(self, protocol: str) -> None:
        """Share the partitions out. Raises InconsistentGroupProtocolError."""
        self._counts = self._count()
        shares = ASSIGNORS[protocol].assign(self._members, self._counts)
        self.assignments = [
            (member, encode_assignment(Assignment(tuple(shares.get(member, ()))))) for member in self._members
        ]
        self._seen = self._io.metadata.version
        self.deadline = FOREVER

    def sees_change(self) -> bool:
        """Whether the topics have other partitions than were shared out."""
        metadata = self._io.metadata
        if self._counts is None or metadata.version == self._seen:
            return False
        self._seen = metadata.version
        unknown = self._topics - metadata.topics.keys()
        if any(not isinstance(metadata.errors.get(topic), UnknownTopicOrPartitionError) for topic in unknown):
            return False  # not now: nobody knows how many they have
        return self._count() != self._counts

    def _count(self) -> dict[str, int]:
        topics = self._io.metadata.topics
        return {topic: len(topics[topic]) for topic in sorted(self._topics) if topic in topics}
