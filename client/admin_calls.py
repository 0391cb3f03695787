"""The admin calls as flows: asked of the right node, repeated while that may help, errors raised by their types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from ..errors import BrokerError, NetworkError, RequestTimedOutError, ZmqBrokerError, error_for
from ..transport import messages as m
from ..transport.config_messages import (
    BROKER_RESOURCE,
    AlterConfigsReply,
    AlterConfigsRequest,
    DescribeConfigsReply,
    DescribeConfigsRequest,
    Resource,
    ResourceChange,
)
from ..transport.message_base import Body, Request
from .admin_types import (
    ClusterDescription,
    ConfigEntry,
    ConfigResource,
    CreatedTopic,
    LogDirDescription,
    NewTopic,
    NodeDescription,
    NodeStatus,
    PartitionDescription,
    PartitionOnDisk,
    TopicDescription,
)
from .connection import NoAnswerError
from .io import Wait, body_of
from .lookup import known_topics, list_offsets
from .types import OffsetAndTimestamp, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .connection import Answer, Connection
    from .io import ClientIO, Flow

B = TypeVar("B", bound=Body)
R = TypeVar("R", bound=Request)

_LEAST_SHARE = 0.1
"""Of the time for a call: no attempt is begun with less,"""
_LEAST_S = 1.0
"""unless it has as much as this. Without an answer it would only hide what the attempts before were told."""


class AdminCalls:
    """Each method is a flow; deadlines come from default_api_timeout_ms."""

    def __init__(self, io: ClientIO, timeout_ms: int) -> None:
        self._io = io
        self._timeout_s = timeout_ms / 1000
        self._least_s = min(self._timeout_s * _LEAST_SHARE, _LEAST_S)

    # ---- topics

    def create_topics(self, topics: Iterable[NewTopic], *, validate_only: bool) -> Flow[list[CreatedTopic]]:
        """Create topics."""
        wanted = [
            m.NewTopic(
                *(topic.name, topic.num_partitions, topic.replication_factor),
                [(name, str(value)) for name, value in topic.topic_configs.items()],
                [list(replicas) for replicas in topic.replica_assignments],
            )
            for topic in topics
        ]
        request = m.CreateTopicsRequest(wanted, self._request_timeout_ms(), validate_only)
        reply = yield from self._ask(request, m.TopicsReply, controller=True)
        raise_first(reply.topics, "topic")
        return [CreatedTopic(r.topic, r.topic_id, r.partitions, r.replication_factor) for r in reply.topics]

    def delete_topics(self, names: Iterable[str]) -> Flow[None]:
        """Delete topics."""
        request = m.DeleteTopicsRequest(list(names), self._request_timeout_ms())
        reply = yield from self._ask(request, m.TopicsReply, controller=True)
        raise_first(reply.topics, "topic")

    def create_partitions(self, totals: Mapping[str, int], *, validate_only: bool) -> Flow[None]:
        """Grow topics."""
        counts = [m.PartitionCount(name, total) for name, total in totals.items()]
        request = m.CreatePartitionsRequest(counts, self._request_timeout_ms(), validate_only)
        reply = yield from self._ask(request, m.TopicsReply, controller=True)
        raise_first(reply.topics, "topic")

    def list_topics(self, *, include_internal: bool) -> Flow[list[str]]:
        """Names of topics."""
        reply = yield from self._ask(m.MetadataRequest(None), m.MetadataReply)
        return sorted(info.topic for info in reply.topics if include_internal or not info.is_internal)

    def describe_topics(self, names: Sequence[str] | None) -> Flow[list[TopicDescription]]:
        """Topics and their partitions."""
        request = m.MetadataRequest(None if names is None else list(names))
        reply = yield from self._ask(request, m.MetadataReply)
        raise_first(reply.topics, "topic")
        return [
            TopicDescription(
                *(info.topic, info.topic_id, info.is_internal),
                [
                    PartitionDescription(p.partition, p.leader, p.leader_epoch, p.replicas, p.isr)
                    for p in sorted(info.partitions, key=lambda p: p.partition)
                ],
            )
            for info in reply.topics
        ]

    # ---- settings

    def describe_configs(
        self, resources: Iterable[ConfigResource]
    ) -> Flow[dict[ConfigResource, dict[str, ConfigEntry]]]:
        """Settings of resources."""
        found: dict[ConfigResource, dict[str, ConfigEntry]] = {}
        for node_id, group in _by_node(resources).items():
            request = DescribeConfigsRequest([Resource(resource.type, resource.name) for resource in group])
            reply = yield from self._ask(request, DescribeConfigsReply, node_id=node_id)
            raise_first(reply.resources, "name")
            for result in reply.resources:
                entries = {c.name: ConfigEntry(c.name, c.value, c.source, c.doc) for c in result.configs}
                found[ConfigResource(result.type, result.name)] = entries
        return found

    def alter_configs(
        self, changes: Mapping[ConfigResource, Mapping[str, str | None]], *, validate_only: bool
    ) -> Flow[None]:
        """Change settings."""
        for node_id, group in _by_node(changes).items():
            entries = [
                ResourceChange(
                    resource.type,
                    resource.name,
                    [(name, None if value is None else str(value)) for name, value in changes[resource].items()],
                )
                for resource in group
            ]
            request = AlterConfigsRequest(entries, validate_only)
            controller = node_id is None
            reply = yield from self._ask(request, AlterConfigsReply, node_id=node_id, controller=controller)
            raise_first(reply.resources, "name")

    # ---- records

    def delete_records(self, before: Mapping[TopicPartition, int]) -> Flow[dict[TopicPartition, int]]:
        """Move log start offsets."""
        io = self._io
        deadline = io.now() + self._timeout_s
        done: dict[TopicPartition, int] = {}
        why: ZmqBrokerError | None = None
        yield from known_topics(io, {partition.topic for partition in before}, deadline)
        while left := [partition for partition in before if partition not in done]:
            failed: Connection | None = None
            for connection, partitions in self._by_leader(left).items():
                entries = [m.PartitionDeletion(tp.topic, tp.partition, before[tp]) for tp in partitions]
                request = m.DeleteRecordsRequest(entries, self._request_timeout_ms())
                try:
                    answer = yield from self._call(request, connection, deadline)
                except ZmqBrokerError as error:
                    if not error.retriable:
                        raise
                    why, failed = clearer(why, error), connection
                    continue
                for entry in body_of(answer, m.DeleteRecordsReply).partitions:
                    if not entry.error_code:
                        done[TopicPartition(entry.topic, entry.partition)] = entry.low_watermark
                        continue
                    refusal = error_for(entry.error_code, entry.error_message)
                    if not refusal.retriable:
                        raise refusal
                    why, failed = clearer(why, refusal), connection
            if len(done) < len(before):
                yield from self._again(why or io.metadata.why_unknown(left[0].topic), deadline, failed)
        return done

    def list_offsets(self, wanted: Mapping[TopicPartition, int]) -> Flow[dict[TopicPartition, OffsetAndTimestamp]]:
        """Offsets by time."""
        found = yield from list_offsets(self._io, wanted, self._timeout_s)
        return {
            tp: OffsetAndTimestamp(entry.offset, entry.timestamp, entry.leader_epoch) for tp, entry in found.items()
        }

    # ---- nodes

    def describe_cluster(self) -> Flow[ClusterDescription]:
        """Nodes."""
        reply = yield from self._ask(m.MetadataRequest([]), m.MetadataReply)
        nodes = [NodeDescription(b.node_id, b.host, b.port, b.rack) for b in reply.brokers]
        return ClusterDescription(reply.cluster_id, reply.controller_id, sorted(nodes, key=lambda n: n.node_id))

    def describe_log_dirs(self, node_ids: Iterable[int] | None) -> Flow[list[LogDirDescription]]:
        """Data folders."""
        if node_ids is None:
            cluster = yield from self.describe_cluster()
            node_ids = [node.node_id for node in cluster.nodes]
        found = []
        for node_id in node_ids:
            reply = yield from self._ask(m.DescribeLogDirsRequest(), m.DescribeLogDirsReply, node_id=node_id)
            if reply.error_code:
                raise error_for(reply.error_code, f"node {node_id} cannot read its data folder {reply.path}")
            partitions = [
                PartitionOnDisk(
                    *(p.topic, p.partition, p.size_bytes, p.log_start_offset),
                    *(p.high_watermark, p.log_end_offset, p.segments, p.error_message),
                )
                for p in reply.partitions
            ]
            found.append(LogDirDescription(node_id, reply.path, reply.total_bytes, reply.usable_bytes, partitions))
        return found

    def node_status(self, node_id: int | None) -> Flow[NodeStatus]:
        """Counters of a node."""
        r = yield from self._ask(m.NodeStatusRequest(), m.NodeStatusReply, node_id=node_id)
        return NodeStatus(r.node_id, r.cluster_id, r.version, r.uptime_ms, r.pid, dict(r.counters))

    # ---- asking

    def _request_timeout_ms(self) -> int:
        """How long the broker may take: less than what this client waits."""
        return max(1, int(min(self._timeout_s * 1000, self._io.options.request_timeout_ms)))

    def _left(self, deadline: float) -> float:
        io = self._io
        return max(0.001, min(deadline - io.now(), io.options.request_timeout_ms / 1000))

    def _ask(
        self,
        request: Request,
        reply: type[B],
        *,
        node_id: int | None = None,
        controller: bool = False,
        final: tuple[type[BrokerError], ...] = (),
    ) -> Flow[B]:
        """Ask one node, or any, and ask again while the error is one that passes, and not final for this request."""
        deadline = self._io.now() + self._timeout_s
        why: ZmqBrokerError | None = None
        asked: Connection | None = None
        while True:
            try:
                asked = yield from self._connection(node_id, deadline, asked, controller=controller)
                answer = yield from self._call(request, asked, deadline)
                return body_of(answer, reply)
            except BrokerError as error:
                if not error.retriable or isinstance(error, final):
                    raise
                why = clearer(why, error)
                yield from self._again(why, deadline, asked)

    def _call(self, request: Request, connection: Connection, deadline: float) -> Flow[Answer]:
        """One attempt: the broker gets no more time for it than this client waits, so that its reason arrives."""
        left = self._left(deadline)
        return (yield from self._io.call(_bounded(request, int(left * 1000)), connection, left))

    def _again(self, why: ZmqBrokerError, deadline: float, failed: Connection | None = None) -> Flow[None]:
        """Wait before the next attempt, if possible at another node; raise why if there is too little time for one."""
        io = self._io
        pause = io.options.retry_backoff_ms / 1000
        if io.now() + pause + self._least_s > deadline:
            raise why
        with io.lock:
            io.metadata.refresh(besides=failed)
        yield from io.pause(pause)

    def _connection(
        self, node_id: int | None, deadline: float, failed: Connection | None = None, *, controller: bool = False
    ) -> Flow[Connection]:
        """The connection to a node, or to any, but if possible not to the one that failed last."""
        metadata = self._io.metadata
        if node_id is None:
            with self._io.lock:
                known = metadata.node(metadata.controller_id) if controller else None
                if known is not None and known is not failed:
                    return known
                return metadata.any_connection(() if failed is None else (failed,))
        if node_id not in metadata.nodes:
            with self._io.lock:
                version = metadata.version
                metadata.refresh()
            yield Wait(lambda: metadata.version > version or metadata.last_error, deadline)
        with self._io.lock:
            found = metadata.node(node_id)
        if found is None:
            nodes = ", ".join(map(str, sorted(metadata.nodes))) or "none"
            message = f"node {node_id} is not known; there are {nodes}"
            raise metadata.last_error or NetworkError(message)
        return found

    def _by_leader(self, partitions: list[TopicPartition]) -> dict[Connection, list[TopicPartition]]:
        groups: dict[Connection, list[TopicPartition]] = {}
        with self._io.lock:
            for partition in partitions:
                leader = self._io.metadata.leader(*partition)
                if leader is not None:
                    groups.setdefault(leader, []).append(partition)
        return groups


def clearer(before: ZmqBrokerError | None, now: ZmqBrokerError) -> ZmqBrokerError:
    """Of two attempts, whose error to raise: a broker's word says more than silence, and that time is up the least."""
    return now if before is None or _clarity(now) >= _clarity(before) else before


def _clarity(error: ZmqBrokerError) -> int:
    if isinstance(error, NoAnswerError):
        return 0
    if isinstance(error, NetworkError):
        return 1
    return 2 if isinstance(error, RequestTimedOutError) else 3


def _bounded(request: R, most_ms: int) -> R:
    """The request, asking for no more time than this."""
    if getattr(request, "timeout_ms", 0) <= most_ms:
        return request
    return replace(request, timeout_ms=max(1, most_ms))


def _by_node(resources: Iterable[ConfigResource]) -> dict[int | None, list[ConfigResource]]:
    """A node's own settings are asked of that node, all others of any."""
    groups: dict[int | None, list[ConfigResource]] = {}
    for resource in resources:
        is_node = resource.type == BROKER_RESOURCE and resource.name.isdecimal()
        groups.setdefault(int(resource.name) if is_node else None, []).append(resource)
    return groups


def raise_first(results: Sequence[Any], name: str) -> None:
    """Raise the first error among a reply's entries, naming how many there are."""
    failed = [result for result in results if result.error_code]
    if not failed:
        return
    error = error_for(failed[0].error_code, failed[0].error_message)
    if len(results) > 1:
        what = getattr(failed[0], name)
        error.add_note(f"{len(failed)} of {len(results)} failed, {what!r} first; the others were done")
    raise error
