"""One partition of one share group: which records are available, leased, given up or done (KIP-932). Pure.

Below ``start_offset`` everything is finished; from ``next_offset`` on nothing was ever delivered; in between stand the
ranges. Two clocks are passed in: leases end by the monotonic one (``now_ms``), since they end with the process anyway,
delays by the wall clock (``wall_ms``), since they are promised to people. ``take_update`` says what has changed since
the last time; a snapshot and the updates after it make the same state again, but for the leases: what was leased is
available, with its count.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CorruptMessageError, InvalidRecordStateError
from ..transport.share_messages import (
    ACK_ACCEPT,
    ACK_GAP,
    ACK_REJECT,
    ACK_RELEASE,
    ACK_RENEW,
    ACK_RETURN,
    DEFAULT_DELAY,
)
from .share_ranges import (
    ACKNOWLEDGED,
    ACQUIRED,
    ARCHIVED,
    ARCHIVING,
    AVAILABLE,
    STATE_NAMES,
    Range,
    RangeSet,
)
from .share_records import RANGES_MAX, Snapshot, Update, durable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..transport.share_messages import Acknowledgement

_REASON_MAX = 1000
"""Letters of a reason that are kept."""
_DOUBLINGS_MAX = 40


class Rules(NamedTuple):
    """The settings of the group that the state machine goes by."""

    lease_ms: int = 30_000
    count_limit: int = 5
    locks_max: int = 10_000
    backoff_ms: int = 1000
    backoff_max_ms: int = 60_000

    def backoff(self, count: int) -> int:
        """How long a record waits that was released after this many deliveries."""
        return min(self.backoff_max_ms, self.backoff_ms << min(max(count - 1, 0), _DOUBLINGS_MAX))


class SharePartition:
    """The state machine."""

    def __init__(self, start_offset: int) -> None:
        self._ranges = RangeSet(start_offset)
        self._dirty: list[tuple[int, int]] = []
        self._parts: list[Snapshot] = []
        self.leader_epoch = -1
        """That of the batch that was read last, before next_offset; -1: it is not known."""

    @property
    def start_offset(self) -> int:
        """Everything below is finished."""
        return self._ranges.start

    @property
    def next_offset(self) -> int:
        """Everything from here on was never delivered."""
        return self._ranges.end

    @property
    def ranges(self) -> RangeSet:
        """The ranges in between, to be looked at."""
        return self._ranges

    @property
    def leased(self) -> int:
        """Records that are leased now."""
        return self._ranges.sizes[ACQUIRED]

    # ---- what to deliver

    def next_available(self, wall_ms: int, rules: Rules) -> Range | None:
        """The lowest range that was read before and may be delivered now. One that is unseen has to be settled first.

        What has had all of its deliveries, as after a restart, is given up instead.
        """
        while True:
            found = self._ranges.first_available(wall_ms)
            if found is None or found.deliveries < rules.count_limit:
                return found
            reason = f"delivered {found.deliveries} times and never acknowledged"
            self._change(found.first, found.last, partial(_given_up, reason=reason))

    def acquire(self, member: str, first: int, last: int, now_ms: float, rules: Rules, *, lease: int = 0) -> int:
        """Lease an available span, all of one range, to a member; returns how often it was delivered by now.

        lease tells this lease from every other, also from one that an earlier coordinator gave for the same records.
        """
        held = self._ranges.at(first)
        assert (held.state, held.not_before) == (AVAILABLE, 0), f"{first} to {last} of {held} is leased"
        assert last <= held.last, f"{first} to {last} is more than {held}"
        assert held.deliveries < rules.count_limit, f"{held} had all of its deliveries"
        count = held.deliveries + 1
        deadline = now_ms + rules.lease_ms
        self._change(
            first,
            last,
            lambda old: old._replace(state=ACQUIRED, deliveries=count, member=member, deadline=deadline, lease=lease),
        )
        return count

    def add_fresh(self, last: int, not_before: int = 0) -> None:
        """Records from the next offset to this one may be delivered, once: they are delayed until then."""
        self._extend(Range(self.next_offset, last, not_before=max(0, not_before)))

    def add_gap(self, last: int) -> None:
        """From the next offset to this one there is nothing to deliver."""
        self._extend(Range(self.next_offset, last, ARCHIVED))

    def _extend(self, added: Range) -> None:
        self._ranges.extend(added)
        self._changed(added.first, added.last)

    def archive(self, first: int, last: int) -> None:
        """These offsets have no record, or it is a dead letter by now. Leased ones are left to their leases' end."""
        first, last = max(first, self.start_offset), min(last, self.next_offset - 1)
        for found in self._ranges.overlapping(first, last) if first <= last else ():
            if found.state in (AVAILABLE, ARCHIVING):
                low, high = max(first, found.first), min(last, found.last)
                self._change(low, high, lambda old: Range(old.first, old.last, ARCHIVED))

    def settle(self, first: int, last: int, not_before: int) -> None:
        """Delayed records, of which it was not known when each is due: these are due then; 0: now."""
        held = self._ranges.at(first)
        assert held.is_unseen, f"{first} to {last} of {held} is settled"
        assert last <= held.last, f"{first} to {last} is more than {held}"
        self._change(first, last, lambda old: old._replace(not_before=not_before))

    def skip_to(self, offset: int) -> None:
        """The log begins here now: what is older can be delivered no more."""
        if offset > self.next_offset:
            self.archive(self.start_offset, self.next_offset - 1)
            self.add_gap(offset - 1)
        elif offset > self.start_offset:
            self.archive(self.start_offset, offset - 1)

    def cut_to(self, end: int) -> SharePartition:
        """The state as far as the log still goes, if it has lost its end; what was leased is available."""
        found = SharePartition(min(self.start_offset, end))
        found.leader_epoch = self.leader_epoch
        for held in self._ranges:
            if held.first < end:
                found.add_fresh(held.first)
                found.ranges.put(Range(*durable(held))._replace(last=min(held.last, end - 1)))
        return found

    # ---- what members say

    def acknowledge(
        self, member: str, acks: Sequence[Acknowledgement], now_ms: float, wall_ms: int, rules: Rules
    ) -> None:
        """Take all of a member's acknowledgements, or none: InvalidRecordStateError for any that is not its own."""
        position = -1
        for ack in acks:
            if not position < ack.first_offset <= ack.last_offset:
                message = (
                    f"the acknowledgement of offsets {ack.first_offset} to {ack.last_offset} does not follow offset "
                    f"{position}: ranges come in order and none twice"
                )
                raise InvalidRecordStateError(message)
            self._check_held(member, ack)
            position = ack.last_offset
        for ack in acks:
            self._change(ack.first_offset, ack.last_offset, _decided(ack, now_ms, wall_ms, rules))

    def _check_held(self, member: str, ack: Acknowledgement) -> None:
        first, last = ack.first_offset, ack.last_offset
        if first < self.start_offset:
            message = f"offset {first} is finished: everything below {self.start_offset} is"
            raise InvalidRecordStateError(message)
        if last >= self.next_offset:
            message = f"offset {max(first, self.next_offset)} was never delivered: {self.next_offset} comes next"
            raise InvalidRecordStateError(message)
        for found in self._ranges.overlapping(first, last):
            if found.state != ACQUIRED:
                message = (
                    f"offset {max(first, found.first)} is {STATE_NAMES[found.state]}, not leased to member {member!r}: "
                    "its lease has ended, or it was acknowledged before"
                )
                raise InvalidRecordStateError(message)
            if found.member != member:
                message = f"offset {max(first, found.first)} is leased to member {found.member!r}, not to {member!r}"
                raise InvalidRecordStateError(message)
            if ack.lease not in (0, found.lease):
                message = (
                    f"offset {max(first, found.first)} was leased to member {member!r} anew and is delivered again: the"
                    " lease that this is about has ended"
                )
                raise InvalidRecordStateError(message)

    def release_all(self, member: str, rules: Rules) -> None:
        """A member has left: what is leased to it is available."""
        if not self.leased:
            return
        reason = f"member {member} left without acknowledging it"
        for found in [found for found in self._ranges if found.state == ACQUIRED and found.member == member]:
            self._change(found.first, found.last, partial(_released, rules=rules, reason=reason))

    def leased_to(self, member: str) -> int:
        """How many records a member has leased."""
        return sum(found.size for found in self._ranges if found.state == ACQUIRED and found.member == member)

    # ---- time

    def expire(self, now_ms: float, rules: Rules) -> int:
        """End the leases whose time is up; returns of how many records."""
        ended = 0
        while (found := self._ranges.first_lease()) is not None and found.deadline <= now_ms:
            reason = f"the lease of member {found.member} ended without an acknowledgement"
            self._change(found.first, found.last, partial(_released, rules=rules, reason=reason))
            ended += found.size
        return ended

    def next_lease_end(self) -> float | None:
        """When the first lease ends, by the monotonic clock."""
        found = self._ranges.first_lease()
        return None if found is None else found.deadline

    def next_delay_end(self) -> int | None:
        """When the first delay ends, by the wall clock."""
        return self._ranges.next_delay()

    def next_archiving(self) -> Range | None:
        """The lowest range that has to go to the dead-letter topic."""
        return self._ranges.first_archiving()

    # ---- the log

    def _change(self, first: int, last: int, changed: Callable[[Range], Range]) -> None:
        self._ranges.change(first, last, changed)
        self._changed(first, last)

    def _changed(self, first: int, last: int) -> None:
        if not (self._dirty and self._dirty[-1][0] <= first and last <= self._dirty[-1][1]):
            self._dirty.append((first, last))
        before = self._ranges.start
        self._ranges.drop_final()
        assert self._ranges.start >= before, f"the start offset goes back: {before} to {self._ranges.start}"

    @property
    def has_changes(self) -> bool:
        """Whether ``take_update`` has something to say."""
        return bool(self._dirty)

    def take_update(self) -> Update | None:
        """What has changed since the last time; None if it is so much that a snapshot is due."""
        ranges = []
        done = self.start_offset - 1
        for first, last in sorted(self._dirty):
            low = max(first, done + 1)
            if low > last or low >= self.next_offset:
                continue
            for found in self._ranges.overlapping(low, min(last, self.next_offset - 1)):
                if found.last > done:
                    ranges.append(durable(found))
                    done = found.last
        if len(ranges) > RANGES_MAX:
            return None
        self._dirty.clear()
        return Update(self.start_offset, self.next_offset, ranges, self.leader_epoch)

    def take_snapshot(self) -> list[Snapshot]:
        """The whole state, in as many records as it takes."""
        self._dirty.clear()
        ranges = [durable(found) for found in self._ranges]
        chunks = [ranges[at : at + RANGES_MAX] for at in range(0, len(ranges), RANGES_MAX)] or [[]]
        return [
            Snapshot(part, len(chunks), self.start_offset, self.next_offset, chunk, self.leader_epoch)
            for part, chunk in enumerate(chunks)
        ]

    def replay(self, value: Snapshot | Update) -> None:
        """Take a record of the log. Raises CorruptMessageError if it contradicts those before."""
        if isinstance(value, Update):
            self._parts.clear()
            if value.start_offset < self.start_offset or value.next_offset < self.next_offset:
                message = (
                    f"an update has the offsets {value.start_offset} and {value.next_offset}, "
                    f"before {self.start_offset} and {self.next_offset} of the state that it changes"
                )
                raise CorruptMessageError(message)
            self._ranges.drop_before(value.start_offset)
            self._put(value)
            return
        if value.part == 0:
            self._parts.clear()
        if len(self._parts) != value.part:
            self._parts.clear()  # the log ended within it once; the state before it still holds
            return
        self._parts.append(value)
        if len(self._parts) == value.parts:
            self._ranges = RangeSet(value.start_offset)
            for part in self._parts:
                self._put(part)
            self._parts.clear()

    def _put(self, value: Snapshot | Update) -> None:
        self.leader_epoch = value.leader_epoch
        for first, last, state, count, not_before, reason in value.ranges:
            self._ranges.put(Range(first, last, state, count, not_before, reason))
        if value.next_offset > self.next_offset and (not isinstance(value, Snapshot) or value.part == value.parts - 1):
            self._ranges.extend(Range(self.next_offset, value.next_offset - 1))


def _given_up(old: Range, reason: str) -> Range:
    return Range(old.first, old.last, ARCHIVING, old.deliveries, 0, reason[:_REASON_MAX])


def _released(old: Range, *, rules: Rules, reason: str, not_before: int = 0) -> Range:
    """Available again, unless it has had all of its deliveries."""
    if old.deliveries >= rules.count_limit:
        return _given_up(old, f"delivered {old.deliveries} times, which is the limit of {rules.count_limit}: {reason}")
    return Range(old.first, old.last, AVAILABLE, old.deliveries, not_before)


def _decided(ack: Acknowledgement, now_ms: float, wall_ms: int, rules: Rules) -> Callable[[Range], Range]:
    """How an acknowledgement changes a range that is leased to the one who sent it."""
    match ack.kind:
        case kind if kind == ACK_ACCEPT:
            return lambda old: Range(old.first, old.last, ACKNOWLEDGED)
        case kind if kind == ACK_GAP:
            return lambda old: Range(old.first, old.last, ARCHIVED)
        case kind if kind == ACK_REJECT:
            return lambda old: _given_up(old, ack.reason or "rejected by its consumer")
        case kind if kind == ACK_RENEW:
            return lambda old: old._replace(deadline=now_ms + rules.lease_ms)
        case kind if kind == ACK_RETURN:
            return lambda old: Range(old.first, old.last, AVAILABLE, old.deliveries - 1)
    assert ack.kind == ACK_RELEASE, f"acknowledgement of kind {ack.kind}"

    def release(old: Range) -> Range:
        delay_ms = rules.backoff(old.deliveries) if ack.delay_ms == DEFAULT_DELAY else ack.delay_ms
        not_before = wall_ms + delay_ms if delay_ms else 0
        return _released(old, rules=rules, reason=ack.reason or "released by its consumer", not_before=not_before)

    return release
