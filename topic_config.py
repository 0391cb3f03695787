"""The settings of a topic: one typed row each, with name, default, unit, bounds and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigError
from .setting_values import (
    BYTES,
    DAY_MS,
    GIB,
    HOUR_MS,
    INT32_MAX,
    INT64_MAX,
    KIB,
    MIB,
    MILLISECONDS,
    SECOND_MS,
    Setting,
    check,
    dotted,
    setting_row,
    settings_table,
    unknown_setting,
)


@dataclass(frozen=True)
class TopicConfig:
    """What holds for the partitions of one topic. Raises ConfigError for a value that is not allowed."""

    cleanup_policy: str = setting_row(
        "delete",
        "What becomes of old segments: deleted by age and size, or compacted to the last record of each key.",
        choices=("delete", "compact", "compact,delete"),
        broker_name="log.cleanup.policy",
    )
    compression_type: str = setting_row(
        "producer",
        "Batches are stored as their producer compressed them; the broker never encodes records anew.",
        choices=("producer",),
        broker_name="compression.type",
    )
    delete_retention_ms: int = setting_row(
        DAY_MS,
        "With cleanup.policy=compact, how long a deletion (a record whose value is null) stays after it was first "
        "compacted, so that readers hear of it.",
        MILLISECONDS,
        at_least=0,
        at_most=INT64_MAX,
        broker_name="log.cleaner.delete.retention.ms",
    )
    flush: str = setting_row(
        "ack",
        "When records are forced to the disk: before acks=all is answered, every flush.ms, or when the system likes.",
        choices=("ack", "interval", "os"),
        broker_name="log.flush",
    )
    flush_ms: int = setting_row(
        SECOND_MS,
        "With flush=interval, the longest time that a record stays unflushed.",
        MILLISECONDS,
        at_least=1,
        at_most=INT64_MAX,
        broker_name="log.flush.interval.ms",
    )
    index_interval_bytes: int = setting_row(
        4 * KIB,
        "Bytes of log between two entries of the offset index.",
        BYTES,
        at_least=1,
        at_most=INT32_MAX,
        broker_name="log.index.interval.bytes",
    )
    max_compaction_lag_ms: int = setting_row(
        INT64_MAX,
        "With cleanup.policy=compact, the longest that a record may wait to be compacted, whatever the dirty ratio is.",
        MILLISECONDS,
        at_least=1,
        at_most=INT64_MAX,
        broker_name="log.cleaner.max.compaction.lag.ms",
    )
    max_message_bytes: int = setting_row(
        MIB + 12,
        "The largest batch, as it is sent, that a producer may write.",
        BYTES,
        at_least=61,
        at_most=INT32_MAX,
        broker_name="message.max.bytes",
    )
    max_decompressed_bytes: int = setting_row(
        64 * MIB,
        "The most that one batch may decompress to.",
        BYTES,
        at_least=1,
        at_most=INT32_MAX,
        broker_name="message.max.decompressed.bytes",
    )
    message_timestamp_type: str = setting_row(
        "CreateTime",
        "Whether a record keeps its producer's timestamp or gets the broker's when it is appended.",
        choices=("CreateTime", "LogAppendTime"),
        broker_name="log.message.timestamp.type",
    )
    message_timestamp_after_max_ms: int = setting_row(
        HOUR_MS,
        "How far a record's timestamp may lie after the broker's clock.",
        MILLISECONDS,
        at_least=0,
        at_most=INT64_MAX,
        broker_name="log.message.timestamp.after.max.ms",
    )
    message_timestamp_before_max_ms: int = setting_row(
        INT64_MAX,
        "How far a record's timestamp may lie before the broker's clock.",
        MILLISECONDS,
        at_least=0,
        at_most=INT64_MAX,
        broker_name="log.message.timestamp.before.max.ms",
    )
    min_cleanable_dirty_ratio: float = setting_row(
        0.5,
        "With cleanup.policy=compact, a partition is compacted when this share of its sealed segments is not.",
        broker_name="log.cleaner.min.cleanable.ratio",
    )
    min_compaction_lag_ms: int = setting_row(
        0,
        "With cleanup.policy=compact, how long a record stays as it is at least.",
        MILLISECONDS,
        at_least=0,
        at_most=INT64_MAX,
        broker_name="log.cleaner.min.compaction.lag.ms",
    )
    min_insync_replicas: int = setting_row(
        1,
        "How many replicas must be in sync for acks=all to be taken.",
        at_least=1,
        at_most=2**15 - 1,
        broker_name="min.insync.replicas",
    )
    retention_bytes: int = setting_row(
        -1,
        "With cleanup.policy=delete, the oldest segments go when a partition is larger than this; -1: no limit.",
        BYTES,
        at_least=-1,
        at_most=INT64_MAX,
        broker_name="log.retention.bytes",
    )
    retention_ms: int = setting_row(
        7 * DAY_MS,
        "With cleanup.policy=delete, segments go when their newest record is older than this; -1: never.",
        MILLISECONDS,
        at_least=-1,
        at_most=INT64_MAX,
        broker_name="log.retention.ms",
    )
    segment_bytes: int = setting_row(
        GIB,
        "A new segment file begins when the active one would grow larger than this.",
        BYTES,
        at_least=61,
        at_most=INT32_MAX,
        broker_name="log.segment.bytes",
    )
    segment_ms: int = setting_row(
        7 * DAY_MS,
        "A new segment file begins when the active one is older than this, so that retention can delete it.",
        MILLISECONDS,
        at_least=1,
        at_most=INT64_MAX,
        broker_name="log.roll.ms",
    )
    unclean_leader_election_enable: bool = setting_row(
        default=False,
        doc="Whether a replica that is not in sync may lead when no other is left, which loses records.",
        broker_name="unclean.leader.election.enable",
    )

    def __post_init__(self) -> None:
        """Hold every value against the table."""
        for setting in TOPIC_SETTINGS:
            check(setting, setting.name, getattr(self, setting.attribute))
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms:
            message = (
                f"min.compaction.lag.ms is {self.min_compaction_lag_ms} ms, more than max.compaction.lag.ms, which is "
                f"{self.max_compaction_lag_ms} ms: lower the first, or raise the second"
            )
            raise ConfigError(message)

    @property
    def is_compacted(self) -> bool:
        """Whether each record needs a key, by which the log is compacted."""
        return "compact" in self.cleanup_policy

    @property
    def roll_ms(self) -> int:
        """How old a segment's first record may get before the next segment begins: only sealed ones are compacted."""
        return min(self.segment_ms, self.max_compaction_lag_ms) if self.is_compacted else self.segment_ms


def topic_setting(name: str) -> Setting:
    """Find the topic setting of this name. Raises ConfigError with the nearest known name."""
    setting = _BY_NAME.get(dotted(name))
    if setting is None:
        raise unknown_setting(name, _BY_NAME, kind="topic")
    return setting


TOPIC_SETTINGS = settings_table(TopicConfig)
_BY_NAME = {setting.name: setting for setting in TOPIC_SETTINGS}
