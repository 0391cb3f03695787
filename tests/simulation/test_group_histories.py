"""What the checkers of consumer groups and share groups notice, and what they let pass."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from zmqbroker.simulation.group_history import GroupHistory
from zmqbroker.simulation.history import Fate, History, Sent
from zmqbroker.simulation.share_history import ShareHistory
from zmqbroker.simulation.world import ViolationError, World
from zmqbroker.transport.share_messages import AcquiredRecords, SharePartitionInfo

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

PARTITION = ("data", 0)
LIMIT = 3
LEASE_MS = 1_000.0


def violation(invariant: str) -> AbstractContextManager[object]:
    return pytest.raises(ViolationError, match=invariant) if invariant else nullcontext()


@pytest.fixture
def world() -> World:
    return World(0)


@pytest.fixture
def group(world: World) -> GroupHistory:
    return GroupHistory(world, History(world), "group", lambda _: True)


@pytest.mark.parametrize(("generation", "invariant"), [(1, "17 owners"), (2, "")])
def test_one_owner_in_a_generation(world: World, group: GroupHistory, generation: int, invariant: str) -> None:
    group.assigned("one", 1, [PARTITION])
    group.assigned("other", generation, [PARTITION])
    with violation(invariant):
        world.check()


@pytest.mark.parametrize(("fate", "invariant"), [(Fate.ACKED, "16 commits"), (Fate.UNKNOWN, "")])
@pytest.mark.parametrize("after_ms", [1.0])
def test_an_acked_commit_is_not_lost(
    world: World, group: GroupHistory, fate: Fate, invariant: str, after_ms: float
) -> None:
    group.settle(group.commit(PARTITION, 1, "one"), fate)
    group.fetched(PARTITION, -1, world.now_ms + after_ms)
    with violation(invariant):
        world.check()


@pytest.mark.parametrize(("generation", "invariant"), [(1, ""), (0, "16 commits")])
def test_a_commit_in_doubt_may_still_come_in_its_generation(
    world: World, group: GroupHistory, generation: int, invariant: str
) -> None:
    doubtful = group.commit(PARTITION, generation, "one")
    group.settle(group.commit(PARTITION, 1, "one"), Fate.ACKED)
    group.fetched(PARTITION, doubtful.offset, world.now_ms + 1.0)
    with violation(invariant):
        world.check()


def test_a_commit_of_an_old_generation_is_noticed(world: World, group: GroupHistory) -> None:
    group.assigned("one", 2, [PARTITION])
    world.now_ms = 1.0
    group.settle(group.commit(PARTITION, 1, "other"), Fate.ACKED)
    with violation("16 commits"):
        world.check()


@pytest.fixture
def queue(world: World) -> ShareHistory:
    return ShareHistory(world, History(world), "queue", LIMIT, lambda: (0,), is_coordinator=lambda _: True)


@pytest.mark.parametrize(
    ("now_ms", "deliveries", "invariant"),
    [(500.0, 2, "18 share"), (LEASE_MS, 2, ""), (LEASE_MS, LIMIT + 1, "18 share")],
)
def test_a_record_is_one_consumers_while_its_lease_lasts(
    world: World, queue: ShareHistory, now_ms: float, deliveries: int, invariant: str
) -> None:
    queue.delivered("one", PARTITION, AcquiredRecords(0, 0, 1), LEASE_MS, (0.0, (0,)))
    world.now_ms = now_ms
    queue.delivered("other", PARTITION, AcquiredRecords(0, 0, deliveries), LEASE_MS, (now_ms - 1.0, (0,)))
    with violation(invariant):
        world.check()


def test_what_is_acknowledged_is_not_delivered_again(world: World, queue: ShareHistory) -> None:
    queue.finished(PARTITION, 0, 0)
    queue.delivered("one", PARTITION, AcquiredRecords(0, 0, 2), LEASE_MS, (1.0, (0,)))
    with violation("19 acknowledged"):
        world.check()


@pytest.mark.parametrize(("again", "invariant"), [(5, "18 share"), (6, "")])
def test_what_is_final_takes_no_other_acknowledgement(
    world: World, queue: ShareHistory, again: int, invariant: str
) -> None:
    queue.finished(PARTITION, 4, 5)
    world.now_ms += 1.0
    queue.finished(PARTITION, again, again)
    with violation(invariant):
        world.check()


def read_one(history: History) -> None:
    history.send(b"value", Sent("producer", 0, PARTITION, -1))
    history.note_read(PARTITION, 0, b"value")


@pytest.mark.parametrize(
    ("deliveries", "unheard", "letters", "invariant"),
    [
        (0, [], 0, "18 share"),
        (LIMIT, [], 0, ""),
        (0, [], 1, ""),
        (LIMIT - 1, [10], 0, ""),
        (LIMIT - 2, [10], 0, "18 share"),
        (0, [1] * LIMIT, 0, ""),
    ],
)
def test_what_nobody_finished_is_given_up_only_after_all_its_deliveries(
    world: World, deliveries: int, unheard: list[int], letters: int, invariant: str
) -> None:
    history = History(world)
    queue = ShareHistory(world, history, "queue", LIMIT, lambda: (0,), is_coordinator=lambda _: True)
    read_one(history)
    for count in range(1, deliveries + 1):
        world.now_ms += LEASE_MS
        queue.delivered("one", PARTITION, AcquiredRecords(0, 0, count), LEASE_MS, (world.now_ms, (0,)))
    for records in unheard:
        queue.unheard(records)
    queue.dead_letters.update([(PARTITION, 0)] * letters)
    queue.drained("data")
    with violation(invariant):
        world.check()


def test_what_the_dead_letter_topic_lacks_was_not_given_up_where_it_loses_nothing(world: World) -> None:
    history = History(world)
    queue = ShareHistory(world, history, "queue", LIMIT, lambda: (0,), is_coordinator=lambda _: True)
    queue.letters_stay = True
    read_one(history)
    queue.delivered("one", PARTITION, AcquiredRecords(0, 0, LIMIT), LEASE_MS, (0.0, (0,)))
    queue.drained("data")
    with violation("18 share"):
        world.check()


def test_a_queue_lags_until_all_that_was_read_is_finished(world: World) -> None:
    history = History(world)
    queue = ShareHistory(world, history, "queue", LIMIT, lambda: (0,), is_coordinator=lambda _: True)
    assert not queue.lag("data", [])
    read_one(history)
    assert queue.lag("data", [])
    assert queue.lag("data", [SharePartitionInfo("data", 0, 0, 1, 1, 0, 0, 1, -1, 0)])
    assert queue.lag("data", [SharePartitionInfo("data", 0, 0, 0, 0, 0, 0, 0, -1, 0)]), "it does not see the record"
    assert not queue.lag("data", [SharePartitionInfo("data", 0, 1, 1, 0, 0, 0, 0, -1, 0)])


def test_a_start_offset_does_not_go_back(world: World, queue: ShareHistory) -> None:
    for start in (5, 4):
        world.now_ms += 1.0
        queue.described(SharePartitionInfo("data", 0, start, 9, 0, 0, 0, 0, -1, 0), world.now_ms)
    with violation("19 start"):
        world.check()
