"""What the nodes of a cluster say to one another beside the quorum: replication, registration, requests passed on."""

from __future__ import annotations

from typing import Any

from msgspec import field

from .group_messages import TopicPartitionEntry  # noqa: TC001 - msgspec reads it
from .message_base import Body, Count, Int16, Int32, Int64, Name, Request

# ---- replication


class ReplicaPosition(Body):
    """How far a follower has a partition: its log's end, up to which all is flushed if the topic's flush is `ack`."""

    topic: Name
    partition: Count
    leader_epoch: Int32
    fetch_offset: Int64
    last_fetched_epoch: Int32
    """The epoch of the follower's last record; -1: it has none."""
    topic_id: Name = ""
    """Which topic of that name; a follower may not know yet that it was deleted and created anew (KIP-516)."""
    log_start: Int64 = -1
    """Where the follower's log begins: deleted records are gone once all in sync begin past them. -1: not said."""
    damaged: bool = False
    """The follower has lost what it had from fetch_offset on: it must leave the ISR, and may not be elected."""


class ReplicaState(Body):
    """The answer for one partition; its batches are the frame of the same position."""

    topic: Name
    partition: Count
    error_code: int = 0
    error_message: str | None = None
    leader_epoch: Int32 = -1
    high_watermark: Int64 = -1
    log_start_offset: Int64 = -1
    diverging_epoch: Int32 = -1
    """The follower's log has parted from the leader's: truncate to the lower of diverging_end and its own end."""
    diverging_end: Int64 = -1


class ReplicaFetchReply(Body):
    """Partitions that have news, with one frame each: data, a new high watermark or log start, or an error."""

    partitions: list[ReplicaState] = field(default_factory=list)


class ReplicaFetchRequest(Request):
    """A follower node asks a leader node for all partitions that it follows there, in a session (KIP-227).

    The first request of a session (number 0) has every partition; the next ones have those whose position has changed,
    and those that are followed there no more. One request is under way at a time. It is answered at once if there is
    data, else in max_wait_ms with what else is new.
    """

    API = 1100
    REPLY = ReplicaFetchReply

    node_id: Int32
    node_epoch: Int64
    session: Int64
    number: Int64
    max_wait_ms: Count
    max_bytes: Count
    changed: list[ReplicaPosition]
    forgotten: list[tuple[Name, Count]] = field(default_factory=list)


# ---- registration and life of nodes


class RegisterNodeReply(Body):
    """The node's epoch: what it says with an older one is refused from here on."""

    node_epoch: Int64


class RegisterNodeRequest(Request):
    """A node has started. It is fenced until its heartbeats show that it knows the metadata of its registration."""

    API = 62
    REPLY = RegisterNodeReply

    cluster_id: Name
    node_id: Int32
    directory_id: Name
    incarnation: Name
    """Different for each start of the process: a second live process with the same node id is refused."""
    host: Name
    port: Count
    rack: Name
    clean: bool
    """Whether its last stop was clean: then its logs hold all that they held."""
    min_version: Int16
    max_version: Int16
    """The protocol versions that it speaks."""
    was_member: bool = False
    """Whether the metadata in its folder has it as a node of this cluster: if the cluster has not, it was removed."""
    previous_epoch: Int64 = -1
    """The node epoch of the process that stopped so: not the latest one if the folder is an old copy (KIP-966)."""
    previous_incarnations: str = ""
    """Those that have stopped so since that epoch without being told theirs, with spaces between them."""
    kafka_host: Name = ""
    kafka_port: Count = 0
    """Where Kafka's clients reach it; port 0: nowhere."""
    former_incarnations: str = ""
    """The processes that had its folder before, with spaces between them: what they have asked counts no more."""


class HeartbeatNodeReply(Body):
    """How the controller sees the node."""

    is_caught_up: bool
    is_fenced: bool
    should_shut_down: bool


class HeartbeatNodeRequest(Request):
    """The node is alive. With want_shut_down the controller moves its leaders first, then says should_shut_down."""

    API = 63
    REPLY = HeartbeatNodeReply

    node_id: Int32
    node_epoch: Int64
    metadata_offset: Int64
    """The end of the metadata that the node has applied."""
    want_shut_down: bool = False


class JoinClusterReply(Body):
    """What a new node needs: whose cluster it is, a node id that nobody had before, and where the nodes are."""

    cluster_id: Name
    node_id: Int32
    nodes: list[tuple[Int32, Name, Count]]


class JoinClusterRequest(Request):
    """A process with an empty data folder wants to become a node. With a node id of -1 it is given one."""

    API = 1102
    REPLY = JoinClusterReply

    node_id: Int32 = -1


# ---- partitions


class PartitionChange(Body):
    """The leader of a partition wants another ISR; each member with the node epoch that it has fetched with."""

    topic: Name
    partition: Count
    leader_epoch: Int32
    partition_epoch: Int32
    new_isr: list[tuple[Int32, Int64]]
    topic_id: Name = ""
    lost: list[Int32] = field(default_factory=list)
    """Replicas that lack committed records which they had: none of these may be elected. The leader may be one itself,
    if its log is damaged: it is then not in the new ISR, and another one leads."""


class PartitionChanged(Body):
    """The partition's state in the metadata, after the change or instead of it."""

    topic: Name
    partition: Count
    error_code: int = 0
    error_message: str | None = None
    leader: Int32 = -1
    leader_epoch: Int32 = -1
    isr: list[Int32] = field(default_factory=list)
    partition_epoch: Int32 = -1


class AlterPartitionReply(Body):
    """One entry for each of the request."""

    partitions: list[PartitionChanged]


class AlterPartitionRequest(Request):
    """Change ISRs. Errors of an entry: FENCED_LEADER_EPOCH, INVALID_UPDATE_VERSION, INELIGIBLE_REPLICA and others."""

    API = 56
    REPLY = AlterPartitionReply

    node_id: Int32
    node_epoch: Int64
    partitions: list[PartitionChange]


# ---- requests passed on to the controller


class ForwardReply(Body):
    """The reply to what was passed on, and the metadata offset that whoever gets it must have applied."""

    metadata_offset: Int64
    error_code: int = 0
    error_message: str | None = None
    body: Any = None


class ForwardRequest(Request):
    """A request for the controller that another node's client sent (as KIP-590); NOT_CONTROLLER if this is not it."""

    API = 58
    REPLY = ForwardReply

    api: Int32
    body: Any


# ---- group ids, which are either a consumer group's or a share group's


class ClaimGroupRequest(Request):
    """A share group's coordinator takes an id; refused if it is a consumer group's."""

    API = 1105
    REPLY = Body

    group_id: Name


class ReleaseGroupRequest(Request):
    """The share group of this id is gone."""

    API = 1106
    REPLY = Body

    group_id: Name


# ---- transactions


class MarkerWritten(Body):
    """Whether a transaction is ended in a partition."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None


class WriteTxnMarkersReply(Body):
    """One entry for each partition."""

    partitions: list[MarkerWritten]


class WriteTxnMarkersRequest(Request):
    """A transaction's coordinator has it ended in partitions that are led by the node that is asked.

    Errors of an entry: INVALID_PRODUCER_EPOCH if a newer transaction was ended there, TRANSACTION_COORDINATOR_FENCED if
    a later coordinator has written a marker.
    """

    API = 27
    REPLY = WriteTxnMarkersReply

    producer_id: Int64
    producer_epoch: Int16
    committed: bool
    coordinator_epoch: Int32
    """The leader epoch of the coordinator's partition of __transaction_state."""
    transaction: Int64
    """The transaction's number: a marker that comes twice, perhaps late, counts once."""
    partitions: list[TopicPartitionEntry]


class VerifyTransactionReply(Body):
    """The number of the open transaction."""

    transaction: Int64


class VerifyTransactionRequest(Request):
    """A leader asks a transaction's coordinator whether a partition is part of the producer's open transaction
    (KIP-890), before it takes the first batch; INVALID_TXN_STATE if it is not.
    """

    API = 1107
    REPLY = VerifyTransactionReply

    transactional_id: Name
    producer_id: Int64
    producer_epoch: Int16
    topic: Name
    partition: Count


PEER_REQUESTS: tuple[type[Request], ...] = (
    ReplicaFetchRequest,
    RegisterNodeRequest,
    HeartbeatNodeRequest,
    JoinClusterRequest,
    AlterPartitionRequest,
    ForwardRequest,
    ClaimGroupRequest,
    ReleaseGroupRequest,
    WriteTxnMarkersRequest,
    VerifyTransactionRequest,
)
