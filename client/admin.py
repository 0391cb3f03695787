"""The admin client: topics, settings, records, nodes and groups. Loads no record codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from .admin_types import (
    ClusterDescription,
    ConfigEntry,
    ConfigResource,
    CreatedTopic,
    LogDirDescription,
    NewTopic,
    NodeDescription,
    NodeStatus,
    PartitionDescription,
    PartitionOnDisk,
    TopicDescription,
)
from .cluster_admin_types import Move, MoveUnderWay, NodeState, QuorumDescription, QuorumNode
from .group_admin_types import (
    GroupDescription,
    GroupEvent,
    GroupListing,
    GroupMember,
    ShareGroupDescription,
    ShareGroupMember,
    SharePartition,
    ShareRecordState,
    ShareRecordStates,
)
from .io import ClientIO
from .options import AdminOptions, make_options
from .transaction_admin_calls import TransactionAdminCalls
from .transaction_admin_types import TransactionDescription, TransactionListing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from typing_extensions import Unpack

    from .types import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition

__all__ = [
    "Admin",
    "ClusterDescription",
    "ConfigEntry",
    "ConfigResource",
    "CreatedTopic",
    "GroupDescription",
    "GroupEvent",
    "GroupListing",
    "GroupMember",
    "LogDirDescription",
    "Move",
    "MoveUnderWay",
    "NewTopic",
    "NodeDescription",
    "NodeState",
    "NodeStatus",
    "PartitionDescription",
    "PartitionOnDisk",
    "QuorumDescription",
    "QuorumNode",
    "ShareGroupDescription",
    "ShareGroupMember",
    "SharePartition",
    "ShareRecordState",
    "ShareRecordStates",
    "TopicDescription",
    "TransactionDescription",
    "TransactionListing",
]


class AdminSettings(TypedDict, total=False):
    """The keywords of an admin client; `client.options.AdminOptions` says what they mean."""

    bootstrap_servers: str | Sequence[str]
    client_id: str
    default_api_timeout_ms: int
    request_timeout_ms: int
    connect_timeout_ms: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int
    reconnect_backoff_ms: int
    reconnect_backoff_max_ms: int
    metadata_max_age_ms: int


class Admin:
    """Asks brokers and changes what they hold. May be used by several threads at once.

    Nothing is connected before the first call. Every call raises the broker's error by its type if it is not retriable
    or still there after default_api_timeout_ms; a call about several things does what it can and raises the first.
    """

    def __init__(self, **settings: Unpack[AdminSettings]) -> None:
        options = make_options(AdminOptions, settings)
        self._io = ClientIO(options)
        self._calls = TransactionAdminCalls(self._io, options.default_api_timeout_ms)
        self._io.start_thread("zmqbroker-admin")

    def create_topics(self, topics: Iterable[NewTopic], *, validate_only: bool = False) -> list[CreatedTopic]:
        """Create topics, or with validate_only say whether it would work and how they would look.

        Raises TopicExistsError, InvalidTopicError, InvalidPartitionsError, InvalidReplicationFactorError,
        InvalidConfigError.
        """
        return self._io.run(self._calls.create_topics(topics, validate_only=validate_only))

    def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics and their records. Raises UnknownTopicOrPartitionError."""
        self._io.run(self._calls.delete_topics(names))

    def create_partitions(self, totals: Mapping[str, int], *, validate_only: bool = False) -> None:
        """Grow topics to so many partitions in all. Raises InvalidPartitionsError where a topic has as many or more."""
        self._io.run(self._calls.create_partitions(totals, validate_only=validate_only))

    def list_topics(self, *, include_internal: bool = False) -> list[str]:
        """The names of all topics, sorted."""
        return self._io.run(self._calls.list_topics(include_internal=include_internal))

    def describe_topics(self, names: Sequence[str] | None = None) -> list[TopicDescription]:
        """Topics and who hosts their partitions; all topics if none are named. Raises UnknownTopicOrPartitionError."""
        return self._io.run(self._calls.describe_topics(names))

    def describe_configs(self, resources: Iterable[ConfigResource]) -> dict[ConfigResource, dict[str, ConfigEntry]]:
        """The settings of topics, nodes or clients, by name."""
        return self._io.run(self._calls.describe_configs(resources))

    def alter_configs(
        self, changes: Mapping[ConfigResource, Mapping[str, str | None]], *, validate_only: bool = False
    ) -> None:
        """Change settings, leaving the others as they are; None goes back to the default. Raises InvalidConfigError."""
        self._io.run(self._calls.alter_configs(changes, validate_only=validate_only))

    def alter_client_quotas(
        self, client_id: str, *, producer_byte_rate: int | None = None, consumer_byte_rate: int | None = None
    ) -> None:
        """Limit the clients of a client id ("": those without quotas of their own); bytes a second, None: no limit."""
        self._io.run(
            self._calls.alter_configs(
                quota_change(client_id, producer_byte_rate, consumer_byte_rate), validate_only=False
            )
        )

    def delete_records(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Delete the records of partitions below an offset (-1: all); returns the new first offsets.

        Raises OffsetOutOfRangeError for an offset above the high watermark.
        """
        return self._io.run(self._calls.delete_records(before))

    def list_offsets(self, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndTimestamp]:
        """Offsets by time (ms since 1970), or -1: the end, -2: the first, -3: that of the highest timestamp.

        An offset of -1 means that no record is that young.
        """
        return self._io.run(self._calls.list_offsets(wanted))

    def describe_cluster(self) -> ClusterDescription:
        """The cluster's id, controller and nodes."""
        return self._io.run(self._calls.describe_cluster())

    def describe_log_dirs(self, node_ids: Iterable[int] | None = None) -> list[LogDirDescription]:
        """What nodes hold on disk; all nodes if none are named."""
        return self._io.run(self._calls.describe_log_dirs(node_ids))

    def node_status(self, node_id: int | None = None) -> NodeStatus:
        """How a node is; any node if none is named."""
        return self._io.run(self._calls.node_status(node_id))

    # ---- the cluster

    def list_nodes(self) -> list[NodeState]:
        """All registered nodes, alive or not."""
        return self._io.run(self._calls.list_nodes())

    def describe_quorum(self) -> QuorumDescription:
        """The metadata quorum: who votes, who leads, and how far each is."""
        return self._io.run(self._calls.describe_quorum())

    def drain_node(self, node_id: int, *, cancel: bool = False) -> None:
        """Begin to move all leaders and replicas off a node; list_nodes says `drained` when that is done."""
        self._io.run(self._calls.drain_node(node_id, cancel=cancel))

    def remove_node(self, node_id: int) -> None:
        """Forget a node that is drained, or gone and without replicas."""
        self._io.run(self._calls.remove_node(node_id))

    def upgrade_cluster(self, version: int) -> None:
        """Use a newer protocol version, which every node has to speak. Raises UnsupportedVersionError."""
        self._io.run(self._calls.upgrade_cluster(version))

    def alter_partition_reassignments(
        self, moves: Mapping[TopicPartition, Sequence[int] | None], *, replication_factor: int = 0
    ) -> None:
        """Begin to give partitions these replicas, the preferred leader first; None ends a move and goes back.

        With a replication_factor the cluster chooses the replicas where none are named, that is, for an empty list.
        Raises InvalidReplicaAssignmentError, InvalidReplicationFactorError, NoReassignmentInProgressError.
        """
        self._io.run(self._calls.alter_partition_reassignments(moves, replication_factor))

    def list_partition_reassignments(self, topics: Iterable[str] | None = None) -> list[MoveUnderWay]:
        """The partitions that are being moved."""
        return self._io.run(self._calls.list_partition_reassignments(topics))

    def rebalance(self, topics: Iterable[str] | None = None, *, validate_only: bool = False) -> list[Move]:
        """Begin to spread replicas and leaders over the nodes evenly; returns the moves that this takes."""
        return self._io.run(self._calls.rebalance(topics, validate_only=validate_only))

    def elect_leaders(
        self, partitions: Iterable[TopicPartition] | None = None, *, unclean: bool = False
    ) -> list[TopicPartition]:
        """Give partitions (None: all) back to their preferred leaders; returns those that have another leader now.

        With unclean a partition that has no leader gets any living replica, and what that one lacks is lost. Raises
        PreferredLeaderNotAvailableError, EligibleLeadersNotAvailableError.
        """
        return self._io.run(self._calls.elect_leaders(partitions, unclean=unclean))

    # ---- groups

    def list_groups(self, *, kinds: Iterable[str] = (), states: Iterable[str] = ()) -> list[GroupListing]:
        """The groups of the cluster; only of some kinds ("classic", "share") or in some states, if these are given."""
        return self._io.run(self._calls.list_groups(kinds, states))

    def list_consumer_groups(self, *, states: Iterable[str] = ()) -> list[GroupListing]:
        """The consumer groups; only those in some states, if these are given."""
        return self._io.run(self._calls.list_consumer_groups(states))

    def describe_consumer_groups(self, group_ids: Iterable[str]) -> list[GroupDescription]:
        """Consumer groups and their members, in the order given. Raises GroupIdNotFoundError."""
        return self._io.run(self._calls.describe_consumer_groups(group_ids))

    def list_consumer_group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """The offsets that a group has committed, of all partitions or of some; those without one are left out."""
        return self._io.run(self._calls.list_consumer_group_offsets(group_id, partitions))

    def alter_consumer_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
    ) -> None:
        """Commit offsets for a group without members. Raises UnknownMemberIdError if it has some."""
        self._io.run(self._calls.alter_consumer_group_offsets(group_id, offsets))

    def delete_consumer_group_offsets(self, group_id: str, partitions: Iterable[TopicPartition]) -> None:
        """Forget committed offsets. Raises GroupSubscribedToTopicError for a topic that members read."""
        self._io.run(self._calls.delete_consumer_group_offsets(group_id, partitions))

    def delete_consumer_groups(self, group_ids: Iterable[str]) -> None:
        """Delete groups without members, and their offsets. Raises NonEmptyGroupError, GroupIdNotFoundError."""
        self._io.run(self._calls.delete_consumer_groups(group_ids))

    def remove_members_from_consumer_group(
        self,
        group_id: str,
        *,
        member_ids: Iterable[str] | None = None,
        group_instance_ids: Iterable[str] | None = None,
        reason: str = "removed by an administrator",
    ) -> None:
        """Take members out of a group, all of them if none are named; those that live join again.

        Raises UnknownMemberIdError.
        """
        self._io.run(self._calls.remove_members_from_consumer_group(group_id, member_ids, group_instance_ids, reason))

    def group_events(self, group_id: str, *, limit: int = 1000) -> list[GroupEvent]:
        """The newest entries of a group's flight recorder, oldest first."""
        return self._io.run(self._calls.group_events(group_id, limit))

    def list_share_groups(self) -> list[GroupListing]:
        """The share groups, with their states."""
        return self._io.run(self._calls.list_share_groups())

    def describe_share_groups(self, group_ids: Iterable[str]) -> list[ShareGroupDescription]:
        """Share groups, their consumers and partitions, in the order given. Raises GroupIdNotFoundError."""
        return self._io.run(self._calls.describe_share_groups(group_ids))

    def alter_share_group_offsets(self, group_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Set where a share group without consumers begins; what it knew of the partition is forgotten."""
        self._io.run(self._calls.alter_share_group_offsets(group_id, offsets))

    def delete_share_groups(self, group_ids: Iterable[str]) -> None:
        """Delete share groups without consumers, and their state. Raises NonEmptyGroupError, GroupIdNotFoundError."""
        self._io.run(self._calls.delete_share_groups(group_ids))

    def share_record_states(self, group_id: str, partition: TopicPartition, *, limit: int = 1000) -> ShareRecordStates:
        """What a share group knows of a partition's records, from its start on; leases nothing."""
        return self._io.run(self._calls.share_record_states(group_id, partition, limit))

    # ---- transactions

    def list_transactions(
        self, *, states: Iterable[str] = (), producer_ids: Iterable[int] = (), duration_ms: int = -1
    ) -> list[TransactionListing]:
        """The transactional ids of the cluster; if given only those in some states (Kafka's names), of some producers,
        or whose transaction has been open for longer than duration_ms.
        """
        return self._io.run(self._calls.list_transactions(states, producer_ids, duration_ms))

    def describe_transactions(self, transactional_ids: Iterable[str]) -> list[TransactionDescription]:
        """Transactional ids and their transactions, in the order given. Raises TransactionalIdNotFoundError."""
        return self._io.run(self._calls.describe_transactions(transactional_ids))

    def close(self) -> None:
        """Disconnect."""
        self._io.close()

    def __enter__(self) -> Self:
        """The admin client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def quota_change(
    client_id: str, producer_byte_rate: int | None, consumer_byte_rate: int | None
) -> dict[ConfigResource, dict[str, str | None]]:
    """Quotas as the settings that brokers keep them as."""
    rates = {"producer_byte_rate": producer_byte_rate, "consumer_byte_rate": consumer_byte_rate}
    return {ConfigResource.client(client_id): {k: None if v is None else str(v) for k, v in rates.items()}}
