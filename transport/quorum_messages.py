"""The messages of the metadata quorum: KRaft's (KIP-595, 630, 853, 996), sent from node to node.

A voter is a node id and the id of its disk, so that a node that comes back with an empty disk does not vote for what it
has forgotten.
"""

from __future__ import annotations

from msgspec import field

from .message_base import Body, Count, Int32, Int64, Name, Request


class Voter(Body):
    """One that votes."""

    node_id: Int32
    directory_id: Name


# ---- elections


class VoteReply(Body):
    """The vote; epoch and leader are those that the voter knows (leader -1: none)."""

    epoch: Int32
    leader_id: Int32
    granted: bool


class VoteRequest(Request):
    """Ask one voter for its vote in an epoch; a pre-vote changes nothing, and is asked with the current epoch."""

    API = 52
    REPLY = VoteReply

    voter: Voter
    candidate: Voter
    epoch: Int32
    last_epoch: Int32
    """The epoch of the last record in the candidate's log."""
    end_offset: Int64
    """The offset after it."""
    pre_vote: bool


class QuorumEpochReply(Body):
    """What the node that was told knows: the higher epoch wins."""

    epoch: Int32
    leader_id: Int32


class BeginQuorumEpochRequest(Request):
    """The sender has been elected in this epoch."""

    API = 53
    REPLY = QuorumEpochReply

    voter: Voter
    leader_id: Int32
    epoch: Int32


class EndQuorumEpochRequest(Request):
    """The leader of this epoch resigns; the first of the preferred successors need not wait to stand for election."""

    API = 54
    REPLY = QuorumEpochReply

    leader_id: Int32
    epoch: Int32
    preferred: list[Int32]


# ---- the log


class QuorumFetchReply(Body):
    """The answer of the leader; the frame that follows holds whole batches, possibly none.

    At most one of diverging, snapshot and data is there.
    """

    epoch: Int32
    leader_id: Int32
    high_watermark: Int64 = -1
    diverging_epoch: Int32 = -1
    """The follower's log has parted from the leader's: truncate to the end of this epoch, here diverging_end."""
    diverging_end: Int64 = -1
    snapshot_offset: Int64 = -1
    """The leader's log starts later than the follower's ends: fetch this snapshot."""
    snapshot_epoch: Int32 = -1


class QuorumFetchRequest(Request):
    """A voter or observer asks the leader for the metadata log from its own end on; what is below it is flushed there.

    Answered at once if there is something, or if the high watermark is another than the sender's; else in max_wait_ms.
    """

    API = 1101
    REPLY = QuorumFetchReply

    replica: Voter
    epoch: Int32
    fetch_offset: Int64
    last_fetched_epoch: Int32
    high_watermark: Int64
    max_wait_ms: Count
    max_bytes: Count


class FetchSnapshotReply(Body):
    """A part of the snapshot, in the frame that follows."""

    epoch: Int32
    leader_id: Int32
    size: Int64
    position: Int64


class FetchSnapshotRequest(Request):
    """Ask for a part of the leader's snapshot that ends at this offset and epoch. Errors: SNAPSHOT_NOT_FOUND."""

    API = 59
    REPLY = FetchSnapshotReply

    replica: Voter
    epoch: Int32
    snapshot_offset: Int64
    snapshot_epoch: Int32
    position: Int64
    max_bytes: Count


# ---- voters, described and changed


class QuorumReplica(Body):
    """A voter or observer as the leader knows it; times in ms of the leader's wall clock, -1: not since it leads."""

    node_id: Int32
    directory_id: Name
    end_offset: Int64
    last_fetch_ms: Int64
    last_caught_up_ms: Int64


class DescribeQuorumReply(Body):
    """The metadata quorum, as its leader sees it."""

    leader_id: Int32
    epoch: Int32
    high_watermark: Int64
    voters: list[QuorumReplica] = field(default_factory=list)
    observers: list[QuorumReplica] = field(default_factory=list)


class DescribeQuorumRequest(Request):
    """Describe the metadata quorum; any node passes it on to the leader."""

    API = 55
    REPLY = DescribeQuorumReply

    timeout_ms: Count = 30_000


class AddVoterRequest(Request):
    """Let a node vote that has caught up as an observer. One change at a time (KIP-853)."""

    API = 80
    REPLY = Body

    node_id: Int32
    directory_id: Name


class RemoveVoterRequest(Request):
    """Let a node vote no more. One change at a time; a leader that removes itself resigns when that is committed."""

    API = 81
    REPLY = Body

    node_id: Int32
    directory_id: Name


QUORUM_REQUESTS: tuple[type[Request], ...] = (
    VoteRequest,
    BeginQuorumEpochRequest,
    EndQuorumEpochRequest,
    QuorumFetchRequest,
    FetchSnapshotRequest,
    DescribeQuorumRequest,
    AddVoterRequest,
    RemoveVoterRequest,
)
"""What the quorum actor of a node answers."""
