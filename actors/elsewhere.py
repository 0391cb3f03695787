"""Elsewhere: commands for the leaders of partitions on other nodes, turned into requests, and the replies into answers.

A coordinator that works on other partitions than its own (a queue reads topics, and writes dead letters) need not know
where they are led.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InvalidRequestError
from ..transport import messages as m
from ..transport.group_messages import TopicPartitionEntry
from ..transport.peer_messages import (
    ClaimGroupRequest,
    ReleaseGroupRequest,
    VerifyTransactionRequest,
    WriteTxnMarkersReply,
    WriteTxnMarkersRequest,
)
from .actor import ReactorActor
from .commands import (
    Answer,
    Append,
    ClaimGroup,
    Command,
    DeleteBefore,
    FindEpochEnd,
    FindOffset,
    Message,
    Read,
    Readable,
    Refusal,
    ReleaseGroup,
    StopWatching,
    VerifyTransaction,
    Watch,
    WriteMarker,
    tell_back,
)
from .peer_commands import AskPeer, PeerAnswer
from .peers import ask_peer

if TYPE_CHECKING:
    from ..transport.message_base import Request
    from .actor import Home
    from .context import NodeContext

ELSEWHERE = "elsewhere"
_BY_PARTITION = (
    m.ProduceReply,
    m.FetchReply,
    m.ListOffsetsReply,
    m.OffsetForLeaderEpochReply,
    m.DeleteRecordsReply,
    WriteTxnMarkersReply,
)
_TIMEOUT_MS = 30_000
_WATCH_MS = 10_000


class AtLeader(Message):
    """A command, or a Watch, for the leader of a partition that another node has."""

    node_id: int
    topic: str
    partition: int
    command: Any


def tell_leader(context: NodeContext, reactor: Home, address: str, command: Message) -> bool:
    """Tell the actor at an address, of the node that leads the partition if it is one of a partition; False: nobody."""
    kind, *rest = address.split("/")
    if kind in ("partition", "coordinator"):
        name, number = rest
        topic = context.image.topics.get(name)
        leader = -1 if topic is None or int(number) >= len(topic.partitions) else topic.partitions[int(number)].leader
        if leader not in (-1, context.config.node_id):
            return reactor.tell(ELSEWHERE, AtLeader(leader, name, int(number), command))
    return reactor.tell(address, command)


class _Asked(NamedTuple):
    command: Any


class Elsewhere(ReactorActor):
    """One for each node."""

    def __init__(self, context: NodeContext) -> None:
        super().__init__()
        self.context = context
        self._numbers = itertools.count()
        self._asked: dict[int, _Asked] = {}

    def on_receive(self, message: Any) -> None:
        """Take a command, or the answer to one."""
        match message:
            case AtLeader():
                self._ask(message)
            case PeerAnswer():
                self._answered(message, self._asked.pop(message.call).command)
            case Refusal():
                self._refused(message, self._asked.pop(message.call).command)
            case _:
                assert False, f"{self} got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def _ask(self, message: AtLeader) -> None:
        command = message.command
        if isinstance(command, StopWatching):
            return  # the watch ends by itself
        request, frames = _request(message)
        number = next(self._numbers)
        self._asked[number] = _Asked(command)
        timeout_ms = _TIMEOUT_MS + _WATCH_MS
        ask_peer(self.reactor, message.node_id, AskPeer(self.actor_ref, number, 0, request, frames, timeout_ms))

    def _answered(self, answer: PeerAnswer, command: Any) -> None:
        if isinstance(command, Watch):
            tell_back(command.reply_to, Readable(command.call, command.index))
            return
        body: Any = answer.body
        if isinstance(body, _BY_PARTITION):
            (body,) = body.partitions
        data = answer.frames[0] if answer.frames else b""
        tell_back(command.reply_to, Answer(command.call, command.index, body, data))

    def _refused(self, refusal: Refusal, command: Any) -> None:
        if isinstance(command, Watch):
            tell_back(command.reply_to, Readable(command.call, command.index))  # reading again says why
        else:
            tell_back(command.reply_to, Refusal(command.call, command.index, refusal.error))

    def on_crash(self, error: BaseException | None) -> None:
        """Tell everybody who waits."""
        why = InvalidRequestError(f"what was asked of another node was lost with an actor of this one: {error!r}")
        for asked in self._asked.values():
            self._refused(Refusal(None, 0, why), asked.command)
        for message in self.actor_inbox.take_told():
            if isinstance(message, AtLeader) and isinstance(message.command, Command | Watch):
                self._refused(Refusal(None, 0, why), message.command)


def _request(message: AtLeader) -> tuple[Request, list[bytes]]:  # noqa: PLR0911 - one for each command
    """The request that does on another node what the command does on this one, and its frames."""
    topic, partition, command = message.topic, message.partition, message.command
    match command:
        case Append():
            entry = m.PartitionData(topic, partition, command.leader_epoch)
            return m.ProduceRequest(command.acks, _TIMEOUT_MS, [entry]), [command.batch]
        case Read():
            size = command.max_bytes
            fetch = m.PartitionFetch(topic, partition, command.offset, size, command.leader_epoch)
            return m.FetchRequest(0, 0, size, [fetch]), []
        case Watch():
            fetch = m.PartitionFetch(topic, partition, command.high_watermark, 1)
            return m.FetchRequest(_WATCH_MS, 1, 1, [fetch]), []
        case FindOffset():
            at = m.PartitionTimestamp(topic, partition, command.timestamp, command.leader_epoch)
            return m.ListOffsetsRequest([at]), []
        case FindEpochEnd():
            epoch = m.PartitionEpoch(topic, partition, command.leader_epoch, command.current_leader_epoch)
            return m.OffsetForLeaderEpochRequest([epoch]), []
        case DeleteBefore():
            return m.DeleteRecordsRequest([m.PartitionDeletion(topic, partition, command.offset)], _TIMEOUT_MS), []
        case WriteMarker():
            where = TopicPartitionEntry(topic, partition)
            identity = (command.producer_id, command.producer_epoch, command.committed, command.coordinator_epoch)
            return WriteTxnMarkersRequest(*identity, command.transaction, [where]), []
        case VerifyTransaction():
            producer = (command.transactional_id, command.producer_id, command.producer_epoch)
            return VerifyTransactionRequest(*producer, command.topic, command.partition), []
        case ClaimGroup():
            return ClaimGroupRequest(command.group_id), []
        case ReleaseGroup():
            return ReleaseGroupRequest(command.group_id), []
        case _:
            assert False, f"{command!r} is not for another node"  # noqa: B011, PT015 - nobody asks that
