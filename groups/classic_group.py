"""A consumer group: what its members ask of it after they have joined, and what happens as time passes. Pure.

The classic protocol of Kafka, with one more thing: a heartbeat may be held back, so that its answer is the news of a
rebalance. rebalance.py has the states; group_joining.py lets members in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    BrokerError,
    CoordinatorNotAvailableError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    MessageTooLargeError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from ..transport import group_messages as g
from . import events
from .group_joining import RECORD_BYTES_MAX, Joining
from .members import Member
from .rebalance import JOIN, PENDING, SESSION, SYNC, WAIT, State

if TYPE_CHECKING:
    from .effects import Now, Token
    from .group_records import GroupState

__all__ = ["ClassicGroup", "State"]


class ClassicGroup(Joining):
    """One consumer group."""

    # ---- sync

    def sync(self, token: Token, request: g.SyncGroupRequest, now: Now) -> None:
        """Handle a SyncGroup. Raises a BrokerError, and nothing has changed then."""
        member = self._member(request.member_id, request.group_instance_id, request.generation_id)
        self._check_protocol(request)
        if self.state is State.PREPARING:
            raise RebalanceInProgressError(self._join_again_now())
        if self.state is State.STABLE:
            self.effects.answer(token, self.synced_reply(member))
            self.told_assignment(member)
            self.alive(member, now)
            return
        assert self.state is State.COMPLETING, self.state
        if member.member_id != self.roster.leader:
            self.hold(member, "sync", token, now)
            self.told_assignment(member)
            return
        assignment = dict(request.assignments)
        size = self.roster.metadata_bytes + sum(map(len, assignment.values()))
        if size > RECORD_BYTES_MAX:
            message = (
                f"the members' metadata and assignments have {size} bytes, and at most {RECORD_BYTES_MAX} fit into the "
                f"record of group {self.group_id!r}: take fewer members, or fewer partitions"
            )
            raise MessageTooLargeError(message)
        self.told_assignment(member)
        self.hold(member, "sync", token, now)
        self.assign(assignment, now)

    def _check_protocol(self, request: g.SyncGroupRequest) -> None:
        for asked, ours, what in (
            (request.protocol_type, self.roster.protocol_type, "protocol type"),
            (request.protocol_name, self.protocol, "assignor"),
        ):
            if asked is not None and ours is not None and asked != ours:
                message = f"the member syncs with {what} {asked!r}, and group {self.group_id!r} has {ours!r}"
                raise InconsistentGroupProtocolError(message)

    def _join_again_now(self) -> str:
        return f"group {self.group_id!r} rebalances after generation {self.generation}: join again"

    def _member(self, member_id: str, instance_id: str | None, generation: int) -> Member:
        """The member that speaks. Raises what is wrong with it."""
        member = self.roster.get(member_id, instance_id)
        if generation != self.generation:
            message = (
                f"member {member_id!r} speaks of generation {generation}, and group {self.group_id!r} is at "
                f"{self.generation}: join again"
            )
            raise IllegalGenerationError(message)
        return member

    # ---- heartbeats

    def heartbeat(self, token: Token, request: g.HeartbeatRequest, now: Now) -> None:
        """Handle a Heartbeat; with wait_ms it is answered later, or when the group rebalances."""
        member = self._member(request.member_id, request.group_instance_id, request.generation_id)
        if self.state is State.PREPARING:
            self.alive(member, now)
            self.effects.answer(token, RebalanceInProgressError(self._join_again_now()))
        elif request.wait_ms:
            self.hold(member, "heartbeat", token, now)
            wait_ms = min(request.wait_ms, member.session_timeout_ms)
            self.deadlines.set((WAIT, member.member_id), now.monotonic_ms + wait_ms)
        else:
            self.alive(member, now)
            self.effects.answer(token, g.HeartbeatReply())

    # ---- leaving

    def leave(self, request: g.LeaveGroupRequest, now: Now) -> g.LeaveGroupReply:
        """Handle a LeaveGroup: each member has its own result."""
        results = []
        left: list[Member] = []
        changed = False
        for leaving in request.members:
            code, message = 0, None
            try:
                if leaving.member_id in self.roster.pending:
                    self._forget_pending(leaving.member_id)
                else:
                    left.append(self._let_go(leaving, now))
                changed = True
            except BrokerError as error:
                code, message = error.code, error.message
            results.append(g.LeftMember(leaving.member_id, leaving.group_instance_id, code, message))
        if left:
            others = f" and {len(left) - 1} more" if len(left) > 1 else ""
            self.settle(now, f"{left[0].label}{others} left", left[0])
        elif changed:
            self.complete_if_ready(now)
        return g.LeaveGroupReply(results)

    def _let_go(self, leaving: g.LeavingMember, now: Now) -> Member:
        member_id = leaving.member_id
        if not member_id and leaving.group_instance_id is not None:
            member_id = self.roster.static.get(leaving.group_instance_id, "")
        member = self.roster.get(member_id, leaving.group_instance_id)
        remain = len(self.roster.members) - 1
        said = f"; it says: {leaving.reason}" if leaving.reason else ""
        self.event(events.LEFT, now, f"{member.label} left, and {remain} remain{said}", member)
        self.remove(member, "it left")
        return member

    def _forget_pending(self, member_id: str) -> None:
        self.roster.pending.discard(member_id)
        self.deadlines.cancel((PENDING, member_id))

    # ---- time

    def tick(self, now: Now) -> None:
        """Do what is due."""
        while (alarm := self.deadlines.pop_due(now.monotonic_ms)) is not None:
            kind, member_id = alarm
            if alarm == JOIN:
                self.time_to_join_is_up(now)
            elif alarm == SYNC:
                self.time_to_sync_is_up(now)
            elif kind == PENDING:
                self.roster.pending.discard(member_id)
                self.complete_if_ready(now)
            elif kind == WAIT:
                self.release_heartbeat(self.roster.members[member_id], g.HeartbeatReply(), now)
            else:
                assert kind == SESSION, alarm
                self._expire(self.roster.members[member_id], now)

    def _expire(self, member: Member, now: Now) -> None:
        silent_ms = round(now.monotonic_ms - member.heard_ms)
        why = f"it said nothing for {silent_ms} ms, and its session time-out is {member.session_timeout_ms} ms"
        if member.is_new:
            why = f"it has waited for its first generation for {silent_ms} ms, and may be gone"
        self.event(events.EVICTED, now, f"{member.label}: {why}", member)
        self.remove(member, why)
        self.settle(now, f"{member.label} was evicted: {why}", member)

    def end_wait(self, token: Token, now: Now) -> None:
        """Answer a held request now, if it is held still: its client is gone, or the node stops."""
        for member in self.roster.members.values():
            if member.heartbeat is token:
                self.release_heartbeat(member, g.HeartbeatReply(), now)
                return
            if token in (member.join, member.sync):
                break
        else:
            return
        gone = CoordinatorNotAvailableError(f"group {self.group_id!r} was not waited for to its end: ask again")
        if member.sync is token:
            self.release_sync(member, gone, now)
            if self.state is State.COMPLETING:
                self.pending_sync.add(member.member_id)
        elif member.is_new:
            # Nobody knows its id, so that nobody could ever be this member.
            self.dismiss(member, gone)
            self.event(events.LEFT, now, f"{member.label} went away before its first generation", member)
            self.remove(member, "it went away")
            self.settle(now, f"{member.label} went away", member)
        else:
            self.effects.answer(self.roster.release_join(member), gone)
            self.alive(member, now)

    # ---- commits

    def check_commit(self, request: g.OffsetCommitRequest, now: Now) -> None:
        """Raise the error that says why this commit may not be; it is a sign of life otherwise."""
        if self.state is State.EMPTY and request.generation_id < 0:
            return
        if request.generation_id < 0 and not request.member_id and request.group_instance_id is None:
            count = len(self.roster.members)
            message = f"group {self.group_id!r} has {count} members: only they may commit; stop them first"
            raise UnknownMemberIdError(message)
        member = self._member(request.member_id, request.group_instance_id, request.generation_id)
        if self.state is State.COMPLETING:
            message = f"generation {self.generation} of group {self.group_id!r} has no assignment yet: commit after it"
            raise RebalanceInProgressError(message)
        self.alive(member, now)

    # ---- the log, and descriptions

    def restore(self, state: GroupState) -> None:
        """Take over what stands in the log; waits and deadlines come with ``restored``."""
        self.generation, self.protocol = state.generation, state.protocol
        self.state_time_ms = state.state_time_ms
        roster = self.roster
        for one in state.members:
            assert state.protocol is not None, f"group {self.group_id} has members and no assignor in the log"
            member = Member(
                one.member_id,
                one.instance_id,
                one.client_id,
                ((state.protocol, one.metadata),),
                one.session_timeout_ms,
                one.rebalance_timeout_ms,
                client_host=one.client_host,
                assignment=one.assignment,
            )
            roster.add(member)
        roster.protocol_type = state.protocol_type
        if roster.members:
            if state.leader in roster.members:
                roster.leader = state.leader
            self.subscribed = roster.subscribed_topics(self.protocol)
            untold = state.state_time_ms < 0 and not any(one.assignment for one in state.members)
            self.state = State.COMPLETING if untold else State.STABLE

    def restored(self, now: Now) -> None:
        """The log is read: every member has a fresh session time, and a generation without assignment waits for it."""
        self._started_ms = now.monotonic_ms
        for member in self.roster.members.values():
            self.alive(member, now)
        if self.state is State.COMPLETING:
            self.pending_sync = set(self.roster.members)
            self.deadlines.set(SYNC, now.monotonic_ms + self.roster.rebalance_timeout_ms)

    def delete(self) -> None:
        """The group is no more."""
        self._enter(State.DEAD)

    @property
    def is_simple(self) -> bool:
        """Whether it has never had members: only offsets that somebody commits."""
        return self.state is State.EMPTY and not self.roster.protocol_type

    def describe(self, node_id: int) -> g.GroupDescription:
        """The group, for administrators."""
        told = self.state in (State.STABLE, State.COMPLETING)
        members = [
            g.MemberDescription(
                member.member_id,
                member.instance_id,
                member.client_id,
                member.client_host,
                member.metadata(self.protocol) if told else b"",
                member.assignment,
            )
            for member in self.roster.members.values()
        ]
        return g.GroupDescription(
            self.group_id,
            state=self.state,
            protocol_type=self.roster.protocol_type,
            protocol=(self.protocol or "") if told else "",
            generation_id=self.generation,
            leader=(self.roster.leader or "") if told else "",
            coordinator_id=node_id,
            members=members,
        )
