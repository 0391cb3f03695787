"""Partitions that change within one decision: each change sees those before it. Their records are what is decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UnknownTopicOrPartitionError
from .elections import Rules, rules_of, settle
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

    def settle(
        self, topic: str, partition: int, wanted: PartitionImage, *, preferred: bool = False, unclean: bool = False
    ) -> PartitionImage:
        """Bring a partition as near to the wanted state as the nodes allow; the state that it has then."""
        old, rules = self.find(topic, partition), self.rules(topic)
        if unclean:
            rules = rules._replace(unclean=True)
        new = settle(old, wanted, self.image.nodes, rules, preferred=preferred)
        if new is None:
            return old
        self._changed[topic, partition] = new
        self.records.append(partition_record(topic, partition, new))
        return new
