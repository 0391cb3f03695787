"""The messages of consumer groups: Kafka's classic protocol, field for field. Part of the catalogue in messages.py.

A member's metadata and assignment are opaque bytes here; clients write Kafka's consumer protocol into them, so that
any client can take part in a group. All of these go to the group's coordinator, which FindCoordinator names.
"""

from __future__ import annotations

from msgspec import field

from .message_base import Body, Count, Int8, Int32, Int64, Name, Request

# ---- FindCoordinator

GROUP_COORDINATOR = 0
TRANSACTION_COORDINATOR = 1
SHARE_COORDINATOR = 2


class CoordinatorInfo(Body):
    """The node that coordinates one group."""

    key: str
    node_id: int = -1
    host: str = ""
    port: int = -1
    error_code: int = 0
    error_message: str | None = None


class FindCoordinatorReply(Body):
    """One entry for each key."""

    coordinators: list[CoordinatorInfo]


class FindCoordinatorRequest(Request):
    """Ask which node coordinates groups. Makes the internal topic that holds their state if it is not there yet."""

    API = 10
    REPLY = FindCoordinatorReply

    keys: list[Name]
    """Group ids, or transactional ids."""
    key_type: Int8 = GROUP_COORDINATOR


# ---- membership


class JoinedMember(Body):
    """A member, as the group's leader learns of it."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


class JoinGroupReply(Body):
    """The generation that a member belongs to now; members are told to the leader alone.

    MEMBER_ID_REQUIRED alone comes in error_code, beside the member_id to join again with (KIP-394).
    """

    generation_id: int
    protocol_type: str
    protocol_name: str
    leader: str
    member_id: str
    members: list[JoinedMember]
    skip_assignment: bool = False
    error_code: int = 0
    error_message: str | None = None


class JoinGroupRequest(Request):
    """Join a group, or take part in its rebalance. Answered when the group's generation is complete."""

    API = 11
    REPLY = JoinGroupReply

    group_id: Name
    session_timeout_ms: Count
    rebalance_timeout_ms: Count
    member_id: Name
    """Empty: a new member."""
    group_instance_id: Name | None
    """Set: a static member (KIP-345)."""
    protocol_type: Name
    protocols: list[tuple[Name, bytes]]
    """Assignors by preference, each with the member's metadata for it."""
    reason: Name | None = None
    """Why the member joins (KIP-800), for the flight recorder."""
    require_known_member_id: bool = False
    """Answer a new dynamic member MEMBER_ID_REQUIRED first, as Kafka does from version 4 on."""


class SyncGroupReply(Body):
    """A member's part of the assignment."""

    protocol_type: str
    protocol_name: str
    assignment: bytes


class SyncGroupRequest(Request):
    """Give the assignment of all members, if this is the leader, and ask for the own part of it."""

    API = 14
    REPLY = SyncGroupReply

    group_id: Name
    generation_id: Int32
    member_id: Name
    group_instance_id: Name | None
    protocol_type: Name | None
    protocol_name: Name | None
    assignments: list[tuple[Name, bytes]]


class HeartbeatReply(Body):
    """All is well: the member belongs to the present generation."""


class HeartbeatRequest(Request):
    """Say that a member lives. REBALANCE_IN_PROGRESS tells it to join again.

    With wait_ms the answer is held back for so long, unless the group begins to rebalance: a member hears at once.
    Our own field; Kafka's clients ask every few seconds instead.
    """

    API = 12
    REPLY = HeartbeatReply

    group_id: Name
    generation_id: Int32
    member_id: Name
    group_instance_id: Name | None
    wait_ms: Count = 0


class LeavingMember(Body):
    """A member that leaves; static ones may be named by their instance id alone."""

    member_id: Name
    group_instance_id: Name | None = None
    reason: Name | None = None


class LeftMember(Body):
    """What became of one member."""

    member_id: str
    group_instance_id: str | None
    error_code: int = 0
    error_message: str | None = None


class LeaveGroupReply(Body):
    """One entry for each member."""

    members: list[LeftMember]


class LeaveGroupRequest(Request):
    """Take members out of a group."""

    API = 13
    REPLY = LeaveGroupReply

    group_id: Name
    members: list[LeavingMember]


# ---- offsets


class OffsetToCommit(Body):
    """The next offset that a group wants to read of one partition."""

    topic: Name
    partition: Count
    offset: Int64
    leader_epoch: Int32 = -1
    metadata: str = ""


class PartitionCommitted(Body):
    """What became of one partition's commit or deletion."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None


class OffsetCommitReply(Body):
    """One entry for each partition."""

    partitions: list[PartitionCommitted]


class OffsetCommitRequest(Request):
    """Commit offsets: as a member of the present generation, or with generation -1 while the group has no members."""

    API = 8
    REPLY = OffsetCommitReply

    group_id: Name
    generation_id: Int32
    member_id: Name
    group_instance_id: Name | None
    partitions: list[OffsetToCommit]


class CommittedOffset(Body):
    """A committed offset; -1: there is none."""

    topic: str
    partition: int
    offset: int = -1
    leader_epoch: int = -1
    metadata: str = ""
    commit_time_ms: int = -1
    error_code: int = 0
    error_message: str | None = None


class OffsetFetchReply(Body):
    """One entry for each partition asked for, or for each that has an offset."""

    partitions: list[CommittedOffset]


class TopicPartitionEntry(Body):
    """One partition."""

    topic: Name
    partition: Count


class OffsetFetchRequest(Request):
    """Read committed offsets of a group; nil: all of them."""

    API = 9
    REPLY = OffsetFetchReply

    group_id: Name
    partitions: list[TopicPartitionEntry] | None = None
    require_stable: bool = False
    """Answer UNSTABLE_OFFSET_COMMIT for a partition whose offset an open transaction may change (KIP-447)."""


class OffsetDeleteReply(Body):
    """One entry for each partition."""

    partitions: list[PartitionCommitted]


class OffsetDeleteRequest(Request):
    """Delete committed offsets of topics that no member is subscribed to (KIP-496)."""

    API = 47
    REPLY = OffsetDeleteReply

    group_id: Name
    partitions: list[TopicPartitionEntry]


# ---- administration


class MemberDescription(Body):
    """A member of a consumer group."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


class GroupDescription(Body):
    """A consumer group; state is Kafka's: Empty, PreparingRebalance, CompletingRebalance, Stable or Dead."""

    group_id: str
    error_code: int = 0
    error_message: str | None = None
    state: str = ""
    protocol_type: str = ""
    protocol: str = ""
    generation_id: int = -1
    leader: str = ""
    coordinator_id: int = -1
    members: list[MemberDescription] = field(default_factory=list)


class DescribeGroupsReply(Body):
    """One entry for each group."""

    groups: list[GroupDescription]


class DescribeGroupsRequest(Request):
    """Describe consumer groups; all have to have their coordinator on this node."""

    API = 15
    REPLY = DescribeGroupsReply

    groups: list[Name]


class ListedGroup(Body):
    """A group; kind is classic or share, and the state of a share group is asked of its own coordinator."""

    group_id: str
    protocol_type: str
    state: str
    kind: str


class ListGroupsReply(Body):
    """The groups that this node coordinates."""

    groups: list[ListedGroup]


class ListGroupsRequest(Request):
    """List the groups that this node coordinates."""

    API = 16
    REPLY = ListGroupsReply

    states: list[Name] = field(default_factory=list)
    """Empty: any."""
    kinds: list[Name] = field(default_factory=list)
    """classic, share; empty: any."""


class DeletedGroup(Body):
    """What became of one group."""

    group_id: str
    error_code: int = 0
    error_message: str | None = None


class DeleteGroupsReply(Body):
    """One entry for each group."""

    groups: list[DeletedGroup]


class DeleteGroupsRequest(Request):
    """Delete consumer groups without members, with their offsets."""

    API = 42
    REPLY = DeleteGroupsReply

    groups: list[Name]


class GroupEvent(Body):
    """One entry of a group's flight recorder."""

    sequence: int
    time_ms: int
    """Since 1970, by the coordinator's clock."""
    kind: str
    """joined, left, evicted, rebalance-started, rebalance-completed, became-empty, offsets-reset and the like."""
    generation_id: int
    member_id: str
    client_id: str
    cause: str
    """A sentence for people, with the figures that explain it."""


class GroupEventsReply(Body):
    """The newest events, oldest first."""

    events: list[GroupEvent]


class GroupEventsRequest(Request):
    """Read a group's flight recorder. Our own API."""

    API = 1010
    REPLY = GroupEventsReply

    group_id: Name
    limit: Count = 1000
