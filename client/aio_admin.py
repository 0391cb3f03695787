"""The admin client for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .admin import AdminSettings, quota_change
from .aio_loop import LoopDriver
from .io import ClientIO
from .options import AdminOptions, make_options
from .transaction_admin_calls import TransactionAdminCalls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from typing_extensions import Unpack

    from .admin_types import (
        ClusterDescription,
        ConfigEntry,
        ConfigResource,
        CreatedTopic,
        LogDirDescription,
        NewTopic,
        NodeStatus,
        TopicDescription,
    )
    from .cluster_admin_types import Move, MoveUnderWay, NodeState, QuorumDescription
    from .group_admin_types import GroupDescription, GroupEvent, GroupListing, ShareGroupDescription, ShareRecordStates
    from .transaction_admin_types import TransactionDescription, TransactionListing
    from .types import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition


class AsyncAdmin:
    """`client.admin.Admin` for event loops: the same calls, awaited; they raise the same errors."""

    def __init__(self, **settings: Unpack[AdminSettings]) -> None:
        options = make_options(AdminOptions, settings)
        self._io = ClientIO(options)
        self._calls = TransactionAdminCalls(self._io, options.default_api_timeout_ms)
        self._driver = LoopDriver(self._io)

    async def create_topics(self, topics: Iterable[NewTopic], *, validate_only: bool = False) -> list[CreatedTopic]:
        """Create topics."""
        return await self._driver.run(self._calls.create_topics(topics, validate_only=validate_only))

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics and their records."""
        await self._driver.run(self._calls.delete_topics(names))

    async def create_partitions(self, totals: Mapping[str, int], *, validate_only: bool = False) -> None:
        """Grow topics to so many partitions in all."""
        await self._driver.run(self._calls.create_partitions(totals, validate_only=validate_only))

    async def list_topics(self, *, include_internal: bool = False) -> list[str]:
        """The names of all topics, sorted."""
        return await self._driver.run(self._calls.list_topics(include_internal=include_internal))

    async def describe_topics(self, names: Sequence[str] | None = None) -> list[TopicDescription]:
        """Topics and who hosts their partitions; all topics if none are named."""
        return await self._driver.run(self._calls.describe_topics(names))

    async def describe_configs(
        self, resources: Iterable[ConfigResource]
    ) -> dict[ConfigResource, dict[str, ConfigEntry]]:
        """The settings of topics, nodes or clients, by name."""
        return await self._driver.run(self._calls.describe_configs(resources))

    async def alter_configs(
        self, changes: Mapping[ConfigResource, Mapping[str, str | None]], *, validate_only: bool = False
    ) -> None:
        """Change settings; None goes back to the default."""
        await self._driver.run(self._calls.alter_configs(changes, validate_only=validate_only))

    async def alter_client_quotas(
        self, client_id: str, *, producer_byte_rate: int | None = None, consumer_byte_rate: int | None = None
    ) -> None:
        """Limit the clients of a client id, in bytes a second; None: no limit."""
        changes = quota_change(client_id, producer_byte_rate, consumer_byte_rate)
        await self._driver.run(self._calls.alter_configs(changes, validate_only=False))

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Delete the records of partitions below an offset (-1: all); returns the new first offsets."""
        return await self._driver.run(self._calls.delete_records(before))

    async def list_offsets(self, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndTimestamp]:
        """Offsets by time (ms since 1970), or -1: the end, -2: the first, -3: that of the highest timestamp."""
        return await self._driver.run(self._calls.list_offsets(wanted))

    async def describe_cluster(self) -> ClusterDescription:
        """The cluster's id, controller and nodes."""
        return await self._driver.run(self._calls.describe_cluster())

    async def describe_log_dirs(self, node_ids: Iterable[int] | None = None) -> list[LogDirDescription]:
        """What nodes hold on disk; all nodes if none are named."""
        return await self._driver.run(self._calls.describe_log_dirs(node_ids))

    async def node_status(self, node_id: int | None = None) -> NodeStatus:
        """How a node is; any node if none is named."""
        return await self._driver.run(self._calls.node_status(node_id))

    # ---- groups

    async def list_nodes(self) -> list[NodeState]:
        """All registered nodes, alive or not."""
        return await self._driver.run(self._calls.list_nodes())

    async def describe_quorum(self) -> QuorumDescription:
        """The metadata quorum: who votes, who leads, and how far each is."""
        return await self._driver.run(self._calls.describe_quorum())

    async def drain_node(self, node_id: int, *, cancel: bool = False) -> None:
        """Begin to move all leaders and replicas off a node; list_nodes says `drained` when that is done."""
        await self._driver.run(self._calls.drain_node(node_id, cancel=cancel))

    async def remove_node(self, node_id: int) -> None:
        """Forget a node that is drained, or gone and without replicas."""
        await self._driver.run(self._calls.remove_node(node_id))

    async def upgrade_cluster(self, version: int) -> None:
        """Use a newer protocol version, which every node has to speak. Raises UnsupportedVersionError."""
        await self._driver.run(self._calls.upgrade_cluster(version))

    async def alter_partition_reassignments(
        self, moves: Mapping[TopicPartition, Sequence[int] | None], *, replication_factor: int = 0
    ) -> None:
        """Begin to give partitions these replicas, the preferred leader first; None ends a move and goes back.

        With a replication_factor the cluster chooses the replicas where none are named, that is, for an empty list.
        Raises InvalidReplicaAssignmentError, InvalidReplicationFactorError, NoReassignmentInProgressError.
        """
        await self._driver.run(self._calls.alter_partition_reassignments(moves, replication_factor))

    async def list_partition_reassignments(self, topics: Iterable[str] | None = None) -> list[MoveUnderWay]:
        """The partitions that are being moved."""
        return await self._driver.run(self._calls.list_partition_reassignments(topics))

    async def rebalance(self, topics: Iterable[str] | None = None, *, validate_only: bool = False) -> list[Move]:
        """Begin to spread replicas and leaders over the nodes evenly; returns the moves that this takes."""
        return await self._driver.run(self._calls.rebalance(topics, validate_only=validate_only))

    async def elect_leaders(
        self, partitions: Iterable[TopicPartition] | None = None, *, unclean: bool = False
    ) -> list[TopicPartition]:
        """Give partitions (None: all) back to their preferred leaders; returns those that have another leader now.

        With unclean a partition that has no leader gets any living replica, and what that one lacks is lost. Raises
        PreferredLeaderNotAvailableError, EligibleLeadersNotAvailableError.
        """
        return await self._driver.run(self._calls.elect_leaders(partitions, unclean=unclean))

    async def list_groups(self, *, kinds: Iterable[str] = (), states: Iterable[str] = ()) -> list[GroupListing]:
        """The groups of the cluster; only of some kinds or in some states, if these are given."""
        return await self._driver.run(self._calls.list_groups(kinds, states))

    async def list_consumer_groups(self, *, states: Iterable[str] = ()) -> list[GroupListing]:
        """The consumer groups; only those in some states, if these are given."""
        return await self._driver.run(self._calls.list_consumer_groups(states))

    async def describe_consumer_groups(self, group_ids: Iterable[str]) -> list[GroupDescription]:
        """Consumer groups and their members, in the order given."""
        return await self._driver.run(self._calls.describe_consumer_groups(group_ids))

    async def list_consumer_group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """The offsets that a group has committed, of all partitions or of some; those without one are left out."""
        return await self._driver.run(self._calls.list_consumer_group_offsets(group_id, partitions))

    async def alter_consumer_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
    ) -> None:
        """Commit offsets for a group without members."""
        await self._driver.run(self._calls.alter_consumer_group_offsets(group_id, offsets))

    async def delete_consumer_group_offsets(self, group_id: str, partitions: Iterable[TopicPartition]) -> None:
        """Forget committed offsets."""
        await self._driver.run(self._calls.delete_consumer_group_offsets(group_id, partitions))

    async def delete_consumer_groups(self, group_ids: Iterable[str]) -> None:
        """Delete groups without members, and their offsets."""
        await self._driver.run(self._calls.delete_consumer_groups(group_ids))

    async def remove_members_from_consumer_group(
        self,
        group_id: str,
        *,
        member_ids: Iterable[str] | None = None,
        group_instance_ids: Iterable[str] | None = None,
        reason: str = "removed by an administrator",
    ) -> None:
        """Take members out of a group, all of them if none are named; those that live join again."""
        await self._driver.run(
            self._calls.remove_members_from_consumer_group(group_id, member_ids, group_instance_ids, reason)
        )

    async def group_events(self, group_id: str, *, limit: int = 1000) -> list[GroupEvent]:
        """The newest entries of a group's flight recorder, oldest first."""
        return await self._driver.run(self._calls.group_events(group_id, limit))

    async def list_share_groups(self) -> list[GroupListing]:
        """The share groups, with their states."""
        return await self._driver.run(self._calls.list_share_groups())

    async def describe_share_groups(self, group_ids: Iterable[str]) -> list[ShareGroupDescription]:
        """Share groups, their consumers and partitions, in the order given."""
        return await self._driver.run(self._calls.describe_share_groups(group_ids))

    async def alter_share_group_offsets(self, group_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Set where a share group without consumers begins; what it knew of the partition is forgotten."""
        await self._driver.run(self._calls.alter_share_group_offsets(group_id, offsets))

    async def delete_share_groups(self, group_ids: Iterable[str]) -> None:
        """Delete share groups without consumers, and their state."""
        await self._driver.run(self._calls.delete_share_groups(group_ids))

    async def share_record_states(
        self, group_id: str, partition: TopicPartition, *, limit: int = 1000
    ) -> ShareRecordStates:
        """What a share group knows of a partition's records, from its start on; leases nothing."""
        return await self._driver.run(self._calls.share_record_states(group_id, partition, limit))

    async def list_transactions(
        self, *, states: Iterable[str] = (), producer_ids: Iterable[int] = (), duration_ms: int = -1
    ) -> list[TransactionListing]:
        """The transactional ids of the cluster, as `Admin.list_transactions`."""
        return await self._driver.run(self._calls.list_transactions(states, producer_ids, duration_ms))

    async def describe_transactions(self, transactional_ids: Iterable[str]) -> list[TransactionDescription]:
        """Transactional ids and their transactions, in the order given."""
        return await self._driver.run(self._calls.describe_transactions(transactional_ids))

    async def close(self) -> None:
        """Disconnect."""
        self._driver.close()
        self._io.close()

    async def __aenter__(self) -> Self:
        """The admin client itself."""
        self._driver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()
