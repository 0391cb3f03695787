"""What a request answers that was carried out twice, or late, because a connection was lost or slow. Pure.

The second attempt finds the work done and calls it an error. If the node that sends it did not see the work done when
it was asked, and sees it done exactly as the request wants it, then the request has succeeded, be it by the first
attempt or by somebody who wanted the same at the same time.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

from ..errors import (
    BrokerError,
    BrokerIdNotRegisteredError,
    ConfigError,
    InconsistentTopicIdError,
    InvalidPartitionsError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from ..settings import normalised_overrides
from ..transport.cluster_messages import RemoveNodeRequest
from ..transport.config_messages import TOPIC_RESOURCE
from ..transport.message_base import Body
from ..transport.messages import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    NewTopic,
    TopicResult,
    TopicsReply,
)
from .elections import original_replicas

if TYPE_CHECKING:
    from ..transport.message_base import Request
    from ..transport.messages import PartitionCount
    from .image import MetadataImage

Outcome: TypeAlias = "Body | BrokerError"


_NO_TOPIC_ID = "0" * 32
"""Of a topic that a node does not know: no topic has it."""


def pinned(request: Request, known: MetadataImage) -> Request:
    """The request as it is passed on: one that deletes topics says which ones, not only what they are called.

    It may arrive late, when it has long been repeated, and would delete a topic that was created since.
    """
    if not isinstance(request, DeleteTopicsRequest) or len(request.topic_ids) not in {0, len(request.topics)}:
        return request
    ids = [
        topic_id or (known.topics[name].topic_id if name in known.topics else _NO_TOPIC_ID)
        for name, topic_id in zip_longest(request.topics, request.topic_ids, fillvalue="")
    ]
    return DeleteTopicsRequest(request.topics, request.timeout_ms, ids)


def corrected(
    request: Request, attempts: int, outcome: Outcome, before: MetadataImage, after: MetadataImage
) -> MetadataImage | None:
    """What is to be known for another attempt, if the answered one was about other topics than were meant; else None.

    That is so if the node did not know of a topic that was there when it was asked. One that replaced a topic which an
    earlier attempt may have deleted is left alone, to be asked for.
    """
    if not isinstance(request, DeleteTopicsRequest) or not isinstance(outcome, TopicsReply):
        return None
    topics, is_mistaken = dict(before.topics), False
    for topic_id, result in zip_longest(request.topic_ids, outcome.topics, fillvalue=""):
        if not isinstance(result, TopicResult) or result.error_code != InconsistentTopicIdError.code or topic_id:
            continue
        known, there = before.topics.get(result.topic), after.topics.get(result.topic)
        if attempts > 1 and known is not None and (there is None or there.topic_id != known.topic_id):
            continue
        is_mistaken = True
        topics.pop(result.topic, None)
        if there is not None:
            topics[result.topic] = there
    return replace(before, topics=topics) if is_mistaken else None


def settled(request: Request, outcome: Outcome, before: MetadataImage, after: MetadataImage) -> Outcome:
    """The outcome of a repeated request, by the metadata when it was first sent and now."""
    match request, outcome:
        case (CreateTopicsRequest(), TopicsReply()) if not request.validate_only:
            pairs = zip(request.topics, outcome.topics, strict=True)
            return TopicsReply([_created(wanted, result, before, after) for wanted, result in pairs])
        case (CreatePartitionsRequest(), TopicsReply()) if not request.validate_only:
            pairs_of_counts = zip(request.topics, outcome.topics, strict=True)
            return TopicsReply([_widened(wanted, result, before, after) for wanted, result in pairs_of_counts])
        case (DeleteTopicsRequest(), TopicsReply()):
            return TopicsReply([_deleted(result, before, after) for result in outcome.topics])
        case (RemoveNodeRequest(node_id), BrokerIdNotRegisteredError()) if (
            node_id in before.nodes and node_id not in after.nodes
        ):
            return Body()
        case _:
            return outcome


def _created(wanted: NewTopic, result: TopicResult, before: MetadataImage, after: MetadataImage) -> TopicResult:
    topic, known = after.topics.get(wanted.topic), before.topics.get(wanted.topic)
    if result.error_code != TopicExistsError.code or topic is None or not topic.partitions:
        return result
    if known is not None and known.topic_id == topic.topic_id:  # another one had been deleted since
        return result
    if wanted.assignments:
        as_wanted = [list(original_replicas(state)) for state in topic.partitions] == wanted.assignments
    else:
        factor = len(original_replicas(topic.partitions[0]))
        as_wanted = wanted.partitions in (-1, len(topic.partitions)) and wanted.replication_factor in (-1, factor)
    try:
        overrides = normalised_overrides({key: value for key, value in wanted.configs if value is not None})
    except ConfigError:
        return result
    # Settings that nobody asked for may have been added: min.insync.replicas has a default that depends on the cluster.
    if as_wanted and overrides.items() <= after.config_of(TOPIC_RESOURCE, wanted.topic).items():
        return _success(after, wanted.topic)
    return result


def _widened(wanted: PartitionCount, result: TopicResult, before: MetadataImage, after: MetadataImage) -> TopicResult:
    then, now = before.topics.get(wanted.topic), after.topics.get(wanted.topic)
    if (
        result.error_code == InvalidPartitionsError.code
        and then is not None
        and now is not None
        and then.topic_id == now.topic_id
        and len(then.partitions) < wanted.total == len(now.partitions)
    ):
        return _success(after, wanted.topic)
    return result


def _deleted(result: TopicResult, before: MetadataImage, after: MetadataImage) -> TopicResult:
    """One that is gone was deleted; one that has come in its place may be what was meant, and is left to be asked for.

    Whether that one has come since, or this node did not know of it when it was asked, nobody can say.
    """
    then = before.topics.get(result.topic)
    if result.error_code == UnknownTopicOrPartitionError.code and then is not None and result.topic not in after.topics:
        return TopicResult(result.topic, 0, None, then.topic_id)
    return result


def _success(image: MetadataImage, name: str) -> TopicResult:
    topic = image.topics[name]
    return TopicResult(
        name, 0, None, topic.topic_id, len(topic.partitions), len(original_replicas(topic.partitions[0]))
    )
