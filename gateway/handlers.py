"""Which function serves which API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import cluster_apis, config_apis, data_apis, group_apis, protocol, topic_apis, transaction_apis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .exchange import Exchange

HANDLERS: Final[Mapping[int, Callable[[Exchange], None]]] = {
    protocol.PRODUCE: data_apis.produce,
    protocol.FETCH: data_apis.fetch,
    protocol.LIST_OFFSETS: data_apis.list_offsets,
    protocol.OFFSET_FOR_LEADER_EPOCH: data_apis.offset_for_leader_epoch,
    protocol.DELETE_RECORDS: data_apis.delete_records,
    protocol.INIT_PRODUCER_ID: transaction_apis.init_producer_id,
    protocol.ADD_PARTITIONS_TO_TXN: transaction_apis.add_partitions_to_txn,
    protocol.ADD_OFFSETS_TO_TXN: transaction_apis.add_offsets_to_txn,
    protocol.END_TXN: transaction_apis.end_txn,
    protocol.TXN_OFFSET_COMMIT: transaction_apis.txn_offset_commit,
    protocol.DESCRIBE_PRODUCERS: transaction_apis.describe_producers,
    protocol.DESCRIBE_TRANSACTIONS: transaction_apis.describe_transactions,
    protocol.LIST_TRANSACTIONS: transaction_apis.list_transactions,
    protocol.API_VERSIONS: topic_apis.api_versions,
    protocol.METADATA: topic_apis.metadata,
    protocol.DESCRIBE_CLUSTER: topic_apis.describe_cluster,
    protocol.CREATE_TOPICS: topic_apis.create_topics,
    protocol.CREATE_PARTITIONS: topic_apis.create_partitions,
    protocol.DELETE_TOPICS: topic_apis.delete_topics,
    protocol.DESCRIBE_LOG_DIRS: topic_apis.describe_log_dirs,
    protocol.DESCRIBE_CONFIGS: config_apis.describe_configs,
    protocol.ALTER_CONFIGS: config_apis.alter_configs,
    protocol.INCREMENTAL_ALTER_CONFIGS: config_apis.incremental_alter_configs,
    protocol.ELECT_LEADERS: cluster_apis.elect_leaders,
    protocol.ALTER_PARTITION_REASSIGNMENTS: cluster_apis.alter_partition_reassignments,
    protocol.LIST_PARTITION_REASSIGNMENTS: cluster_apis.list_partition_reassignments,
    protocol.DESCRIBE_QUORUM: cluster_apis.describe_quorum,
    protocol.DESCRIBE_TOPIC_PARTITIONS: cluster_apis.describe_topic_partitions,
    protocol.FIND_COORDINATOR: group_apis.find_coordinator,
    protocol.JOIN_GROUP: group_apis.join_group,
    protocol.SYNC_GROUP: group_apis.sync_group,
    protocol.HEARTBEAT: group_apis.heartbeat,
    protocol.LEAVE_GROUP: group_apis.leave_group,
    protocol.OFFSET_COMMIT: group_apis.offset_commit,
    protocol.OFFSET_FETCH: group_apis.offset_fetch,
    protocol.OFFSET_DELETE: group_apis.offset_delete,
    protocol.DESCRIBE_GROUPS: group_apis.describe_groups,
    protocol.LIST_GROUPS: group_apis.list_groups,
    protocol.DELETE_GROUPS: group_apis.delete_groups,
}
assert HANDLERS.keys() == protocol.APIS.keys(), "what is offered is served"
