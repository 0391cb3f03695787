"""The heart of a consumer group's state machine: its states, and the way from one generation to the next. Pure.

States and what leads from one to the next::

    Empty ------------------ a member joins ----------------> PreparingRebalance
    PreparingRebalance ----- all joined, or time is up -----> CompletingRebalance   a new generation; Empty: nobody left
    CompletingRebalance ---- the leader's assignment -------> Stable
    CompletingRebalance, Stable --- who is in changes ------> PreparingRebalance
    Empty ------------------ deleted -----------------------> Dead

A generation is written down twice: when it begins, so that no crash gives its number to another one, and with its
assignment. After a crash the group goes on from there, with a fresh session time for every member.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from ..errors import RebalanceInProgressError, UnknownMemberIdError
from ..transport import group_messages as g
from . import events
from .deadlines import Deadlines
from .group_records import GroupState, MemberState, group_key, group_value
from .members import Roster

if TYPE_CHECKING:
    from ..errors import BrokerError
    from ..settings import BrokerConfig
    from .effects import Effects, Now, Token
    from .events import Recorder
    from .members import Member

_UNTOLD = -1
"""As the time of its state: the generation has no assignment yet."""
_AGAIN_MS = 1000
"""The least time between two attempts to complete a rebalance that nobody joins."""

Alarm = tuple[str, str]
"""A kind of deadline, and the member that it is about."""
SESSION, PENDING, WAIT = "session", "pending", "wait"
JOIN: Alarm = ("join", "")
SYNC: Alarm = ("sync", "")


class State(StrEnum):
    """The states, by Kafka's names."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


_NEXT = {
    State.EMPTY: {State.PREPARING, State.DEAD},
    State.PREPARING: {State.COMPLETING, State.EMPTY},
    State.COMPLETING: {State.STABLE, State.PREPARING},
    State.STABLE: {State.PREPARING},
    State.DEAD: set(),
}


class Rebalance:
    """A group's members, state and generation."""

    def __init__(self, group_id: str, config: BrokerConfig, effects: Effects, recorder: Recorder) -> None:
        self.group_id = group_id
        self.config = config
        self.effects = effects
        self.recorder = recorder
        self.roster = Roster()
        self.state = State.EMPTY
        self.generation = 0
        self.protocol: str | None = None
        self.state_time_ms = 0
        """When the group got its last assignment or became empty, since 1970."""
        self.subscribed: frozenset[str] | None = frozenset()
        """Topics of all members; None: they do not say so in a way that is known."""
        self.deadlines: Deadlines[Alarm] = Deadlines()
        self.pending_sync: set[str] = set()
        """Members of this generation that have not asked for their assignment yet."""
        self._initial = False
        self._grown = False
        """Whether a member has come since the first rebalance's delay was last set."""
        self._remaining_ms = 0
        self._started_ms = 0.0

    def _enter(self, state: State) -> None:
        assert state in _NEXT[self.state], f"group {self.group_id}: {self.state} is not followed by {state}"
        self.state = state
        members = self.roster.members
        assert (state in (State.EMPTY, State.DEAD)) <= (not members), f"group {self.group_id} is {state} with members"
        assert members or state not in (State.COMPLETING, State.STABLE), f"group {self.group_id} is {state} without any"
        if state in (State.COMPLETING, State.STABLE):
            assert self.roster.leader in members, f"group {self.group_id} has no leader"

    def event(self, kind: str, now: Now, cause: str, member: Member | None = None) -> None:
        """Write an event into the flight recorder."""
        member_id, client_id = ("", "") if member is None else (member.member_id, member.client_id)
        self.recorder.add(kind, now, cause, generation=self.generation, member_id=member_id, client_id=client_id)

    # ---- what is written down

    def durable(self) -> GroupState:
        """The group as it is written down."""
        told = self.state in (State.STABLE, State.EMPTY)
        members = tuple(
            MemberState(
                member.member_id,
                member.instance_id,
                member.client_id,
                member.client_host,
                member.rebalance_timeout_ms,
                member.session_timeout_ms,
                member.metadata(self.protocol),
                member.assignment,
            )
            for member in self.roster.members.values()
        )
        time_ms = self.state_time_ms if told else _UNTOLD
        roster = self.roster
        return GroupState(roster.protocol_type, self.generation, self.protocol, roster.leader, time_ms, members)

    def persist(self) -> None:
        """Write the group down as it is."""
        assert self.state in (State.COMPLETING, State.STABLE, State.EMPTY), f"{self.state} is not for the log"
        self.effects.append(group_key(self.group_id), group_value(self.durable()))

    # ---- signs of life

    def alive(self, member: Member, now: Now) -> None:
        """The member has said something: its session time begins anew, unless it waits for an answer."""
        member.heard_ms = now.monotonic_ms
        if member.waits:
            self.deadlines.cancel((SESSION, member.member_id))
        else:
            self.deadlines.set((SESSION, member.member_id), now.monotonic_ms + member.session_timeout_ms)

    def release_heartbeat(self, member: Member, answer: g.HeartbeatReply | BrokerError, now: Now) -> None:
        """Answer a heartbeat that is held back, if there is one; it was a sign of life until now."""
        if member.heartbeat is not None:
            self.effects.answer(member.heartbeat, answer)
            member.heartbeat = None
            self.deadlines.cancel((WAIT, member.member_id))
            self.alive(member, now)

    def release_sync(self, member: Member, answer: g.SyncGroupReply | BrokerError, now: Now) -> None:
        """Answer a sync that waits, if there is one."""
        if member.sync is not None:
            self.effects.answer(member.sync, answer)
            member.sync = None
            self.alive(member, now)

    def dismiss(self, member: Member, error: BrokerError) -> None:
        """Answer everything that the member waits for with an error, and forget its deadlines."""
        if member.join is not None:
            self.effects.answer(self.roster.release_join(member), error)
        for token in (member.sync, member.heartbeat):
            if token is not None:
                self.effects.answer(token, error)
        member.sync = member.heartbeat = None
        self.deadlines.cancel((SESSION, member.member_id))
        self.deadlines.cancel((WAIT, member.member_id))

    def remove(self, member: Member, why: str) -> None:
        """Take a member out of the group; what follows for the group is the caller's to do."""
        message = f"member {member.member_id!r} is out of group {self.group_id!r}: {why}; join again as a new member"
        self.dismiss(member, UnknownMemberIdError(message))
        self.roster.remove(member)
        self.pending_sync.discard(member.member_id)

    def settle(self, now: Now, cause: str, member: Member | None = None) -> None:
        """Members were removed: rebalance, or see whether the rebalance is complete now."""
        if self.state in (State.STABLE, State.COMPLETING):
            self.prepare(now, cause, member)
        else:
            self.complete_if_ready(now)

    # ---- from one generation to the next

    def prepare(self, now: Now, cause: str, member: Member | None = None) -> None:
        """Begin a rebalance: every member has to join again."""
        rebalancing = f"group {self.group_id!r} rebalances ({cause}): join again"
        self._initial = self.state is State.EMPTY
        self.pending_sync.clear()
        self.deadlines.cancel(SYNC)
        self._enter(State.PREPARING)
        self._started_ms = now.monotonic_ms
        self.event(events.REBALANCE_STARTED, now, cause, member)
        for known in self.roster.members.values():
            self.release_sync(known, RebalanceInProgressError(rebalancing), now)
            self.release_heartbeat(known, RebalanceInProgressError(rebalancing), now)
        timeout_ms = self.roster.rebalance_timeout_ms
        if self._initial:
            delay_ms = self.config.group_initial_rebalance_delay_ms
            self._grown = False
            self._remaining_ms = max(timeout_ms - delay_ms, 0)
            self.deadlines.set(JOIN, now.monotonic_ms + delay_ms)
        elif self.roster.all_joined:
            self._complete(now)
        else:
            self.deadlines.set(JOIN, now.monotonic_ms + timeout_ms)

    def complete_if_ready(self, now: Now) -> None:
        """Complete the rebalance if there is nobody left to wait for; the first one has its own delay."""
        if self.state is State.PREPARING and not self._initial and self.roster.all_joined:
            self._complete(now)

    def time_to_join_is_up(self, now: Now) -> None:
        """Complete the rebalance, unless it is the first one and members still come."""
        assert self.state is State.PREPARING, f"group {self.group_id} is {self.state} and waits for joins"
        if self._initial and self._grown and self._remaining_ms > 0:
            delay_ms = min(self.config.group_initial_rebalance_delay_ms, self._remaining_ms)
            self._remaining_ms -= delay_ms
            self._grown = False
            self.deadlines.set(JOIN, now.monotonic_ms + delay_ms)
        else:
            self._complete(now)

    def member_came(self) -> None:
        """Note that a member came while the first rebalance waits for more."""
        self._grown = self._grown or (self.state is State.PREPARING and self._initial)

    def _complete(self, now: Now) -> None:
        """Begin the next generation with those who have joined, and static members that may come back."""
        roster = self.roster
        self.deadlines.cancel(JOIN)
        timeout_ms = roster.rebalance_timeout_ms
        for member in [one for one in roster.members.values() if one.join is None and one.instance_id is None]:
            why = f"it did not join again within the rebalance time-out of {timeout_ms} ms"
            self.event(events.EVICTED, now, f"{member.label}: {why}", member)
            self.remove(member, why)
        joined = [member for member in roster.members.values() if member.join is not None]
        if roster.members and not joined:  # static ones: each has its session time to come back
            self.deadlines.set(JOIN, now.monotonic_ms + max(roster.rebalance_timeout_ms, _AGAIN_MS))
            return
        self.generation += 1
        if not joined:
            self._become_empty(now)
            return
        if roster.leader not in {member.member_id for member in joined}:
            roster.leader = joined[0].member_id
        self.protocol = roster.choose_protocol()
        self.subscribed = roster.subscribed_topics(self.protocol)
        for member in roster.members.values():
            member.assignment = b""
        self._enter(State.COMPLETING)
        self.persist()
        for member in joined:
            token = roster.release_join(member)
            member.is_new = False
            self.effects.answer(token, self.joined_reply(member))
            self.alive(member, now)
        self.pending_sync = {member.member_id for member in joined}
        self.deadlines.set(SYNC, now.monotonic_ms + roster.rebalance_timeout_ms)

    def _become_empty(self, now: Now) -> None:
        self.protocol = None
        self.subscribed = frozenset()
        self.state_time_ms = now.wall_ms
        self._enter(State.EMPTY)
        self.persist()
        self.event(events.BECAME_EMPTY, now, f"its last member is gone; generation {self.generation} has none")

    def joined_reply(self, member: Member, *, skip_assignment: bool = False) -> g.JoinGroupReply:
        """What a member is told of the generation; its leader hears of all members."""
        roster = self.roster
        assert self.state in (State.COMPLETING, State.STABLE), f"no generation to speak of in {self.state}"
        told = [
            g.JoinedMember(one.member_id, one.instance_id, one.metadata(self.protocol))
            for one in (roster.members.values() if member.member_id == roster.leader else ())
        ]
        return g.JoinGroupReply(
            self.generation,
            roster.protocol_type,
            self.protocol or "",
            roster.leader or "",
            member.member_id,
            told,
            skip_assignment=skip_assignment,
        )

    def assign(self, assignment: dict[str, bytes], now: Now) -> None:
        """Take the leader's assignment: the generation is complete, and everybody who waits for it hears."""
        for member in self.roster.members.values():
            member.assignment = assignment.get(member.member_id, b"")
        self.state_time_ms = now.wall_ms
        self._enter(State.STABLE)
        self.persist()
        count = len(self.roster.members)
        took_ms = round(now.monotonic_ms - self._started_ms)
        cause = f"generation {self.generation}: {count} members, assignor {self.protocol}, after {took_ms} ms"
        self.event(events.REBALANCE_COMPLETED, now, cause, self.roster.members[self.roster.leader or ""])
        for member in self.roster.members.values():
            self.release_sync(member, self.synced_reply(member), now)

    def synced_reply(self, member: Member) -> g.SyncGroupReply:
        """A member's part of the assignment."""
        return g.SyncGroupReply(self.roster.protocol_type, self.protocol or "", member.assignment)

    def told_assignment(self, member: Member) -> None:
        """The member has asked for its assignment."""
        self.pending_sync.discard(member.member_id)
        if not self.pending_sync:
            self.deadlines.cancel(SYNC)

    def time_to_sync_is_up(self, now: Now) -> None:
        """Rebalance without the members that joined this generation and never asked for their assignment."""
        assert self.state in (State.COMPLETING, State.STABLE), f"group {self.group_id} is {self.state} and waits"
        late = [self.roster.members[member_id] for member_id in sorted(self.pending_sync)]
        assert late, f"group {self.group_id} waits for nobody"
        timeout_ms = self.roster.rebalance_timeout_ms
        for member in late:
            why = f"it joined generation {self.generation} and sent no SyncGroup within {timeout_ms} ms"
            self.event(events.EVICTED, now, f"{member.label}: {why}", member)
            self.remove(member, why)
        self.settle(now, f"{len(late)} members were evicted, {late[0].label} first", late[0])

    def hold(self, member: Member, kind: str, token: Token, now: Now) -> None:
        """Keep a sync or heartbeat back; an earlier one of the same kind gives way."""
        newer = RebalanceInProgressError(f"a later request of member {member.member_id!r} takes the place of this one")
        if kind == "sync":
            self.release_sync(member, newer, now)
            member.sync = token
        else:
            self.release_heartbeat(member, g.HeartbeatReply(), now)
            member.heartbeat = token
        self.alive(member, now)
