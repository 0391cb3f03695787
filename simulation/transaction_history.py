"""What transactional producers did and were told, and what readers saw of it, held against invariants 24 to 28."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .history import Partition
    from .world import World

_NEVER = float("inf")
NO_OFFSET = -1


class Outcome(Enum):
    """What the producer knows of the end of a transaction."""

    OPEN = "open"
    COMMITTED = "committed"
    """The coordinator has answered so."""
    ABORTED = "aborted"
    """The coordinator has answered so, or nobody has asked it to commit, and nobody can any more."""
    UNKNOWN = "unknown"


@dataclass(eq=False)
class Transaction:
    """One transaction, as its producer made it."""

    owner: str
    """The transactional id."""
    process: str
    number: int
    """Counts the transactions of the process."""
    values: list[bytes] = field(default_factory=list)
    """All that was sent, in the order of each partition."""
    offsets: dict[Partition, int] = field(default_factory=dict)
    commit_asked: bool = False
    outcome: Outcome = Outcome.OPEN
    ended_ms: float = _NEVER
    seen: bytes = b""
    """A record that somebody was given who reads what is committed."""
    left_out: bytes = b""
    """A record that somebody was told to leave out."""
    is_visible: bool | None = None
    """Whether all of it was read at the end; None: it has no records, or the end is not there."""

    def __str__(self) -> str:
        asked = ", commit asked" if self.commit_asked else ""
        return f"transaction {self.number} of {self.process} ({self.outcome.value}{asked})"


class _Session(NamedTuple):
    """A producer id and epoch that a process was given."""

    process: str
    producer_id: int
    epoch: int
    since_ms: float


class TransactionHistory:
    """All transactions of a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made: dict[str, list[Transaction]] = {}
        """By transactional id, in order."""
        self._of: dict[bytes, Transaction] = {}
        self._sessions: dict[str, list[_Session]] = {}
        self._offsets = 0
        self._stable: dict[tuple[Partition, int], tuple[int, float]] = {}
        """The highest that was told in a leader epoch, and when."""

    # ---- producers

    def began(self, owner: str, process: str, producer_id: int, epoch: int, asked_ms: float) -> None:
        """A process was given a producer id and an epoch that it had asked for at a time (invariant 27)."""
        for session in self._sessions.get(owner, []):
            if session.producer_id != producer_id:
                continue
            known_before = session.since_ms < asked_ms
            if session.epoch == epoch or (session.epoch > epoch and known_before):
                text = f"{process} was given epoch {epoch} of producer {producer_id}, after {session}"
                self._world.violated("27 fencing", text)
        session = _Session(process, producer_id, epoch, self._world.now_ms)
        self._sessions.setdefault(owner, []).append(session)

    def is_over(self, owner: str, producer_id: int, epoch: int) -> bool:
        """Whether a successor of this producer was told that it is the present one."""
        return any(
            session.producer_id == producer_id and session.epoch > epoch for session in self._sessions.get(owner, [])
        )

    def done_late(self, process: str, what: str) -> None:
        """Something was done for a producer that had asked for it when it had a successor already."""
        self._world.violated("27 fencing", f"{process} has a successor, and this was done for it: {what}")

    def forgotten(self, process: str, what: str) -> None:
        """The coordinator does not know of a producer any more."""
        self._world.violated("27 fencing", f"{process} had a transactional id, and hears: {what}")

    def ended_by_nobody(self, transaction: Transaction, what: str) -> None:
        """A transaction has ended, and its producer has neither ended it nor is fenced."""
        self._world.violated("27 fencing", f"{transaction} was ended by somebody else: {what}")

    # ---- transactions

    def begin(self, owner: str, process: str) -> Transaction:
        """A process is about to begin a transaction."""
        mine = self._made.setdefault(owner, [])
        number = sum(before.process == process for before in mine)
        made = Transaction(owner, process, number)
        mine.append(made)
        return made

    def send(self, transaction: Transaction, value: bytes) -> None:
        """A record of a transaction is about to be sent for the first time."""
        transaction.values.append(value)
        self._of[value] = transaction

    def next_offset(self, transaction: Transaction, partition: Partition) -> int:
        """An offset to commit in the transaction, one that nobody has committed before."""
        self._offsets += 1
        transaction.offsets[partition] = self._offsets
        return self._offsets

    def end(self, transaction: Transaction, outcome: Outcome) -> None:
        """Its producer knows what became of the transaction, which may be nothing; the first that it hears counts."""
        if transaction.outcome is not Outcome.OPEN:
            return
        assert outcome is not Outcome.ABORTED or not transaction.commit_asked, f"{transaction} cannot be known to abort"
        transaction.outcome, transaction.ended_ms = outcome, self._world.now_ms
        if outcome is Outcome.COMMITTED and transaction.left_out:
            self._part(transaction, f"{transaction.left_out!r} was left out as aborted")

    def of(self, value: bytes) -> Transaction | None:
        """The transaction that a record is a part of."""
        return self._of.get(value)

    def count(self, outcome: Outcome) -> int:
        """How many transactions have ended so."""
        return sum(each.outcome is outcome for made in self._made.values() for each in made)

    # ---- readers of what is committed

    def read(self, value: bytes, where: str) -> None:
        """A reader was given a record (24 and 25, as far as one record shows them)."""
        transaction = self._of.get(value)
        if transaction is None:
            return
        if not transaction.commit_asked:
            text = f"{where} gives {value!r} to readers of what is committed: {transaction}"
            self._world.violated("24 committed records", text)
        elif transaction.left_out:
            self._part(transaction, f"{value!r} was read, and {transaction.left_out!r} left out as aborted")
        transaction.seen = value

    def leave_out(self, value: bytes, where: str) -> None:
        """A reader was told that a record was aborted."""
        transaction = self._of.get(value)
        if transaction is None:
            self._world.violated("25 all or nothing", f"{where}: {value!r} is in no transaction, and called aborted")
            return
        if transaction.outcome is Outcome.COMMITTED:
            self._part(transaction, f"{value!r} is called aborted")
        elif transaction.seen:
            self._part(transaction, f"{transaction.seen!r} was read, and {value!r} left out as aborted")
        transaction.left_out = value

    def _part(self, transaction: Transaction, what: str) -> None:
        self._world.violated("25 all or nothing", f"{transaction}: {what}")

    def marked(self, transaction: Transaction, where: str, *, committed: bool) -> None:
        """A partition has the marker of a transaction (23)."""
        wrong = not transaction.commit_asked if committed else transaction.outcome is Outcome.COMMITTED
        if wrong:
            text = f"{where} has {'commit' if committed else 'abort'} as the end of {transaction}"
            self._world.violated("23 markers", text)

    def stable(self, partition: Partition, epoch: int, asked_ms: float, offsets: tuple[int, int]) -> None:
        """A leader, asked in its epoch at a time, has told its last stable offset and its high watermark (28)."""
        offset, high_watermark = offsets
        name = f"{partition[0]}-{partition[1]} in leader epoch {epoch}"
        if offset > high_watermark:
            text = f"{name} is stable up to {offset}, and its high watermark is {high_watermark}"
            self._world.violated("28 stable offset", text)
        before, told_ms = self._stable.get((partition, epoch), (-1, _NEVER))
        if offset < before and told_ms < asked_ms:
            self._world.violated("28 stable offset", f"{name} is stable up to {offset}, and was so up to {before}")
        if offset > before:
            self._stable[partition, epoch] = (offset, self._world.now_ms)

    def check_final(self, found: Mapping[Partition, Sequence[bytes]]) -> None:
        """All that a reader of what is committed was given at the end, in order (25)."""
        places: dict[bytes, int] = {}
        for partition, values in found.items():
            for place, value in enumerate(values):
                if value in places:
                    self._world.violated("25 all or nothing", f"{value!r} is read twice, also in {partition}")
                places[value] = place
        for transaction in (each for made in self._made.values() for each in made):
            self._check_whole(transaction, places)
        last: dict[tuple[str, int, Partition], tuple[int, bytes]] = {}
        for partition, values in found.items():
            for value in values:
                self._check_order(partition, value, last)

    def _check_whole(self, transaction: Transaction, places: Mapping[bytes, int]) -> None:
        there = [value for value in transaction.values if value in places]
        missing = [value for value in transaction.values if value not in places]
        if not transaction.values:
            return
        transaction.is_visible = not missing
        if there and not transaction.commit_asked:
            self._world.violated("24 committed records", f"{transaction}: {there[0]!r} is read at the end")
        if there and missing:
            self._part(transaction, f"{there[0]!r} is read at the end, and {missing[0]!r} is not")
        if missing and transaction.outcome is Outcome.COMMITTED:
            self._part(transaction, f"{missing[0]!r} is not read at the end")

    def _check_order(
        self, partition: Partition, value: bytes, last: dict[tuple[str, int, Partition], tuple[int, bytes]]
    ) -> None:
        transaction = self._of.get(value)
        if transaction is None:
            return
        key = (transaction.process, transaction.number, partition)
        place = transaction.values.index(value)
        before, known = last.get(key, (-1, b""))
        if place < before:
            self._part(transaction, f"{value!r} stands behind {known!r} in {partition}")
        last[key] = (place, value)

    # ---- offsets

    def fetched(self, owner: str, partition: Partition, offset: int, asked_ms: float) -> None:
        """The coordinator of the producer's group, asked at a time, has said what is committed and stable (26)."""
        expected: list[str] = []
        for transaction in reversed(self._made.get(owner, [])):
            if partition not in transaction.offsets or transaction.is_visible is False or not transaction.commit_asked:
                continue
            mine = transaction.offsets[partition]
            if mine == offset:
                return
            expected.append(f"{mine} of {transaction}")
            if transaction.is_visible or (
                transaction.outcome is Outcome.COMMITTED and transaction.ended_ms <= asked_ms
            ):
                break
        else:
            if offset == NO_OFFSET:
                return
            expected.append("none")
        text = f"the group of {owner} has offset {offset} of {partition}, and should have {' or '.join(expected)}"
        self._world.violated("26 offsets", text)
