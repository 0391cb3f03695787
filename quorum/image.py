"""The metadata image: the cluster as the metadata log describes it up to one offset. Immutable, so it can be shared.

``apply`` folds records into an image and returns the next one; only the tables that change are copied.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from .records import (
    CreateTopic,
    LeaderChange,
    MetadataRecord,
    NextNodeId,
    NextProducerId,
    NoOp,
    RegisterNode,
    RemoveNode,
    RemoveTopic,
    SetConfig,
    SetNodeState,
    SetPartition,
    SetProtocolVersion,
    SetVoters,
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
    fenced: bool = True
    """Not heard of: it leads nothing, and is in no ISR."""
    stopping: bool = False
    """In controlled shutdown: it gets no leaders any more."""
    draining: bool = False
    """To be emptied: it gets no replicas any more."""
    directory_id: str = ""
    incarnation: str = ""
    min_version: int = 0
    max_version: int = 0
    kafka_host: str = ""
    kafka_port: int = 0
    """Where Kafka's clients reach it; port 0: nowhere."""
    former: str = ""
    """The incarnations before this one, with spaces between them."""

    @property
    def may_lead(self) -> bool:
        """Whether leaders may be elected here."""
        return not (self.fenced or self.stopping or self.draining)


@dataclass(frozen=True)
class PartitionImage:
    """Who hosts and leads a partition; leader -1: nobody. Tuples are in the order of preference."""

    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int
    leader_epoch: int
    elr: tuple[int, ...] = ()
    partition_epoch: int = 0
    adding: tuple[int, ...] = ()
    removing: tuple[int, ...] = ()


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
    next_node_id: int = 0
    voters: tuple[tuple[int, str], ...] = ()
    """(node id, directory id) of each that votes in the metadata quorum."""
    protocol_version: int = 0

    def config_of(self, resource_type: int, name: str) -> Mapping[str, str]:
        """The settings that were changed for a resource; empty if none."""
        return self.configs.get((resource_type, name), _NOTHING)

    @property
    def partitions_count(self) -> int:
        """Partitions of all topics."""
        return sum(len(topic.partitions) for topic in self.topics.values())


def apply(image: MetadataImage, records: Iterable[MetadataRecord], topic_resource: int) -> MetadataImage:
    """The image after these records, which stand in the log from the image's end offset on."""
    return _Fold(image, topic_resource).run(records)


class _Fold:
    """An image in the making: tables are copied when they change."""

    def __init__(self, image: MetadataImage, topic_resource: int) -> None:
        self._image = image
        self._topic_resource = topic_resource
        self.nodes, self.topics, self.configs = dict(image.nodes), dict(image.topics), dict(image.configs)
        self.changes: dict[str, object] = {}
        # Partitions of the topics that change, as lists: a tuple for each record would take minutes for a large topic.
        self.changing: dict[str, list[PartitionImage]] = {}

    def run(self, records: Iterable[MetadataRecord]) -> MetadataImage:
        """Take the records in, and make the image."""
        offset = self._image.end_offset
        for record in records:
            self._take(record, offset)
            offset += 1
        for name, partitions in self.changing.items():
            self.topics[name] = replace(self.topics[name], partitions=tuple(partitions))
        return replace(
            self._image,
            end_offset=offset,
            nodes=self.nodes,
            topics=self.topics,
            configs=self.configs,
            **self.changes,  # type: ignore[arg-type]  # each by its field's name, in _take
        )

    def _take(self, record: MetadataRecord, offset: int) -> None:
        match record:
            case SetPartition():
                if record.topic not in self.changing:
                    self.changing[record.topic] = list(self.topics[record.topic].partitions)
                _set_partition(self.changing[record.topic], record)
            case SetConfig():
                _set_config(self.configs, record)
            case CreateTopic(name, topic_id):
                assert name not in self.topics, f"topic {name} is created twice in the metadata log"
                self.topics[name] = TopicImage(name, topic_id)
            case RemoveTopic(name):
                del self.topics[name]
                self.changing.pop(name, None)
                self.configs.pop((self._topic_resource, name), None)
            case RegisterNode() | SetNodeState() | RemoveNode():
                _set_node(self.nodes, record, offset)
            case _:
                self._set_number(record)

    def _set_number(self, record: MetadataRecord) -> None:
        match record:
            case NextProducerId(producer_id):
                before = self.changes.get("next_producer_id", self._image.next_producer_id)
                assert producer_id >= before, f"producer ids go back: {before} to {producer_id}"  # type: ignore[operator]
                self.changes["next_producer_id"] = producer_id
            case NextNodeId(node_id):
                self.changes["next_node_id"] = node_id
            case SetVoters(voters):
                self.changes["voters"] = tuple((node_id, directory_id) for node_id, directory_id in voters)
            case SetProtocolVersion(version):
                self.changes["protocol_version"] = version
            case LeaderChange() | NoOp():
                pass
            case _:
                assert False, f"the metadata image does not know {record!r}"  # noqa: B011, PT015 - a closed union


def _set_node(nodes: dict[int, NodeImage], record: RegisterNode | SetNodeState | RemoveNode, offset: int) -> None:
    match record:
        case RegisterNode():
            before = nodes.get(record.node_id)
            nodes[record.node_id] = NodeImage(
                record.node_id,
                record.host,
                record.port,
                record.rack,
                epoch=offset if record.epoch == -1 else record.epoch,
                draining=before is not None and before.draining,
                directory_id=record.directory_id,
                incarnation=record.incarnation,
                min_version=record.min_version,
                max_version=record.max_version,
                kafka_host=record.kafka_host,
                kafka_port=record.kafka_port,
                former=record.former,
            )
        case SetNodeState(node_id, fenced, stopping, draining):
            nodes[node_id] = replace(nodes[node_id], fenced=fenced, stopping=stopping, draining=draining)
        case RemoveNode(node_id):
            del nodes[node_id]


def _set_partition(partitions: list[PartitionImage], record: SetPartition) -> None:
    name = f"{record.topic}-{record.partition}"
    count = len(partitions)
    assert 0 <= record.partition <= count, f"{record.topic}: partition {record.partition} comes before {count}"
    before = partitions[record.partition] if record.partition < count else None
    epoch = record.partition_epoch
    if epoch == -1:
        epoch = 0 if before is None else before.partition_epoch + 1
    new = PartitionImage(
        tuple(record.replicas),
        tuple(record.isr),
        record.leader,
        record.leader_epoch,
        tuple(record.elr),
        epoch,
        tuple(record.adding),
        tuple(record.removing),
    )
    members = {*new.isr, *new.elr, *new.adding, *new.removing}
    assert members <= set(new.replicas), f"{name}: {new} names nodes outside of its replicas"
    assert not set(new.isr) & set(new.elr), f"{name}: ISR {new.isr} and ELR {new.elr} overlap"
    assert new.leader == -1 or new.leader in new.isr, f"{name}: leader {new.leader} outside of the ISR {new.isr}"
    if before is None:
        partitions.append(new)
        return
    assert new.leader_epoch >= before.leader_epoch, f"{name}: leader epoch {before.leader_epoch} to {new.leader_epoch}"
    assert new.partition_epoch > before.partition_epoch, f"{name}: partition epoch goes back to {new.partition_epoch}"
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


def as_records(image: MetadataImage) -> list[MetadataRecord]:
    """The records that make this image out of an empty one, but for its end offset: what a snapshot holds."""
    records: list[MetadataRecord] = [SetVoters(list(image.voters)), SetProtocolVersion(image.protocol_version)]
    for node in image.nodes.values():
        records.append(
            RegisterNode(
                node.node_id,
                node.host,
                node.port,
                node.rack,
                clean=True,
                directory_id=node.directory_id,
                incarnation=node.incarnation,
                min_version=node.min_version,
                max_version=node.max_version,
                epoch=node.epoch,
                kafka_host=node.kafka_host,
                kafka_port=node.kafka_port,
                former=node.former,
            )
        )
        records.append(SetNodeState(node.node_id, node.fenced, node.stopping, node.draining))
    for topic in image.topics.values():
        records.append(CreateTopic(topic.name, topic.topic_id))
        records += [partition_record(topic.name, at, state) for at, state in enumerate(topic.partitions)]
    records += [
        SetConfig(kind, name, key, value)
        for (kind, name), config in image.configs.items()
        for key, value in config.items()
    ]
    return [*records, NextProducerId(image.next_producer_id), NextNodeId(image.next_node_id)]


def partition_record(topic: str, partition: int, state: PartitionImage) -> SetPartition:
    """The record that makes a partition exactly this, its epoch too."""
    return SetPartition(
        topic,
        partition,
        list(state.replicas),
        list(state.isr),
        state.leader,
        state.leader_epoch,
        list(state.elr),
        state.partition_epoch,
        list(state.adding),
        list(state.removing),
    )
