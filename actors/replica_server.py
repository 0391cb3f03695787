"""ReplicaServer: serves one follower node's fetches of all partitions that this node leads for it.

    position told (FollowerAt) --FollowerReady--> ready --FollowerRead--> reading --FollowerData--> answered
          |                                                                                         ^  |
          `--------------------- FollowerData: an error, or the logs have parted -------------------'  |
          ^                                                                                            |
          `------------------------------- the follower's next position -------------------------------'

A position stands until it is answered by data, an error, or word that the logs have parted: then the follower says anew
where it is, be it the same. News of the high watermark or the log's start answer nothing. So a fetch costs what has
changed since the one before, however many partitions there are (KIP-227).

The leader of a partition answers each read once, with an error if its role or its life ends first. Until then the
partition is not told of a newer position, so that nobody takes data for one position as the answer to another.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Any

from ..errors import (
    BrokerError,
    BrokerIdNotRegisteredError,
    BrokerNotAvailableError,
    FetchSessionIdNotFoundError,
    InvalidFetchSessionEpochError,
    StaleBrokerEpochError,
    UnknownServerError,
)
from ..transport.peer_messages import ReplicaFetchReply, ReplicaFetchRequest, ReplicaState
from .actor import ReactorActor
from .calls import not_here
from .commands import EndWait, Refusal, tell_back
from .context import partition_address
from .peer_commands import (
    FollowerAt,
    FollowerData,
    FollowerGone,
    FollowerNews,
    FollowerRead,
    FollowerReady,
    PeerAnswer,
    ReplicaFetchCommand,
)

if TYPE_CHECKING:
    from ..transport.peer_messages import ReplicaPosition
    from .commands import Message
    from .context import NodeContext
    from .timers import Timer

logger = logging.getLogger(__name__)

Key = tuple[str, int]
"""Topic and partition."""

SESSION_BITS = 32
"""Lower bits of a session's id, which count the sessions of one fetcher; the upper ones tell fetchers apart."""


def _is_word(state: ReplicaState) -> bool:
    """Whether a partition says something else than how far its log goes: an error, or that the logs have parted."""
    return state.error_code != 0 or state.diverging_end >= 0


class _Stage(Enum):
    TOLD = "told"
    READY = "ready"
    READING = "reading"
    ANSWERED = "answered"


class _Entry:
    """A partition of the session."""

    __slots__ = ("newer", "news", "position", "reserved", "stage", "was_empty")

    def __init__(self, position: ReplicaPosition) -> None:
        self.position: ReplicaPosition | None = position
        """None: forgotten, while a read is under way."""
        self.stage = _Stage.TOLD
        self.newer = False
        """The position has changed since the read that is under way was sent."""
        self.reserved = 0
        """Bytes that the read under way may bring."""
        self.was_empty = False
        """A read of this position has found nothing."""
        self.news: FollowerNews | None = None
        """The latest, in case that the reply with it is lost."""


class ReplicaServer(ReactorActor):
    """Where one follower node's fetches are served."""

    def __init__(self, context: NodeContext, node_id: int) -> None:
        super().__init__()
        self.context = context
        self.node_id = node_id
        self._node_epoch = -1
        self._session = 0
        self._next_number = 0
        self._entries: dict[Key, _Entry] = {}
        self._ready: dict[Key, None] = {}
        """Partitions that have something to read, the longest waiting first."""
        self._reading = 0
        """Reads under way."""
        self._states: list[ReplicaState] = []
        self._frames: list[bytes] = []
        self._news: dict[Key, FollowerNews] = {}
        self._held: ReplicaFetchCommand | None = None
        """The request that is to be answered."""
        self._max_bytes = 0
        """What its answer may hold."""
        self._bytes = 0
        """What is there for it."""
        self._reserved = 0
        """What reads under way may bring."""
        self._is_due = False
        """Its time is up."""
        self._timer: Timer | None = None

    # ---- messages

    def on_receive(self, message: Any) -> None:
        """Handle one message; what a turn brings together is answered together."""
        match message:
            case FollowerReady():
                self._on_ready((message.topic, message.partition))
            case FollowerData():
                self._on_data(message)
            case FollowerNews():
                self._on_news(message)
            case ReplicaFetchCommand():
                self._fetch(message)
            case EndWait():
                self._is_due = self._is_due or self._held is message.call
            case _:
                assert False, f"{self.address} got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def on_turn_end(self) -> None:
        """Read what the request has room for; answer it once there is something, or its time is up."""
        if self._held is None:
            return
        while self._ready and (self._room > 0 or not (self._states or self._reading)):
            self._read(next(iter(self._ready)))
        if self._reading == 0 and (self._states or self._is_due):
            self._answer()

    @property
    def _room(self) -> int:
        return self._max_bytes - self._bytes - self._reserved

    # ---- requests

    def _fetch(self, command: ReplicaFetchCommand) -> None:
        request = command.request
        assert isinstance(request, ReplicaFetchRequest)
        try:
            self._check_node(request)
            self._check_session(request)
        except BrokerError as error:
            logger.info("a fetch of node %d is refused: %s: %s", self.node_id, error.name, error.message)
            self._refuse(command, error)
            return
        if request.number == 0:
            self._begin(request)
        elif self._held is not None:
            self._answer()  # the next request has something new to say, and takes over
        self._next_number = request.number + 1
        for topic, partition in request.forgotten:
            self._forget((topic, partition))
        for position in request.changed:
            self._move(position)
        self._hold(command, request)

    def _check_node(self, request: ReplicaFetchRequest) -> None:
        node = self.context.image.nodes.get(self.node_id)
        if node is None:
            message = f"node {self.node_id} is not registered, as far as node {self.context.config.node_id} knows"
            raise BrokerIdNotRegisteredError(message)
        if request.node_epoch < node.epoch:
            message = (
                f"node {self.node_id} has registered anew since epoch {request.node_epoch}: its epoch is {node.epoch}"
            )
            raise StaleBrokerEpochError(message)
        if request.node_epoch > node.epoch:
            message = (
                f"node {self.node_id} says that its epoch is {request.node_epoch}, and node"
                f" {self.context.config.node_id} does not know of one after {node.epoch} yet"
            )
            raise BrokerIdNotRegisteredError(message)

    def _check_session(self, request: ReplicaFetchRequest) -> None:
        if request.number == 0:
            same_fetcher = request.session >> SESSION_BITS == self._session >> SESSION_BITS
            if same_fetcher and request.session <= self._session:
                message = f"session {request.session} is over: {self._session} has begun since"
                raise InvalidFetchSessionEpochError(message)
        elif request.session != self._session or request.node_epoch != self._node_epoch:
            message = f"node {self.context.config.node_id} knows no session {request.session} of node {self.node_id}"
            raise FetchSessionIdNotFoundError(message)
        elif request.number != self._next_number:
            message = f"request {request.number} of session {request.session} came when {self._next_number} was next"
            raise InvalidFetchSessionEpochError(message)

    def _begin(self, request: ReplicaFetchRequest) -> None:
        """Begin a session: whatever the old one still had to say is void, as its follower has given it up."""
        held = self._release()
        if held is not None:
            message = f"session {request.session} has taken the place of {self._session}"
            self._refuse(held, InvalidFetchSessionEpochError(message))
        self._session, self._node_epoch = request.session, request.node_epoch
        self._states, self._frames, self._bytes = [], [], 0
        self._news.clear()
        followed = {(position.topic, position.partition): position.leader_epoch for position in request.changed}
        for key, entry in list(self._entries.items()):
            if key not in followed:
                self._forget(key)
            elif entry.news is not None and entry.news.leader_epoch == followed[key]:
                self._news[key] = entry.news

    def _hold(self, command: ReplicaFetchCommand, request: ReplicaFetchRequest) -> None:
        self._held = command
        self._max_bytes = request.max_bytes
        self._is_due = request.max_wait_ms == 0
        if not self._is_due:
            tell, address, over = self.reactor.tell, self.address, EndWait(command)
            self._timer = self.reactor.call_later(request.max_wait_ms, lambda: tell(address, over))

    def _release(self) -> ReplicaFetchCommand | None:
        held, self._held = self._held, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return held

    def _answer(self) -> None:
        """Answer the request with what is there, and with all news."""
        held = self._release()
        assert held is not None, "an answer without a request"
        states, frames = self._states, self._frames
        self._states, self._frames, self._bytes = [], [], 0
        for state in states:
            later = self._news.pop((state.topic, state.partition), None)
            if later is not None and not _is_word(state):
                state.high_watermark, state.log_start_offset = later.high_watermark, later.log_start_offset
        for news in self._news.values():
            states.append(
                ReplicaState(
                    news.topic,
                    news.partition,
                    leader_epoch=news.leader_epoch,
                    high_watermark=news.high_watermark,
                    log_start_offset=news.log_start_offset,
                )
            )
            frames.append(b"")
        self._news = {}
        body = ReplicaFetchReply(states)
        tell_back(held.reply_to, PeerAnswer(held.call, held.index, body, frames=frames))

    @staticmethod
    def _refuse(command: ReplicaFetchCommand, error: BrokerError) -> None:
        tell_back(command.reply_to, Refusal(command.call, command.index, error))

    # ---- positions

    def _move(self, position: ReplicaPosition) -> None:
        """The follower says where it is in a partition."""
        key = (position.topic, position.partition)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(position)
        entry.position = position
        entry.was_empty = False
        if entry.stage is _Stage.READING:
            entry.newer = True
        else:
            self._tell_position(key, entry)

    def _tell_position(self, key: Key, entry: _Entry) -> None:
        position = entry.position
        assert position is not None, f"a follower has no position in {key}"
        assert entry.stage is not _Stage.READING, f"a position in {key} is told while it is read"
        entry.stage, entry.newer = _Stage.TOLD, False
        self._ready.pop(key, None)
        told = self._tell_partition(
            key,
            FollowerAt(
                self.actor_ref,
                self.node_id,
                self._node_epoch,
                position.leader_epoch,
                position.fetch_offset,
                position.last_fetched_epoch,
                position.topic_id,
                position.log_start,
                position.damaged,
            ),
        )
        if not told:
            self._not_here(key, entry)

    def _forget(self, key: Key) -> None:
        entry = self._entries.get(key)
        if entry is None or entry.position is None:
            return
        entry.position = None
        self._news.pop(key, None)
        self._ready.pop(key, None)
        if entry.stage is not _Stage.READING:
            del self._entries[key]
        self._tell_partition(key, FollowerGone(self.node_id))

    # ---- what partitions say

    def _on_ready(self, key: Key) -> None:
        entry = self._entries.get(key)
        if entry is not None and entry.stage is _Stage.TOLD:
            entry.stage = _Stage.READY
            self._ready[key] = None

    def _read(self, key: Key) -> None:
        del self._ready[key]
        entry = self._entries[key]
        entry.stage = _Stage.READING
        size = max(1, min(self.context.config.replica_fetch_max_bytes, self._room))
        if not self._tell_partition(key, FollowerRead(self.actor_ref, self.node_id, size)):
            self._not_here(key, entry)
            return
        self._reading += 1
        entry.reserved = size
        self._reserved += size

    def _on_data(self, message: FollowerData) -> None:
        state, data = message.state, message.data
        key = (state.topic, state.partition)
        entry = self._entries.get(key)
        if entry is None or entry.stage is _Stage.ANSWERED:
            return  # the follower has left the partition, or will say anew where it is, and hear then
        is_word = _is_word(state)
        if entry.stage is _Stage.READING:
            self._reading -= 1
            self._reserved -= entry.reserved
            entry.stage = _Stage.TOLD
            if entry.position is None:
                del self._entries[key]
            elif entry.newer:
                self._tell_position(key, entry)
            elif data or is_word:
                self._answered(key, entry, state, data)
            else:
                self._read_nothing(key, entry)
        elif is_word:
            self._answered(key, entry, state, b"")

    def _read_nothing(self, key: Key, entry: _Entry) -> None:
        """There was nothing to read: what made the partition ready was past the position that it had before."""
        if entry.was_empty:
            error = UnknownServerError(f"{key[0]}-{key[1]} is said to have more, and has not")
            self._fail_entry(key, entry, error)
            return
        entry.was_empty = True
        self._tell_position(key, entry)

    def _answered(self, key: Key, entry: _Entry, state: ReplicaState, data: bytes) -> None:
        assert entry.position is not None, f"an answer for {key}, which the follower does not follow"
        entry.stage = _Stage.ANSWERED
        self._ready.pop(key, None)
        if not _is_word(state):
            self._news.pop(key, None)  # the state is newer
            entry.news = FollowerNews(*key, state.leader_epoch, state.high_watermark, state.log_start_offset)
        self._states.append(state)
        self._frames.append(data)
        self._bytes += len(data)

    def _fail_entry(self, key: Key, entry: _Entry, error: BrokerError) -> None:
        self._answered(key, entry, ReplicaState(*key, error.code, error.message), b"")

    def _not_here(self, key: Key, entry: _Entry) -> None:
        self._fail_entry(key, entry, not_here(self.context, *key))

    def _on_news(self, news: FollowerNews) -> None:
        key = (news.topic, news.partition)
        entry = self._entries.get(key)
        if entry is not None and entry.position is not None and entry.position.leader_epoch == news.leader_epoch:
            self._news[key] = entry.news = news

    def _tell_partition(self, key: Key, message: Message) -> bool:
        return self.reactor.tell(partition_address(*key), message)

    # ---- the end

    def on_stop(self) -> None:
        """Let the follower know."""
        self._give_up(BrokerNotAvailableError(f"node {self.context.config.node_id} stops"))

    def on_crash(self, error: BaseException | None) -> None:
        """Let the follower know: it begins a new session."""
        self._give_up(UnknownServerError(f"serving node {self.node_id} failed: {error!r}"))

    def _give_up(self, error: BrokerError) -> None:
        held = self._release()
        for message in (held, *self.actor_inbox.take_told()):
            if isinstance(message, ReplicaFetchCommand):
                self._refuse(message, error)
