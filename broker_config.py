"""The settings of a broker: one typed row each, with name, default, unit, bounds and meaning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .group_config import GroupConfig
from .setting_values import (
    BYTES,
    BYTES_PER_SECOND,
    DAY_MS,
    INT32_MAX,
    INT64_MAX,
    MIB,
    MILLISECONDS,
    MINUTE_MS,
    SECOND_MS,
    check,
    parse,
    setting_row,
    settings_table,
)
from .topic_config import TopicConfig, topic_setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .setting_values import Value


@dataclass(frozen=True)
class BrokerConfig:
    """What holds for one broker, and its defaults for topics. Raises ConfigError for a value that is not allowed."""

    node_id: int = setting_row(
        1,
        "This node's number, unique in its cluster; -1: the cluster that it joins gives it one.",
        at_least=0,
        at_most=INT32_MAX,
        also=(-1,),
    )
    join: str = setting_row(
        "",
        "Addresses HOST:PORT of nodes, with commas, whose cluster a node with an empty folder joins; empty: its own.",
        name="controller.quorum.bootstrap.servers",
        aliases=("join",),
    )
    rack: str = setting_row(
        "",
        "Replicas go to different racks where there are enough; empty: the host's name.",
        name="broker.rack",
        aliases=("rack",),
    )
    data_dir: str = setting_row(
        "./zmqbroker-data", "The folder of this node's data files.", name="log.dir", aliases=("data.dir",)
    )
    listen: str = setting_row(
        "tcp://127.0.0.1:9292", "Where clients and other nodes connect; port 0: any.", is_address=True
    )
    advertised_address: str = setting_row(
        "", "The address that others are told to connect to; empty: the one listened on.", is_address=True
    )
    kafka_listen: str = setting_row(
        "tcp://127.0.0.1:9092",
        "Where Kafka's clients connect; port 0: any; `none`: nowhere.",
        is_address=True,
        may_be_none=True,
    )
    kafka_advertised_address: str = setting_row(
        "",
        "The address that Kafka's clients are told to connect to; empty: the one listened on for them.",
        is_address=True,
    )
    auto_create_topics_enable: bool = setting_row(default=True, doc="Whether a topic is created when it is first used.")
    delete_topic_enable: bool = setting_row(default=True, doc="Whether topics may be deleted.")
    num_partitions: int = setting_row(
        1, "Partitions of a topic where nobody says otherwise.", at_least=1, at_most=INT32_MAX
    )
    default_replication_factor: int = setting_row(
        -1,
        "Replicas of a partition where nobody says otherwise; -1: 3, or the number of nodes if that is less.",
        at_least=1,
        at_most=2**15 - 1,
        also=(-1,),
    )
    queued_max_request_bytes: int = setting_row(
        64 * MIB,
        "Bytes of requests that all clients together may have waiting in this node; more are not read.",
        BYTES,
        at_least=1,
        at_most=INT64_MAX,
    )
    session_credit_bytes: int = setting_row(
        16 * MIB,
        "Bytes of requests that one client may have waiting in this node.",
        BYTES,
        at_least=1,
        at_most=INT64_MAX,
    )
    socket_request_max_bytes: int = setting_row(
        100 * MIB,
        "The largest request; a client that sends a larger one is disconnected.",
        BYTES,
        at_least=1,
        at_most=INT32_MAX,
    )
    fetch_max_bytes: int = setting_row(
        55 * MIB, "The most that one fetch is answered with.", BYTES, at_least=1, at_most=INT32_MAX
    )
    max_fetch_wait_ms: int = setting_row(
        MINUTE_MS, "The longest that a fetch may wait for records.", MILLISECONDS, at_least=0, at_most=INT32_MAX
    )
    connections_max_idle_ms: int = setting_row(
        10 * MINUTE_MS,
        "A connection without requests for this long is closed.",
        MILLISECONDS,
        at_least=1,
        at_most=INT64_MAX,
    )
    log_retention_check_interval_ms: int = setting_row(
        5 * MINUTE_MS, "How often old segments are looked for.", MILLISECONDS, at_least=1, at_most=INT64_MAX
    )
    log_cleaner_enable: bool = setting_row(
        default=True, doc="Whether topics with cleanup.policy=compact are compacted."
    )
    log_cleaner_backoff_ms: int = setting_row(
        15 * SECOND_MS,
        "How often partitions that are worth compacting are looked for.",
        MILLISECONDS,
        at_least=1,
        at_most=INT64_MAX,
    )
    log_cleaner_dedupe_buffer_size: int = setting_row(
        128 * MIB,
        "Memory for the keys of the partition that is being compacted; what does not fit waits for the next pass.",
        BYTES,
        at_least=MIB,
        at_most=INT64_MAX,
    )
    log_flush_offset_checkpoint_interval_ms: int = setting_row(
        5 * SECOND_MS, "How often the recovery points are written down.", MILLISECONDS, at_least=1, at_most=INT32_MAX
    )
    producer_id_expiration_ms: int = setting_row(
        DAY_MS,
        "How long the last sequence numbers of a silent producer are kept.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    num_flush_threads: int = setting_row(2, "Threads that force files to the disk.", at_least=1, at_most=1024)
    handshake_ivl_ms: int = setting_row(
        5 * SECOND_MS,
        "A connection whose handshake takes longer is closed.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    heartbeat_ivl_ms: int = setting_row(
        5 * SECOND_MS,
        "Silence after which a connection is probed, by a heartbeat of the transport; 0: never.",
        MILLISECONDS,
        at_least=0,
        at_most=INT32_MAX,
    )
    quota_producer_default: int = setting_row(
        0, "Bytes a second that one client may produce; 0: no limit.", BYTES_PER_SECOND, at_least=0, at_most=INT64_MAX
    )
    quota_consumer_default: int = setting_row(
        0, "Bytes a second that one client may fetch; 0: no limit.", BYTES_PER_SECOND, at_least=0, at_most=INT64_MAX
    )
    offsets_topic_num_partitions: int = setting_row(
        50,
        "Partitions of __consumer_offsets, among which the consumer groups are spread, when it is made.",
        at_least=1,
        at_most=10_000,
    )
    offsets_topic_segment_bytes: int = setting_row(
        16 * MIB, "Segment size of the coordinators' internal topics.", BYTES, at_least=16 * MIB, at_most=INT32_MAX
    )
    offsets_retention_minutes: int = setting_row(
        7 * 24 * 60,
        "How long the committed offsets of a group without members are kept, in minutes.",
        at_least=1,
        at_most=INT32_MAX,
    )
    offsets_retention_check_interval_ms: int = setting_row(
        10 * MINUTE_MS, "How often expired offsets are looked for.", MILLISECONDS, at_least=1, at_most=INT32_MAX
    )
    offset_metadata_max_bytes: int = setting_row(
        4096, "The longest metadata text of an offset commit.", BYTES, at_least=0, at_most=MIB
    )
    group_min_session_timeout_ms: int = setting_row(
        SECOND_MS,
        "The shortest session time-out that a member of a consumer group may ask for.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    group_max_session_timeout_ms: int = setting_row(
        30 * MINUTE_MS,
        "The longest session time-out that a member of a consumer group may ask for.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    group_initial_rebalance_delay_ms: int = setting_row(
        100,
        "How long the first rebalance of an empty group waits for more members to come.",
        MILLISECONDS,
        at_least=0,
        at_most=INT32_MAX,
    )
    group_max_size: int = setting_row(
        1000, "How many members one consumer group may have.", at_least=1, at_most=100_000
    )
    group_share_session_timeout_ms: int = setting_row(
        45 * SECOND_MS,
        "After this long without a word a share group's consumer is no longer listed; leases have their own time.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    share_coordinator_state_topic_num_partitions: int = setting_row(
        16,
        "Partitions of __share_group_state, among which the share groups are spread, when it is made.",
        at_least=1,
        at_most=10_000,
    )
    share_coordinator_snapshot_update_records_per_snapshot: int = setting_row(
        500,
        "Changes of a share group's partition after which its whole state is written.",
        at_least=1,
        at_most=INT32_MAX,
    )
    transaction_state_log_num_partitions: int = setting_row(
        50,
        "Partitions of __transaction_state, among which the transactional ids are spread, when it is made.",
        at_least=1,
        at_most=10_000,
    )
    transaction_max_timeout_ms: int = setting_row(
        15 * MINUTE_MS,
        "The longest time-out that a producer may ask for its transactions.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    transactional_id_expiration_ms: int = setting_row(
        7 * DAY_MS,
        "How long a transactional id of which nothing is heard is kept.",
        MILLISECONDS,
        at_least=1,
        at_most=INT64_MAX,
    )
    transaction_remove_expired_interval_ms: int = setting_row(
        60 * MINUTE_MS,
        "How often expired transactional ids are looked for.",
        MILLISECONDS,
        name="transaction.remove.expired.transaction.cleanup.interval.ms",
        at_least=1,
        at_most=INT32_MAX,
    )
    broker_heartbeat_interval_ms: int = setting_row(
        500, "How often a node tells the controller that it lives.", MILLISECONDS, at_least=1, at_most=INT32_MAX
    )
    broker_session_timeout_ms: int = setting_row(
        6 * SECOND_MS,
        "A node that was not heard of for this long is fenced: it leads nothing, and nobody waits for it.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    controller_quorum_election_timeout_ms: int = setting_row(
        SECOND_MS,
        "How long a candidate waits for votes before it tries again.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    controller_quorum_fetch_timeout_ms: int = setting_row(
        2 * SECOND_MS,
        "A voter that did not hear of the quorum's leader for this long stands for election; a leader that a majority"
        " did not fetch from for one and a half of it resigns.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    controller_quorum_voters_max: int = setting_row(
        5, "How many nodes vote in the metadata quorum, at most: 1, 3 or 5.", at_least=1, at_most=5
    )
    metadata_log_max_record_bytes_between_snapshots: int = setting_row(
        20 * MIB, "Metadata after which a snapshot is written.", BYTES, at_least=1, at_most=INT64_MAX
    )
    replica_lag_time_max_ms: int = setting_row(
        10 * SECOND_MS,
        "A follower that was not at the leader's end for this long leaves the ISR.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    replica_fetch_wait_max_ms: int = setting_row(
        500,
        "How long a leader may hold a follower's fetch that finds nothing.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    replica_fetch_max_bytes: int = setting_row(
        MIB, "What a follower fetches of one partition at a time.", BYTES, at_least=1, at_most=INT32_MAX
    )
    replica_fetch_response_max_bytes: int = setting_row(
        10 * MIB, "What a follower fetches of all partitions at a time.", BYTES, at_least=1, at_most=INT32_MAX
    )
    replica_fetch_backoff_ms: int = setting_row(
        200, "How long a follower waits after an error of one partition.", MILLISECONDS, at_least=1, at_most=INT32_MAX
    )
    replication_throttled_rate: int = setting_row(
        0,
        "Bytes a second that a node fetches for replicas that are being added; 0: no limit.",
        BYTES_PER_SECOND,
        at_least=0,
        at_most=INT64_MAX,
    )
    auto_leader_rebalance_enable: bool = setting_row(
        default=True, doc="Whether partitions go back to their preferred leaders."
    )
    leader_imbalance_check_interval_ms: int = setting_row(
        10 * SECOND_MS,
        "How often partitions that are not led by their preferred leader are looked for.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    auto_rebalance_on_join_enable: bool = setting_row(
        default=True, doc="Whether replicas and leaders are spread anew when a node joins the cluster."
    )
    controlled_shutdown_enable: bool = setting_row(
        default=True, doc="Whether a stopping node gives up its leaders first."
    )
    log_level: str = setting_row(
        "INFO", "The least important log lines that are written.", choices=("DEBUG", "INFO", "WARNING", "ERROR")
    )
    graceful_shutdown_timeout_ms: int = setting_row(
        10 * SECOND_MS,
        "How long a stopping node may take to finish what it was asked.",
        MILLISECONDS,
        at_least=0,
        at_most=INT32_MAX,
    )
    group_defaults: GroupConfig = field(default_factory=GroupConfig)
    """The broker-wide default of each share group setting."""
    topic_defaults: TopicConfig = field(default_factory=TopicConfig)
    """The broker-wide default of each topic setting."""
    explicit: frozenset[str] = frozenset()
    """Names of what a file or the command line gave, even where that is the built-in default."""

    def __post_init__(self) -> None:
        """Hold every value against the table."""
        for setting in BROKER_SETTINGS:
            check(setting, setting.name, getattr(self, setting.attribute))

    def topic_config(self, overrides: Mapping[str, Value]) -> TopicConfig:
        """Build the settings of a topic with these overrides, by name. Raises ConfigError."""
        given: dict[str, Any] = {}
        for name, value in overrides.items():
            setting = topic_setting(name)
            given[setting.attribute] = parse(setting, name, value)
        return replace(self.topic_defaults, **given)


BROKER_SETTINGS = settings_table(BrokerConfig)
