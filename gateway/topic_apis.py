"""Topics and the cluster: what Kafka's clients ask to find their way, and what its tools create and describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UnknownTopicIdError, UnsupportedVersionError
from ..transport import messages as m
from .protocol import APIS, LOWEST_TOLD
from .shapes import NO_OPERATIONS, code_and_text, error_of, partition_fields, topic_uuid

if TYPE_CHECKING:
    from uuid import UUID

    from ..actors.context import NodeContext
    from ..quorum.image import TopicImage
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
        exchange.ask(m.MetadataRequest(None), lambda outcome: _describe(exchange, outcome, []))
        return
    by_id = [topic.topic_id for topic in request.topics if topic.name is None]
    named = [topic.name for topic in request.topics if topic.name is not None]
    names = {topic_id: _name_of(exchange.context, topic_id) for topic_id in by_id}
    unknown = [topic_id for topic_id, name in names.items() if name is None]
    asked = named + [name for name in names.values() if name is not None]
    may_create = request.allow_auto_topic_creation if exchange.version >= 4 else True  # noqa: PLR2004 - has it from there
    native = m.MetadataRequest(asked, may_create)
    exchange.ask(native, lambda outcome: _describe(exchange, outcome, unknown))


def _name_of(context: NodeContext, topic_id: UUID | None) -> str | None:
    if topic_id is None:
        return None
    return next((topic.name for topic in context.image.topics.values() if topic.topic_id == topic_id.hex), None)


def _describe(exchange: Exchange, outcome: Outcome, unknown: list[UUID | None]) -> None:
    context = exchange.context
    brokers = [
        {"node_id": node_id, "host": host, "port": port, "rack": rack}
        for node_id, host, port, rack in context.kafka_brokers()
    ]
    known = {"brokers": brokers, "cluster_id": context.cluster_id, "controller_id": context.controller_id}
    nobody = {"authorized_operations": NO_OPERATIONS}
    gone: list[dict[str, Any]] = [
        {"error_code": UnknownTopicIdError.code, "name": None, "topic_id": topic_id, "partitions": [], **nobody}
        for topic_id in unknown
    ]
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
            "controller_id": context.controller_id,
            "brokers": brokers,
            "authorized_operations": NO_OPERATIONS,
        }
    )


# ---- create, grow, delete


def create_topics(exchange: Exchange) -> None:
    """Create topics."""
    request = exchange.request
    wanted = [
        m.NewTopic(
            topic.name,
            -1 if topic.assignments else topic.num_partitions,
            -1 if topic.assignments else topic.replication_factor,
            [(config.name, config.value) for config in topic.configs if config.value is not None],
            [entry.broker_ids for entry in sorted(topic.assignments, key=lambda entry: entry.partition_index)],
        )
        for topic in request.topics
    ]

    def created(outcome: Outcome) -> None:
        if outcome.error is not None:
            topics = [
                {"name": topic.topic, "num_partitions": -1, "replication_factor": -1, **error_of(outcome)}
                for topic in wanted
            ]
        else:
            topics = [_created(result) for result in outcome.body.topics]
        exchange.reply({"topics": topics})

    exchange.ask(m.CreateTopicsRequest(wanted, max(0, request.timeout_ms), request.validate_only), created)


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
    wanted = [m.PartitionCount(topic.name, topic.count) for topic in request.topics]

    def grown(outcome: Outcome) -> None:
        if outcome.error is not None:
            results = [{"name": topic.topic, **error_of(outcome)} for topic in wanted]
        else:
            results = [{"name": result.topic, **code_and_text(result)} for result in outcome.body.topics]
        exchange.reply({"results": results})

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
    names: list[str] = []
    gone: list[dict[str, Any]] = []
    for name, topic_id in asked:
        found = name if name is not None else _name_of(exchange.context, topic_id)
        if found is None:
            gone.append({"name": None, "topic_id": topic_id, "error_code": UnknownTopicIdError.code})
        else:
            names.append(found)
    ids = [_id_of(exchange.context.image.topics.get(name)) for name in names]

    def deleted(outcome: Outcome) -> None:
        results = [] if outcome.body is None else outcome.body.topics
        failures = [{"name": name, **error_of(outcome)} for name in names] if outcome.body is None else []
        exchange.reply(
            {
                "responses": [
                    {"name": result.topic, "topic_id": topic_uuid(result.topic_id), **code_and_text(result)}
                    for result in results
                ]
                + failures
                + gone
            }
        )

    exchange.ask(m.DeleteTopicsRequest(names, max(0, request.timeout_ms), ids if by_id else []), deleted)


def _id_of(topic: TopicImage | None) -> str:
    return "" if topic is None else topic.topic_id


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
