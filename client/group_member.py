"""Membership of a consumer group: the state machine of Kafka's classic protocol, run as a driver.

    OUT --subscribe--> WAITING --user--> JOINING --leader--> ASSIGNING --> SYNCING --> STABLE
                          ^                 ^     `---------- others -------^            |
                          |                 `-- user, after the group began to rebalance -'
                          `-- the group dropped this member, or it left: what it owned is lost

Nothing here touches partitions or calls the user. What the user's thread has to do is told by `event`: take up an
assignment, give partitions up before the next join, hear of an error. `group_session.py` does it, at the user's next
step; until then heartbeats keep the membership. While STABLE a heartbeat is always under way: the coordinator holds its
answer back, so that the end of a generation is heard of at once.

All methods are called under the client's lock.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING

from ..errors import (
    CoordinatorLoadInProgressError,
    FencedInstanceIdError,
    IllegalGenerationError,
    MemberIdRequiredError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    ZmqBrokerError,
    error_for,
)
from ..groups.assignors import ASSIGNORS
from ..groups.consumer_protocol import PROTOCOL_TYPE, Subscription, decode_assignment, encode_subscription
from ..transport.group_messages import (
    HeartbeatRequest,
    JoinGroupReply,
    JoinGroupRequest,
    LeaveGroupRequest,
    LeavingMember,
    SyncGroupReply,
    SyncGroupRequest,
)
from .connection import FOREVER, Answer, Call
from .group_leader import GroupLeader
from .io import body_of
from .types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.message_base import Request
    from .coordinator import Coordinator
    from .io import ClientIO
    from .options import ConsumerOptions

logger = logging.getLogger(__name__)

_GRACE_S = 5.0
"""How much longer than a rebalance may take its answer is waited for."""


class Stage(Enum):
    """How far a member is."""

    OUT = "out"
    WAITING = "waiting"
    JOINING = "joining"
    ASSIGNING = "assigning"
    SYNCING = "syncing"
    STABLE = "stable"


class GroupMember:
    """One consumer's part in its group."""

    def __init__(self, io: ClientIO, options: ConsumerOptions, coordinator: Coordinator) -> None:
        assert options.group_id is not None, "a member needs a group"
        self.group_id = options.group_id
        self.stage = Stage.OUT
        self.member_id = ""
        self.generation = -1
        self.topics: set[str] = set()
        self.owned: set[TopicPartition] = set()
        """What the user has been told it owns."""
        self.assigned: set[TopicPartition] | None = None
        """A new assignment that the user has not taken up yet."""
        self.rejoin = ""
        """Why to join again; empty: there is no reason to."""
        self.lost = ""
        """Why what is owned is lost; the user has not been told yet."""
        self.error: ZmqBrokerError | None = None
        """Why this consumer cannot be a member; raised to the user."""
        self.tenure = 0
        """Grows when owned partitions are lost, or given up all at once: what is older must not be committed."""
        self.polls = 0
        """How many threads or tasks of the user wait in the consumer now."""
        self.polled_at = io.now()
        self.counters = dict.fromkeys(("rebalances", "heartbeats", "poll_timeouts"), 0)
        self.heartbeat_at = 0.0
        """When the last heartbeat was answered."""
        self._io = io
        self._options = options
        self._coordinator = coordinator
        self._leader = GroupLeader(io, options.session_timeout_ms / 3000)
        self._protocol = ""
        self._reason = ""
        self._previous: tuple[tuple[TopicPartition, ...], int] = ((), -1)
        """What was owned last and in which generation, for the sticky assignor."""
        self._turn = 0
        """Answers to requests of earlier turns are of no interest any more."""
        self._under_way = False
        self._not_before = 0.0
        self._heartbeat_sent = 0.0

    # ---- the user's side

    @property
    def event(self) -> bool:
        """Whether the user's thread has something to do."""
        return (
            self.assigned is not None
            or self.error is not None
            or bool(self.lost)
            or (bool(self.rejoin) and self.stage in (Stage.WAITING, Stage.STABLE))
        )

    @property
    def is_stable(self) -> bool:
        """Whether this is a member of a generation whose assignment is known."""
        return self.stage is Stage.STABLE

    @property
    def is_nameless(self) -> bool:
        """Whether the coordinator is about to tell this member its id: to leave before that would leave a trace."""
        return self.stage is Stage.JOINING and self._under_way and not self.member_id

    def subscribe(self, topics: set[str]) -> None:
        """Be a member that reads these topics."""
        if self.stage is Stage.OUT:
            self.stage = Stage.WAITING
            self.rejoin = "the consumer subscribed"
        elif topics != self.topics:
            self.rejoin = f"the subscription changed to {len(topics)} topics"
        self.topics = set(topics)

    def join(self) -> None:
        """The user has given up what has to be given up: join the next generation."""
        assert self.stage in (Stage.WAITING, Stage.STABLE), f"joins while {self.stage.value}"
        if self.owned:
            self._previous = (tuple(sorted(self.owned)), self.generation)
        self._reason, self.rejoin = self.rejoin, ""
        self._enter(Stage.JOINING)

    def give_up(self, partitions: set[TopicPartition]) -> None:
        """The user owns these no more."""
        self._previous = (tuple(sorted(self.owned)), self.generation)
        if partitions >= self.owned:
            self.tenure += 1
        self.owned = self.owned - partitions

    def take_up(self) -> set[TopicPartition]:
        """The new assignment; the user takes it up now."""
        assert self.assigned is not None, "nothing was assigned"
        assigned, self.assigned = self.assigned, None
        return assigned

    def take_error(self) -> ZmqBrokerError | None:
        """The error to raise, once; a fenced member keeps its own."""
        error = self.error
        if not isinstance(error, FencedInstanceIdError):
            self.error = None
        return error

    def forget_owned(self) -> None:
        """The user has been told that everything is lost."""
        self.lost = ""
        self.owned = set()

    def leave(self, reason: str, done: Callable[[], None] | None = None) -> bool:
        """Leave the group, static members excepted; whether a request goes out, whose end `done` hears of."""
        connection = self._coordinator.connection() if self.member_id else None
        told = connection is not None and self._options.group_instance_id is None
        if connection is not None and told:
            now = self._io.now()
            request = LeaveGroupRequest(self.group_id, [LeavingMember(self.member_id, None, reason)])
            deadline = now + self._options.request_timeout_ms / 1000
            connection.submit(Call(request, lambda _: done() if done is not None else None, deadline), now)
        self.tenure += 1
        self.member_id = ""
        self.generation = -1
        self.assigned = None
        self.rejoin = ""
        self._enter(Stage.OUT)
        return told

    # ---- the driver

    def step(self, now: float) -> None:
        """Send what is due."""
        if self.stage is Stage.OUT or self.error is not None:
            return
        if self.stage is not Stage.WAITING and now >= self._poll_deadline():
            self._poll_timed_out(now)
        if self.stage is Stage.STABLE and not self.rejoin and self._leader.sees_change():
            self.rejoin = "topics or partitions came or went"
            self._io.progress += 1
        if self.stage is Stage.ASSIGNING and self._leader.is_ready(now):
            self._assign()
        if self._under_way or now < self._not_before:
            return
        if self.stage is Stage.JOINING:
            self._join(now)
        elif self.stage is Stage.SYNCING:
            self._sync(now)
        elif self.stage is Stage.STABLE:
            self._heartbeat(now)

    def next_deadline(self) -> float:
        """When `step` has something to do though nothing came."""
        if self.stage in (Stage.OUT, Stage.WAITING) or self.error is not None:
            return FOREVER
        deadline = self._poll_deadline()
        if self.stage is Stage.ASSIGNING:
            return min(deadline, self._leader.deadline)
        if not self._under_way and self._not_before > self._io.now():
            deadline = min(deadline, self._not_before)
        return deadline

    def _poll_deadline(self) -> float:
        return FOREVER if self.polls else self.polled_at + self._options.max_poll_interval_ms / 1000

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        self._turn += 1
        self._under_way = False
        self._not_before = 0.0
        self._io.progress += 1

    def _send(
        self, request: Request, answered: Callable[[Answer | ZmqBrokerError], None], timeout_s: float, now: float
    ) -> None:
        connection = self._coordinator.connection()
        if connection is None:
            error, self._coordinator.error = self._coordinator.error, None
            if error is not None:
                self._fail(error)
            return
        turn = self._turn
        self._under_way = True

        def done(outcome: Answer | ZmqBrokerError) -> None:
            if turn == self._turn:
                self._under_way = False
                self._io.progress += 1
                answered(outcome)
            elif isinstance(outcome, Answer) and isinstance(outcome.body, JoinGroupReply):
                self._joined_too_late(outcome.body)

        connection.submit(Call(request, done, now + timeout_s), now)

    # ---- joining

    def _join(self, now: float) -> None:
        options = self._options
        request = JoinGroupRequest(
            self.group_id,
            options.session_timeout_ms,
            options.max_poll_interval_ms,
            self.member_id,
            options.group_instance_id,
            PROTOCOL_TYPE,
            [(name, self._metadata(name)) for name in options.partition_assignment_strategy],
            self._reason,
            require_known_member_id=options.group_instance_id is None,
        )
        self._send(request, self._joined, options.max_poll_interval_ms / 1000 + _GRACE_S, now)

    def _metadata(self, protocol: str) -> bytes:
        owned = tuple(sorted(self.owned))
        generation = self.generation if owned else -1
        data = ASSIGNORS[protocol].user_data(*self._previous)
        return encode_subscription(Subscription(tuple(sorted(self.topics)), data, owned, generation))

    def _joined(self, outcome: Answer | ZmqBrokerError) -> None:
        if isinstance(outcome, ZmqBrokerError):
            self._refused(outcome)
            return
        reply = body_of(outcome, JoinGroupReply)
        if reply.error_code:
            error = error_for(reply.error_code, reply.error_message)
            if isinstance(error, MemberIdRequiredError) and reply.member_id:
                self.member_id = reply.member_id  # join again with it, at once
            else:
                self._refused(error)
            return
        self.member_id = reply.member_id
        self.generation = reply.generation_id
        self._protocol = reply.protocol_name
        self._leader.resign()
        if reply.leader == reply.member_id and not reply.skip_assignment:
            self._enter(Stage.ASSIGNING)
            try:
                self._leader.lead(reply.members)
            except ZmqBrokerError as error:
                self._fail(error)
        else:
            self._enter(Stage.SYNCING)

    def _joined_too_late(self, reply: JoinGroupReply) -> None:
        """This member has left while it joined: nobody must wait for it."""
        connection = self._coordinator.connection()
        known = reply.member_id in ("", self.member_id)
        if connection is not None and not known and self._options.group_instance_id is None:
            member = LeavingMember(reply.member_id, None, "the consumer left while it joined")
            now = self._io.now()
            deadline = now + self._options.request_timeout_ms / 1000
            connection.submit(Call(LeaveGroupRequest(self.group_id, [member]), lambda _: None, deadline), now)

    def _assign(self) -> None:
        assert self._protocol in ASSIGNORS, f"the group chose {self._protocol!r}, which was not offered"
        try:
            self._leader.assign(self._protocol)
        except ZmqBrokerError as error:
            self._fail(error)
        else:
            self._enter(Stage.SYNCING)

    def _sync(self, now: float) -> None:
        request = SyncGroupRequest(
            self.group_id,
            self.generation,
            self.member_id,
            self._options.group_instance_id,
            PROTOCOL_TYPE,
            self._protocol,
            self._leader.assignments,
        )
        self._send(request, self._synced, self._options.max_poll_interval_ms / 1000 + _GRACE_S, now)

    def _synced(self, outcome: Answer | ZmqBrokerError) -> None:
        if isinstance(outcome, ZmqBrokerError):
            self._refused(outcome)
            return
        try:
            assignment = decode_assignment(body_of(outcome, SyncGroupReply).assignment)
        except ZmqBrokerError as error:
            self._fail(error)
            return
        self.assigned = {TopicPartition(*partition) for partition in assignment.partitions}
        self.counters["rebalances"] += 1
        self.heartbeat_at = self._io.now()
        self._enter(Stage.STABLE)

    # ---- living

    def _heartbeat(self, now: float) -> None:
        options = self._options
        self._heartbeat_sent = now
        wait_ms = options.heartbeat_interval_ms
        request = HeartbeatRequest(self.group_id, self.generation, self.member_id, options.group_instance_id, wait_ms)
        timeout_ms = wait_ms + min(options.request_timeout_ms, options.session_timeout_ms)
        self._send(request, self._heartbeat_answered, timeout_ms / 1000, now)

    def _heartbeat_answered(self, outcome: Answer | ZmqBrokerError) -> None:
        now = self._io.now()
        interval = self._options.heartbeat_interval_ms / 1000
        if isinstance(outcome, RebalanceInProgressError):
            self.rejoin = self.rejoin or "the group rebalances"
            self._not_before = now + interval
        elif isinstance(outcome, ZmqBrokerError):
            self._refused(outcome)
            return
        elif now - self._heartbeat_sent < interval / 2:
            self._not_before = self._heartbeat_sent + interval  # this coordinator does not hold answers back
        self.heartbeat_at = now
        self.counters["heartbeats"] += 1

    def _poll_timed_out(self, now: float) -> None:
        limit = self._options.max_poll_interval_ms
        away_ms = (now - self.polled_at) * 1000
        why = f"poll time-out: no poll for {away_ms:.0f} ms, and max_poll_interval_ms is {limit}"
        logger.warning(
            "the consumer %s left group %r: it was not polled for %.0f ms, longer than max_poll_interval_ms=%d; its"
            " partitions go to others and what it works on will be delivered again. Poll more often, take fewer records"
            " at once (max_poll_records=%d), or raise max_poll_interval_ms",
            *(self.member_id, self.group_id, away_ms, limit, self._options.max_poll_records),
        )
        self.counters["poll_timeouts"] += 1
        self.leave(why)
        self._lose(why)

    # ---- what goes wrong

    def commit_refused(self, error: ZmqBrokerError, generation: int) -> None:
        """The coordinator refused a commit made in this generation because of who made it."""
        if self.stage is Stage.STABLE and generation == self.generation:
            if isinstance(error, RebalanceInProgressError):
                self.rejoin = self.rejoin or "the group rebalances"
                self._io.progress += 1
            else:
                self._refused(error)

    def _refused(self, error: ZmqBrokerError) -> None:
        if isinstance(error, RebalanceInProgressError):
            self._reason = "the group rebalances again"
            self._enter(Stage.JOINING)
        elif isinstance(error, (UnknownMemberIdError, IllegalGenerationError)):
            if isinstance(error, UnknownMemberIdError):
                self.member_id = ""
            self._lose(f"the group dropped this member: {error.message}")
        elif isinstance(error, FencedInstanceIdError):
            self._fail(error)
        elif error.retriable:
            if not isinstance(error, CoordinatorLoadInProgressError):
                self._coordinator.lost(error)
            self._not_before = self._io.now() + self._options.retry_backoff_ms / 1000
        else:
            self._fail(error)

    def _lose(self, why: str) -> None:
        """This member is none any more: join anew, once the user has heard of what is lost."""
        logger.info("group %r: %s", self.group_id, why)
        self.tenure += 1
        self.generation = -1
        self.assigned = None
        self.lost = why if self.owned else ""
        self.rejoin = self._reason = why
        self._leader.resign()
        joins = self.stage in (Stage.JOINING, Stage.ASSIGNING, Stage.SYNCING) and not self.owned
        self._enter(Stage.JOINING if joins else Stage.WAITING)
        if joins:
            self.rejoin = ""

    def _fail(self, error: ZmqBrokerError) -> None:
        self._lose(error.message)
        self.rejoin = error.message
        self.error = error
        self._enter(Stage.WAITING)
