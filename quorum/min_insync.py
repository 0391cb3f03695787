"""What every topic has written down, so that all nodes go by the same, whatever their own files say (KIP-966). Pure.

The leader counts by min.insync.replicas what is committed, and the controller by the same number who may be elected
later: if they went by different ones, an election could lose what is acknowledged. A topic gets the default of the
controller that makes it. Where that is 1, it is 2 with three replicas or more, so that no single loss takes what
acks=all has promised; and it follows their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..setting_values import value_text
from ..transport.config_messages import TOPIC_RESOURCE
from .elections import rules_from, topic_elections
from .image import apply
from .records import SetConfig, SetPartition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..settings import BrokerConfig
    from .image import MetadataImage
    from .records import MetadataRecord

MIN_INSYNC_REPLICAS = "min.insync.replicas"
UNCLEAN_ELECTION = "unclean.leader.election.enable"
_SAFE = 2
_ENOUGH_FOR_SAFE = 3


def written_defaults(config: BrokerConfig, replicas: int) -> dict[str, str]:
    """What is written down for a topic with so many replicas where nobody says otherwise."""
    found = _own_defaults(config)
    if replicas >= _ENOUGH_FOR_SAFE and found[MIN_INSYNC_REPLICAS] == "1":
        found[MIN_INSYNC_REPLICAS] = str(_SAFE)
    return found


def _own_defaults(config: BrokerConfig) -> dict[str, str]:
    defaults = config.topic_defaults
    return {
        MIN_INSYNC_REPLICAS: str(defaults.min_insync_replicas),
        UNCLEAN_ELECTION: value_text(defaults.unclean_leader_election_enable),
    }


def unchanged_defaults(config: BrokerConfig, overrides: Mapping[str, str], replicas: int) -> set[str]:
    """Settings of a topic that are written down, and are what the node's own file and the number of replicas say."""
    own = _own_defaults(config)
    expected = written_defaults(config, replicas)
    return {key for key, value in expected.items() if overrides.get(key) == value == own[key]}


def missing_settings(image: MetadataImage, config: BrokerConfig) -> list[MetadataRecord]:
    """Write down what was not written when a topic was made: the controller has gone by its own defaults so far."""
    own = _own_defaults(config)
    return [
        SetConfig(TOPIC_RESOURCE, topic, key, value)
        for topic in image.topics
        for key, value in own.items()
        if key not in image.config_of(TOPIC_RESOURCE, topic)
    ]


def followed_settings(
    image: MetadataImage, config: BrokerConfig, changes: Sequence[MetadataRecord]
) -> list[MetadataRecord]:
    """What these changes, by which moves end, make of min.insync.replicas where it stands at its default.

    It changes when the last move of the topic is done, and not before: a topic that gets more replicas stays writable
    with those that it has. What was set by hand and is the default for the number of replicas goes with them too.
    """
    before: dict[str, int] = {}
    for change in changes:
        if isinstance(change, SetPartition) and not (change.adding or change.removing):
            old = image.topics[change.topic].partitions[change.partition]
            factor = len(old.replicas) - len(old.adding)
            if factor != len(change.replicas):
                before[change.topic] = factor
    if not before:
        return []
    after = apply(image, changes, TOPIC_RESOURCE)
    return [record for topic, factor in before.items() for record in _followed(after, config, topic, factor)]


def _followed(image: MetadataImage, config: BrokerConfig, topic: str, before: int) -> list[MetadataRecord]:
    partitions = image.topics[topic].partitions
    if any(state.adding or state.removing for state in partitions):
        return []
    overrides = image.config_of(TOPIC_RESOURCE, topic)
    factors = [len(state.replicas) for state in partitions]
    was = written_defaults(config, before)[MIN_INSYNC_REPLICAS]
    # Where partitions differ, none gets a setting that is too high for it, or loses one that it had.
    counted = max(factors) if before >= _ENOUGH_FOR_SAFE else min(factors)
    becomes = written_defaults(config, counted)[MIN_INSYNC_REPLICAS]
    if overrides.get(MIN_INSYNC_REPLICAS, was) != was or was == becomes:
        return []
    rules = rules_from({**overrides, MIN_INSYNC_REPLICAS: becomes}, config)
    # The ELR goes by the setting: both change in one commit, the ELR first.
    return [*topic_elections(image, topic, rules), SetConfig(TOPIC_RESOURCE, topic, MIN_INSYNC_REPLICAS, becomes)]
