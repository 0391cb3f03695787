"""What the checkers of transactions notice, and what they let pass."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from zmqbroker.log.batch import stamp
from zmqbroker.log.plain_records import encode_batch
from zmqbroker.log.transactions import Marker, encode_marker
from zmqbroker.simulation.history import History
from zmqbroker.simulation.probe import Key
from zmqbroker.simulation.transaction_history import NO_OFFSET, Outcome, Transaction, TransactionHistory
from zmqbroker.simulation.transaction_invariants import Markers
from zmqbroker.simulation.world import ViolationError, World

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

PARTITION, OTHER = ("data", 0), ("data", 1)
KEYS = (Key("data", 0, "id"), Key("data", 1, "id"))
OWNER = "id"


def violation(invariant: str) -> AbstractContextManager[object]:
    return pytest.raises(ViolationError, match=f"^{invariant}:") if invariant else nullcontext()


@pytest.fixture
def world() -> World:
    world = World(0)
    world.now_ms = 10.0
    return world


@pytest.fixture
def history(world: World) -> TransactionHistory:
    return TransactionHistory(world)


def make(history: TransactionHistory, *values: bytes, commit_asked: bool = True) -> Transaction:
    made = history.begin(OWNER, "process")
    for value in values:
        history.send(made, value)
    made.commit_asked = commit_asked
    return made


# ---- readers


@pytest.mark.parametrize(("commit_asked", "invariant"), [(True, ""), (False, "24 committed records")])
def test_nobody_reads_before_it_is_to_be_committed(
    world: World, history: TransactionHistory, *, commit_asked: bool, invariant: str
) -> None:
    make(history, b"a", commit_asked=commit_asked)
    history.read(b"a", "there")
    history.read(b"of no transaction", "there")
    with violation(invariant):
        world.check()


@pytest.mark.parametrize(
    ("outcome", "read", "left_out", "invariant"),
    [
        (Outcome.COMMITTED, True, False, ""),
        (Outcome.COMMITTED, False, True, "25 all or nothing"),
        (Outcome.UNKNOWN, False, True, ""),
        (Outcome.UNKNOWN, True, True, "25 all or nothing"),
    ],
)
@pytest.mark.parametrize("ends_first", [True, False])
def test_a_transaction_is_read_or_left_out_as_a_whole(
    world: World,
    history: TransactionHistory,
    outcome: Outcome,
    *,
    read: bool,
    left_out: bool,
    invariant: str,
    ends_first: bool,
) -> None:
    made = make(history, b"a", b"b")
    if ends_first:
        history.end(made, outcome)
    if read:
        history.read(b"a", "there")
    if left_out:
        history.leave_out(b"b", "there")
    history.end(made, outcome)
    with violation(invariant):
        world.check()


def test_a_record_of_no_transaction_is_not_left_out(world: World, history: TransactionHistory) -> None:
    history.leave_out(b"plain", "there")
    with violation("25 all or nothing"):
        world.check()


@pytest.mark.parametrize(
    ("outcome", "found", "invariant"),
    [
        (Outcome.COMMITTED, ([b"a", b"b"], [b"c"]), ""),
        (Outcome.COMMITTED, ([b"a", b"b"], []), "25 all or nothing"),
        (Outcome.COMMITTED, ([b"b", b"a"], [b"c"]), "25 all or nothing"),
        (Outcome.COMMITTED, ([b"a", b"a", b"b"], [b"c"]), "25 all or nothing"),
        (Outcome.UNKNOWN, ([], []), ""),
        (Outcome.UNKNOWN, ([b"a", b"b"], [b"c"]), ""),
        (Outcome.UNKNOWN, ([b"a", b"b"], []), "25 all or nothing"),
        (Outcome.ABORTED, ([], []), ""),
        (Outcome.ABORTED, ([b"a", b"b"], [b"c"]), "24 committed records"),
    ],
)
def test_what_is_read_at_the_end(
    world: World, history: TransactionHistory, outcome: Outcome, found: tuple[list[bytes], list[bytes]], invariant: str
) -> None:
    made = make(history, b"a", b"b", b"c", commit_asked=outcome is not Outcome.ABORTED)
    history.end(made, outcome)
    history.check_final(dict(zip((PARTITION, OTHER), found, strict=True)))
    with violation(invariant):
        world.check()


@pytest.mark.parametrize(
    ("told", "invariant"),
    [
        ((5, 4), "28 stable offset"),
        ((3, 4), "28 stable offset"),
        ((4, 4), ""),
    ],
)
def test_the_last_stable_offset_is_below_the_high_watermark_and_does_not_go_back(
    world: World, history: TransactionHistory, told: tuple[int, int], invariant: str
) -> None:
    history.stable(PARTITION, 1, world.now_ms, (4, 4))
    history.stable(PARTITION, 2, world.now_ms + 1.0, (2, 4))
    history.stable(PARTITION, 1, world.now_ms + 1.0, told)
    with violation(invariant):
        world.check()


# ---- producers


@pytest.mark.parametrize(
    ("epoch", "asked_ms", "invariant"),
    [(1, 11.0, "27 fencing"), (0, 11.0, "27 fencing"), (0, 9.0, ""), (2, 11.0, "")],
)
def test_an_epoch_is_one_processes_and_does_not_go_back(
    world: World, history: TransactionHistory, epoch: int, asked_ms: float, invariant: str
) -> None:
    history.began(OWNER, "one", 7, 1, 0.0)
    history.began(OWNER, "other", 7, epoch, asked_ms)
    with violation(invariant):
        world.check()


def test_a_producer_is_over_once_its_successor_has_heard_so(history: TransactionHistory) -> None:
    history.began(OWNER, "one", 7, 1, 0.0)
    assert not history.is_over(OWNER, 7, 1)
    history.began(OWNER, "other", 7, 2, 0.0)
    assert history.is_over(OWNER, 7, 1)
    assert not history.is_over(OWNER, 7, 2)


# ---- offsets


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], {NO_OFFSET}),
        ([Outcome.ABORTED], {NO_OFFSET}),
        ([Outcome.COMMITTED], {1}),
        ([Outcome.COMMITTED, Outcome.ABORTED], {1}),
        ([Outcome.COMMITTED, Outcome.COMMITTED], {2}),
        ([Outcome.UNKNOWN], {NO_OFFSET, 1}),
        ([Outcome.COMMITTED, Outcome.UNKNOWN], {1, 2}),
        ([Outcome.UNKNOWN, Outcome.COMMITTED], {2}),
    ],
)
def test_offsets_count_as_their_transactions_do(
    outcomes: list[Outcome], expected: set[int], world: World, history: TransactionHistory
) -> None:
    for outcome in outcomes:
        made = make(history, commit_asked=outcome is not Outcome.ABORTED)
        history.next_offset(made, PARTITION)
        history.end(made, outcome)
    for offset in range(NO_OFFSET, 4):
        checked = TransactionHistory(world)
        checked._made = history._made
        checked.fetched(OWNER, PARTITION, offset, world.now_ms)
        fine = world._violation is None
        world._violation = None
        assert fine == (offset in expected), offset


def test_offsets_follow_the_records_of_a_transaction_in_doubt(world: World, history: TransactionHistory) -> None:
    made = make(history, b"a")
    history.next_offset(made, PARTITION)
    history.end(made, Outcome.UNKNOWN)
    history.check_final({PARTITION: [b"a"]})
    history.fetched(OWNER, PARTITION, NO_OFFSET, world.now_ms)
    with violation("26 offsets"):
        world.check()


# ---- logs


class Log:
    """Committed batches of two partitions, as the truth hears of them."""

    def __init__(self, world: World) -> None:
        self.history = History(world)
        self._tell: list[object] = []
        truth = SimpleNamespace(on_committed=self._tell)
        self.markers = Markers(world, None, self.history, truth)  # type: ignore[arg-type]
        self._offset = 0

    def make(self, *values: bytes) -> Transaction:
        return make(self.history.transactions, *values)

    def records(self, partition: int, *values: bytes) -> None:
        records = [(0, None, value, ()) for value in values]
        self._add(
            partition, encode_batch(records, producer_id=1, producer_epoch=0, base_sequence=0, transactional=True)
        )

    def marker(self, partition: int, number: int, *, committed: bool) -> None:
        self._add(partition, encode_marker(1, 0, Marker(committed, 0, number), 0))

    def _add(self, partition: int, batch: bytes) -> None:
        data = bytearray(batch)
        stamp(data, self._offset, 0)
        self._offset += 10
        self.markers._committed(KEYS[partition], bytes(data))


@pytest.fixture
def log(world: World) -> Log:
    return Log(world)


@pytest.mark.parametrize(
    ("committed", "number", "invariant"), [(True, 5, ""), (False, 5, "23 markers"), (True, 6, "23 markers")]
)
def test_the_markers_of_a_transaction_say_the_same(
    world: World, log: Log, *, committed: bool, number: int, invariant: str
) -> None:
    log.make(b"a", b"b")
    log.records(0, b"a")
    log.records(1, b"b")
    log.marker(0, 5, committed=True)
    log.marker(1, number, committed=committed)
    with violation(invariant):
        world.check()


def test_records_of_two_transactions_have_a_marker_between_them(world: World, log: Log) -> None:
    log.make(b"a")
    log.make(b"b")
    log.records(0, b"a")
    log.marker(0, 5, committed=True)
    log.records(0, b"b")
    world.check()
    log.make(b"c")
    log.records(0, b"c")
    with violation("23 markers"):
        world.check()


def test_nothing_of_a_transaction_stands_behind_its_marker(world: World, log: Log) -> None:
    log.make(b"a", b"late")
    log.records(0, b"a")
    log.marker(0, 5, committed=True)
    log.records(0, b"late")
    with violation("23 markers"):
        world.check()


def test_a_marker_counts_once(world: World, log: Log) -> None:
    log.marker(0, 5, committed=True)
    log.marker(0, 6, committed=False)
    world.check()
    log.marker(0, 6, committed=False)
    with violation("23 markers"):
        world.check()


@pytest.mark.parametrize(
    ("outcome", "committed", "invariant"),
    [
        (Outcome.COMMITTED, True, ""),
        (Outcome.COMMITTED, False, "23 markers"),
        (Outcome.ABORTED, False, ""),
        (Outcome.ABORTED, True, "23 markers"),
        (Outcome.UNKNOWN, True, ""),
        (Outcome.UNKNOWN, False, ""),
    ],
)
def test_a_marker_says_what_the_producer_was_told(
    world: World, log: Log, outcome: Outcome, *, committed: bool, invariant: str
) -> None:
    made = log.make(b"a")
    made.commit_asked = outcome is not Outcome.ABORTED
    log.history.transactions.end(made, outcome)
    log.records(0, b"a")
    log.marker(0, 5, committed=committed)
    with violation(invariant):
        world.check()
