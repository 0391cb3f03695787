"""Offsets that are committed in transactions: when they count, what is not taken, and what a restart knows of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from zmqbroker.errors import InvalidRecordError
from zmqbroker.groups.group_records import (
    EndedRecord,
    OffsetState,
    PendingRecord,
    decode,
    ended_key,
    ended_value,
    pending_key,
    pending_value,
)
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import transaction_messages as t

MINUTE_MS = 60_000.0
STATE = OffsetState(7, 3, "meta", 1_700_000_000_000)


def commit(world: Any, number: int, offset: int, **options: Any) -> Any:
    """A TxnOffsetCommit, of which the transaction's coordinator has said that it is open."""
    entry = g.OffsetToCommit(options.pop("topic", "t"), options.pop("partition", 0), offset, **options.pop("entry", {}))
    request = t.TxnOffsetCommitRequest(
        "tx", options.pop("producer", 1), 0, options.pop("group", "g"), [entry], **options
    )
    done = world.do(world.table.commit_in_transaction, request, number, world.exists, world.now)
    return done if done.error else [result.error_code for result in done.body.partitions]


def end(world: Any, transaction: int, *, committed: bool = True, producer: int = 1) -> None:
    world.table.end_transaction(producer, transaction, world.now, committed=committed)
    world.take()


def fetch(world: Any, *partitions: int, group: str = "g", stable: bool = True) -> Any:
    """The offset, or the code of the error, of each partition of t."""
    wanted = [g.TopicPartitionEntry("t", partition) for partition in partitions]
    reply = world.do(world.table.fetch_offsets, g.OffsetFetchRequest(group, wanted, stable)).body
    return [-entry.error_code or entry.offset for entry in reply.partitions]


# ---- when they count


def test_they_count_when_the_transaction_is_committed(world):
    world.commit(3)
    assert commit(world, 10, 5) == [0]
    assert fetch(world, 0, 1) == [-88, -1]
    assert fetch(world, 0, stable=False) == [3], "who does not ask for stability reads what counts"
    end(world, 10)
    assert fetch(world, 0, 1) == [5, -1]
    assert len(world.table.pending) == 0


def test_they_do_not_if_it_is_aborted(world):
    world.commit(3)
    commit(world, 10, 5)
    commit(world, 10, 8, partition=1)
    end(world, 10, committed=False)
    assert fetch(world, 0, 1) == [3, -1]
    world.restart()
    assert fetch(world, 0, 1) == [3, -1]


def test_a_group_that_was_not_there_begins_with_the_commit(world):
    commit(world, 10, 5)
    assert "g" not in world.table.groups
    assert fetch(world, 0) == [-88]
    end(world, 10)
    assert (world.state, world.committed()) == ("Empty", {("t", 0): 5})
    commit(world, 10, 5, group="h", producer=2)
    end(world, 10, committed=False, producer=2)
    assert "h" not in world.table.groups


def test_the_last_of_a_transaction_counts_and_all_partitions_do(world):
    commit(world, 10, 5, entry={"metadata": "a", "leader_epoch": 4})
    commit(world, 10, 6, partition=1)
    commit(world, 10, 4, entry={"metadata": "b", "leader_epoch": 5})
    commit(world, 10, 9, group="other")
    end(world, 10)
    assert world.committed() == {("t", 0): 4, ("t", 1): 6}
    assert world.committed("other") == {("t", 0): 9}
    state = world.table.offsets["g"].by_partition["t", 0]
    assert (state.metadata, state.leader_epoch) == ("b", 5)


def test_the_end_of_one_is_not_that_of_another(world):
    commit(world, 10, 5)
    commit(world, 12, 6, producer=2, partition=1)
    end(world, 12, producer=3)
    assert fetch(world, 0, 1) == [-88, -88]
    end(world, 12, producer=2)
    assert fetch(world, 0, 1) == [-88, 6]
    end(world, 9)
    assert fetch(world, 0) == [-88], "an earlier one's marker comes late"
    end(world, 10)
    commit(world, 20, 7)
    end(world, 10)
    end(world, 10, committed=False)
    assert fetch(world, 0) == [-88], "a marker that comes twice"
    end(world, 20)
    assert fetch(world, 0) == [7]


@pytest.mark.parametrize("restarted", [False, True])
def test_what_comes_after_the_end_is_not_taken(world, restarted):
    """A coordinator with a successor that it does not know of calls a transaction open that has ended."""
    commit(world, 10, 5)
    end(world, 10, committed=False)
    if restarted:
        world.restart()
    for number in (9, 10):
        assert commit(world, number, 6).error == "COORDINATOR_NOT_AVAILABLE"
    assert commit(world, 11, 6) == [0]
    assert commit(world, 10, 6, producer=2, partition=1) == [0], "of another producer"


def test_a_request_of_an_earlier_transaction_is_not_taken_into_the_next(world):
    assert commit(world, 10, 5, transaction=9).error == "INVALID_TXN_STATE"
    assert commit(world, 10, 5, transaction=11).error == "INVALID_TXN_STATE"
    assert commit(world, 10, 5, transaction=10) == commit(world, 10, 5) == [0]


# ---- who may, and what is wrong


def test_members_and_those_who_name_none(world):
    leader, _ = world.stable()
    member = {"generation_id": 1, "member_id": leader.member_id}
    assert commit(world, 10, 5, **member) == [0]
    assert commit(world, 10, 6) == [0], "a producer need not know the group (KIP-447)"
    for wrong, error in (
        ({**member, "generation_id": 0}, "ILLEGAL_GENERATION"),
        ({**member, "generation_id": 2}, "ILLEGAL_GENERATION"),
        ({**member, "member_id": "m9"}, "UNKNOWN_MEMBER_ID"),
        ({**member, "group": "none"}, "UNKNOWN_MEMBER_ID"),
        ({**member, "group_instance_id": "i"}, "UNKNOWN_MEMBER_ID"),
        ({"group": ""}, "INVALID_GROUP_ID"),
    ):
        assert commit(world, 10, 9, **wrong).error == error, wrong
    end(world, 10)
    assert fetch(world, 0) == [6]
    assert world.state == "Stable"


def test_each_partition_is_checked(world):
    assert commit(world, 10, 5, topic="none") == [3]
    assert commit(world, 10, 5, partition=8) == [3]
    assert commit(world, 10, -2) == [42]
    assert commit(world, 10, 5, entry={"metadata": "x" * 5000}) == [12]
    assert len(world.table.pending) == 0
    assert world.log == []


def test_a_commit_outside_of_transactions_overtakes_what_is_pending(world):
    commit(world, 10, 5)
    commit(world, 10, 6, partition=1)
    world.commit(20)
    assert fetch(world, 0, 1) == [20, -88]
    world.restart()
    end(world, 10)
    assert fetch(world, 0, 1) == [20, 6]


# ---- what is gone


@pytest.mark.parametrize("restarted", [False, True])
def test_a_deleted_topic(world, restarted):
    commit(world, 10, 5)
    commit(world, 10, 6, topic="u")
    del world.topics["u"]
    if restarted:
        world.restart()
    else:
        world.table.topic_gone("u", world.now)
        world.take()
    world.topics["u"] = 4
    end(world, 10)
    assert world.committed() == {("t", 0): 5}
    world.restart()
    assert world.committed() == {("t", 0): 5}


def test_a_deleted_group(world):
    world.commit(1)
    commit(world, 10, 5)
    commit(world, 10, 6, group="other")
    assert world.do(world.table.delete, "g", world.now).answer is None
    assert fetch(world, 0) == [-1]
    end(world, 10)
    assert world.committed() == {}
    assert world.committed("other") == {("t", 0): 6}


def test_a_share_group_cannot_take_an_id_that_is_about_to_have_offsets(world):
    commit(world, 10, 5)
    assert world.do(world.table.claim, "g", world.now).error == "INCONSISTENT_GROUP_PROTOCOL"
    end(world, 10, committed=False)
    assert world.do(world.table.claim, "g", world.now).answer is None
    assert commit(world, 11, 5).error == "INCONSISTENT_GROUP_PROTOCOL"


def test_a_group_that_is_about_to_have_offsets_does_not_expire(make_world):
    world = make_world(offsets_retention_minutes=1, offsets_retention_check_interval_ms=60_000)
    leader, follower = world.stable()
    for one in (leader, follower):
        world.leave(one.member_id)
    world.commit(3, partition=1)
    commit(world, 10, 5)
    world.advance(10 * MINUTE_MS)
    end(world, 10)
    assert world.committed()["t", 0] == 5


def test_ends_are_forgotten_in_the_end(make_world):
    world = make_world(producer_id_expiration_ms=600_000, offsets_retention_check_interval_ms=60_000)
    end(world, 10)
    commit(world, 10, 5, producer=2)
    end(world, 9, producer=2)
    world.advance(11 * MINUTE_MS)
    assert not world.table.pending.has_ended(1, 10)
    assert world.table.pending.has_ended(2, 9), "something is pending"
    end(world, 10, producer=2)
    world.restart()
    assert not world.table.pending.has_ended(1, 10)
    assert world.table.pending.has_ended(2, 10)
    world.advance(11 * MINUTE_MS)
    world.restart()
    assert not world.table.pending.has_ended(2, 10)


# ---- records


def test_records_are_read_as_they_were_written():
    key, value = pending_key(5, "g", "t", 3), pending_value(10, STATE)
    assert decode(key, value) == PendingRecord(5, "g", "t", 3, 10, STATE)
    assert decode(key, None) == PendingRecord(5, "g", "t", 3, -1, None)
    assert decode(ended_key(5), ended_value(10, 99)) == EndedRecord(5, 10, 99)
    assert decode(ended_key(5), None).transaction is None


def test_broken_records_are_refused():
    pairs = [(pending_key(5, "g", "t", 3), pending_value(10, STATE)), (ended_key(5), ended_value(10, 99))]
    for key, value in pairs:
        broken = [(key, value[:cut]) for cut in range(len(value))]
        broken += [(key, value + b"\0"), (key, b"\0\x07" + value[2:]), (key + b"\0", value), (key + b"\0", None)]
        broken += [(key[:cut], value) for cut in range(2, len(key))]
        for one in broken:
            with pytest.raises(InvalidRecordError):
                decode(*one)


# ---- whatever happens


producers, offsets = st.sampled_from([1, 2, 3]), st.integers(0, 99)
places = st.tuples(st.sampled_from(["g", "h"]), st.sampled_from(["t", "u"]), st.integers(0, 1))


class PendingModel(RuleBasedStateMachine):
    """What counts, and what is pending, against plain dictionaries."""

    def __init__(self, make_world: Any) -> None:
        super().__init__()
        self.make_world = make_world

    @initialize()
    def begin(self) -> None:
        self.world = self.make_world(offsets_retention_minutes=2**31 - 1)
        self.number = 10
        self.open: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        self.pending: dict[tuple[int, Any], int] = {}
        self.count: dict[Any, int] = {}

    @rule(producer=producers, place=places, offset=offsets)
    def commit_in_transaction(self, producer: int, place: Any, offset: int) -> None:
        if producer not in self.open:
            self.number += 1
            self.open[producer] = self.number
        group, topic, partition = place
        done = commit(
            self.world, self.open[producer], offset, producer=producer, group=group, topic=topic, partition=partition
        )
        if topic in self.world.topics:
            assert done == [0]
            self.pending[producer, place] = offset
        else:
            assert done == [3]

    @rule(producer=producers, place=places)
    def commit_late(self, producer: int, place: Any) -> None:
        if producer in self.ended and place[1] in self.world.topics:
            options = {"producer": producer, "group": place[0], "topic": place[1], "partition": place[2]}
            assert commit(self.world, self.ended[producer], 1, **options).error == "COORDINATOR_NOT_AVAILABLE"

    @rule(place=places, offset=offsets)
    def commit_outside(self, place: Any, offset: int) -> None:
        group, topic, partition = place
        if topic in self.world.topics:
            assert not self.world.commit(offset, topic=topic, partition=partition, group=group).error
            self.count[place] = offset
            self.pending = {key: value for key, value in self.pending.items() if key[1] != place}

    @rule(producer=producers, committed=st.booleans(), times=st.integers(1, 2))
    def end(self, producer: int, committed: bool, times: int) -> None:  # noqa: FBT001 - drawn
        self.number += 1
        number = self.open.pop(producer, self.number)
        for _ in range(times):
            end(self.world, number, producer=producer, committed=committed)
        self.ended[producer] = number
        for who, place in list(self.pending):
            if who == producer:
                offset = self.pending.pop((who, place))
                if committed:
                    self.count[place] = offset

    @rule(producer=producers, committed=st.booleans())
    def end_an_earlier_one(self, producer: int, committed: bool) -> None:  # noqa: FBT001 - drawn
        end(self.world, self.ended.get(producer, 1), producer=producer, committed=committed)
        self.ended.setdefault(producer, 1)

    @rule(topic=st.sampled_from(["t", "u"]), restarted=st.booleans())
    def topic_is_deleted(self, topic: str, restarted: bool) -> None:  # noqa: FBT001 - drawn
        if self.world.topics.pop(topic, None) is None:
            self.world.topics[topic] = 4
            return
        self.pending = {key: value for key, value in self.pending.items() if key[1][1] != topic}
        self.count = {place: offset for place, offset in self.count.items() if place[1] != topic}
        if restarted:
            self.world.restart()
        else:
            self.world.table.topic_gone(topic, self.world.now)
            self.world.take()

    @rule(group=st.sampled_from(["g", "h"]))
    def group_is_deleted(self, group: str) -> None:
        if self.world.do(self.world.table.delete, group, self.world.now).answer is None:
            self.pending = {key: value for key, value in self.pending.items() if key[1][0] != group}
            self.count = {place: offset for place, offset in self.count.items() if place[0] != group}

    @rule(ms=st.sampled_from([1.0, MINUTE_MS, 11 * MINUTE_MS]))
    def time_passes(self, ms: float) -> None:
        self.world.advance(ms)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @invariant()
    def what_is_fetched_is_what_counts(self) -> None:
        if not hasattr(self, "world"):
            return
        unstable = {place for _, place in self.pending}
        for group in ("g", "h"):
            counts = {place[1:]: offset for place, offset in self.count.items() if place[0] == group}
            assert self.world.committed(group) == counts
            for topic in self.world.topics:
                wanted = [g.TopicPartitionEntry(topic, partition) for partition in (0, 1)]
                request = g.OffsetFetchRequest(group, wanted, require_stable=True)
                for entry in self.world.do(self.world.table.fetch_offsets, request).body.partitions:
                    place = (group, topic, entry.partition)
                    assert entry.error_code == (88 if place in unstable else 0)
                    assert entry.offset == self.count.get(place, -1)
        assert len(self.world.table.pending) == len({producer for producer, _ in self.pending})


def test_what_counts_is_what_was_committed_whatever_happens(make_world: Any) -> None:
    run_state_machine_as_test(
        lambda: PendingModel(make_world),
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )
