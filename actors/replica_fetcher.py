"""ReplicaFetcher: fetches from one leader node for all partitions that this node follows there, in one session.

    unsent --request--> standing --reply: data, an error, parted logs--> answered --Follow--> unsent

A partition's position is said once, and stands at the leader until it is answered; so a fetch costs what has changed.
The next request waits for the partitions that were answered, so that it says what they have flushed meanwhile, but not
long: one slow disk does not hold up the others. A request that finds nothing is held by the leader. If there is a new
position to say by then, another request follows at once; the leader answers the first with what it has and holds the
second. Requests are numbered, and each position knows which one has said it: the answers to earlier ones are to earlier
positions, and are dropped. Nothing is lost by that, as the leader waits for the position that it is about to hear.

When anything fails, a new session begins with all positions, after a while, or as soon as the link is up again.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from ..errors import BrokerError, CorruptMessageError, NetworkError, UnknownServerError
from ..transport.config_messages import BROKER_RESOURCE
from ..transport.network import LinkState
from ..transport.peer_messages import ReplicaFetchReply, ReplicaFetchRequest, ReplicaPosition, ReplicaState
from .actor import ReactorActor
from .commands import EndWait, Refusal
from .context import partition_address, peer_address
from .peer_commands import AskPeer, Follow, PeerAnswer, PeerChanged, Replicated, Unfollow
from .quotas import TokenBucket
from .replica_server import SESSION_BITS

if TYPE_CHECKING:
    from .context import NodeContext
    from .replica_server import Key
    from .timers import Timer

logger = logging.getLogger(__name__)

REST_MS_MIN: Final = 20.0
REST_MS_MAX: Final = 500.0
"""How long to wait after a failure: longer with each one in a row."""

FLUSH_WAIT_MS: Final = 50.0
"""How long the next request waits for the partitions that were answered."""

REPLY_MS: Final = 5_000.0
"""How long a reply may take after the leader's wait."""

RATE_CHECK_MS: Final = 1_000.0
"""How soon a partition that was held back goes on once there is no limit any more."""

REQUESTS_MAX: Final = 2
"""Requests under way: one that is held, and one that takes its place."""


class _Stage(Enum):
    UNSENT = "unsent"
    STANDING = "standing"
    ANSWERED = "answered"


class _Alarm(Enum):
    """What a timer was set for."""

    REST = "rest"
    FLUSH = "flush"
    THROTTLE = "throttle"


class _Followed:
    """A partition that is followed."""

    __slots__ = ("number", "position", "stage")

    def __init__(self, position: ReplicaPosition) -> None:
        self.position = position
        self.stage = _Stage.UNSENT
        self.number = -1
        """The request that said the position."""


class ReplicaFetcher(ReactorActor):
    """Fetches from one leader node."""

    def __init__(self, context: NodeContext, leader_id: int) -> None:
        super().__init__()
        self.context = context
        self.leader_id = leader_id
        self._followed: dict[Key, _Followed] = {}
        self._unsent: dict[Key, None] = {}
        self._standing = 0
        """How many positions stand at the leader."""
        self._forgotten: dict[Key, None] = {}
        """Followed no more, and the leader does not know."""
        self._awaited: dict[Key, None] = {}
        """Partitions for whose answer the next request waits."""
        self._last_session = context.random.getrandbits(63 - SESSION_BITS) << SESSION_BITS
        self._session: int | None = None
        self._next_number = 0
        self._under_way: set[int] = set()
        """Numbers of the requests that are not answered."""
        self._resting = False
        self._rest_ms = REST_MS_MIN
        self._timers: dict[_Alarm, Timer] = {}
        self._bucket: TokenBucket | None = None
        self._throttled_until_ms = 0.0

    # ---- messages

    def on_receive(self, message: Any) -> None:
        """Handle one message; the next request is sent at the end of the turn."""
        match message:
            case Follow():
                self._follow(message.position)
            case Unfollow():
                self._unfollow((message.topic, message.partition))
            case PeerAnswer():
                self._on_reply(message)
            case Refusal():
                if self._is_ours(message.call):
                    self._fail(message.error)
            case PeerChanged():
                if message.node_id == self.leader_id and message.state is LinkState.UP:
                    self._rest_ms = REST_MS_MIN
                    self._wake(_Alarm.REST)
            case EndWait():
                self._wake(message.call)
            case _:
                assert False, f"{self.address} got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def on_turn_end(self) -> None:
        """Send the next request if it is time."""
        if self._resting or self._awaited or len(self._under_way) >= REQUESTS_MAX:
            return
        changed = self._to_say()
        if changed or (not self._under_way and self._session is not None and (self._standing or self._forgotten)):
            self._ask(changed)

    # ---- what partitions say

    def _follow(self, position: ReplicaPosition) -> None:
        key = (position.topic, position.partition)
        entry = self._followed.get(key)
        if entry is None:
            self._followed[key] = _Followed(position)
            self._unsent[key] = None
        elif position != entry.position or entry.stage is _Stage.ANSWERED:
            entry.position = position
            self._enter(key, entry, _Stage.UNSENT)

    def _unfollow(self, key: Key) -> None:
        entry = self._followed.get(key)
        if entry is None:
            return
        self._enter(key, entry, _Stage.ANSWERED)
        self._no_more_awaited(key)
        del self._followed[key]
        if self._session is not None:
            self._forgotten[key] = None

    def _enter(self, key: Key, entry: _Followed, stage: _Stage) -> None:
        self._standing += (stage is _Stage.STANDING) - (entry.stage is _Stage.STANDING)
        assert 0 <= self._standing <= len(self._followed), f"{self._standing} of {len(self._followed)} positions stand"
        entry.stage = stage
        if stage is _Stage.UNSENT:
            self._unsent[key] = None
        else:
            self._unsent.pop(key, None)
        if stage is not _Stage.ANSWERED:
            self._no_more_awaited(key)

    def _no_more_awaited(self, key: Key) -> None:
        if key in self._awaited:
            del self._awaited[key]
            if not self._awaited:
                self._cancel(_Alarm.FLUSH)

    # ---- requests

    def _to_say(self) -> list[Key]:
        """The partitions whose positions the next request says; not those being added, while their rate is used up."""
        now_ms = self.context.clock.monotonic_ms()
        if now_ms >= self._throttled_until_ms or self._rate() == 0:
            return list(self._unsent)
        keys = [key for key in self._unsent if not self._is_being_added(key)]
        if len(keys) < len(self._unsent) and _Alarm.THROTTLE not in self._timers:
            self._set(_Alarm.THROTTLE, min(self._throttled_until_ms - now_ms, RATE_CHECK_MS))
        return keys

    def _ask(self, changed: list[Key]) -> None:
        context, config = self.context, self.context.config
        if context.node_epoch == -1:
            self._rest()  # the leader serves registered nodes only
            return
        if self._session is None:
            self._last_session = self._session = self._last_session + 1
            self._next_number = 0
        number = self._next_number
        self._next_number += 1
        for key in changed:
            entry = self._followed[key]
            entry.number = number
            self._enter(key, entry, _Stage.STANDING)
        request = ReplicaFetchRequest(
            config.node_id,
            context.node_epoch,
            self._session,
            number,
            config.replica_fetch_wait_max_ms,
            config.replica_fetch_response_max_bytes,
            [self._followed[key].position for key in changed],
            list(self._forgotten),
        )
        self._forgotten.clear()
        self._under_way.add(number)
        call, timeout_ms = (self._session, number), config.replica_fetch_wait_max_ms + REPLY_MS
        ask = AskPeer(self.actor_ref, call, 0, request, timeout_ms=timeout_ms)
        if not self.reactor.tell(peer_address(self.leader_id), ask):
            self._fail(NetworkError(f"there is no link to node {self.leader_id}"))

    def _is_ours(self, call: tuple[int, int]) -> bool:
        """Whether an answer is to a request of this session; the others were given up with theirs."""
        session, number = call
        return session == self._session and number in self._under_way

    def _fail(self, error: BrokerError) -> None:
        """End the session; what the leader had still to say is for positions that it will hear again."""
        logger.info(
            "fetching from node %d begins anew in %d ms: %s: %s",
            *(self.leader_id, self._rest_ms, error.name, error.message),
        )
        self.context.counters["replica-fetch-sessions-failed"] += 1
        self._session = None
        self._under_way.clear()
        self._forgotten.clear()
        for key, entry in self._followed.items():
            if entry.stage is _Stage.STANDING:
                self._enter(key, entry, _Stage.UNSENT)
        self._rest()

    def _rest(self) -> None:
        self._resting = True
        self._set(_Alarm.REST, self._rest_ms)
        self._rest_ms = min(2 * self._rest_ms, REST_MS_MAX)

    # ---- replies

    def _on_reply(self, answer: PeerAnswer) -> None:
        if not self._is_ours(answer.call):
            return
        reply, frames = answer.body, answer.frames
        if not isinstance(reply, ReplicaFetchReply) or len(reply.partitions) != len(frames):
            self._fail(CorruptMessageError(f"node {self.leader_id} answers a fetch with {reply!r:.200}"))
            return
        _, number = answer.call
        self._under_way.remove(number)
        self._rest_ms = REST_MS_MIN
        for state, data in zip(reply.partitions, frames, strict=True):
            self._take(state, data, number)
        if self._awaited:
            self._set(_Alarm.FLUSH, FLUSH_WAIT_MS)

    def _take(self, state: ReplicaState, data: bytes, number: int) -> None:
        """Take in what a reply says of one partition."""
        key = (state.topic, state.partition)
        entry = self._followed.get(key)
        if entry is None:
            return
        message = Replicated(state, data, entry.position)
        is_of_its_epoch = state.leader_epoch == entry.position.leader_epoch
        if message.is_news:
            if is_of_its_epoch:
                self._hand_over(key, message)
            return
        if entry.stage is not _Stage.STANDING or number < entry.number:
            return  # it answers a position that is not the partition's any more
        if not state.error_code and not is_of_its_epoch:
            logger.warning(
                "node %d answers for %s-%d in leader epoch %d; it was asked in %d",
                *(self.leader_id, *key, state.leader_epoch, entry.position.leader_epoch),
            )
            error = _error(entry.position, "the leader answered in another leader epoch")
            message = Replicated(error, b"", entry.position)
        self._enter(key, entry, _Stage.ANSWERED)
        self._awaited[key] = None
        self._charge(key, len(data))
        self._hand_over(key, message)

    def _hand_over(self, key: Key, message: Replicated) -> None:
        if not self.reactor.tell(partition_address(*key), message):
            logger.info("%s-%d is not here any more, or starts again: it is not followed", *key)
            self._unfollow(key)

    # ---- throttling

    def _is_being_added(self, key: Key) -> bool:
        topic, partition = key
        known = self.context.image.topics.get(topic)
        if known is None or partition >= len(known.partitions):
            return False
        return self.context.config.node_id in known.partitions[partition].adding

    def _rate(self) -> int:
        """What was set for all nodes while they run, else this node's own setting."""
        for_all = self.context.image.config_of(BROKER_RESOURCE, "").get("replication.throttled.rate")
        return self.context.config.replication_throttled_rate if for_all is None else int(for_all)

    def _charge(self, key: Key, size: int) -> None:
        """Count bytes of a partition that is being added here against their rate."""
        rate = self._rate()
        if rate == 0:
            self._bucket, self._throttled_until_ms = None, 0.0
            return
        if size == 0 or not self._is_being_added(key):
            return
        now_ms = self.context.clock.monotonic_ms()
        if self._bucket is None or self._bucket.rate != rate:
            self._bucket = TokenBucket(rate, float(rate), now_ms)
        self._throttled_until_ms = now_ms + self._bucket.charge(size, now_ms)

    # ---- timers

    def _set(self, alarm: _Alarm, delay_ms: float) -> None:
        """Have the actor wake up later, and not at the time that was set before."""
        self._cancel(alarm)
        tell, address = self.reactor.tell, self.address
        self._timers[alarm] = self.reactor.call_later(delay_ms, lambda: tell(address, EndWait(alarm)))

    def _cancel(self, alarm: _Alarm) -> None:
        timer = self._timers.pop(alarm, None)
        if timer is not None:
            timer.cancel()

    def _wake(self, alarm: _Alarm) -> None:
        """Go on: at the end of this turn the next request is sent, if nothing else keeps it back."""
        self._cancel(alarm)
        if alarm is _Alarm.REST:
            self._resting = False
        elif alarm is _Alarm.FLUSH:
            self._awaited.clear()

    # ---- the end

    def on_stop(self) -> None:
        """Wake up no more."""
        for alarm in _Alarm:
            self._cancel(alarm)

    def on_crash(self, error: BaseException | None) -> None:
        """Let every follower know: it follows again after a while, and makes another fetcher."""
        self.on_stop()
        waiting = [message.position for message in self.actor_inbox.take_told() if isinstance(message, Follow)]
        positions = {
            (position.topic, position.partition): position
            for position in (*(entry.position for entry in self._followed.values()), *waiting)
        }
        for key, position in positions.items():
            state = _error(position, f"fetching from node {self.leader_id} failed: {error!r}")
            self.reactor.tell(partition_address(*key), Replicated(state, b"", position))


def _error(position: ReplicaPosition, text: str) -> ReplicaState:
    return ReplicaState(
        position.topic, position.partition, UnknownServerError.code, text, leader_epoch=position.leader_epoch
    )
