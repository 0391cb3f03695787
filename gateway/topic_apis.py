"""Topics and the cluster: what Kafka's clients ask to find their way, and what its tools create and describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import (
    BrokerError,
    InvalidConfigError,
    InvalidReplicaAssignmentError,
    UnknownTopicIdError,
    UnsupportedVersionError,
)
from ..transport import messages as m
from .protocol import APIS, LOWEST_TOLD
from .shapes import NO_OPERATIONS, code_and_text, error_of, failed, partition_fields, topic_uuid

if TYPE_CHECKING:
    from uuid import UUID

    from ..actors.context import NodeContext
    from .exchange import Exchange, Outcome


def api_versions(exchange: Exchange) -> None:
    """Say what is offered. A version of this very request that is not known is answered so too, with an error."""
    offered = [
        {"api_key": api.key, "min_version": LOWEST_TOLD.get(api.key, api.low), "max_version": api.high}
        for api in APIS.values()
    ]
    code = UnsupportedVersionError.code if exchange.header.body_at == 0 else 0
    exchange.reply({"error_code": code, "api_keys": offered})


# ---- Metadata


def metadata(exchange: Exchange) -> None:
    """Describe the cluster and topics; those that are missing are created, if that is wanted and allowed."""
    request = exchange.request
    if request.topics is None or (exchange.version == 0 and not request.topics):
        exchange.ask(m.MetadataRequest(None), lambda outcome: _describe(exchange, outcome, [], []))
        return
    by_id = [topic.topic_id for topic in request.topics if topic.name is None]
    named = [topic.name for topic in request.topics if topic.name is not None]
    known = _names_by_id(exchange.context) if by_id else {}
    unknown = [topic_id for topic_id in by_id if topic_id not in known]
    asked = named + [known[topic_id] for topic_id in by_id if topic_id in known]
    may_create = request.allow_auto_topic_creation if exchange.version >= 4 else True  # noqa: PLR2004 - has it from there
    native = m.MetadataRequest(asked, may_create)
    exchange.ask(native, lambda outcome: _describe(exchange, outcome, unknown, named))


def _names_by_id(context: NodeContext) -> dict[UUID | None, str]:
    return {topic_uuid(topic.topic_id): topic.name for topic in context.image.topics.values()}


def _describe(exchange: Exchange, outcome: Outcome, unknown: list[UUID | None], named: list[str]) -> None:
    context = exchange.context
    brokers = [
        {"node_id": node_id, "host": host, "port": port, "rack": rack}
        for node_id, host, port, rack in context.kafka_brokers()
    ]
    known = {"brokers": brokers, "cluster_id": context.cluster_id, "controller_id": _controller(context)}
    nobody = {"authorized_operations": NO_OPERATIONS}
    no_name = None if exchange.version >= 12 else ""  # noqa: PLR2004 - from there on it may be null
    gone: list[dict[str, Any]] = [
        {"error_code": UnknownTopicIdError.code, "name": no_name, "topic_id": topic_id, "partitions": [], **nobody}
        for topic_id in unknown
    ]
    if outcome.error is not None:
        gone += [{"error_code": outcome.error.code, "name": name, "partitions": [], **nobody} for name in named]
    topics = [] if outcome.body is None else [_topic(topic) for topic in outcome.body.topics]
    exchange.reply({**known, **nobody, "topics": topics + gone})


def _topic(topic: m.TopicInfo) -> dict[str, Any]:
    return {
        "error_code": topic.error_code,
        "name": topic.topic,
        "topic_id": topic_uuid(topic.topic_id),
        "is_internal": topic.is_internal,
        "authorized_operations": NO_OPERATIONS,
        "partitions": [
            partition_fields(
                partition.partition, partition.leader, partition.leader_epoch, partition.replicas, partition.isr
            )
            for partition in topic.partitions
        ],
    }


def _controller(context: NodeContext) -> int:
    """Whom to ask for changes: the controller, or this node, which passes them on, if clients cannot reach that one."""
    reached = any(broker[0] == context.controller_id for broker in context.kafka_brokers())
    return context.controller_id if reached else context.config.node_id


def describe_cluster(exchange: Exchange) -> None:
    """Name the brokers."""
    context = exchange.context
    brokers = [
        {"broker_id": node_id, "host": host, "port": port, "rack": rack}
        for node_id, host, port, rack in context.kafka_brokers()
    ]
    exchange.reply(
        {
            "cluster_id": context.cluster_id,
            "controller_id": _controller(context),
            "brokers": brokers,
            "authorized_operations": NO_OPERATIONS,
        }
    )


# ---- create, grow, delete


def create_topics(exchange: Exchange) -> None:
    """Create topics."""
    request = exchange.request
    wanted: list[m.NewTopic] = []
    refused: list[dict[str, Any]] = []
    for topic in request.topics:
        try:
            wanted.append(_new_topic(topic))
        except BrokerError as error:
            refused.append({"name": topic.name, "num_partitions": -1, "replication_factor": -1, **failed(error)})

    def created(outcome: Outcome) -> None:
        if outcome.error is not None:
            nothing = {"num_partitions": -1, "replication_factor": -1, **error_of(outcome)}
            topics = [{"name": topic.topic, **nothing} for topic in wanted]
        else:
            topics = [_created(result) for result in outcome.body.topics]
        exchange.reply({"topics": topics + refused})

    exchange.ask(m.CreateTopicsRequest(wanted, max(0, request.timeout_ms), request.validate_only), created)


def _new_topic(topic: Any) -> m.NewTopic:
    for config in topic.configs:
        if config.value is None:
            message = f"{config.name} of topic {topic.name!r} is null: a new topic has the default of what is left out"
            raise InvalidConfigError(message)
    placed = {entry.partition_index: entry.broker_ids for entry in topic.assignments}
    if sorted(placed) != list(range(len(topic.assignments))):
        indexes = [entry.partition_index for entry in topic.assignments][:20]
        message = f"topic {topic.name!r} is placed by hand at partitions {indexes}: they have to be 0, 1, 2 and so on"
        raise InvalidReplicaAssignmentError(message)
    return m.NewTopic(
        topic.name,
        -1 if placed else topic.num_partitions,
        -1 if placed else topic.replication_factor,
        [(config.name, config.value) for config in topic.configs],
        [placed[index] for index in sorted(placed)],
    )


def _created(result: m.TopicResult) -> dict[str, Any]:
    return {
        "name": result.topic,
        "topic_id": topic_uuid(result.topic_id),
        **code_and_text(result),
        "num_partitions": result.partitions,
        "replication_factor": result.replication_factor,
        "configs": [],
    }


def create_partitions(exchange: Exchange) -> None:
    """Add partitions. Which nodes get them is for the controller to choose."""
    request = exchange.request
    placed = [topic.name for topic in request.topics if topic.assignments is not None]
    wanted = [m.PartitionCount(topic.name, topic.count) for topic in request.topics if topic.assignments is None]
    text = "new partitions cannot be placed by hand: leave the assignment out, and reassign them afterwards"
    refused = [{"name": name, **failed(InvalidReplicaAssignmentError(text))} for name in placed]

    def grown(outcome: Outcome) -> None:
        if outcome.error is not None:
            results = [{"name": topic.topic, **error_of(outcome)} for topic in wanted]
        else:
            results = [{"name": result.topic, **code_and_text(result)} for result in outcome.body.topics]
        exchange.reply({"results": results + refused})

    exchange.ask(m.CreatePartitionsRequest(wanted, max(0, request.timeout_ms), request.validate_only), grown)


def delete_topics(exchange: Exchange) -> None:
    """Delete topics, by name or, in newer versions, by id."""
    request = exchange.request
    by_id = exchange.version >= 6  # noqa: PLR2004 - the version that may name ids
    asked: list[tuple[str | None, UUID | None]] = (
        [(topic.name, topic.topic_id) for topic in request.topics]
        if by_id
        else [(name, None) for name in request.topic_names]
    )
    known = _names_by_id(exchange.context) if by_id else {}
    meant = [(name if name is not None else known.get(topic_id), topic_id) for name, topic_id in asked]
    gone = [
        {"name": None, "topic_id": topic_id, "error_code": UnknownTopicIdError.code}
        for name, topic_id in meant
        if name is None
    ]
    found = [(name, topic_id) for name, topic_id in meant if name is not None]
    names = [name for name, _ in found]
    ids = [topic_id.hex if topic_id is not None else "" for _, topic_id in found]

    def deleted(outcome: Outcome) -> None:
        if outcome.body is None:
            results = [{"name": name, "topic_id": topic_id, **error_of(outcome)} for name, topic_id in found]
        else:
            results = [
                {"name": result.topic, "topic_id": topic_id or topic_uuid(result.topic_id), **code_and_text(result)}
                for result, (_, topic_id) in zip(outcome.body.topics, found, strict=True)
            ]
        exchange.reply({"responses": results + gone})

    exchange.ask(m.DeleteTopicsRequest(names, max(0, request.timeout_ms), ids if any(ids) else []), deleted)


# ---- disks


def describe_log_dirs(exchange: Exchange) -> None:
    """Describe this node's folder; with topics, only those partitions of it."""
    request = exchange.request
    wanted = (
        None
        if request.topics is None
        else {(topic.topic, index) for topic in request.topics for index in topic.partitions}
    )

    def described(outcome: Outcome) -> None:
        body: m.DescribeLogDirsReply | None = outcome.body
        if body is None:
            exchange.reply({**error_of(outcome), "results": []})
            return
        topics: dict[str, list[dict[str, Any]]] = {}
        for entry in body.partitions:
            if wanted is None or (entry.topic, entry.partition) in wanted:
                size = {"partition_index": entry.partition, "partition_size": entry.size_bytes, "offset_lag": 0}
                topics.setdefault(entry.topic, []).append(size)
        folder = {
            "log_dir": body.path,
            "topics": [{"name": name, "partitions": partitions} for name, partitions in topics.items()],
            "total_bytes": body.total_bytes,
            "usable_bytes": body.usable_bytes,
        }
        exchange.reply({"results": [folder]})

    exchange.ask(m.DescribeLogDirsRequest(), described)
