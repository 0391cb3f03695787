"""The metadata image: the cluster as the metadata log describes it up to one offset. Immutable, so it can be shared.

``apply`` folds records into an image and returns the next one; only the tables that change are copied.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from .records import (
    CreateTopic,
    MetadataRecord,
    NextProducerId,
    RegisterNode,
    RemoveTopic,
    SetConfig,
    SetPartition,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NOTHING: Mapping[str, str] = MappingProxyType({})

METADATA_TOPIC = "__cluster_metadata"


@dataclass(frozen=True)
class NodeImage:
    """A registered node; its epoch is the metadata offset of its registration."""

    node_id: int
    host: str
    port: int
    rack: str
    epoch: int


@dataclass(frozen=True)
class PartitionImage:
    """Who hosts and leads a partition."""

    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int
    leader_epoch: int


@dataclass(frozen=True)
class TopicImage:
    """A topic: its id, and its partitions by index, from 0 without gaps once its records are all applied."""

    name: str
    topic_id: str
    partitions: tuple[PartitionImage, ...] = ()


@dataclass(frozen=True)
class MetadataImage:
    """The whole cluster. end_offset is the offset after the last record applied."""

    end_offset: int = 0
    nodes: Mapping[int, NodeImage] = field(default_factory=dict)
    topics: Mapping[str, TopicImage] = field(default_factory=dict)
    configs: Mapping[tuple[int, str], Mapping[str, str]] = field(default_factory=dict)
    next_producer_id: int = 0

    def config_of(self, resource_type: int, name: str) -> Mapping[str, str]:
        """The settings that were changed for a resource; empty if none."""
        return self.configs.get((resource_type, name), _NOTHING)

    @property
    def partitions_count(self) -> int:
        """Partitions of all topics."""
        return sum(len(topic.partitions) for topic in self.topics.values())


def apply(image: MetadataImage, records: Iterable[MetadataRecord], topic_resource: int) -> MetadataImage:
    """The image after these records, which stand in the log from the image's end offset on."""
    nodes, topics, configs = dict(image.nodes), dict(image.topics), dict(image.configs)
    next_producer_id = image.next_producer_id
    offset = image.end_offset
    # Partitions of the topics that change, as lists: a tuple for each record would take minutes for a large topic.
    changing: dict[str, list[PartitionImage]] = {}
    for record in records:
        match record:
            case RegisterNode(node_id, host, port, rack):
                nodes[node_id] = NodeImage(node_id, host, port, rack, epoch=offset)
            case CreateTopic(name, topic_id):
                assert name not in topics, f"topic {name} is created twice in the metadata log"
                topics[name] = TopicImage(name, topic_id)
            case RemoveTopic(name):
                del topics[name]
                changing.pop(name, None)
                configs.pop((topic_resource, name), None)
            case SetPartition():
                if record.topic not in changing:
                    changing[record.topic] = list(topics[record.topic].partitions)
                _set_partition(changing[record.topic], record)
            case SetConfig():
                _set_config(configs, record)
            case NextProducerId(producer_id):
                assert producer_id >= next_producer_id, f"producer ids go back: {next_producer_id} to {producer_id}"
                next_producer_id = producer_id
        offset += 1
    for name, partitions in changing.items():
        topics[name] = replace(topics[name], partitions=tuple(partitions))
    return replace(
        image,
        end_offset=offset,
        nodes=nodes,
        topics=topics,
        configs=configs,
        next_producer_id=next_producer_id,
    )


def _set_partition(partitions: list[PartitionImage], record: SetPartition) -> None:
    new = PartitionImage(tuple(record.replicas), tuple(record.isr), record.leader, record.leader_epoch)
    assert set(new.isr) <= set(new.replicas), f"{record.topic}-{record.partition}: ISR {new.isr} outside {new.replicas}"
    count = len(partitions)
    assert 0 <= record.partition <= count, f"{record.topic}: partition {record.partition} comes before {count}"
    if record.partition == count:
        partitions.append(new)
        return
    before = partitions[record.partition].leader_epoch
    assert new.leader_epoch >= before, f"{record.topic}-{record.partition}: leader epoch {before} to {new.leader_epoch}"
    partitions[record.partition] = new


def _set_config(configs: dict[tuple[int, str], Mapping[str, str]], record: SetConfig) -> None:
    key = (record.resource_type, record.resource_name)
    changed = dict(configs.get(key, _NOTHING))
    if record.value is None:
        changed.pop(record.key, None)
    else:
        changed[record.key] = record.value
    if changed:
        configs[key] = changed
    else:
        configs.pop(key, None)
