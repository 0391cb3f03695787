"""The state machine of a share partition against a model that keeps every record by itself, on random histories."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from zmqbroker.errors import InvalidRecordStateError
from zmqbroker.groups.share_batches import Delayed, due_runs
from zmqbroker.groups.share_partition import Rules, SharePartition
from zmqbroker.groups.share_ranges import ACKNOWLEDGED, ACQUIRED, ARCHIVED, ARCHIVING, AVAILABLE
from zmqbroker.groups.share_records import decode_value, encode_value
from zmqbroker.transport.share_messages import (
    ACK_ACCEPT,
    ACK_GAP,
    ACK_REJECT,
    ACK_RELEASE,
    ACK_RENEW,
    ACK_RETURN,
    Acknowledgement,
)

RULES = Rules(lease_ms=50, count_limit=3, backoff_ms=8, backoff_max_ms=20)
MEMBERS = st.sampled_from(["a", "b", "c"])
WALL = 10_000


@dataclass
class Record:
    """One record as the model knows it."""

    state: int = AVAILABLE
    count: int = 0
    not_before: int = 0
    member: str = ""
    deadline: float = 0.0


class ShareMachine(RuleBasedStateMachine):
    """Machine and model do the same, and a replica replays the log."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.machine = SharePartition(3)
        self.replica = SharePartition(3)
        self.model: dict[int, Record] = {}
        self.end = 3
        self.delays: dict[int, int] = {}
        self.lowest_start = 3
        self.final: dict[int, int] = {}

    @property
    def wall(self) -> int:
        return WALL + self.now

    # ---- what happens

    @rule(count=st.integers(1, 6))
    def fresh(self, count: int) -> None:
        self.machine.add_fresh(self.end + count - 1)
        for offset in range(self.end, self.end + count):
            self.model[offset] = Record()
        self.end += count

    @rule(count=st.integers(1, 3))
    def gap(self, count: int) -> None:
        self.machine.add_gap(self.end + count - 1)
        for offset in range(self.end, self.end + count):
            self.model[offset] = Record(ARCHIVED)
        self.end += count

    @rule(delays=st.lists(st.integers(0, 60), min_size=1, max_size=6))
    def delayed(self, delays: list[int]) -> None:
        """A batch of records with a delay each, as the coordinator takes it in."""
        times = [self.wall + delay if delay > 5 else 0 for delay in delays]
        for offset, time in enumerate(times, self.end):
            self.delays[offset] = time
            self.model[offset] = Record(not_before=time)
        last = self.end + len(times) - 1
        for run in due_runs(self._runs(self.end, last), self.end, last, self.wall):
            self.machine.add_fresh(run.last, run.not_before)
        self.end = last + 1

    def _runs(self, first: int, last: int) -> list[Delayed]:
        return [Delayed(offset, offset, self.delays.get(offset, 0)) for offset in range(first, last + 1)]

    def _due(self, record: Record) -> bool:
        return record.state == AVAILABLE and record.not_before <= self.wall

    @rule(member=MEMBERS, most=st.integers(1, 8))
    def acquire(self, member: str, most: int) -> None:
        """The lowest record that is due comes first, and nothing that is due is held back."""
        while most > 0:
            self._give_up_worn_out()
            found = self.machine.next_available(self.wall, RULES)
            while found is not None and found.is_unseen:
                for run in due_runs(self._runs(found.first, found.last), found.first, found.last, self.wall):
                    self.machine.settle(run.first, run.last, run.not_before)
                found = self.machine.next_available(self.wall, RULES)
            due = [offset for offset, record in self.model.items() if self._due(record)]
            if found is None:
                assert not due
                return
            assert found.first == min(due)
            last = min(found.last, found.first + most - 1)
            count = self.machine.acquire(member, found.first, last, self.now, RULES)
            for offset in range(found.first, last + 1):
                record = self.model[offset]
                assert self._due(record)
                assert count == record.count + 1 <= RULES.count_limit
                self.model[offset] = Record(ACQUIRED, count, 0, member, self.now + RULES.lease_ms)
            most -= last - found.first + 1

    def _give_up_worn_out(self) -> None:
        """What had all of its deliveries is found when it comes up: not behind one that may be delivered."""
        for record in self.model.values():
            if self._due(record):
                if record.count < RULES.count_limit:
                    return
                record.state, record.not_before = ARCHIVING, 0

    @precondition(lambda self: self.model)
    @rule(
        member=MEMBERS,
        data=st.data(),
        kind=st.sampled_from([ACK_ACCEPT, ACK_GAP, ACK_REJECT, ACK_RELEASE, ACK_RENEW, ACK_RETURN]),
        delay=st.sampled_from([-1, 0, 30]),
    )
    def acknowledge(self, member: str, data: st.DataObject, kind: int, delay: int) -> None:
        first = data.draw(st.integers(min(self.model), self.end))
        last = data.draw(st.integers(first, first + 3))
        span = range(first, last + 1)
        mine = all(
            offset in self.model and (self.model[offset].state, self.model[offset].member) == (ACQUIRED, member)
            for offset in span
        )
        try:
            self.machine.acknowledge(member, [Acknowledgement(first, last, kind, delay)], self.now, self.wall, RULES)
        except InvalidRecordStateError:
            assert not mine
            return
        assert mine
        for offset in span:
            self._decide(self.model[offset], kind, delay)

    def _decide(self, record: Record, kind: int, delay: int) -> None:
        if kind == ACK_RENEW:
            record.deadline = self.now + RULES.lease_ms
            return
        record.member = ""
        if kind == ACK_RETURN:
            record.state, record.count = AVAILABLE, record.count - 1
        elif kind == ACK_RELEASE and record.count < RULES.count_limit:
            wait = RULES.backoff(record.count) if delay == -1 else delay
            record.state, record.not_before = AVAILABLE, self.wall + wait if wait else 0
        else:
            record.state = {ACK_ACCEPT: ACKNOWLEDGED, ACK_GAP: ARCHIVED}.get(kind, ARCHIVING)

    @rule(member=MEMBERS)
    def leave(self, member: str) -> None:
        self.machine.release_all(member, RULES)
        for record in self.model.values():
            if (record.state, record.member) == (ACQUIRED, member):
                self._decide(record, ACK_RELEASE, 0)

    @rule(passed=st.integers(1, 40))
    def time_passes(self, passed: int) -> None:
        self.now += passed
        self.machine.expire(self.now, RULES)
        for record in self.model.values():
            if record.state == ACQUIRED and record.deadline <= self.now:
                self._decide(record, ACK_RELEASE, 0)

    @rule()
    def dead_letter(self) -> None:
        found = self.machine.next_archiving()
        given_up = [offset for offset, record in self.model.items() if record.state == ARCHIVING]
        assert (found is None) == (not given_up)
        if found is not None:
            assert found.first == min(given_up)
            self.machine.archive(found.first, found.last)
            for offset in range(found.first, found.last + 1):
                self.model[offset].state = ARCHIVED

    @rule()
    def log(self) -> None:
        """The end of a turn: the update goes to the log, and the replica reads it."""
        update = self.machine.take_update()
        assert update is not None
        value = decode_value(encode_value(update))
        self.replica.replay(value)  # type: ignore[arg-type]
        assert self._durable(self.machine) == self._durable(self.replica)

    @rule()
    def snapshot(self) -> None:
        self.replica = SharePartition(self.replica.start_offset)
        for part in self.machine.take_snapshot():
            self.replica.replay(decode_value(encode_value(part)))  # type: ignore[arg-type]
        assert self._durable(self.machine) == self._durable(self.replica)

    @rule()
    def restart(self) -> None:
        """All leases are gone; nothing else is."""
        self.log()
        self.machine = self.replica
        self.replica = SharePartition(self.machine.start_offset)
        for part in self.machine.take_snapshot():
            self.replica.replay(part)
        for record in self.model.values():
            if record.state == ACQUIRED:
                record.state, record.member, record.not_before = AVAILABLE, "", 0

    def _durable(self, machine: SharePartition) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {-1: (machine.start_offset, machine.next_offset)}
        for held in machine.ranges:
            state = AVAILABLE if held.state == ACQUIRED else held.state
            not_before = held.not_before if held.not_before > self.wall else 0
            for offset in range(held.first, held.last + 1):
                found[offset] = (state, held.deliveries if state <= ARCHIVING else 0, not_before)
        return found

    # ---- what always holds

    @invariant()
    def states_are_the_model_s(self) -> None:
        self._give_up_worn_out()
        self.machine.next_available(self.wall, RULES)
        position = self.machine.start_offset
        unfinished = [offset for offset, record in self.model.items() if record.state < ACKNOWLEDGED]
        assert position == min(unfinished, default=self.end)
        for held in self.machine.ranges:
            assert held.first == position
            for offset in range(held.first, held.last + 1):
                record = self.model[offset]
                assert (held.state, held.member) == (record.state, record.member if record.state == ACQUIRED else "")
                if held.state in (AVAILABLE, ACQUIRED, ARCHIVING):
                    assert held.deliveries == record.count
            position = held.last + 1
        assert position == self.machine.next_offset == self.end

    @invariant()
    def final_is_final_and_the_start_never_goes_back(self) -> None:
        assert self.machine.start_offset >= self.lowest_start
        self.lowest_start = self.machine.start_offset
        for offset, state in self.final.items():
            assert self.model[offset].state == state
        self.final = {offset: record.state for offset, record in self.model.items() if record.state >= ACKNOWLEDGED}

    @invariant()
    def neighbours_differ_and_sizes_add_up(self) -> None:
        ranges = list(self.machine.ranges)
        assert all(one[2:] != other[2:] for one, other in pairwise(ranges))
        for state, size in enumerate(self.machine.ranges.sizes):
            assert size == sum(held.size for held in ranges if held.state == state)


TestShareMachine = ShareMachine.TestCase
TestShareMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
