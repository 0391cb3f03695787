"""What actors say to one another about other nodes: questions to them, the quorum, and replication."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .commands import Answer, Command, ControllerCall, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..errors import BrokerError
    from ..quorum.image import MetadataImage
    from ..quorum.records import MetadataRecord
    from ..transport.message_base import Request
    from ..transport.network import LinkState
    from ..transport.peer_messages import ReplicaPosition, ReplicaState
    from .commands import Ref


# ---- to Peers


class KnownNodes(Message):
    """The nodes of the cluster, each with the host and port that it is reached at; Peers keeps a link to each."""

    nodes: dict[int, tuple[str, int]]
    are_hints: bool = False
    """Found out by asking some node: while this node reads the metadata, what those say may be older."""


class UnknownCaller(Message):
    """A node of the cluster has called that there is no link to: the metadata here may be older than its registration.

    If it leads the quorum, newer ones are only to be had from it.
    """

    node_id: int
    host: str
    port: int


# ---- to a PeerLink actor, and from it


class AskPeer(Command):
    """Send a request to the node at the other end; answered with a PeerAnswer, or a Refusal.

    The Refusal has the error that the node answered for the whole request, NetworkError if the connection is down or
    broke (whether the request took effect is unknown then), RequestTimedOutError if no answer came in time.
    """

    request: Request
    frames: list[bytes] = msgspec.field(default_factory=list)
    timeout_ms: float = 30_000.0


class PeerAnswer(Answer):
    """The reply of another node, and the frames that followed it."""

    frames: list[bytes] = msgspec.field(default_factory=list)


class PeerChanged(Message):
    """The link to a node has changed; told to the controller, the quorum, and the fetcher of that node."""

    node_id: int
    state: LinkState


# ---- the quorum and the controller


class QuorumCall(Command):
    """A request that the metadata quorum answers, of another node or of a client; the answer is a PeerAnswer."""

    request: Request


class AppendMetadata(Message):
    """Append one decision's records as one batch; only of the controller that leads in this epoch.

    Told back: MetadataCommitted. A decision that does not rest on the image that the quorum has told last is void: the
    controller is yet to hear of that one.
    """

    epoch: int
    records: list[MetadataRecord]
    offset: int
    """Where the first record stands."""
    basis: int
    """Which image the decision rests on, with all that was appended since: that of the StartLeading or AppendRefused
    with this number. The offset alone would not do: a record of the quorum may take the place of one that is void,
    and what was decided after that one would fit again."""


class AppendRefused(Message):
    """The leader's disk takes no more (it is full), from the end of this image on: what was decided past it is void.

    Told the controller, which goes on from this image as long as it leads.
    """

    epoch: int
    image: MetadataImage
    basis: int
    error: BrokerError


class StartLeading(Message):
    """This node leads the quorum in an epoch; the image holds all that is in the log, committed or not.

    Told again in the same epoch when the quorum has appended a SetVoters of its own, which is the image's last record.
    """

    epoch: int
    image: MetadataImage
    basis: int
    """The image's number: no two that a quorum tells of have the same."""


class QuorumLeader(Message):
    """Who leads the quorum, as far as this node knows; -1: nobody. Another node or a later epoch ends our own lead."""

    leader_id: int
    epoch: int


class MetadataCommitted(Message):
    """All metadata below this offset is committed, says the quorum to its leader's controller."""

    epoch: int
    offset: int


class ImageApplied(Message):
    """This node's actors agree with the metadata below this offset; told to its controller and its membership."""

    offset: int


class ShutDown(Message):
    """The node is about to stop: give up its leaders first. on_done is called once, when that is done or too late."""

    deadline_ms: float
    """By the monotonic clock."""
    on_done: Callable[[], object]
    siblings: Sequence[int] = ()
    """Nodes that stop at the same time."""


class ForwardedCall(ControllerCall):
    """A ControllerCall that another node has passed on: this node decides about it or refuses with NOT_CONTROLLER."""


class ControllerAnswer(Answer):
    """The answer to a ControllerCall, with the end of the metadata that it was decided from and made."""

    metadata_offset: int = -1


# ---- replication: a ReplicaServer (for one follower node) and the leaders of partitions


class FollowerAt(Message):
    """A follower has the log up to here, flushed if it has to be, and waits for more; stands until the next one.

    The leader says FollowerReady as soon as there is something past fetch_offset (or FollowerData at once, for an error
    or a log that has parted), and FollowerNews whenever its high watermark or log start has changed.
    """

    reply_to: Ref
    node_id: int
    node_epoch: int
    leader_epoch: int
    fetch_offset: int
    last_fetched_epoch: int
    topic_id: str = ""
    log_start: int = -1
    damaged: bool = False


class FollowerReady(Message):
    """There is something to read for the follower; said once for each FollowerAt."""

    topic: str
    partition: int


class FollowerRead(Message):
    """Read for a follower from where it is; answered by FollowerData, once."""

    reply_to: Ref
    node_id: int
    max_bytes: int


class FollowerData(Message):
    """Batches for a follower, or an error, or where its log has parted from the leader's."""

    state: ReplicaState
    data: bytes


class FollowerNews(Message):
    """The leader's high watermark or log start has moved; told with the next reply, not worth one of its own."""

    topic: str
    partition: int
    leader_epoch: int
    high_watermark: int
    log_start_offset: int


class FollowerGone(Message):
    """The follower does not ask for this partition any more."""

    node_id: int


class ReplicaFetchCommand(Command):
    """A ReplicaFetchRequest of a follower node, to its ReplicaServer; the answer is a PeerAnswer."""

    request: Request


# ---- replication: a ReplicaFetcher (of one leader node) and the followers of partitions


class Follow(Message):
    """Fetch a partition from here on. Also the follower's one answer to each Replicated, once it is taken (flushed)."""

    position: ReplicaPosition


class Unfollow(Message):
    """Fetch a partition no more: another leader, or the follower has to wait after an error."""

    topic: str
    partition: int


class Replicated(Message):
    """What the leader says of a followed partition; answered with Follow or Unfollow, possibly later.

    A follower that has told another position since does not heed it: it was for the position before. News alone, of the
    high watermark and the log's start, hold for any position of their leader epoch, and are not answered.
    """

    state: ReplicaState
    data: bytes
    position: ReplicaPosition
    """The follower's position, as the fetcher knows it."""

    @property
    def is_news(self) -> bool:
        """Whether there are neither batches, nor an error, nor word that the logs have parted."""
        return not (self.data or self.state.error_code or self.state.diverging_end >= 0)


class NodeCalled(Message):
    """A node has called, and said where it is reached."""

    host: str
    port: int


class NodeActive(Message):
    """This node is registered, knows the metadata, and is not fenced: what it does not know is not there."""
