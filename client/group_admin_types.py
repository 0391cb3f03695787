"""What admin calls about groups return: plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import TopicPartition

CONSUMER_GROUP = "classic"
SHARE_GROUP = "share"


@dataclass(frozen=True)
class GroupListing:
    """A group; kind is "classic" (a consumer group) or "share" (a queue)."""

    group_id: str
    kind: str
    protocol_type: str
    state: str


@dataclass(frozen=True)
class GroupMember:
    """A member of a consumer group, and what it said it wants and was given."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    topics: tuple[str, ...]
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True)
class GroupDescription:
    """A consumer group; state is Kafka's: Empty, PreparingRebalance, CompletingRebalance, Stable or Dead."""

    group_id: str
    state: str
    protocol_type: str
    protocol: str
    """The assignor; "" while there is none."""
    generation: int
    leader: str
    """A member id."""
    coordinator_id: int
    members: list[GroupMember]


@dataclass(frozen=True)
class GroupEvent:
    """One entry of a group's flight recorder: what happened, and in a sentence why."""

    sequence: int
    time_ms: int
    """Since 1970, by the coordinator's clock."""
    kind: str
    generation: int
    member_id: str
    client_id: str
    cause: str


@dataclass(frozen=True)
class ShareGroupMember:
    """A consumer of a share group."""

    member_id: str
    client_id: str
    topics: tuple[str, ...]
    leased: int
    """Records leased to it now."""
    idle_ms: int


@dataclass(frozen=True)
class SharePartition:
    """Where a share group is in one partition; counts are of records."""

    topic: str
    partition: int
    start_offset: int
    """Everything below is finished."""
    next_offset: int
    """Everything from here on was never delivered."""
    available: int
    """To be delivered again, now."""
    delayed: int
    """To be delivered at their time."""
    leased: int
    lag: int
    """Not finished, up to the end of the partition."""
    oldest_ms: int
    """Timestamp of the oldest record not finished; -1: there is none, or it is not known."""
    dead_lettered: int
    """Given up since the coordinator started."""


@dataclass(frozen=True)
class ShareGroupDescription:
    """A share group; state is Empty or Stable."""

    group_id: str
    state: str
    coordinator_id: int
    dead_letter_topic: str | None
    members: list[ShareGroupMember]
    partitions: list[SharePartition]


@dataclass(frozen=True)
class ShareRecordState:
    """What a share group knows of the records of a range of offsets, both ends included."""

    first_offset: int
    last_offset: int
    state: str
    """available, delayed, acquired, archiving, acknowledged, archived, or new: never delivered."""
    delivery_count: int
    member_id: str
    """Whose the records are now; "": nobody's."""
    until_ms: int
    """Since 1970: when the lease ends, or the delay; -1: neither."""


@dataclass(frozen=True)
class ShareRecordStates:
    """The states of a partition's records, from the group's start on."""

    start_offset: int
    next_offset: int
    states: list[ShareRecordState]
