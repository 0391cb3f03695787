"""Where partitions are and who leads: what Kafka's tools for the operation of a cluster ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import UnknownTopicOrPartitionError
from ..quorum.image import METADATA_TOPIC
from ..transport import cluster_messages as c
from ..transport import quorum_messages as q
from .shapes import NO_OPERATIONS, by_topic, code_and_text, directory_uuid, error_of, flat, partition_fields, topic_uuid

if TYPE_CHECKING:
    from ..quorum.image import MetadataImage
    from .exchange import Exchange, Outcome

_UNCLEAN: Final = 1
_PARTITIONS_A_REPLY: Final = 2000
"""As Kafka's max.request.partition.size.limit."""


def elect_leaders(exchange: Exchange) -> None:
    """Give partitions back to their preferred leaders, or those without a leader to any replica that lives."""
    request = exchange.request
    asked = request.topic_partitions
    wanted = None if asked is None else [(topic.topic, index) for topic in asked for index in topic.partitions]
    native = c.ElectLeadersRequest(wanted, request.election_type == _UNCLEAN, max(0, request.timeout_ms))

    def elected(outcome: Outcome) -> None:
        results = [] if outcome.body is None else outcome.body.partitions
        exchange.reply(
            {
                **error_of(outcome),
                "replica_election_results": by_topic(
                    results,
                    lambda entry: {"partition_id": entry.partition, **code_and_text(entry)},
                    topic="topic",
                    partitions="partition_result",
                ),
            }
        )

    exchange.ask(native, elected)


def alter_partition_reassignments(exchange: Exchange) -> None:
    """Begin to move partitions, or stop moving them."""
    request = exchange.request
    moves = [c.Reassignment(topic, entry.partition_index, entry.replicas) for topic, entry in flat(request.topics)]

    def begun(outcome: Outcome) -> None:
        results = [] if outcome.body is None else outcome.body.partitions
        responses = by_topic(results, lambda entry: {"partition_index": entry.partition, **code_and_text(entry)})
        exchange.reply({**error_of(outcome), "responses": responses})

    exchange.ask(c.AlterPartitionReassignmentsRequest(moves, max(0, request.timeout_ms)), begun)


def list_partition_reassignments(exchange: Exchange) -> None:
    """List the moves under way, of all partitions or of some."""
    request = exchange.request
    asked = request.topics
    wanted = None if asked is None else {(topic.name, index) for topic in asked for index in topic.partition_indexes}
    names = None if asked is None else [topic.name for topic in asked]

    def listed(outcome: Outcome) -> None:
        moves = [] if outcome.body is None else outcome.body.partitions
        topics = by_topic(
            [move for move in moves if wanted is None or (move.topic, move.partition) in wanted],
            lambda move: {
                "partition_index": move.partition,
                "replicas": move.replicas,
                "adding_replicas": move.adding,
                "removing_replicas": move.removing,
            },
        )
        exchange.reply({**error_of(outcome), "topics": topics})

    exchange.ask(c.ListPartitionReassignmentsRequest(names), listed)


# ---- the metadata quorum


def describe_quorum(exchange: Exchange) -> None:
    """Describe the metadata quorum, which is one partition of an internal topic."""
    asked = [(topic.topic_name, entry.partition_index) for topic, entry in _asked(exchange)]

    def described(outcome: Outcome) -> None:
        body: q.DescribeQuorumReply | None = outcome.body
        if body is None:
            exchange.reply({**error_of(outcome), "topics": [], "nodes": []})
            return
        nodes = [
            {"node_id": node_id, "listeners": [{"name": "PLAINTEXT", "host": host, "port": port}]}
            for node_id, host, port, _ in exchange.context.kafka_brokers()
        ]
        topics = [{"topic_name": topic, "partitions": [_quorum(topic, index, body)]} for topic, index in asked]
        exchange.reply({"topics": topics, "nodes": nodes})

    exchange.ask(q.DescribeQuorumRequest(), described)


def _asked(exchange: Exchange) -> list[tuple[Any, Any]]:
    return [(topic, entry) for topic in exchange.request.topics for entry in topic.partitions]


def _quorum(topic: str, index: int, body: q.DescribeQuorumReply) -> dict[str, Any]:
    if (topic, index) != (METADATA_TOPIC, 0):
        text = f"the metadata quorum is {METADATA_TOPIC}-0, and {topic}-{index} was asked for"
        return {
            "partition_index": index,
            "error_code": UnknownTopicOrPartitionError.code,
            "error_message": text,
            "current_voters": [],
            "observers": [],
        }
    return {
        "partition_index": index,
        "leader_id": body.leader_id,
        "leader_epoch": body.epoch,
        "high_watermark": body.high_watermark,
        "current_voters": [_replica(replica) for replica in body.voters],
        "observers": [_replica(replica) for replica in body.observers],
    }


def _replica(replica: q.QuorumReplica) -> dict[str, Any]:
    return {
        "replica_id": replica.node_id,
        "replica_directory_id": directory_uuid(replica.directory_id),
        "log_end_offset": replica.end_offset,
        "last_fetch_timestamp": replica.last_fetch_ms,
        "last_caught_up_timestamp": replica.last_caught_up_ms,
    }


# ---- partitions, a page at a time


def describe_topic_partitions(exchange: Exchange) -> None:
    """Describe partitions with their eligible leader replicas, a page at a time (KIP-966)."""
    request, image = exchange.request, exchange.context.image
    first = ("", 0) if request.cursor is None else (request.cursor.topic_name, request.cursor.partition_index)
    names = sorted({topic.name for topic in request.topics} or image.topics)
    room = max(1, min(request.response_partition_limit, _PARTITIONS_A_REPLY))
    topics: list[dict[str, Any]] = []
    cursor = None
    for name in names:
        if name < first[0]:
            continue
        start = first[1] if name == first[0] else 0
        if room <= 0:
            cursor = {"topic_name": name, "partition_index": start}
            break
        topics.append(_page(image, name, start, start + room))
        end = start + len(topics[-1]["partitions"])
        room -= end - start
        if name in image.topics and end < len(image.topics[name].partitions):
            cursor = {"topic_name": name, "partition_index": end}
            break
    exchange.reply({"topics": topics, "next_cursor": cursor})


def _page(image: MetadataImage, name: str, start: int, end: int) -> dict[str, Any]:
    topic = image.topics.get(name)
    if topic is None:
        return {"error_code": UnknownTopicOrPartitionError.code, "name": name, "partitions": []}
    partitions = [
        {
            **partition_fields(index, state.leader, state.leader_epoch, list(state.replicas), list(state.isr)),
            "eligible_leader_replicas": list(state.elr),
            "last_known_elr": [],
        }
        for index, state in enumerate(topic.partitions[start:end], start)
    ]
    return {
        "name": name,
        "topic_id": topic_uuid(topic.topic_id),
        "is_internal": name.startswith("__"),
        "partitions": partitions,
        "topic_authorized_operations": NO_OPERATIONS,
    }
