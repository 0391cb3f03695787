"""The rules of transactional ids, one by one: who may do what, in which state, and what is written down."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.groups import transaction as transaction_module
from zmqbroker.groups.transaction_records import State, TransactionState, transaction_key, transaction_value
from zmqbroker.transport import transaction_messages as t

WALL_MS = 1_700_000_000_000
TIMEOUT_MS = 60_000
PLACE = ("__consumer_offsets", 3)


@pytest.fixture
def world(make_transactions: Any) -> Any:
    return make_transactions()


# ---- from one transaction to the next


def test_a_transaction_from_its_beginning_to_its_end(world):
    who = world.init()
    assert who == (1001, 0)
    number = world.add(who, ("a", 0), ("b", 1))
    assert number == WALL_MS
    assert world.add_offsets(who) == number
    assert world.verify(who) == world.verify(who, ("b", 1)) == world.verify(who, PLACE) == number
    written = len(world.log)
    assert world.add(who, ("a", 0)) == number
    assert len(world.log) == written, "nothing new, nothing to write"
    assert world.end(who, number) == "done"
    assert world.state is State.PREPARE_COMMIT
    assert [sorted(found.partitions) for found in world.prepared] == [[PLACE, ("a", 0), ("b", 1)]]
    assert world.written().state is State.PREPARE_COMMIT
    for refused in (world.end(who), world.add(who), world.add_offsets(who), world.verify(who), world.init()):
        assert refused == "CONCURRENT_TRANSACTIONS"
    world.complete()
    assert world.state is State.COMPLETE_COMMIT
    assert world.written() == TransactionState(1001, 0, TIMEOUT_MS, State.COMPLETE_COMMIT, (), WALL_MS, number)
    assert world.end(who, number) == world.end(who) == "done", "a repeat"
    assert world.prepared == []
    assert world.verify(who) == "INVALID_TXN_STATE"
    assert world.add(who, last=number) == number + 1, "no two begin at one time"
    assert world.end(who, committed=False) == "done"
    world.complete()
    assert world.state is State.COMPLETE_ABORT


def test_what_has_not_begun_cannot_be_ended(world):
    who = world.init()
    assert world.end(who) == world.end(who, committed=False) == world.verify(who) == "INVALID_TXN_STATE"
    number = world.add(who)
    world.end(who, number)
    world.complete()
    assert world.end(who, number, committed=False) == "INVALID_TXN_STATE", "it was committed"


def test_a_partition_that_was_not_added_is_no_part(world):
    who = world.init()
    world.add(who)
    assert world.verify(who, ("a", 1)) == "INVALID_TXN_STATE"


def test_late_requests_are_known_by_the_number(world):
    who = world.init()
    first = world.add(who, last=-1)
    assert world.end(who, first + 1) == "INVALID_TXN_STATE"
    world.end(who, first)
    world.complete()
    assert world.add(who, last=-1) == world.add_offsets(who, last=-1) == "INVALID_TXN_STATE"
    second = world.add_offsets(who, last=first)
    assert second > first
    assert world.add(who, last=-1) == second, "the transaction is open: it begins none"
    assert world.end(who, first) == "INVALID_TXN_STATE"
    assert world.end(who, second) == "done"


def test_one_partition_that_is_wrong_is_all(world):
    who = world.init()
    assert world.add(who, ("a", 0), ("c", 0), ("a", 9), ("__x", 0)) == [55, 3, 3, 17]
    assert world.state is State.EMPTY
    number = world.add(who, ("a", 0))
    assert world.add(who, ("a", 1), ("c", 0)) == [55, 3]
    assert world.verify(who, ("a", 1)) == "INVALID_TXN_STATE"
    assert world.add(who, ("a", 1)) == number


def test_a_transaction_of_no_partition_is_one(world):
    """Nobody needs it; but nobody is harmed by it either."""
    who = world.init()
    request = t.AddPartitionsToTxnRequest("tx", *who, [])
    assert world.do(world.table.add_partitions, request, world.problem, world.now).transaction == WALL_MS
    assert world.end(who) == "done"
    world.complete()
    assert world.state is State.COMPLETE_COMMIT


# ---- producers


def test_nobody_but_the_present_producer(world):
    assert world.add((1001, 0)) == world.end((1001, 0)) == world.verify((1001, 0)) == "INVALID_PRODUCER_ID_MAPPING"
    old = world.init()
    new = world.init()
    assert new == (old[0], 1)
    for ask in (world.add, world.add_offsets, world.end, world.verify):
        assert ask(old) == ask((new[0], 2)) == "PRODUCER_FENCED"
        assert ask((77, 1)) == "INVALID_PRODUCER_ID_MAPPING"


def test_whoever_takes_over_aborts_what_is_open(world):
    old = world.init()
    world.add(old)
    assert world.init() == "CONCURRENT_TRANSACTIONS"
    assert (world.state, world.prepared[0].producer_epoch) == (State.PREPARE_ABORT, 1), "under the next epoch"
    assert world.end(old) == world.add(old) == "PRODUCER_FENCED"
    assert world.init() == "CONCURRENT_TRANSACTIONS"
    assert len(world.prepared) == 1
    world.complete()
    assert world.init() == (old[0], 2)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_producer_that_asks_again_gets_what_it_has(world, restarted):
    """KIP-360: the answer was lost, perhaps with the coordinator."""
    old = world.init()
    new = world.init(old)
    assert new == (old[0], 1)
    if restarted:
        world.restart()
    assert world.init(old) == new
    newer = world.init(new)
    assert newer == (old[0], 2)
    assert world.init(old) == "PRODUCER_FENCED"
    assert world.init(new) == newer
    number = world.add(newer)
    if restarted:
        world.restart()
    assert world.init(new) == "PRODUCER_FENCED", "whoever has begun is past that"
    assert world.end(newer, number) == "done"
    assert world.init((newer[0], 9)) == world.init((9, 0)) == "PRODUCER_FENCED"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_producer_whose_transaction_took_too_long_goes_on_under_the_next_epoch(world, restarted):
    who = world.init()
    world.add(who)
    world.pass_time(TIMEOUT_MS)
    assert world.tick() == ["tx"]
    if restarted:
        world.restart()
    assert world.init(who) == "CONCURRENT_TRANSACTIONS"
    world.complete()
    if restarted:
        world.restart()
    assert world.init(who) == world.init(who) == (who[0], 1)


def test_somebody_else_comes_before_the_one_who_goes_on(world):
    who = world.init()
    world.add(who)
    world.pass_time(TIMEOUT_MS)
    world.tick()
    world.complete()
    assert world.init() == (who[0], 2)
    assert world.init(who) == "PRODUCER_FENCED"


@pytest.mark.parametrize("named", [False, True])
def test_a_producer_without_epochs_left_gets_another_id(world, monkeypatch, named):
    monkeypatch.setattr(transaction_module, "EPOCH_MAX", 3)
    who = world.init()
    seen = [who]
    for _ in range(7):
        who = world.init(who if named else (-1, -1))
        seen.append(who)
        if named:
            assert world.init(seen[-2]) == who
    assert seen == [(1001, 0), (1001, 1), (1001, 2), (1002, 0), (1002, 1), (1002, 2), (1003, 0), (1003, 1)]


@pytest.mark.parametrize("named", [False, True])
def test_the_last_epoch_is_for_aborts_only(world, monkeypatch, named):
    monkeypatch.setattr(transaction_module, "EPOCH_MAX", 3)
    for _ in range(3):
        last = world.init()
    assert last == (1001, 2)
    world.add(last)
    assert world.init(last if named else (-1, -1)) == "CONCURRENT_TRANSACTIONS"
    assert world.prepared[0].producer_epoch == 3
    world.complete()
    again = world.init(last) if named else world.init()
    if named:
        assert again in ("PRODUCER_FENCED", (1002, 0)), (
            "but never the epoch of the abort, which it could not be fenced from"
        )
        again = world.init()
    assert again == (1002, 0)
    assert world.add(last) == "INVALID_PRODUCER_ID_MAPPING"


@pytest.mark.parametrize(
    ("asked", "timeout_ms", "error"),
    [
        ((-1, -1), 0, "INVALID_TRANSACTION_TIMEOUT"),
        ((-1, -1), -1, "INVALID_TRANSACTION_TIMEOUT"),
        ((-1, -1), 900_001, "INVALID_TRANSACTION_TIMEOUT"),
        ((5, -1), 1, "INVALID_REQUEST"),
        ((-1, 5), 1, "INVALID_REQUEST"),
    ],
)
def test_what_nobody_may_ask(world, asked, timeout_ms, error):
    assert world.init(asked, timeout_ms) == error
    assert world.table.transactions == {}
    world.init(timeout_ms=900_000)
    assert world.init(asked, timeout_ms) == error


# ---- time


def test_a_transaction_is_aborted_when_its_time_is_over_and_not_before(world):
    who = world.init(timeout_ms=5000)
    world.add(who)
    begun = world.ms
    world.pass_time(3000)
    world.add(who, ("a", 1))
    assert world.table.deadline_ms() == begun + 5000, "more partitions do not make it longer"
    world.pass_time(1999)
    assert world.tick() == []
    world.pass_time(1)
    assert world.tick() == ["tx"]
    assert world.state is State.PREPARE_ABORT
    assert world.end(who) == "PRODUCER_FENCED"
    assert world.tick() == []
    world.complete()
    assert world.tick() == []


def test_one_that_has_ended_has_no_deadline(world):
    who = world.init(timeout_ms=5000)
    world.add(who)
    world.end(who)
    world.pass_time(9000)
    assert world.tick() == []
    world.complete()
    assert world.tick() == []
    assert world.table.deadline_ms() > world.ms


@pytest.mark.parametrize(("away_ms", "left_ms"), [(0, 3000), (1000, 2000), (3000, 0), (10**9, 0), (-(10**9), 5000)])
def test_a_restart_leaves_the_time_that_is_left_by_the_wall_clock(world, away_ms, left_ms):
    who = world.init(timeout_ms=5000)
    world.add(who)
    world.pass_time(2000)
    world.pass_time(0, wall_ms=away_ms)
    world.restart()
    assert world.table.deadline_ms() == world.ms + left_ms


def test_numbers_grow_though_the_wall_clock_goes_back(world):
    who = world.init()
    numbers = []
    for step in (0, -(10**9), 0, 10**6, -1, 2 * 10**9):
        world.pass_time(1, wall_ms=step)
        if step == 10**6:
            world.restart()
            who = world.init()
        numbers.append(world.add(who))
        world.end(who)
        world.complete()
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == world.wall_ms, "they are times again when the clock is ahead"


def test_what_was_decided_goes_on_after_a_restart(world):
    who = world.init()
    number = world.add(who, ("a", 0), ("b", 2))
    world.end(who, number)
    world.restart()
    assert [sorted(found.partitions) for found in world.prepared] == [[("a", 0), ("b", 2)]]
    assert world.prepared[0].number == number
    assert world.end(who, number) == "CONCURRENT_TRANSACTIONS"
    world.complete()
    assert world.state is State.COMPLETE_COMMIT
    assert world.end(who, number) == "done"


def test_ids_that_nobody_has_used_for_long_are_forgotten(make_transactions):
    world = make_transactions(transactional_id_expiration_ms=100_000, transaction_remove_expired_interval_ms=10_000)
    idle = world.init(name="idle")
    busy = world.init(timeout_ms=900_000)
    world.init(idle, name="idle")
    world.add(busy)
    world.pass_time(100_000)
    assert world.tick() == []
    assert set(world.table.transactions) == {"idle", "tx"}
    world.pass_time(10_000)
    assert world.tick() == []
    assert set(world.table.transactions) == {"tx"}, "one with an open transaction is kept"
    world.restart()
    assert set(world.table.transactions) == {"tx"}
    assert world.add(idle, name="idle") == "INVALID_PRODUCER_ID_MAPPING"
    assert world.init(name="idle") == (idle[0] + 2, 0), "another id: nobody knows the old one's epochs any more"


# ---- the log


def test_a_tombstone_and_what_others_wrote(world):
    who = world.init()
    world.init(who)
    world.table.replay(b"\x01\x02anything", b"x")
    world.table.replay(transaction_key("tx"), None)
    assert world.table.transactions == {}
    world.table.replay(transaction_key("tx"), transaction_value(TransactionState(9, 4, 1, State.EMPTY, (), 2, 3)))
    world.table.loaded(world.now)
    assert world.table.transactions["tx"].former == (-1, -1), "that of another life"


def test_what_is_said_is_confirmed(world):
    who = world.init()
    written = len(world.log)
    world.table.confirm("tx")
    world.table.confirm("nobody")
    world.take()
    assert world.log[written:] == [world.log[written - 1], (transaction_key("nobody"), None)]
    world.restart()
    assert world.init(who) == (who[0], 1)


# ---- administration


def test_description(world):
    who = world.init()
    assert world.do(world.table.describe, "none") == "TRANSACTIONAL_ID_NOT_FOUND"
    idle = world.table.describe("tx")
    assert (idle.state, idle.start_ms, idle.producer_id, idle.producer_epoch) == ("Empty", -1, *who)
    number = world.add(who, ("b", 1), ("a", 2))
    found = world.table.describe("tx")
    assert (found.state, found.start_ms, found.timeout_ms) == ("Ongoing", number, TIMEOUT_MS)
    assert [(one.topic, one.partition) for one in found.partitions] == [("a", 2), ("b", 1)]
    world.end(who)
    assert world.table.describe("tx").start_ms == number
    world.complete()
    assert (world.table.describe("tx").start_ms, world.table.describe("tx").partitions) == (-1, [])


def test_listing(world):
    who = world.init()
    other = world.init(name="other")
    world.add(who)
    world.pass_time(5000)

    def listed(**options):
        reply = world.table.list_all(t.ListTransactionsRequest(**options), world.now)
        return sorted(entry.transactional_id for entry in reply.transactions), reply.unknown_states

    assert listed() == (["other", "tx"], [])
    assert listed(states=["ongoing", "Wrong"]) == (["tx"], ["Wrong"])
    assert listed(states=["Wrong"]) == ([], ["Wrong"])
    assert listed(producer_ids=[other[0], 5]) == (["other"], [])
    assert listed(duration_ms=4999) == (["tx"], [])
    assert listed(duration_ms=5000) == ([], [])
    assert listed(states=["Empty"], duration_ms=0) == ([], [])
