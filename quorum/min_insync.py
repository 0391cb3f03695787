"""min.insync.replicas where nobody says otherwise: it goes by the number of replicas, and follows it. Pure.

2 with three replicas or more, so that no single loss takes what acks=all has promised; else 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..transport.config_messages import TOPIC_RESOURCE
from .elections import rules_from, topic_elections
from .image import apply
from .records import SetConfig, SetPartition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..settings import BrokerConfig
    from .image import MetadataImage
    from .records import MetadataRecord

MIN_INSYNC_REPLICAS = "min.insync.replicas"
_SAFE = 2
_ENOUGH_FOR_SAFE = 3


def default_setting(config: BrokerConfig, replicas: int) -> str | None:
    """What to set for a topic with so many replicas; None: nothing, as the broker's default is right."""
    if replicas >= _ENOUGH_FOR_SAFE and config.topic_defaults.min_insync_replicas == 1:
        return str(_SAFE)
    return None


def followed_settings(
    image: MetadataImage, config: BrokerConfig, changes: Sequence[MetadataRecord]
) -> list[MetadataRecord]:
    """What these changes, by which moves end, make of min.insync.replicas where it stands at its default.

    It changes when the last move of the topic is done, and not before: a topic that gets more replicas stays writable
    with those that it has. A value of 2 that was set by hand on three replicas looks like the default, and goes with
    them.
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
    was = default_setting(config, before)
    # Where partitions differ, none gets a setting that is too high for it, or loses one that it had.
    becomes = default_setting(config, min(factors) if was is None else max(factors))
    if overrides.get(MIN_INSYNC_REPLICAS) != was or was == becomes:
        return []
    rules = rules_from({key: value for key, value in overrides.items() if key != MIN_INSYNC_REPLICAS}, config)
    if becomes is not None:
        rules = rules._replace(min_insync_replicas=int(becomes))
    # The ELR goes by the setting: both change in one commit, the ELR first.
    return [*topic_elections(image, topic, rules), SetConfig(TOPIC_RESOURCE, topic, MIN_INSYNC_REPLICAS, becomes)]
