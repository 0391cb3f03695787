"""The internal topics that hold the coordinators' state: how they are made, and that nobody else writes to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidTopicError
from ..transport.internal_topics import INTERNAL_TOPICS, OFFSETS_TOPIC, SHARE_STATE_TOPIC, TRANSACTION_STATE_TOPIC
from ..transport.messages import NewTopic

if TYPE_CHECKING:
    from ..settings import BrokerConfig

_MAX_BATCH_BYTES = 16 * 1024 * 1024
"""A whole group, with all of its members' metadata, is one record; no segment is smaller than that."""


def check_not_internal(name: str, doing: str) -> None:
    """Raise InvalidTopicError if a topic is one that only coordinators may change."""
    if name in INTERNAL_TOPICS:
        message = f"{name} holds the state of the broker's coordinators: clients may read it, and not {doing}"
        raise InvalidTopicError(message)


def internal_topic(name: str, config: BrokerConfig) -> NewTopic:
    """What to create for an internal topic."""
    assert name in INTERNAL_TOPICS, f"{name} is no internal topic"
    configs = [
        ("segment.bytes", str(config.offsets_topic_segment_bytes)),
        ("max.message.bytes", str(_MAX_BATCH_BYTES)),
        ("message.timestamp.type", "CreateTime"),
        ("flush", "ack"),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
    ]
    if name in (OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC):
        partitions = config.offsets_topic_num_partitions
        if name == TRANSACTION_STATE_TOPIC:
            partitions = config.transaction_state_log_num_partitions
        configs.append(("cleanup.policy", "compact"))
    else:
        # Each change counts until a snapshot is written: the coordinator deletes what is before the oldest it needs.
        assert name == SHARE_STATE_TOPIC, name
        partitions = config.share_coordinator_state_topic_num_partitions
        configs.append(("cleanup.policy", "delete"))
    return NewTopic(name, partitions, -1, configs)
