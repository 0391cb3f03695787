"""The calls of every request but Fetch: what each asks of other actors, and how its reply is put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequestError, InvalidRequiredAcksError, InvalidTopicError, UnknownTopicOrPartitionError
from ..quorum.decisions import check_topic_name
from ..quorum.elections import target_replicas
from ..quorum.internal_topics import check_not_internal
from ..quorum.min_insync import unchanged_defaults
from ..setting_values import value_text
from ..settings import broker_entries, cluster_entries, group_entries, topic_entries
from ..transport.cluster_messages import CLUSTER_REQUESTS
from ..transport.config_messages import (
    BROKER_RESOURCE,
    CLIENT_RESOURCE,
    GROUP_RESOURCE,
    TOPIC_RESOURCE,
    AlterConfigsRequest,
    ConfigValue,
    DescribeConfigsReply,
    DescribeConfigsRequest,
    ResourceConfigs,
)
from ..transport.internal_topics import INTERNAL_TOPICS
from ..transport.messages import (
    ACKS_ALL,
    BrokerInfo,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteRecordsReply,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeLogDirsReply,
    DescribeLogDirsRequest,
    FetchRequest,
    ListOffsetsReply,
    ListOffsetsRequest,
    MetadataReply,
    MetadataRequest,
    NewTopic,
    NodeStatusReply,
    NodeStatusRequest,
    OffsetForLeaderEpochReply,
    OffsetForLeaderEpochRequest,
    PartitionData,
    PartitionDeleted,
    PartitionDirInfo,
    PartitionEpochEnd,
    PartitionInfo,
    PartitionOffset,
    PartitionProduced,
    ProduceReply,
    ProduceRequest,
    TopicInfo,
    TopicsReply,
)
from ..transport.peer_messages import (
    AlterPartitionRequest,
    HeartbeatNodeRequest,
    JoinClusterRequest,
    RegisterNodeRequest,
)
from ..version import VERSION
from .calls import DEFAULT_TIMEOUT_MS, Call, ControllerRequestCall, GatherCall, PartitionsCall, ask_controller
from .commands import Answer, Append, DeleteBefore, DescribeDir, FindEpochEnd, FindOffset, Refusal
from .context import partition_address
from .fetch_call import FetchCall
from .group_requests import GROUP_CALLS
from .peer_requests import PEER_CALLS
from .transaction_requests import TRANSACTION_CALLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import BrokerError
    from ..quorum.image import TopicImage
    from ..transport.message_base import Request
    from .calls import CallOwner
    from .quotas import Direction


class ProduceCall(PartitionsCall):
    """Append one batch for each entry."""

    quota: Direction | None = "produce"

    def __init__(
        self, session: CallOwner, request: ProduceRequest, correlation_id: int, size: int, frames: list[bytes]
    ) -> None:
        super().__init__(session, request, correlation_id, size)
        if request.acks not in (0, 1, ACKS_ALL):
            message = f"acks is {request.acks}; it has to be 0, 1 or -1 (all)"
            raise InvalidRequiredAcksError(message)
        if len(frames) - 1 != len(request.partitions):
            message = f"{len(request.partitions)} partitions are named and {len(frames) - 1} batches follow"
            raise InvalidRequestError(message)
        self.entries = request.partitions
        self._acks = request.acks
        self._transactional_id = request.transactional_id
        self._frames = frames

    def command(self, entry: PartitionData, index: int) -> Append:
        """Build the command for one batch."""
        check_not_internal(entry.topic, "write to it")
        batch, self._frames[index + 1] = self._frames[index + 1], b""  # held once: this may wait for long
        me, epoch = self.session.actor_ref, entry.leader_epoch
        return Append(me, self, index, batch, self._acks, epoch, self._transactional_id)

    def error(self, entry: PartitionData, error: BrokerError) -> PartitionProduced:
        """Build the result of a batch that was not appended."""
        return PartitionProduced(entry.topic, entry.partition, error.code, error.message)

    def complete(self) -> None:
        """Reply, unless nobody wants to know."""
        if self._acks == 0:
            self.session.finish(self, None, [])
        else:
            self.reply(ProduceReply(self.results))


class ListOffsetsCall(PartitionsCall):
    """Look up offsets by time."""

    def __init__(self, session: CallOwner, request: ListOffsetsRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self.entries = request.partitions
        self._isolation = request.isolation

    def command(self, entry: Any, index: int) -> FindOffset:
        """Build the command for one partition."""
        me = self.session.actor_ref
        return FindOffset(me, self, index, entry.timestamp, entry.leader_epoch, self._isolation)

    def error(self, entry: Any, error: BrokerError) -> PartitionOffset:
        """Build the result of a partition that failed."""
        return PartitionOffset(entry.topic, entry.partition, error.code, error.message)

    def complete(self) -> None:
        """Reply with the results."""
        self.reply(ListOffsetsReply(self.results))


class DeleteRecordsCall(PartitionsCall):
    """Move log start offsets forward."""

    def __init__(self, session: CallOwner, request: DeleteRecordsRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self.entries = request.partitions

    def command(self, entry: Any, index: int) -> DeleteBefore:
        """Build the command for one partition."""
        check_not_internal(entry.topic, "delete records of it")
        return DeleteBefore(self.session.actor_ref, self, index, entry.offset)

    def error(self, entry: Any, error: BrokerError) -> PartitionDeleted:
        """Build the result of a partition that failed."""
        return PartitionDeleted(entry.topic, entry.partition, error.code, error.message)

    def complete(self) -> None:
        """Reply with the results."""
        self.reply(DeleteRecordsReply(self.results))


class EpochEndCall(PartitionsCall):
    """Find where leader epochs end."""

    def __init__(
        self, session: CallOwner, request: OffsetForLeaderEpochRequest, correlation_id: int, size: int
    ) -> None:
        super().__init__(session, request, correlation_id, size)
        self.entries = request.partitions

    def command(self, entry: Any, index: int) -> FindEpochEnd:
        """Build the command for one partition."""
        return FindEpochEnd(self.session.actor_ref, self, index, entry.leader_epoch, entry.current_leader_epoch)

    def error(self, entry: Any, error: BrokerError) -> PartitionEpochEnd:
        """Build the result of a partition that failed."""
        return PartitionEpochEnd(entry.topic, entry.partition, error.code, error.message)

    def complete(self) -> None:
        """Reply with the results."""
        self.reply(OffsetForLeaderEpochReply(self.results))


class LogDirsCall(GatherCall):
    """Describe the logs of all partitions on this node."""

    _names: list[tuple[str, int]]

    def start(self) -> None:
        """Ask every leader."""
        context = self.session.context
        me = context.config.node_id
        self._names = [
            (topic.name, index)
            for topic in context.image.topics.values()
            for index, state in enumerate(topic.partitions)
            if me in state.replicas
        ]
        leaders = [self.session.reactor.lookup(partition_address(*name)) for name in self._names]
        self.expect(len(leaders))
        if not leaders:
            self.complete()
        for index, leader in enumerate(leaders):
            if leader is None:
                self._cannot_say(index, "no actor serves this partition at the moment")
            else:
                leader.tell(DescribeDir(self.session.actor_ref, self, index))

    def on_refusal(self, refusal: Refusal) -> None:
        """Say of one partition why it has no figures."""
        self._cannot_say(refusal.index, refusal.error.message)

    def _cannot_say(self, index: int, why: str) -> None:
        self.on_answer(Answer(self, index, PartitionDirInfo(*self._names[index], 0, -1, -1, -1, 0, why)))

    def complete(self) -> None:
        """Reply with the results."""
        context = self.session.context
        total, usable = context.disk.space(context.config.data_dir)
        self.reply(DescribeLogDirsReply(0, context.config.data_dir, total, usable, self.results))


class MetadataCall(Call):
    """Describe the cluster, after creating the topics that are missing, if that is wanted and allowed."""

    def __init__(self, session: CallOwner, request: MetadataRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self._topics = request.topics
        self._may_create = request.allow_auto_topic_creation and session.context.config.auto_create_topics_enable
        self._errors: dict[str, tuple[int, str | None]] = {}

    def start(self) -> None:
        """Create what is missing, or reply at once."""
        image = self.session.context.image
        asked = () if self._topics is None else self._topics
        missing = [name for name in asked if name not in image.topics and name not in INTERNAL_TOPICS]
        if missing and self._may_create:
            wanted = [NewTopic(name) for name in dict.fromkeys(missing)]
            ask_controller(self.session, self, CreateTopicsRequest(wanted, int(DEFAULT_TIMEOUT_MS)))
        else:
            self._describe()

    def on_answer(self, answer: Answer) -> None:
        """Reply, now that the topics are there; one that another client created meanwhile is no error."""
        assert isinstance(answer.body, TopicsReply)
        self._errors = {
            result.topic: (result.error_code, result.error_message)
            for result in answer.body.topics
            if result.error_code
        }
        self._describe()

    def on_refusal(self, refusal: Refusal) -> None:
        """Describe what there is; the topics that could not be created have the reason."""
        error = refusal.error
        missing = set(self._topics or ()) - self.session.context.image.topics.keys()
        self._errors = dict.fromkeys(missing, (error.code, error.message))
        self._describe()

    def _describe(self) -> None:
        context = self.session.context
        image = context.image
        names = list(image.topics) if self._topics is None else list(dict.fromkeys(self._topics))
        self.reply(
            MetadataReply(
                cluster_id=context.cluster_id,
                controller_id=context.controller_id,
                brokers=[
                    BrokerInfo(node.node_id, node.host, node.port, node.rack)
                    for node in image.nodes.values()
                    if not node.fenced
                ],
                topics=[self._describe_topic(name, image.topics.get(name)) for name in names],
            )
        )

    def _describe_topic(self, name: str, topic: TopicImage | None) -> TopicInfo:
        if topic is None:
            code, message = self._errors.get(name) or _why_missing(name)
            return TopicInfo(name, code, message)
        partitions = [
            PartitionInfo(
                index, state.leader, state.leader_epoch, list(state.replicas), list(state.isr), 0, list(state.elr)
            )
            for index, state in enumerate(topic.partitions)
        ]
        return TopicInfo(name, 0, None, topic.topic_id, name.startswith("__"), partitions)


def _why_missing(name: str) -> tuple[int, str]:
    try:
        check_topic_name(name)
    except InvalidTopicError as error:
        return error.code, error.message
    return UnknownTopicOrPartitionError.code, f"there is no topic {name!r}"


class DescribeConfigsCall(Call):
    """Read settings."""

    def __init__(self, session: CallOwner, request: DescribeConfigsRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self._resources = request.resources

    def start(self) -> None:
        """Reply from the image and the broker's own settings."""
        self.reply(DescribeConfigsReply([self._describe(entry.type, entry.name) for entry in self._resources]))

    def _describe(self, resource_type: int, name: str) -> ResourceConfigs:
        context = self.session.context
        overrides = context.image.config_of(resource_type, name)
        if resource_type == CLIENT_RESOURCE:
            configs = [ConfigValue(key, value, "client", "Bytes a second.") for key, value in overrides.items()]
            return ResourceConfigs(resource_type, name, configs=configs)
        if resource_type == TOPIC_RESOURCE and name in context.image.topics:
            replicas = target_replicas(context.image.topics[name].partitions[0])
            unchanged = unchanged_defaults(context.config, overrides, len(replicas))
            entries = topic_entries(context.config, overrides, unchanged)
        elif resource_type == GROUP_RESOURCE and name:
            entries = group_entries(context.config.group_defaults, overrides)
        elif resource_type == BROKER_RESOURCE and name == str(context.config.node_id):
            entries = broker_entries(context.config)
        elif resource_type == BROKER_RESOURCE and not name:
            entries = cluster_entries(context.config, overrides)
        else:
            code, message = _no_such_resource(resource_type, name, context.config.node_id)
            return ResourceConfigs(resource_type, name, code, message)
        configs = [
            ConfigValue(entry.setting.name, value_text(entry.value), entry.source, entry.setting.doc)
            for entry in entries
        ]
        return ResourceConfigs(resource_type, name, configs=configs)


def _no_such_resource(resource_type: int, name: str, node_id: int) -> tuple[int, str]:
    if resource_type == TOPIC_RESOURCE:
        return _why_missing(name)
    if resource_type == BROKER_RESOURCE:
        return (
            InvalidRequestError.code,
            f"this is node {node_id}, which knows its own settings only, not those of {name!r}",
        )
    return InvalidRequestError.code, f"{resource_type} is no type of resource that has settings"


class StatusCall(Call):
    """Tell how the node is."""

    def start(self) -> None:
        """Reply with the counters."""
        context = self.session.context
        counters = {
            **context.counters,
            "requests-open": context.open_requests,
            "bytes-queued": context.queued_bytes,
            "bytes-unsent": context.unsent_bytes,
            "topics": len(context.image.topics),
            "partitions": context.image.partitions_count,
        }
        self.reply(
            NodeStatusReply(
                node_id=context.config.node_id,
                cluster_id=context.cluster_id,
                version=VERSION,
                uptime_ms=int(context.clock.monotonic_ms() - context.started_ms),
                pid=context.pid,
                counters=sorted(counters.items()),
            )
        )


_CALLS: dict[type[Request], Callable[[CallOwner, Any, int, int], Call]] = {
    FetchRequest: FetchCall,
    MetadataRequest: MetadataCall,
    DescribeConfigsRequest: DescribeConfigsCall,
    DescribeLogDirsRequest: LogDirsCall,
    NodeStatusRequest: StatusCall,
    ListOffsetsRequest: ListOffsetsCall,
    DeleteRecordsRequest: DeleteRecordsCall,
    OffsetForLeaderEpochRequest: EpochEndCall,
    CreateTopicsRequest: ControllerRequestCall,
    DeleteTopicsRequest: ControllerRequestCall,
    CreatePartitionsRequest: ControllerRequestCall,
    AlterConfigsRequest: ControllerRequestCall,
    RegisterNodeRequest: ControllerRequestCall,
    HeartbeatNodeRequest: ControllerRequestCall,
    JoinClusterRequest: ControllerRequestCall,
    AlterPartitionRequest: ControllerRequestCall,
    **dict.fromkeys(CLUSTER_REQUESTS, ControllerRequestCall),
    **GROUP_CALLS,
    **PEER_CALLS,
    **TRANSACTION_CALLS,
}


def open_call(session: CallOwner, request: Request, correlation_id: int, size: int, frames: list[bytes]) -> Call:
    """Make the call for a request. Raises a BrokerError if the request contradicts itself."""
    if isinstance(request, ProduceRequest):
        return ProduceCall(session, request, correlation_id, size, frames)
    return _CALLS[type(request)](session, request, correlation_id, size)
