"""The controller's decisions: from the image and a request to (records, reply). Pure: nothing changes until the records
that a decision returns are committed and applied.

One topic, one resource stands or falls by itself: an error is an entry of the reply, beside others that succeed.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING

from ..errors import (
    BrokerError,
    ConfigError,
    InconsistentTopicIdError,
    InvalidConfigError,
    InvalidGroupIdError,
    InvalidPartitionsError,
    InvalidReplicaAssignmentError,
    InvalidRequestError,
    InvalidTopicError,
    PolicyViolationError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from ..group_config import NO_DEAD_LETTER_TOPIC
from ..setting_values import parse, value_text
from ..settings import cluster_setting, group_setting, normalised_overrides, topic_setting
from ..transport.config_messages import (
    BROKER_RESOURCE,
    CLIENT_RESOURCE,
    GROUP_RESOURCE,
    TOPIC_RESOURCE,
    AlterConfigsReply,
    AlterConfigsRequest,
    ResourceChange,
    ResourceResult,
)
from ..transport.internal_topics import INTERNAL_TOPICS
from ..transport.messages import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    InitProducerIdReply,
    NewTopic,
    PartitionCount,
    TopicResult,
    TopicsReply,
)
from .decision import Decision
from .elections import rules_from, target_replicas, topic_elections
from .image import METADATA_TOPIC, MetadataImage, apply
from .internal_topics import check_not_internal, internal_topic
from .min_insync import written_defaults
from .placement import default_factor, place
from .records import CreateTopic, MetadataRecord, NextProducerId, RemoveTopic, SetConfig, SetNodeState, SetPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..settings import BrokerConfig

MAX_PARTITIONS = 100_000
"""Partitions of one topic, and new ones of one request: enough for anybody, and few enough that a slip of the finger
fills neither the disk nor the memory."""

MAX_ENTRIES = 2000
"""Topics or resources of one request: each is decided against the image that those before it make."""

PRODUCER_ID_BLOCK = 1000
QUOTAS = ("producer_byte_rate", "consumer_byte_rate")
"""What may be set for a client: bytes a second."""

_QUOTA = re.compile(r"[0-9]{1,19}")
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def check_topic_name(name: str) -> None:
    """Raise InvalidTopicError unless the name has 1 to 249 characters of ``[a-zA-Z0-9._-]`` and is not . or .."""
    if _TOPIC_NAME.fullmatch(name) and name not in (".", "..", METADATA_TOPIC):
        return
    if name == METADATA_TOPIC:
        message = f"the topic name {name} belongs to the broker"
    elif len(name) > 249:  # noqa: PLR2004 - Kafka's limit, named in the message
        message = f"a topic name has at most 249 characters, and this one has {len(name)}: {name[:40]!r}..."
    else:
        message = (
            f"{name!r} is no topic name: it takes 1 to 249 letters, digits, dots, underscores and hyphens, not . or .."
        )
    raise InvalidTopicError(message)


def create_topics(
    image: MetadataImage, request: CreateTopicsRequest, config: BrokerConfig, topic_id: Callable[[str, int], str]
) -> Decision:
    """Decide about new topics; topic_id makes an id from a name and the metadata offset it will stand at."""
    _check_entries(request.topics)
    records: list[MetadataRecord] = []
    results: list[TopicResult] = []
    room = MAX_PARTITIONS
    for wanted in request.topics:
        try:
            made = _create_topic(image, wanted, config, topic_id, room)
        except BrokerError as error:
            results.append(TopicResult(wanted.topic, error.code, error.message))
            continue
        image = apply(image, made, TOPIC_RESOURCE)
        records += made
        topic = image.topics[wanted.topic]
        room -= len(topic.partitions)
        factor = len(topic.partitions[0].replicas)
        results.append(TopicResult(topic.name, 0, None, topic.topic_id, len(topic.partitions), factor))
    return Decision([] if request.validate_only else records, TopicsReply(results))


def _check_entries(entries: Sequence[object]) -> None:
    if len(entries) > MAX_ENTRIES:
        message = f"one request may change {MAX_ENTRIES} topics or resources, and this one has {len(entries)}: split it"
        raise PolicyViolationError(message)


def _create_topic(
    image: MetadataImage, wanted: NewTopic, config: BrokerConfig, topic_id: Callable[[str, int], str], room: int
) -> list[MetadataRecord]:
    check_topic_name(wanted.topic)
    if wanted.topic in INTERNAL_TOPICS and wanted != internal_topic(wanted.topic, config):
        check_not_internal(wanted.topic, "create it: FindCoordinator makes it as it has to be")
    if wanted.topic in image.topics:
        message = (
            f"the topic {wanted.topic} exists already, with {len(image.topics[wanted.topic].partitions)} partitions"
        )
        raise TopicExistsError(message)
    assignments = _assignments(image, wanted, config, room)
    _check_no_repeats(wanted.configs)
    factor = len(assignments[0])
    overrides = _checked_overrides(dict(wanted.configs), config, factor)
    for key, value in written_defaults(config, factor).items():
        overrides.setdefault(key, value)
    records: list[MetadataRecord] = [CreateTopic(wanted.topic, topic_id(wanted.topic, image.end_offset))]
    records += [_new_partition(image, wanted.topic, index, replicas) for index, replicas in enumerate(assignments)]
    records += [SetConfig(TOPIC_RESOURCE, wanted.topic, key, value) for key, value in overrides.items()]
    return records


def _new_partition(image: MetadataImage, topic: str, partition: int, replicas: list[int]) -> SetPartition:
    """A partition with the replicas in sync that are heard of, led by the first of them that may."""
    isr = [node for node in replicas if not image.nodes[node].fenced]
    leader = next(node for node in replicas if image.nodes[node].may_lead)
    return SetPartition(topic, partition, replicas, isr, leader, leader_epoch=0)


def _assignments(image: MetadataImage, wanted: NewTopic, config: BrokerConfig, room: int) -> list[list[int]]:
    if wanted.assignments:
        _check_assignments(image, wanted)
        _check_room(wanted.topic, len(wanted.assignments), room)
        return wanted.assignments
    count = config.num_partitions if wanted.partitions == -1 else wanted.partitions
    _check_partition_count(wanted.topic, count)
    _check_room(wanted.topic, count, room)
    factor = wanted.replication_factor
    if factor == -1:
        factor = default_factor(image, config)
    return place(image.nodes.values(), image.partitions_count, count, factor)


def _check_partition_count(topic: str, count: int) -> None:
    if not 1 <= count <= MAX_PARTITIONS:
        message = (
            f"the topic {topic} cannot have {count} partitions: at least 1 and at most {MAX_PARTITIONS} are allowed"
        )
        raise InvalidPartitionsError(message)


def _check_room(topic: str, new: int, room: int) -> None:
    if new > room:
        message = (
            f"the topic {topic} would get {new} partitions, and one request may make {MAX_PARTITIONS} in all: split it"
        )
        raise InvalidPartitionsError(message)


def _check_assignments(image: MetadataImage, wanted: NewTopic) -> None:
    if wanted.partitions != -1 or wanted.replication_factor != -1:
        message = (
            f"the topic {wanted.topic} has both assignments by hand and a number of partitions or replicas: give one"
        )
        raise InvalidRequestError(message)
    _check_partition_count(wanted.topic, len(wanted.assignments))
    factor = len(wanted.assignments[0])
    for partition, replicas in enumerate(wanted.assignments):
        unknown = [node for node in replicas if node not in image.nodes]
        if unknown:
            message = (
                f"partition {partition} of {wanted.topic} is assigned to node {unknown[0]}, which is not in the cluster"
            )
            raise InvalidReplicaAssignmentError(message)
        if not replicas or len(set(replicas)) != len(replicas) or len(replicas) != factor:
            message = (
                f"partition {partition} of {wanted.topic} is assigned to nodes {replicas}: every partition needs the"
                " same number of different nodes"
            )
            raise InvalidReplicaAssignmentError(message)
        if not any(image.nodes[node].may_lead for node in replicas):
            message = f"none of the nodes {replicas} of partition {partition} of {wanted.topic} can lead it now"
            raise InvalidReplicaAssignmentError(message)


def _check_no_repeats(configs: Sequence[tuple[str, str | None]]) -> None:
    """Refuse a setting that is given twice, be it under two spellings."""
    seen: set[str] = set()
    for key, _ in configs:
        dotted = key.replace("_", ".")
        if dotted in seen:
            message = f"the setting {key} is given more than once"
            raise InvalidRequestError(message)
        seen.add(dotted)


def _checked_overrides(overrides: Mapping[str, str], config: BrokerConfig, factor: int) -> dict[str, str]:
    """A topic's own settings under their Kafka names, or why they cannot be."""
    try:
        normal = normalised_overrides(overrides)
        topic = config.topic_config(normal)
    except ConfigError as error:
        raise InvalidConfigError(error.message) from error
    if topic.min_insync_replicas > factor:
        message = (
            f"min.insync.replicas={topic.min_insync_replicas} is more than the topic's replication factor of {factor}:"
            " nothing could be produced with acks=all"
        )
        raise InvalidConfigError(message)
    return normal


def delete_topics(image: MetadataImage, request: DeleteTopicsRequest, config: BrokerConfig) -> Decision:
    """Decide about topics that shall go.

    Where the request says which topic of a name it means, another one is left alone: INCONSISTENT_TOPIC_ID.
    """
    records: list[MetadataRecord] = []
    results: list[TopicResult] = []
    gone: set[str] = set()
    if request.topic_ids and len(request.topic_ids) != len(request.topics):
        message = f"{len(request.topics)} topics are named, with {len(request.topic_ids)} ids: give one for each"
        raise InvalidRequestError(message)
    for name, topic_id in zip_longest(request.topics, request.topic_ids, fillvalue=""):
        topic = image.topics.get(name)
        if not config.delete_topic_enable:
            error: BrokerError = PolicyViolationError("topics cannot be deleted here: delete.topic.enable is off")
        elif topic is None or name in gone:
            error = _unknown_topic(name)
        elif name in INTERNAL_TOPICS:
            error = InvalidTopicError(f"{name} holds the state of the broker's coordinators and cannot be deleted")
        elif topic_id not in ("", topic.topic_id):
            error = InconsistentTopicIdError(f"{name} was created anew: it has the id {topic.topic_id}, not {topic_id}")
        else:
            gone.add(name)
            records.append(RemoveTopic(name))
            results.append(TopicResult(name, 0, None, topic.topic_id))
            continue
        results.append(TopicResult(name, error.code, error.message))
    return Decision(records, TopicsReply(results))


def _unknown_topic(name: str) -> UnknownTopicOrPartitionError:
    return UnknownTopicOrPartitionError(f"there is no topic {name[:249]!r}")


def create_partitions(image: MetadataImage, request: CreatePartitionsRequest) -> Decision:
    """Decide about more partitions for topics."""
    _check_entries(request.topics)
    records: list[MetadataRecord] = []
    results: list[TopicResult] = []
    room = MAX_PARTITIONS
    for wanted in request.topics:
        try:
            made = _add_partitions(image, wanted, room)
        except BrokerError as error:
            results.append(TopicResult(wanted.topic, error.code, error.message))
            continue
        image = apply(image, made, TOPIC_RESOURCE)
        records += made
        room -= len(made)
        topic = image.topics[wanted.topic]
        factor = len(target_replicas(topic.partitions[0]))
        results.append(TopicResult(topic.name, 0, None, topic.topic_id, wanted.total, factor))
    return Decision([] if request.validate_only else records, TopicsReply(results))


def _add_partitions(image: MetadataImage, wanted: PartitionCount, room: int) -> list[MetadataRecord]:
    topic = image.topics.get(wanted.topic)
    if topic is None:
        raise _unknown_topic(wanted.topic)
    check_not_internal(wanted.topic, "give it partitions: that would move groups to other coordinators")
    now = len(topic.partitions)
    if wanted.total <= now:
        message = (
            f"the topic {topic.name} has {now} partitions already; it can only get more of them, not {wanted.total}"
        )
        raise InvalidPartitionsError(message)
    _check_partition_count(topic.name, wanted.total)
    _check_room(topic.name, wanted.total - now, room)
    factor = len(target_replicas(topic.partitions[0]))
    placed = place(image.nodes.values(), image.partitions_count, wanted.total - now, factor)
    return [_new_partition(image, topic.name, now + index, replicas) for index, replicas in enumerate(placed)]


def alter_configs(image: MetadataImage, request: AlterConfigsRequest, config: BrokerConfig) -> Decision:
    """Decide about changed settings of topics and clients; all changes of a resource are taken, or none."""
    records: list[MetadataRecord] = []
    results: list[ResourceResult] = []
    _check_entries(request.resources)
    for change in request.resources:
        try:
            made = _alter(image, change, config)
        except BrokerError as error:
            results.append(ResourceResult(change.type, change.name, error.code, error.message))
            continue
        image = apply(image, made, TOPIC_RESOURCE)
        records += made
        results.append(ResourceResult(change.type, change.name))
    return Decision([] if request.validate_only else records, AlterConfigsReply(results))


def _alter(image: MetadataImage, change: ResourceChange, config: BrokerConfig) -> list[MetadataRecord]:
    _check_no_repeats(change.configs)
    given = {key: value for key, value in change.configs if value is not None}
    if change.type == TOPIC_RESOURCE:
        normal, dropped = _altered_topic(image, change, given, config)
    elif change.type == CLIENT_RESOURCE:
        normal, dropped = _altered_quotas(change, given)
    elif change.type == GROUP_RESOURCE:
        normal, dropped = _altered_group(image, change, given, config)
    elif change.type == BROKER_RESOURCE and not change.name:
        normal, dropped = _altered_cluster(change, given)
    else:
        message = (
            f"settings of resource type {change.type} cannot be changed; those of topics ({TOPIC_RESOURCE}), share"
            f" groups ({GROUP_RESOURCE}), clients ({CLIENT_RESOURCE}) and, by an empty name, of all nodes"
            f" ({BROKER_RESOURCE}) can"
        )
        raise InvalidRequestError(message)
    records: list[MetadataRecord] = []
    if change.type == TOPIC_RESOURCE:
        records += _elections_with(image, change.name, normal, dropped, config)
    records += [SetConfig(change.type, change.name, key, value) for key, value in normal.items()]
    records += [SetConfig(change.type, change.name, key, None) for key in dropped]
    return records


def _elections_with(
    image: MetadataImage, topic: str, changed: Mapping[str, str], dropped: Sequence[str], config: BrokerConfig
) -> list[MetadataRecord]:
    """What a topic's new settings mean for its partitions: with a lower min.insync.replicas the ELR holds no longer."""
    before = image.config_of(TOPIC_RESOURCE, topic)
    after = {key: value for key, value in {**before, **changed}.items() if key not in dropped}
    rules = rules_from(after, config)
    return topic_elections(image, topic, rules) if rules != rules_from(before, config) else []


def _altered_topic(
    image: MetadataImage, change: ResourceChange, given: Mapping[str, str], config: BrokerConfig
) -> tuple[dict[str, str], list[str]]:
    topic = image.topics.get(change.name)
    if topic is None:
        raise _unknown_topic(change.name)
    check_not_internal(change.name, "change its settings")
    names = {key: _topic_setting_name(key) for key, _ in change.configs}
    factor = len(target_replicas(topic.partitions[0]))
    defaults = written_defaults(config, factor)
    dropped = [names[key] for key, value in change.configs if value is None]
    changed = {names[key]: value for key, value in given.items()}
    changed |= {name: defaults[name] for name in dropped if name in defaults}
    dropped = [name for name in dropped if name not in defaults]
    after = {**image.config_of(TOPIC_RESOURCE, change.name), **changed}
    for name in dropped:
        after.pop(name, None)
    normal = _checked_overrides(after, config, factor)
    return {name: normal[name] for name in changed}, dropped


def _altered_group(
    image: MetadataImage, change: ResourceChange, given: Mapping[str, str], config: BrokerConfig
) -> tuple[dict[str, str], list[str]]:
    if not change.name:
        message = "the group id is empty; settings belong to a share group by its name"
        raise InvalidGroupIdError(message)
    try:
        settings = {key: group_setting(key) for key, _ in change.configs}
        normal = {
            setting.name: value_text(parse(setting, key, given[key]))
            for key, setting in settings.items()
            if key in given
        }
        after = {**image.config_of(GROUP_RESOURCE, change.name), **normal}
        _check_dead_letter_topic(config.group_defaults.with_overrides(after).errors_deadletterqueue_topic_name)
    except ConfigError as error:
        raise InvalidConfigError(error.message) from error
    return normal, [settings[key].name for key, value in change.configs if value is None]


def _altered_cluster(change: ResourceChange, given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    try:
        settings = {key: cluster_setting(key) for key, _ in change.configs}
        normal = {settings[key].name: value_text(parse(settings[key], key, text)) for key, text in given.items()}
    except ConfigError as error:
        raise InvalidConfigError(error.message) from error
    return normal, [settings[key].name for key, value in change.configs if value is None]


def _check_dead_letter_topic(name: str) -> None:
    """Refuse to send dead letters where no topic can be, or into the state of the coordinators."""
    if name in ("", NO_DEAD_LETTER_TOPIC):
        return
    try:
        check_topic_name(name)
        check_not_internal(name, "write dead letters to it")
    except InvalidTopicError as error:
        message = f"errors.deadletterqueue.topic.name={name[:40]!r}: {error.message}"
        raise InvalidConfigError(message) from error


def _topic_setting_name(key: str) -> str:
    try:
        return topic_setting(key).name
    except ConfigError as error:
        raise InvalidConfigError(error.message) from error


def _altered_quotas(change: ResourceChange, given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    for key, value in change.configs:
        if key not in QUOTAS:
            message = f"there is no quota {key!r}; the quotas of a client are {' and '.join(QUOTAS)}"
            raise InvalidConfigError(message)
        if value is not None and not (_QUOTA.fullmatch(value) and 0 < int(value) < 2**63):
            message = f"the quota {key}={value[:40]!r} has to be a whole number of bytes a second, at least 1"
            raise InvalidConfigError(message)
    return dict(given), [key for key, value in change.configs if value is None]


def next_producer_ids(image: MetadataImage) -> tuple[range, list[MetadataRecord]]:
    """The next block of producer ids, and the record that takes it out of circulation."""
    first = image.next_producer_id
    return range(first, first + PRODUCER_ID_BLOCK), [NextProducerId(first + PRODUCER_ID_BLOCK)]


def bumped_epoch(producer_id: int, producer_epoch: int) -> InitProducerIdReply | None:
    """The same producer id with the next epoch; None if the epochs of this id are used up and it needs a new id."""
    if producer_id < 0 or not 0 <= producer_epoch < 2**15 - 1:
        return None
    return InitProducerIdReply(producer_id, producer_epoch + 1)


def registration(image: MetadataImage, node_id: int, *, clean: bool) -> list[MetadataRecord]:
    """What follows from the start of a node that is the whole cluster.

    After an unclean stop it may have lost unflushed records, so every partition that it leads gets a new leader epoch,
    by which readers can tell the two histories apart (KIP-101).
    """
    records: list[MetadataRecord] = [SetNodeState(node_id, fenced=False, stopping=False, draining=False)]
    if clean:
        return records
    return records + [
        SetPartition(topic.name, index, list(old.replicas), list(old.isr), old.leader, old.leader_epoch + 1)
        for topic in image.topics.values()
        for index, old in enumerate(topic.partitions)
        if old.leader == node_id
    ]
