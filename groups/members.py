"""The members of a consumer group: who they are, which protocols they have in common, who leads, who waits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import BrokerError, FencedInstanceIdError, UnknownMemberIdError
from .consumer_protocol import PROTOCOL_TYPE, decode_subscription

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .effects import Token

Protocols = tuple[tuple[str, bytes], ...]
"""The assignors that a member knows, by preference, each with its metadata for it."""


@dataclass(eq=False, slots=True)
class Member:
    """One member, and the requests of it that wait for an answer."""

    member_id: str
    instance_id: str | None
    client_id: str
    protocols: Protocols
    session_timeout_ms: int
    rebalance_timeout_ms: int
    client_host: str = ""
    assignment: bytes = b""
    is_new: bool = False
    """It has not been told its member id yet."""
    heard_ms: float = 0.0
    """When it last said anything."""
    join: Token = None
    sync: Token = None
    heartbeat: Token = None

    @property
    def waits(self) -> bool:
        """Whether it waits for an answer, which is a sign of life as long as it does."""
        return self.join is not None or self.sync is not None or self.heartbeat is not None

    def metadata(self, protocol: str | None) -> bytes:
        """Its metadata for a protocol."""
        return next((data for name, data in self.protocols if name == protocol), b"")

    def vote(self, candidates: set[str]) -> str:
        """The protocol that it likes best."""
        return next(name for name, _ in self.protocols if name in candidates)

    @property
    def label(self) -> str:
        """The member, for people."""
        return f"member {self.member_id}" + (f" (instance {self.instance_id})" if self.instance_id else "")


class Roster:
    """All members, in the order in which they came."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.static: dict[str, str] = {}
        """Member id by instance id."""
        self.pending: set[str] = set()
        """Ids given out with MEMBER_ID_REQUIRED, whose owners have not come back yet (KIP-394)."""
        self.leader: str | None = None
        self.protocol_type = ""
        self._supported: Counter[str] = Counter()
        self._joining = 0
        self.metadata_bytes = 0
        """Of all members, each with its longest."""

    # ---- who is in

    def add(self, member: Member) -> None:
        """Take in a new member; the first one leads."""
        assert member.member_id not in self.members, f"{member.label} is in the group already"
        assert member.join is None
        if member.instance_id is not None:
            assert member.instance_id not in self.static, f"two members are instance {member.instance_id}"
            self.static[member.instance_id] = member.member_id
        self.members[member.member_id] = member
        self.pending.discard(member.member_id)
        self._count(member.protocols, 1)
        if self.leader is None:
            self.leader = member.member_id

    def remove(self, member: Member) -> None:
        """Let a member go, which must not wait for anything; the next one leads if it did."""
        assert not member.waits, f"{member.label} is removed and never answered"
        del self.members[member.member_id]
        self._count(member.protocols, -1)
        if member.instance_id is not None:
            del self.static[member.instance_id]
        if self.leader == member.member_id:
            self.leader = next(iter(self.members), None)

    def rename(self, member: Member, member_id: str) -> None:
        """Give a static member a new id; its place in the order remains."""
        assert member.instance_id is not None, f"{member.label} is not static"
        assert not member.waits, f"{member.label} is renamed and never answered"
        old = member.member_id
        member.member_id = member_id
        self.members = {known.member_id: known for known in self.members.values()}
        self.static[member.instance_id] = member_id
        if self.leader == old:
            self.leader = member_id

    def update(self, member: Member, protocols: Protocols, session_ms: int, rebalance_ms: int) -> None:
        """Take over what a member says as it joins again."""
        self._count(member.protocols, -1)
        member.protocols = protocols
        self._count(protocols, 1)
        member.session_timeout_ms, member.rebalance_timeout_ms = session_ms, rebalance_ms

    def get(self, member_id: str, instance_id: str | None) -> Member:
        """The member of this id. Raises UnknownMemberIdError, FencedInstanceIdError."""
        if instance_id is not None:
            owner = self.static.get(instance_id)
            if owner is not None and owner != member_id:
                message = f"instance {instance_id!r} is member {owner} now, and no longer {member_id!r}: stop this one"
                raise FencedInstanceIdError(message)
        member = self.members.get(member_id)
        if member is None or (instance_id is not None and member.instance_id != instance_id):
            message = f"the group has no member {member_id!r} now: join again with an empty member id"
            raise UnknownMemberIdError(message)
        return member

    @property
    def rebalance_timeout_ms(self) -> int:
        """The largest of the members' rebalance time-outs."""
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    # ---- who has joined the next generation

    def hold_join(self, member: Member, token: Token) -> None:
        """The member waits for the next generation."""
        assert member.join is None, f"{member.label} waits for two joins"
        member.join = token
        self._joining += 1

    def release_join(self, member: Member) -> Token:
        """The member waits no longer."""
        token, member.join = member.join, None
        assert token is not None, f"{member.label} does not wait for a join"
        self._joining -= 1
        return token

    @property
    def joining(self) -> int:
        """How many members wait for the next generation."""
        return self._joining

    @property
    def all_joined(self) -> bool:
        """Whether there is nobody left to wait for."""
        return self._joining == len(self.members) and not self.pending

    # ---- protocols

    def _count(self, protocols: Protocols, by: int) -> None:
        for name in {name for name, _ in protocols}:
            self._supported[name] += by
        self.metadata_bytes += by * metadata_bytes(protocols)

    def supports(self, protocol_type: str, protocols: Iterable[str]) -> bool:
        """Whether a member with these could take part: one at least is known to all members."""
        if not self.members:
            return bool(protocol_type) and any(True for _ in protocols)
        count = len(self.members)
        return protocol_type == self.protocol_type and any(self._supported[name] == count for name in protocols)

    def choose_protocol(self) -> str:
        """The protocol that most members like best, of those that all of them know."""
        count = len(self.members)
        candidates = {name for name, members in self._supported.items() if members == count}
        assert candidates, "the members have no protocol in common"
        votes = Counter(member.vote(candidates) for member in self.members.values())
        return votes.most_common(1)[0][0]

    def subscribed_topics(self, protocol: str | None) -> frozenset[str] | None:
        """The topics of all members; None if their metadata are not Kafka's consumer protocol."""
        if self.protocol_type != PROTOCOL_TYPE:
            return None if self.members else frozenset()
        found: set[str] = set()
        for member in self.members.values():
            topics = topics_of(member.metadata(protocol))
            if topics is None:
                return None
            found.update(topics)
        return frozenset(found)


def metadata_bytes(protocols: Iterable[tuple[str, bytes]]) -> int:
    """The length of a member's longest metadata; one of them is written down."""
    return max((len(metadata) for _, metadata in protocols), default=0)


def topics_of(metadata: bytes) -> Sequence[str] | None:
    """The topics that a member's metadata name; None if they are not Kafka's consumer protocol."""
    try:
        return decode_subscription(metadata).topics
    except BrokerError:
        return None
