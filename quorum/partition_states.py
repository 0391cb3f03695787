"""Partitions that change within one decision: each change sees those before it. Their records are what is decided."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UnknownTopicOrPartitionError
from .elections import NO_LOSSES, Losses, Rules, rules_of, settle
from .image import partition_record

if TYPE_CHECKING:
    from ..settings import BrokerConfig
    from .image import MetadataImage, PartitionImage
    from .records import MetadataRecord


class PartitionStates:
    """The partitions of an image, and what a decision has changed in them so far."""

    def __init__(self, image: MetadataImage, config: BrokerConfig) -> None:
        self.image = image
        self.config = config
        self.records: list[MetadataRecord] = []
        self._changed: dict[tuple[str, int], PartitionImage] = {}
        self._rules: dict[str, Rules] = {}

    def find(self, topic: str, partition: int) -> PartitionImage:
        """The state of a partition now; UnknownTopicOrPartitionError if there is none."""
        found = self.image.topics.get(topic)
        if found is None or not 0 <= partition < len(found.partitions):
            message = f"there is no partition {partition} of a topic {topic[:249]!r}"
            raise UnknownTopicOrPartitionError(message)
        return self._changed.get((topic, partition), found.partitions[partition])

    def rules(self, topic: str) -> Rules:
        """What the topic's elections go by."""
        if topic not in self._rules:
            self._rules[topic] = rules_of(self.image, self.config, topic)
        return self._rules[topic]

    def confirm(self, topic: str, partition: int) -> PartitionImage:
        """Raise the partition epoch and leave all else as it is: proposals that are based on the old one are void."""
        old = self.find(topic, partition)
        return self._become(topic, partition, replace(old, partition_epoch=old.partition_epoch + 1))

    def settle(
        self,
        topic: str,
        partition: int,
        wanted: PartitionImage,
        *,
        losses: Losses = NO_LOSSES,
        preferred: bool = False,
        unclean: bool = False,
    ) -> PartitionImage:
        """Bring a partition as near to the wanted state as the nodes allow; the state that it has then."""
        old, rules = self.find(topic, partition), self.rules(topic)
        if unclean:
            rules = rules._replace(unclean=True)
        new = settle(old, wanted, self.image.nodes, rules, losses=losses, preferred=preferred)
        return old if new is None else self._become(topic, partition, new)

    def _become(self, topic: str, partition: int, new: PartitionImage) -> PartitionImage:
        self._changed[topic, partition] = new
        self.records.append(partition_record(topic, partition, new))
        return new
