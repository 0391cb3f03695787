"""The messages of share groups, which are queues (KIP-932, in a form of our own). Part of the catalogue in messages.py.

One coordinator holds the whole state of a share group: a consumer asks it for records of any partition of its topics,
and gets ranges of offsets that are leased to it, with the batches that hold them. There is no assignment and no
heartbeat: asking is the sign of life, and leases end by themselves.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from .message_base import Body, Count, Int16, Int64, Name, Request

# ---- what a consumer says about records

ACK_GAP = 0
"""There is no record at these offsets (compacted away, or a control batch)."""
ACK_ACCEPT = 1
ACK_RELEASE = 2
"""Deliver it again, to anybody, after the group's back-off or the delay given."""
ACK_REJECT = 3
"""Never deliver it again: to the dead-letter topic with it."""
ACK_RENEW = 4
"""Still at it: the lease begins anew (KIP-1222)."""
ACK_RETURN = 5
"""Prefetched and never handed to the user: available at once, and this delivery does not count."""

DEFAULT_DELAY = -1
"""As the delay of a release: the group's back-off."""


class Acknowledgement(Body):
    """What became of the records of a range of offsets, both ends included."""

    first_offset: Int64
    last_offset: Int64
    kind: Annotated[int, Meta(ge=ACK_GAP, le=ACK_RETURN)]
    delay_ms: Annotated[int, Meta(ge=DEFAULT_DELAY, le=2**40)] = DEFAULT_DELAY
    reason: str = ""
    """Why it is rejected or released, for the dead-letter topic's headers."""
    lease: Int64 = 0
    """What the answer that brought the records said; 0: it counts for whatever lease the consumer has on them now."""


class PartitionAcknowledgements(Body):
    """What became of records of one partition; ranges in order of offsets, none twice."""

    topic: Name
    partition: Count
    acknowledgements: list[Acknowledgement]


class PartitionAcknowledged(Body):
    """Whether the acknowledgements of one partition hold now, durably: all of them or, with an error code, none."""

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None


# ---- ShareFetch


class AcquiredRecords(Body):
    """Records that are leased to the consumer, of one range of offsets, both ends included."""

    first_offset: int
    last_offset: int
    delivery_count: int


class PartitionShared(Body):
    """Leased records of one partition, and a frame at the same position with the batches that hold them.

    The batches may hold other records too: only those in ``acquired`` are the consumer's.
    """

    topic: str
    partition: int
    error_code: int = 0
    error_message: str | None = None
    acquired: list[AcquiredRecords] = field(default_factory=list)


class ShareFetchReply(Body):
    """One entry and one frame for each partition with records or an error; none: nothing came in time."""

    partitions: list[PartitionShared]
    acknowledged: list[PartitionAcknowledged]
    """One entry for each of the request's acknowledgements, in order."""
    lease_ms: int
    """How long the records are leased, from the moment the coordinator sent this."""
    lease: int = 0
    """Names these leases in acknowledgements: the same records may be leased to the same consumer again."""


class ShareFetchRequest(Request):
    """Acknowledge records, then lease new ones: up to max_records, of whole batches where that fits.

    Waits until there is at least one record or max_wait_ms have passed; acknowledgements are made durable meanwhile
    and answered with it, so a consumer that wants to know sooner sends ShareAcknowledge.
    """

    API = 78
    REPLY = ShareFetchReply

    group_id: Name
    member_id: Name
    """Chosen by the consumer, unique to it."""
    max_wait_ms: Count
    max_records: Annotated[int, Meta(ge=1, le=1_000_000)]
    max_bytes: Count
    topics: list[Name]
    acknowledgements: list[PartitionAcknowledgements] = field(default_factory=list)


class ShareAcknowledgeReply(Body):
    """One entry for each of the request's entries, once they are durable."""

    acknowledged: list[PartitionAcknowledged]
    lease_ms: int


class ShareAcknowledgeRequest(Request):
    """Acknowledge records; with leave, also say goodbye: all that is still leased to the consumer is released."""

    API = 79
    REPLY = ShareAcknowledgeReply

    group_id: Name
    member_id: Name
    acknowledgements: list[PartitionAcknowledgements]
    leave: bool = False


# ---- administration


class ShareMember(Body):
    """A consumer of a share group."""

    member_id: str
    client_id: str
    topics: list[str]
    leased: int
    """Records leased to it now."""
    idle_ms: int
    """Since it was heard last."""


class SharePartitionInfo(Body):
    """Where a share group is in one partition."""

    topic: str
    partition: int
    start_offset: int
    """Everything below is finished."""
    next_offset: int
    """Everything from here on was never delivered."""
    available: int
    """Records in between that wait for delivery now."""
    delayed: int
    """... that wait for their time."""
    leased: int
    lag: int
    """Records not finished: from the start to the partition's end, without those finished in between."""
    oldest_ms: int
    """Timestamp of the oldest record not finished; -1: there is none or it is not known."""
    dead_lettered: int
    """Given up since the coordinator started."""


class ShareGroupDescription(Body):
    """A share group; state is Empty or Stable."""

    group_id: str
    error_code: int = 0
    error_message: str | None = None
    state: str = ""
    coordinator_id: int = -1
    dead_letter_topic: str | None = None
    members: list[ShareMember] = field(default_factory=list)
    partitions: list[SharePartitionInfo] = field(default_factory=list)


class DescribeShareGroupsReply(Body):
    """One entry for each group."""

    groups: list[ShareGroupDescription]


class DescribeShareGroupsRequest(Request):
    """Describe share groups; all have to have their coordinator on this node."""

    API = 77
    REPLY = DescribeShareGroupsReply

    groups: list[Name]


class ShareOffset(Body):
    """Where a share group shall begin in one partition."""

    topic: Name
    partition: Count
    offset: Int64


class AlterShareOffsetsReply(Body):
    """One entry for each partition."""

    partitions: list[PartitionAcknowledged]


class AlterShareOffsetsRequest(Request):
    """Set where a share group without consumers begins; what it knew of the partition is forgotten."""

    API = 91
    REPLY = AlterShareOffsetsReply

    group_id: Name
    partitions: list[ShareOffset]


class DeleteShareGroupReply(Body):
    """The group is gone."""


class DeleteShareGroupRequest(Request):
    """Delete a share group without consumers, and its state. Our own API: Kafka does it with DeleteGroups."""

    API = 1011
    REPLY = DeleteShareGroupReply

    group_id: Name


class ShareRecordState(Body):
    """A range of offsets, both ends included, and what the group knows of its records."""

    first_offset: int
    last_offset: int
    state: str
    """available, delayed, acquired, archiving, acknowledged, archived, or new: never delivered."""
    delivery_count: int
    member_id: str = ""
    until_ms: int = -1
    """Wall clock: when the lease ends, or the delay."""


class ShareStatesReply(Body):
    """The states from the group's start on."""

    start_offset: int
    next_offset: int
    states: list[ShareRecordState]


class ShareStatesRequest(Request):
    """Look at the states of one partition's records without leasing any: for peek. Our own API."""

    API = 1012
    REPLY = ShareStatesReply

    group_id: Name
    topic: Name
    partition: Count
    limit: Int16 = 1000
