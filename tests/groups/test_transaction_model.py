"""Transactional ids against a reference: producers that take over, repeat themselves, come late and take too long.

The reference knows who the present producer of each id is, what is open and what was decided; whatever is asked of the
table, its answer has to be the reference's. Besides, whatever the reference says: no two producers ever have the same
epoch, numbers of transactions only grow, what was decided stays so, and another node that reads the log knows the same.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from zmqbroker.groups import transaction as transaction_module
from zmqbroker.groups.transaction_records import State
from zmqbroker.transport.transaction_messages import NOT_SAID

EPOCH_MAX = 4
"""Instead of 32767, so that epochs run out."""
TIMEOUTS_MS = (1000, 5000)
NOBODY = (-1, -1)
names = st.sampled_from(["x", "y"])
partitions = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), max_size=3)
said = st.sampled_from(["no", "right", "wrong"])
asking = st.sampled_from(["present"] * 6 + ["former", "former", "older", "newer", "stranger"])


class Known:
    """What the reference knows of one id."""

    def __init__(self, who: Any) -> None:
        self.who = who
        self.former = NOBODY
        self.older: list[Any] = []
        self.state = "Empty"
        self.number = -1
        self.partitions: set[Any] = set()
        self.timeout_ms = 0
        self.due_ms = float("inf")
        """When the open transaction is aborted, unless the wall clock has jumped."""
        self.jumped = False

    @property
    def ending(self) -> bool:
        return self.state.startswith("Prepare")

    def abort(self) -> None:
        self.older.append(self.who)
        exhausted = self.who[1] + 1 >= EPOCH_MAX
        self.former = NOBODY if exhausted else self.who
        self.who = (self.who[0], min(self.who[1] + 1, EPOCH_MAX))
        self.state = "PrepareAbort"


class TransactionModel(RuleBasedStateMachine):
    """See the file's first lines."""

    def __init__(self, make_transactions: Any) -> None:
        super().__init__()
        self.make = make_transactions

    @initialize(expire=st.booleans())
    def begin(self, expire: bool) -> None:  # noqa: FBT001 - drawn
        expiration_ms = 20_000 if expire else 10**9
        self.world = self.make(
            transactional_id_expiration_ms=expiration_ms, transaction_remove_expired_interval_ms=10_000
        )
        self.known: dict[str, Known] = {}
        self.given: dict[Any, Any] = {}
        """Each producer id and epoch that was given away: to whom."""
        self.numbers: dict[int, int] = {}
        """The newest transaction of each producer id."""
        self.decided: dict[Any, str] = {}
        """Of each producer id and number: what was decided."""
        self.begun_before_jump = False

    def who(self, known: Known | None, kind: str) -> Any:
        """A producer id and epoch to ask with."""
        if known is None or kind == "stranger":
            return (5, 0)
        if kind == "former" and known.former != NOBODY:
            return known.former
        if kind == "older" and known.older:
            return known.older[-1]
        if kind == "newer":
            return (known.who[0], known.who[1] + 1)
        return known.who

    # ---- producers

    @rule(name=names, kind=st.one_of(st.none(), asking), timeout_ms=st.sampled_from([*TIMEOUTS_MS * 3, 0, 10**6]))
    def init(self, name: str, kind: str | None, timeout_ms: int) -> None:
        known = self.known.get(name)
        asked = NOBODY if kind is None else self.who(known, kind)
        answer = self.world.init(asked, timeout_ms, name)
        if timeout_ms not in TIMEOUTS_MS:
            assert answer == "INVALID_TRANSACTION_TIMEOUT"
        elif known is None:
            self.known[name] = Known(answer)
            self.gives(answer, name, asked)
        elif asked not in (NOBODY, known.who, known.former):
            assert answer == "PRODUCER_FENCED"
            return
        elif known.state == "Ongoing":
            assert answer == "CONCURRENT_TRANSACTIONS"
            known.abort()
            return
        elif known.ending:
            assert answer == "CONCURRENT_TRANSACTIONS"
            return
        elif asked == known.former != NOBODY:
            assert answer == known.who, "a repeat gets what it has"
        else:
            next_epoch = (known.who[0], known.who[1] + 1)
            assert answer == next_epoch or (next_epoch[1] >= EPOCH_MAX and answer[1] == 0)
            known.older.append(known.who)
            known.who, known.former = answer, asked
            self.gives(answer, name, asked)
        if timeout_ms in TIMEOUTS_MS:
            known = self.known[name]
            known.state, known.timeout_ms, known.partitions = "Empty", timeout_ms, set()

    def gives(self, who: Any, name: str, asked: Any) -> None:
        assert who not in self.given, f"{who} was given to {self.given[who]} before"
        assert 0 <= who[1] < EPOCH_MAX, "the last one is for aborts, which could not be fenced otherwise"
        self.given[who] = (name, asked)

    # ---- transactions

    def expected(self, name: str, who: Any) -> str:
        """Why nobody but the present producer gets anything; empty: it is that one."""
        known = self.known.get(name)
        if known is None or who[0] != known.who[0]:
            return "INVALID_PRODUCER_ID_MAPPING"
        if who != known.who:
            return "PRODUCER_FENCED"
        return "CONCURRENT_TRANSACTIONS" if known.ending else ""

    @rule(name=names, kind=asking, wanted=partitions, last=said, with_group=st.booleans())
    def add(self, name: str, kind: str, wanted: Any, last: str, with_group: bool) -> None:  # noqa: FBT001 - drawn
        known = self.known.get(name)
        who = self.who(known, kind)
        number = known.number if known else -1
        said = {"no": NOT_SAID, "right": number, "wrong": number + 7}[last]
        wanted = wanted or [("a", 0)]
        if with_group:
            answer = self.world.add_offsets(who, said, name=name)
            wanted = [("__consumer_offsets", 3)]
        else:
            answer = self.world.add(who, *wanted, last=said, name=name)
        error = self.expected(name, who)
        if error or known is None:
            assert answer == error
        elif known.state != "Ongoing" and last == "wrong":
            assert answer == "INVALID_TXN_STATE"
        else:
            self.added(known, wanted, answer)

    def added(self, known: Known, wanted: Any, number: int) -> None:
        if known.state == "Ongoing":
            assert number == known.number
        else:
            producer_id = known.who[0]
            assert number > max(known.number, self.numbers.get(producer_id, -1))
            assert number >= self.world.wall_ms
            known.number = self.numbers[producer_id] = number
            known.state, known.former, known.partitions = "Ongoing", NOBODY, set()
            known.due_ms = self.world.ms + known.timeout_ms
            known.jumped = number != self.world.wall_ms
        known.partitions |= set(wanted)

    @rule(name=names, partition=st.sampled_from([("c", 0), ("a", 9)]), more=partitions)
    def add_what_does_not_exist(self, name: str, partition: Any, more: Any) -> None:
        known = self.known.get(name)
        if known is not None and not known.ending:
            answer = self.world.add(known.who, *more, partition, name=name)
            assert answer == [55] * len(more) + [3]

    @rule(name=names, kind=asking, committed=st.booleans(), number=said)
    def end(self, name: str, kind: str, committed: bool, number: str) -> None:  # noqa: FBT001 - drawn
        known = self.known.get(name)
        who = self.who(known, kind)
        mine = known.number if known else -1
        said = {"no": -1, "right": mine, "wrong": mine + 7}[number]
        answer = self.world.end(who, said, committed=committed, name=name)
        error = self.expected(name, who)
        outcome = "Commit" if committed else "Abort"
        if known is None or error not in ("", "CONCURRENT_TRANSACTIONS"):
            assert answer == error
        elif number == "wrong":
            assert answer == "INVALID_TXN_STATE"
        elif known.state == "Ongoing":
            assert answer == "done"
            known.state = f"Prepare{outcome}"
        elif known.state == f"Prepare{outcome}":
            assert answer == "CONCURRENT_TRANSACTIONS"
        elif known.state == f"Complete{outcome}":
            assert answer == "done", "a repeat"
        else:
            assert answer == "INVALID_TXN_STATE"

    @rule(name=names, kind=asking, partition=st.tuples(st.sampled_from("ab"), st.integers(0, 1)))
    def verify(self, name: str, kind: str, partition: Any) -> None:
        known = self.known.get(name)
        who = self.who(known, kind)
        answer = self.world.verify(who, partition, name=name)
        error = self.expected(name, who)
        if error or known is None:
            assert answer == error
        elif known.state == "Ongoing" and partition in known.partitions:
            assert answer == known.number
        else:
            assert answer == "INVALID_TXN_STATE"

    @rule()
    def markers_are_written(self) -> None:
        self.world.complete()
        for known in self.known.values():
            if known.ending:
                known.state, known.partitions = known.state.replace("Prepare", "Complete"), set()

    @rule(name=names, committed=st.booleans(), taken_over=st.integers(0, 3))
    def a_good_producer(self, name: str, committed: bool, taken_over: int) -> None:  # noqa: FBT001 - drawn
        """Begins, perhaps after some others, and gets one transaction done."""
        for _ in range(taken_over + (name not in self.known)):
            self.markers_are_written()
            self.init(name, None, TIMEOUTS_MS[0])
        self.markers_are_written()
        self.add(name, "present", [("a", 0), ("b", 1)], "right", with_group=committed)
        self.end(name, "present", committed, "right")
        self.markers_are_written()

    # ---- time and restarts

    @rule(ms=st.sampled_from([1, 400, 3000, 11_000]))
    def time_passes(self, ms: int) -> None:
        self.world.pass_time(ms)
        self.tick()

    @rule(ms=st.sampled_from([-(10**7), -300, 300, 10**7]))
    def the_wall_clock_jumps(self, ms: int) -> None:
        self.world.pass_time(0, wall_ms=ms)
        for known in self.known.values():
            known.jumped = True
        self.tick()

    def tick(self) -> None:
        aborted = self.world.tick()
        for name, known in list(self.known.items()):
            if known.state == "Ongoing":
                if not known.jumped:
                    assert (name in aborted) == (self.world.ms >= known.due_ms)
                if name in aborted:
                    known.abort()
            else:
                assert name not in aborted
            if name not in self.world.table.transactions:
                assert known.state != "Ongoing"
                assert not known.ending
                del self.known[name]

    @rule()
    def another_node_takes_over(self) -> None:
        self.world.restart()
        assert sorted(found.transactional_id for found in self.world.prepared) == sorted(
            name for name, known in self.known.items() if known.ending
        )
        self.tick()

    @rule(name=names)
    def confirm(self, name: str) -> None:
        self.world.table.confirm(name)
        self.world.take()

    # ---- what must hold

    @invariant()
    def the_table_equals_the_reference(self) -> None:
        if not hasattr(self, "world"):
            return
        found = self.world.table.transactions
        assert found.keys() == self.known.keys()
        for name, known in self.known.items():
            transaction = found[name]
            assert str(transaction.state) == known.state
            assert (transaction.producer_id, transaction.producer_epoch) == known.who
            assert transaction.former == known.former
            assert transaction.number == known.number
            assert set(transaction.partitions) == known.partitions
            if transaction.is_prepared or transaction.state in (State.COMPLETE_COMMIT, State.COMPLETE_ABORT):
                outcome = known.state.replace("Prepare", "").replace("Complete", "")
                assert self.decided.setdefault((name, known.number), outcome) == outcome
            if known.state == "Ongoing":
                assert self.world.table.deadline_ms() <= self.world.ms + known.timeout_ms
        prepared = [name for name, known in self.known.items() if known.ending]
        assert sorted(transaction.transactional_id for transaction in self.world.prepared) == sorted(prepared)


def test_the_rules_hold_whatever_producers_do(make_transactions: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(transaction_module, "EPOCH_MAX", EPOCH_MAX)
    run_state_machine_as_test(
        lambda: TransactionModel(make_transactions),
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )
