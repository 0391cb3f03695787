"""Joining a consumer group: new members, static members that come back, members that join again. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    FencedInstanceIdError,
    GroupMaxSizeReachedError,
    InconsistentGroupProtocolError,
    InvalidRequestError,
    InvalidSessionTimeoutError,
    MemberIdRequiredError,
    RebalanceInProgressError,
)
from ..transport import group_messages as g
from . import events
from .members import Member, metadata_bytes, topics_of
from .rebalance import PENDING, SESSION, Rebalance, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effects import Now, Token

METADATA_BYTES_MAX = 64 * 1024
"""Of one member, for one protocol."""
RECORD_BYTES_MAX = 8 * 1024 * 1024
"""Of one group: its members' metadata and assignments are one record."""
METADATA_BYTES_MAX_OF_GROUP = RECORD_BYTES_MAX // 2
"""The rest of the record is for the assignments."""
PROTOCOLS_MAX = 64
"""Assignors of one member."""
_MEMBER_BYTES = 512
"""What a member takes in the group's record besides its metadata, at least."""
_NEW_MEMBER_JOIN_TIMEOUT_MS = 300_000
"""How long a member that does not know its id yet may wait for its first generation; as Kafka's."""


class Joining(Rebalance):
    """The part of a group that lets members in."""

    def join(
        self, token: Token, request: g.JoinGroupRequest, client_id: str, new_id: Callable[[], str], now: Now
    ) -> None:
        """Handle a JoinGroup. Raises a BrokerError, and nothing has changed then."""
        self._check(request)
        roster, member_id, instance_id = self.roster, request.member_id, request.group_instance_id
        if not member_id:
            known = roster.members.get(roster.static.get(instance_id or "", ""))
            if known is not None:
                self._come_back(token, request, known, new_id(), now)
                return
            self._check_room(request)
            if request.require_known_member_id and instance_id is None:
                self._give_id(token, request, new_id(), now)
            else:
                self._let_in(token, request, client_id, new_id(), now)
        elif member_id in roster.pending and instance_id is None:
            self._check_room(request)
            self.deadlines.cancel((PENDING, member_id))
            self._let_in(token, request, client_id, member_id, now)
        else:
            self._join_again(token, request, roster.get(member_id, instance_id), now)

    # ---- what is refused

    def _check(self, request: g.JoinGroupRequest) -> None:
        low, high = self.config.group_min_session_timeout_ms, self.config.group_max_session_timeout_ms
        if not low <= request.session_timeout_ms <= high:
            message = (
                f"the session time-out is {request.session_timeout_ms} ms; this broker allows {low} ms to {high} ms "
                "(group.min.session.timeout.ms, group.max.session.timeout.ms)"
            )
            raise InvalidSessionTimeoutError(message)
        if len(request.protocols) > PROTOCOLS_MAX:
            message = f"the member names {len(request.protocols)} assignors; at most {PROTOCOLS_MAX} are taken"
            raise InvalidRequestError(message)
        for name, metadata in request.protocols:
            if len(metadata) > METADATA_BYTES_MAX:
                message = (
                    f"the member's metadata for {name!r} have {len(metadata)} bytes, more than {METADATA_BYTES_MAX}: "
                    "subscribe to fewer topics"
                )
                raise InvalidRequestError(message)
        names = [name for name, _ in request.protocols]
        if not self.roster.supports(request.protocol_type, names):
            raise InconsistentGroupProtocolError(self._inconsistent(request.protocol_type, names))

    def _inconsistent(self, protocol_type: str, names: list[str]) -> str:
        if not protocol_type or not names:
            return "a member needs a protocol type and one assignor at least"
        roster = self.roster
        if roster.protocol_type != protocol_type:
            return (
                f"group {self.group_id!r} has protocol type {roster.protocol_type!r}, and this member {protocol_type!r}"
            )
        common = [name for name, _ in next(iter(roster.members.values())).protocols]
        return f"the member's assignors {names} are not known to all members of group {self.group_id!r} ({common})"

    def _check_room(self, request: g.JoinGroupRequest) -> None:
        """Raise GroupMaxSizeReachedError if one member more does not fit."""
        roster, limit = self.roster, self.config.group_max_size
        # Those that have not joined again yet may be dead: whoever comes first has the place.
        count = roster.joining if self.state is State.PREPARING else len(roster.members)
        if count >= limit or (
            request.require_known_member_id and len(roster.pending) - bool(request.member_id) >= limit
        ):
            message = f"group {self.group_id!r} has {count} members, and group.max.size is {limit}"
            raise GroupMaxSizeReachedError(message)
        self._check_size(request, None)

    def _check_size(self, request: g.JoinGroupRequest, before: Member | None) -> None:
        """Raise GroupMaxSizeReachedError if the members' metadata leave no room for assignments in the group's record.

        ``before`` is the member that the request is of, if the group has it already.
        """
        others = self.roster.metadata_bytes - (0 if before is None else metadata_bytes(before.protocols))
        count = len(self.roster.members) + (before is None)
        size = others + metadata_bytes(request.protocols) + _MEMBER_BYTES * count
        if size > METADATA_BYTES_MAX_OF_GROUP:
            message = (
                f"with this member's metadata those of group {self.group_id!r} would have {size} bytes, and at most "
                f"{METADATA_BYTES_MAX_OF_GROUP} fit into its record: take fewer members, or fewer topics for each"
            )
            raise GroupMaxSizeReachedError(message)

    # ---- new members

    def _give_id(self, token: Token, request: g.JoinGroupRequest, member_id: str, now: Now) -> None:
        """Have the member come back with the id that it gets here, so that no lost answer leaves a ghost (KIP-394)."""
        self.roster.pending.add(member_id)
        self.deadlines.set((PENDING, member_id), now.monotonic_ms + request.session_timeout_ms)
        why = f"join again with member id {member_id!r}"
        reply = g.JoinGroupReply(
            -1, "", "", "", member_id, [], error_code=MemberIdRequiredError.code, error_message=why
        )
        self.effects.answer(token, reply)

    def _let_in(self, token: Token, request: g.JoinGroupRequest, client_id: str, member_id: str, now: Now) -> None:
        roster = self.roster
        if not roster.members:
            roster.protocol_type = request.protocol_type
        member = Member(
            member_id,
            request.group_instance_id,
            client_id,
            tuple(request.protocols),
            request.session_timeout_ms,
            request.rebalance_timeout_ms,
            is_new=not request.member_id,
            heard_ms=now.monotonic_ms,
        )
        self.member_came()
        roster.add(member)
        roster.hold_join(member, token)
        if member.is_new:  # it may not wait for ever: if its client is gone, nobody else knows its id
            self.deadlines.set((SESSION, member_id), now.monotonic_ms + _NEW_MEMBER_JOIN_TIMEOUT_MS)
        said = f"; it says: {request.reason}" if request.reason else ""
        times = (
            f"session time-out {request.session_timeout_ms} ms, rebalance time-out {request.rebalance_timeout_ms} ms"
        )
        cause = f"{member.label} of client {client_id!r} came as one of {len(roster.members)}; {times}{said}"
        self.event(events.JOINED, now, cause, member)
        self._rebalance_or_complete(now, f"{member.label} joined{said}", member)

    def _rebalance_or_complete(self, now: Now, cause: str, member: Member) -> None:
        if self.state is State.PREPARING:
            self.complete_if_ready(now)
        else:
            self.prepare(now, cause, member)

    # ---- members that are known

    def _come_back(self, token: Token, request: g.JoinGroupRequest, member: Member, new_id: str, now: Now) -> None:
        """A static member starts again: it gets a new id, and whoever had the old one is fenced (KIP-345)."""
        self._check_size(request, member)
        roster, old_id = self.roster, member.member_id
        instance_id = member.instance_id
        message = f"another process joined as instance {instance_id!r}, as member {new_id}: stop this one"
        self.dismiss(member, FencedInstanceIdError(message))
        was_pending_sync = old_id in self.pending_sync
        self.pending_sync.discard(old_id)
        roster.rename(member, new_id)
        topics_before = topics_of(member.metadata(self.protocol))
        member.is_new = False
        roster.update(member, tuple(request.protocols), request.session_timeout_ms, request.rebalance_timeout_ms)
        said = f"; it says: {request.reason}" if request.reason else ""
        silent_ms = round(now.monotonic_ms - member.heard_ms)
        cause = f"instance {instance_id} came back after {silent_ms} ms as {new_id}, before {old_id}{said}"
        self.event(events.MEMBER_REPLACED, now, cause, member)
        if self.state is State.PREPARING:
            roster.hold_join(member, token)
            self.alive(member, now)
            self.complete_if_ready(now)
            return
        # A changed subscription needs another assignment; in CompletingRebalance the leader assigns to the old id.
        same = topics_of(member.metadata(self.protocol)) == topics_before
        if self.state is State.STABLE and same and roster.choose_protocol() == self.protocol:
            if was_pending_sync:
                self.pending_sync.add(new_id)
            self.persist()
            self.effects.answer(token, self.joined_reply(member, skip_assignment=new_id == roster.leader))
            self.alive(member, now)
            return
        roster.hold_join(member, token)
        self.alive(member, now)
        self.prepare(now, f"{member.label} came back with another subscription or while others wait{said}", member)

    def _join_again(self, token: Token, request: g.JoinGroupRequest, member: Member, now: Now) -> None:
        self._check_size(request, member)
        roster = self.roster
        protocols = tuple(request.protocols)
        same = protocols == member.protocols
        if self.state is State.PREPARING and member.join is None and roster.joining >= self.config.group_max_size:
            limit = self.config.group_max_size
            why = f"group.max.size is {limit} now, and {roster.joining} members were here earlier"
            self.event(events.EVICTED, now, f"{member.label}: {why}", member)
            self.remove(member, why)
            self.effects.answer(token, GroupMaxSizeReachedError(f"group {self.group_id!r} is full: {why}"))
            self.complete_if_ready(now)
            return
        leads = member.member_id == roster.leader
        if (self.state is State.COMPLETING and same) or (self.state is State.STABLE and same and not leads):
            # It may have missed the first answer; all is as it was.
            self.effects.answer(token, self.joined_reply(member))
            self.alive(member, now)
            return
        roster.update(member, protocols, request.session_timeout_ms, request.rebalance_timeout_ms)
        member.is_new = False
        if member.join is not None:
            newer = f"a later JoinGroup of member {member.member_id!r} takes the place of this one"
            self.effects.answer(roster.release_join(member), RebalanceInProgressError(newer))
        roster.hold_join(member, token)
        self.alive(member, now)
        if self.state is State.PREPARING:
            self.complete_if_ready(now)
            return
        said = f"; it says: {request.reason}" if request.reason else ""
        what = "the leader, joined again" if same else "joined again with other metadata"
        self.prepare(now, f"{member.label}, {what}{said}" if same else f"{member.label} {what}{said}", member)
