"""What admin calls take and return: plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..transport.config_messages import BROKER_RESOURCE, CLIENT_RESOURCE, GROUP_RESOURCE, TOPIC_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class NewTopic:
    """A topic to create; -1: the broker's default."""

    name: str
    num_partitions: int = -1
    replication_factor: int = -1
    replica_assignments: Sequence[Sequence[int]] = ()
    """Node ids for each partition, by hand; the two numbers before are then -1."""
    topic_configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CreatedTopic:
    """A topic as it was created, or would be."""

    name: str
    topic_id: str
    num_partitions: int
    replication_factor: int


@dataclass(frozen=True)
class PartitionDescription:
    """Who hosts a partition; leader -1: nobody at the moment."""

    partition: int
    leader: int
    leader_epoch: int
    replicas: list[int]
    isr: list[int]


@dataclass(frozen=True)
class TopicDescription:
    """A topic and its partitions, in order."""

    name: str
    topic_id: str
    is_internal: bool
    partitions: list[PartitionDescription]


@dataclass(frozen=True)
class NodeDescription:
    """A node and where clients reach it."""

    node_id: int
    host: str
    port: int
    rack: str | None


@dataclass(frozen=True)
class ClusterDescription:
    """The cluster's nodes."""

    cluster_id: str
    controller_id: int
    nodes: list[NodeDescription]


@dataclass(frozen=True)
class ConfigResource:
    """What has settings: make one by `topic`, `broker`, `client` or `group`."""

    type: int
    name: str

    @classmethod
    def topic(cls, name: str) -> ConfigResource:
        """Name a topic."""
        return cls(TOPIC_RESOURCE, name)

    @classmethod
    def broker(cls, node_id: int) -> ConfigResource:
        """Name a node."""
        return cls(BROKER_RESOURCE, str(node_id))

    @classmethod
    def all_brokers(cls) -> ConfigResource:
        """Name all nodes at once, for what can be changed while they run."""
        return cls(BROKER_RESOURCE, "")

    @classmethod
    def client(cls, client_id: str) -> ConfigResource:
        """Name the clients of a client id; "": all that have no quotas of their own."""
        return cls(CLIENT_RESOURCE, client_id)

    @classmethod
    def group(cls, group_id: str) -> ConfigResource:
        """Name a share group."""
        return cls(GROUP_RESOURCE, group_id)


@dataclass(frozen=True)
class ConfigEntry:
    """A setting: its value as text, what it does, and its source: "topic", "broker", "client", "group" or "default"."""

    name: str
    value: str
    source: str
    doc: str


@dataclass(frozen=True)
class PartitionOnDisk:
    """One partition in a node's data folder; sizes in bytes."""

    topic: str
    partition: int
    size_bytes: int
    log_start_offset: int
    high_watermark: int
    log_end_offset: int
    segments: int
    error_message: str | None
    """Why it does not serve, or what of it is damaged."""


@dataclass(frozen=True)
class LogDirDescription:
    """A node's data folder; sizes in bytes."""

    node_id: int
    path: str
    total_bytes: int
    usable_bytes: int
    partitions: list[PartitionOnDisk]


@dataclass(frozen=True)
class NodeStatus:
    """How a node is: counters since it started, by name."""

    node_id: int
    cluster_id: str
    version: str
    uptime_ms: int
    pid: int
    counters: dict[str, int]
