"""The messages of data, topics and the node itself; catalogue.py has every request by its number.

A body is a msgpack array, one element for each field in the order given here. API numbers and field meanings are
Kafka's where Kafka has them. Batches never stand in a body: they follow it as frames of their own, in the order of the
entries that they belong to. A reply's entry with an error code other than 0 has an ``error_message`` and no meaning
beside it.
"""

from __future__ import annotations

from msgspec import field

from .message_base import Body, Count, Int8, Int16, Int32, Int64, Name, Request

# ---- Produce

ACKS_ALL = -1
"""Every replica in sync has to have the batch."""


class PartitionData(Body):
    """One batch for one partition; the batch is the frame of the same position."""

    topic: Name
    partition: Count
    leader_epoch: Int32 = -1
    """The leader epoch the client knows; -1: it does not say."""


class PartitionProduced(Body):
    """What became of one batch."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None
    base_offset: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1


class ProduceReply(Body):
    """One entry for each batch, in the order of the request."""

    partitions: list[PartitionProduced]


class ProduceRequest(Request):
    """Append batches. With acks=0 no reply is sent."""

    API = 0
    REPLY = ProduceReply
    BATCHES = True

    acks: Int16
    timeout_ms: Count
    partitions: list[PartitionData]
    transactional_id: Name | None = None
    """Of the producer, if its batches are parts of a transaction."""


# ---- Fetch

READ_UNCOMMITTED, READ_COMMITTED = 0, 1
"""Isolation levels. With the second nothing is read from the first offset of an open transaction on, and records of
aborted ones, whose batches come with the others, are named for the reader to leave out."""


class AbortedTransaction(Body):
    """Records of this producer from this offset on, up to its next marker, were aborted."""

    producer_id: int
    first_offset: int


class PartitionFetch(Body):
    """Where to read one partition."""

    topic: Name
    partition: Count
    fetch_offset: Int64
    max_bytes: Count
    leader_epoch: Int32 = -1


class PartitionFetched(Body):
    """The state of one partition; its batches, whole and as stored, are the frame of the same position."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None
    high_watermark: int = -1
    last_stable_offset: int = -1
    log_start_offset: int = -1
    preferred_read_replica: int = -1
    """A nearer replica to read from instead (KIP-392); the frame is empty then."""
    aborted: list[AbortedTransaction] = field(default_factory=list)
    """For READ_COMMITTED: those with records in the frame, in the order of their first offsets."""


class FetchReply(Body):
    """One entry and one frame for each partition of the request; the frame may be empty."""

    partitions: list[PartitionFetched]


class FetchRequest(Request):
    """Read batches below the high watermark.

    Waits until min_bytes are there or max_wait_ms have passed. The first batch comes whole even if it is larger than
    max_bytes; the first batch may begin before fetch_offset.
    """

    API = 1
    REPLY = FetchReply

    max_wait_ms: Count
    min_bytes: Count
    max_bytes: Count
    partitions: list[PartitionFetch]
    rack: Name = ""
    """Where the client is; the leader may name it a replica of the same rack."""
    isolation: Int8 = READ_UNCOMMITTED


# ---- ListOffsets

LATEST = -1
EARLIEST = -2
MAX_TIMESTAMP = -3


class PartitionTimestamp(Body):
    """Which offset of a partition is asked for: LATEST, EARLIEST, MAX_TIMESTAMP, or the first from a time in ms on."""

    topic: Name
    partition: Count
    timestamp: Int64
    leader_epoch: Int32 = -1


class PartitionOffset(Body):
    """The offset found; -1 where no record is that young."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None
    timestamp: int = -1
    offset: int = -1
    leader_epoch: int = -1


class ListOffsetsReply(Body):
    """One entry for each partition of the request."""

    partitions: list[PartitionOffset]


class ListOffsetsRequest(Request):
    """Look up offsets by time."""

    API = 2
    REPLY = ListOffsetsReply

    partitions: list[PartitionTimestamp]
    isolation: Int8 = READ_UNCOMMITTED
    """With READ_COMMITTED the partition ends at its last stable offset."""


# ---- Metadata


class BrokerInfo(Body):
    """A node and its native address."""

    node_id: int
    host: str
    port: int
    rack: str | None = None


class PartitionInfo(Body):
    """Who hosts a partition."""

    partition: int
    leader: int
    leader_epoch: int
    replicas: list[int]
    isr: list[int]
    error_code: int = 0
    elr: list[int] = field(default_factory=list)
    """Replicas out of sync that still hold every committed record (KIP-966)."""


class TopicInfo(Body):
    """A topic and its partitions."""

    topic: str
    error_code: int = 0
    error_message: str | None = None
    topic_id: str = ""
    is_internal: bool = False
    partitions: list[PartitionInfo] = field(default_factory=list)


class MetadataReply(Body):
    """The cluster as this node knows it."""

    cluster_id: str
    controller_id: int
    brokers: list[BrokerInfo]
    topics: list[TopicInfo]


class MetadataRequest(Request):
    """Describe topics, all of them if topics is nil."""

    API = 3
    REPLY = MetadataReply

    topics: list[Name] | None = None
    allow_auto_topic_creation: bool = False


# ---- ApiVersions: the first message of a connection


class ApiRange(Body):
    """The versions of one API that the broker speaks."""

    api: int
    min_version: int
    max_version: int


class ApiVersionsReply(Body):
    """What the client needs to know before it sends anything else."""

    cluster_id: str
    node_id: int
    apis: list[ApiRange]
    credit_bytes: int
    """A client that has more bytes than this in unanswered requests is not read from until some are answered."""
    max_request_bytes: int
    software: str


class ApiVersionsRequest(Request):
    """Say who is calling; optional, but quotas go by client_id."""

    API = 18
    REPLY = ApiVersionsReply
    MIN_VERSION = 0
    """For ever: it is asked before anybody knows what the other one speaks."""

    client_id: Name
    software: Name
    cluster_id: Name | None = None
    """The cluster that the client means to talk to; another one answers INCONSISTENT_CLUSTER_ID."""
    node_id: Int32 = -1
    """The node that calls, if it is one of the cluster's own."""
    host: Name = ""
    port: Count = 0
    """Where that node is reached: it may have moved, and the metadata cannot say so as long as it has no majority."""


class CloseRequest(Request):
    """The client goes away: forget its session. No reply. Our own API: a ROUTER does not hear of a closed peer."""

    API = 1000
    REPLY = Body


# ---- Topics


class NewTopic(Body):
    """A topic to create; -1: the broker's default."""

    topic: Name
    partitions: Int32 = -1
    replication_factor: Int16 = -1
    configs: list[tuple[Name, str]] = field(default_factory=list)
    assignments: list[list[Int32]] = field(default_factory=list)
    """Replicas of each partition, by hand; partitions and replication_factor are then -1."""


class TopicResult(Body):
    """What became of one topic."""

    topic: str
    error_code: int = 0
    error_message: str | None = None
    topic_id: str = ""
    partitions: int = -1
    replication_factor: int = -1


class TopicsReply(Body):
    """One entry for each topic of the request."""

    topics: list[TopicResult]


class CreateTopicsRequest(Request):
    """Create topics, or with validate_only say whether it would work."""

    API = 19
    REPLY = TopicsReply

    topics: list[NewTopic]
    timeout_ms: Count
    validate_only: bool = False


class DeleteTopicsRequest(Request):
    """Delete topics and their records."""

    API = 20
    REPLY = TopicsReply

    topics: list[Name]
    timeout_ms: Count
    topic_ids: list[Name] = field(default_factory=list)
    """Which topics of those names, in the same order; "": whichever it is. The node that is asked fills them in
    before it passes the request on, which then deletes no topic that was created since, however late it comes."""


class PartitionCount(Body):
    """How many partitions a topic shall have in all."""

    topic: Name
    total: Int32


class CreatePartitionsRequest(Request):
    """Add partitions to topics; a topic never loses one."""

    API = 37
    REPLY = TopicsReply

    topics: list[PartitionCount]
    timeout_ms: Count
    validate_only: bool = False


class PartitionDeletion(Body):
    """Delete the records of a partition below an offset; -1: below the high watermark."""

    topic: Name
    partition: Count
    offset: Int64


class PartitionDeleted(Body):
    """The partition's new log start offset."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None
    low_watermark: int = -1


class DeleteRecordsReply(Body):
    """One entry for each partition of the request."""

    partitions: list[PartitionDeleted]


class DeleteRecordsRequest(Request):
    """Move log start offsets forward."""

    API = 21
    REPLY = DeleteRecordsReply

    partitions: list[PartitionDeletion]
    timeout_ms: Count


# ---- Producer ids


class InitProducerIdReply(Body):
    """An id that nobody else has."""

    producer_id: int
    producer_epoch: int
    transaction: int = -1
    """With a transactional id: the number of its last transaction; -1: there was none."""


class InitProducerIdRequest(Request):
    """Get a producer id; with one given, the same id with the next epoch.

    With a transactional id it goes to the coordinator of that: the id has one producer at a time, and whoever asks
    takes over, so that older ones are fenced and what they left open is aborted. With a producer id besides, only that
    producer goes on (KIP-360).
    """

    API = 22
    REPLY = InitProducerIdReply

    producer_id: Int64 = -1
    producer_epoch: Int16 = -1
    transactional_id: Name | None = None
    transaction_timeout_ms: Count = 60_000
    """A transaction that has been open for longer is aborted."""


# ---- Leader epochs


class PartitionEpoch(Body):
    """Which leader epoch's end is asked for."""

    topic: Name
    partition: Count
    leader_epoch: Int32
    current_leader_epoch: Int32 = -1


class PartitionEpochEnd(Body):
    """The largest leader epoch not above the one asked for, and the offset after its last record."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None
    leader_epoch: int = -1
    end_offset: int = -1


class OffsetForLeaderEpochReply(Body):
    """One entry for each partition of the request."""

    partitions: list[PartitionEpochEnd]


class OffsetForLeaderEpochRequest(Request):
    """Find where a leader epoch ends (KIP-101, KIP-320)."""

    API = 23
    REPLY = OffsetForLeaderEpochReply

    partitions: list[PartitionEpoch]


# ---- The node itself


class PartitionDirInfo(Body):
    """One partition on this node's disk."""

    topic: str
    partition: int
    size_bytes: int
    log_start_offset: int
    high_watermark: int
    log_end_offset: int
    segments: int
    error_message: str | None = None
    """Why the partition does not serve, or what of it is damaged; nil: all is well."""


class DescribeLogDirsReply(Body):
    """This node's data folder."""

    error_code: int
    path: str
    total_bytes: int
    usable_bytes: int
    partitions: list[PartitionDirInfo]


class DescribeLogDirsRequest(Request):
    """Sizes and offsets of the partitions on this node."""

    API = 35
    REPLY = DescribeLogDirsReply


class NodeStatusReply(Body):
    """Counters of this node since it started, by name."""

    node_id: int
    cluster_id: str
    version: str
    uptime_ms: int
    pid: int
    counters: list[tuple[str, int]]


class NodeStatusRequest(Request):
    """How the node is. Our own API."""

    API = 1001
    REPLY = NodeStatusReply
