"""Judge of a run of queue_chaos.py: what the workers wrote down and the dead letters, against what a queue promises.

Every record is acknowledged or a dead letter, poison is always a dead letter, none is delivered after its
acknowledgement was confirmed, or confirmed twice, and none more often than the delivery limit allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from queue_chaos_log import ACCEPTED, ALL, CONFIRMED, DELIVERED, ENTRY, FAILED, decision

SHOWN = 5


class DeadLetter(NamedTuple):
    """What stood in the dead-letter topic."""

    number: int
    headers: dict


@dataclass
class Facts:
    """What the logs say, by the record's number."""

    deliveries: dict = field(default_factory=dict)
    """(last time, how often, highest delivery count)."""
    said: set = field(default_factory=set)
    """Accepted: written down, and perhaps said."""
    confirmed: dict = field(default_factory=dict)
    """The first time that an acceptance was confirmed."""
    twice: list = field(default_factory=list)
    mended: int = 0
    """Acknowledgements that were refused, or of which the worker did not hear."""


def read_log(data, facts):
    """Take one worker's log."""
    pending = []
    for kind, count, partition, number, _offset, at in ENTRY.iter_unpack(data[: len(data) // ENTRY.size * ENTRY.size]):
        if kind == DELIVERED:
            last, times, highest = facts.deliveries.get(number, (0, 0, 0))
            facts.deliveries[number] = (max(last, at), times + 1, max(highest, count))
        elif kind == ACCEPTED:
            facts.said.add(number)
            pending.append((number, partition))
        elif kind == FAILED:
            before = len(pending)
            pending = [] if partition == ALL else [entry for entry in pending if entry[1] != partition]
            facts.mended += before - len(pending)
        elif kind == CONFIRMED:
            for accepted, _ in pending:
                if accepted in facts.confirmed:
                    facts.twice.append(accepted)
                facts.confirmed[accepted] = min(at, facts.confirmed.get(accepted, at))
            pending = []
    facts.mended += len(pending)


def judge(logs, dead_letters, *, records, delivery_limit):
    """Check everything; (what was wrong, counts)."""
    facts = Facts()
    for data in logs:
        read_log(data, facts)
    wrong = []

    def none_of(numbers, what):
        found = sorted(numbers)
        if found:
            wrong.append(f"{len(found):,} records {what}: {', '.join(map(str, found[:SHOWN]))}...")

    everything = range(records)
    dead = {letter.number for letter in dead_letters}
    poison = {number for number in everything if decision(number) != ACCEPTED}
    none_of((n for n in everything if n not in facts.said and n not in dead), "neither acknowledged nor dead letters")
    none_of((n for n in poison if n not in dead), "are poison and no dead letters")
    none_of(
        (n for n, at in facts.confirmed.items() if facts.deliveries[n][0] > at),
        "delivered after their acknowledgement was confirmed",
    )
    none_of(facts.twice, "acknowledged twice, and confirmed both times")
    none_of((n for n in facts.confirmed if n in dead), "acknowledged, and dead letters too")
    none_of((n for n, (_, _, high) in facts.deliveries.items() if high > delivery_limit), "over the delivery limit")
    none_of((n for n in {*facts.deliveries, *dead} if n not in everything), "that nobody sent")
    none_of((n for n in everything if n not in facts.deliveries), "never delivered")
    for letter in dead_letters:
        missing = {"topic", "partition", "offset", "group", "delivery.count", "message", "timestamp"} - {
            name.removeprefix("__dlq.errors.") for name in letter.headers
        }
        if missing:
            wrong.append(f"the dead letter {letter.number} lacks headers {sorted(missing)}")
            break
    counts = {
        "records": records,
        "acknowledged and confirmed": len(facts.confirmed),
        "acknowledged, the answer lost": len(facts.said - facts.confirmed.keys() - dead),
        "dead-lettered": len(dead),
        "... of them poison": len(dead & poison),
        "... of them written twice": len(dead_letters) - len(dead),
        "redelivered": sum(times - 1 for _, times, _ in facts.deliveries.values()),
        "acknowledgements refused or not answered": facts.mended,
    }
    return wrong, counts
