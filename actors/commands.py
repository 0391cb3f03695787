"""What the broker's actors say to one another: one class for each message.

A command names the actor that wants the answer and carries that actor's own ``call`` and ``index`` back to it unopened,
so that an answer finds its place without a table. Bodies of answers are the wire's own, from transport/messages.py.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from pykka import ActorDeadError

if TYPE_CHECKING:
    import pykka

    from ..errors import BrokerError
    from ..quorum.image import MetadataImage, PartitionImage
    from ..settings import TopicConfig
    from ..transport.message_base import Body, Request

    Ref = pykka.ActorRef[Any]


class Message(msgspec.Struct, gc=False):
    """Base of all messages between actors."""


class Command(Message):
    """Base of the messages that are answered, each with exactly one Answer or Refusal."""

    reply_to: Ref
    call: Any
    index: int


def tell_back(to: Ref, message: Message) -> None:
    """Tell an actor what it asked for, if it still lives: a session ends with its connection, whatever it waits for."""
    with suppress(ActorDeadError):
        to.tell(message)


class Answer(Message):
    """The answer to a command; data are the batches of a read."""

    call: Any
    index: int
    body: Body
    data: bytes = b""


class Refusal(Message):
    """The answer to a command that its actor cannot carry out, whatever its kind is."""

    call: Any
    index: int
    error: BrokerError


# ---- to a Partition that leads


class Append(Command):
    """Append one batch, as a client sent it. acks is 0, 1 or -1; with 0 nobody reads the answer, which comes anyway."""

    batch: bytes
    acks: int
    leader_epoch: int
    transactional_id: str | None = None


class WriteMarker(Command):
    """End a transaction in a partition: at a leader by a control batch, at a group coordinator by its pending offsets.

    Answered once that is committed, with a body that has an error code and a message.
    """

    producer_id: int
    producer_epoch: int
    committed: bool
    coordinator_epoch: int
    transaction: int


class DescribeProducers(Command):
    """Say which producers have written to the partition; answered with PartitionProducers."""


class Read(Command):
    """Read batches below the high watermark: at most max_bytes, but one batch at least."""

    offset: int
    max_bytes: int
    leader_epoch: int
    rack: str = ""
    """Where the client is, if it may read from a follower near to it (KIP-392)."""
    isolation: int = 0


class Watch(Message):
    """Say Readable as soon as the high watermark is above this one."""

    reply_to: Ref
    call: Any
    index: int
    high_watermark: int


class Readable(Message):
    """A watched partition has more, or will never have: read it again."""

    call: Any
    index: int


class StopWatching(Message):
    """A watch is no longer of interest."""

    call: Any
    index: int


class FindOffset(Command):
    """Find an offset by time; the special times of ListOffsets are allowed."""

    timestamp: int
    leader_epoch: int
    isolation: int = 0


class FindEpochEnd(Command):
    """Find where a leader epoch ends."""

    leader_epoch: int
    current_leader_epoch: int


class DeleteBefore(Command):
    """Move the log start offset forward; -1: to the high watermark."""

    offset: int


class DescribeDir(Command):
    """Describe the partition's log."""


class Maintain(Message):
    """Roll, delete and expire what is old enough."""


class Checkpoint(Message):
    """Flush what is not flushed, so that a recovery need not read it again."""


class Reconfigure(Message):
    """The partition's state or its topic's settings have changed."""

    partition: PartitionImage
    config: TopicConfig


class Retire(Message):
    """The partition was deleted: stop, delete its log, and say Retired."""

    reply_to: Ref


# ---- to the Controller


class ControllerCall(Command):
    """A request that changes metadata; answered when the change is committed and applied on this node."""

    request: Request


# ---- to the MetadataKeeper


class ImageCommitted(Message):
    """The metadata log is committed up to this image."""

    image: MetadataImage


class Retired(Message):
    """A partition's actor is gone, and its log with it."""

    address: str


class AllStarted(Message):
    """Every actor that the first image asks for has had its first turn."""


# ---- to a ClientSession


class Frames(Message):
    """A client's message as it came off the wire."""

    frames: list[bytes]


class Drain(Message):
    """The node stops: answer what waits with what there is."""


# ---- to a coordinator


class CoordinatorCall(Command):
    """A request of a client to the coordinator of its group; answered with the request's own reply."""

    request: Request
    client_id: str


class SharedAnswer(Answer):
    """The answer to a ShareFetch: one frame of batches for each partition of the body."""

    frames: list[bytes] = []


class EndWait(Message):
    """A request that the coordinator holds back shall be answered now with what there is."""

    call: Any


class VerifyTransaction(Command):
    """Ask a transaction's coordinator whether a partition is part of this producer's open transaction (KIP-890).

    Answered with VerifyTransactionReply, or refused with the reason why not.
    """

    transactional_id: str
    producer_id: int
    producer_epoch: int
    topic: str
    partition: int


class ClaimGroup(Command):
    """A ShareCoordinator asks for a group id; refused if it is a consumer group's. The answer is a bare Body."""

    group_id: str


class ReleaseGroup(Command):
    """The share group of this id is gone. The answer is a bare Body."""

    group_id: str


class TopicGone(Message):
    """A topic was deleted: what is known of its partitions is void."""

    topic: str
    topic_id: str
