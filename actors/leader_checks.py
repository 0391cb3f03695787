"""What a leader asks of a request before it looks at its records, and which offset a time stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    FencedLeaderEpochError,
    NotEnoughReplicasError,
    OffsetOutOfRangeError,
    UnknownLeaderEpochError,
    error_for,
)
from ..transport.messages import EARLIEST, LATEST, MAX_TIMESTAMP
from ..transport.peer_messages import AlterPartitionReply
from .commands import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..errors import BrokerError
    from ..log.partition_log import PartitionLog
    from ..transport.peer_messages import PartitionChanged
    from .commands import Answer, Read
    from .context import NodeContext


def check_leader_epoch(name: str, mine: int, asked: int) -> None:
    """Refuse a client whose leader epoch is not this leader's; -1: it did not say."""
    if asked != -1:
        check_followed_epoch(name, mine, asked)


def check_followed_epoch(name: str, mine: int, asked: int) -> None:
    """Refuse a follower of another leader epoch than this leader's: it always has to say."""
    if asked == mine:
        return
    if asked < mine:
        message = f"{name} has leader epoch {mine} and the request has the older {asked}: refresh the metadata"
        raise FencedLeaderEpochError(message)
    message = f"{name} has leader epoch {mine} on this node and the request has the newer {asked}: try again"
    raise UnknownLeaderEpochError(message)


def check_in_sync(name: str, in_sync: int, needed: int) -> None:
    """Refuse acks=all while fewer replicas are in sync than min.insync.replicas asks for."""
    if in_sync < needed:
        message = f"{name} has {in_sync} replicas in sync and min.insync.replicas={needed}: nothing was appended"
        raise NotEnoughReplicasError(message)


def nearer_replica(context: NodeContext, isr: tuple[int, ...], offsets: Mapping[int, int], command: Read) -> int:
    """A follower in sync in the client's rack that has what it wants to read; -1: none, or the leader is as near."""
    nodes = context.image.nodes
    own = nodes.get(context.config.node_id)
    if own is None or own.rack == command.rack:
        return -1
    for node_id in isr:
        node = nodes.get(node_id)
        if node is not None and node.rack == command.rack and not node.fenced and node_id in offsets:
            return node_id if offsets[node_id] >= command.offset else -1
    return -1


def isr_result(message: Answer | Refusal) -> PartitionChanged | BrokerError:
    """What the controller says of the ISR that a leader has asked for."""
    if isinstance(message, Refusal):
        return message.error
    assert isinstance(message.body, AlterPartitionReply)
    (result,) = message.body.partitions
    return error_for(result.error_code, result.error_message) if result.error_code else result


def offset_for(log: PartitionLog, end: int, leader_epoch: int, timestamp: int) -> tuple[int, int, int]:
    """Offset, timestamp and leader epoch for a time of ListOffsets; all -1 where no readable record is that young.

    end: up to where a client reads, the high watermark or the last stable offset.
    """
    if timestamp == LATEST:
        return end, -1, leader_epoch
    if timestamp == EARLIEST:
        return log.log_start_offset, -1, leader_epoch
    if timestamp == MAX_TIMESTAMP:
        found = log.offset_of_max_timestamp()
    elif timestamp >= 0:
        found = log.offset_for_timestamp(timestamp)
    else:
        message = f"{timestamp} is no time: a time in ms is 0 or later, and -1, -2, -3 are latest, earliest, newest"
        raise OffsetOutOfRangeError(message)
    if found is None or found[0] >= end:
        return -1, -1, -1
    return found
