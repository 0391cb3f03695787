"""Judge of a run of group_chaos.py: what the members wrote down, against what a consumer group promises.

An owner is current from the moment it is told of a partition until it has given it back, was killed, or was put out of
the group; a member that hung for longer than its session knows of that only afterwards. So two members may believe that
they own a partition, but then the earlier one must have hung or be told that it is lost, and none of the commits that
it begins from then on may succeed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import NamedTuple

MS = 1_000_000
HANG_SHARE = 0.7
"""A hang of this share of the session time-out may end a session: the last heartbeat was a while before it."""
JOINING_MS = 10_000
"""How long before a member hears of its share it may have hung."""
FOREVER = 1 << 62


@dataclass(eq=False)
class Life:
    """One process that was a member: from its start to its end."""

    name: str
    events: list = field(default_factory=list)
    hangs: list = field(default_factory=list)
    """(stopped, continued), in ns."""
    killed: int | None = None
    is_async: bool = False


class Window(NamedTuple):
    """A time in which exactly one member left or came, and nothing else was done to anybody."""

    kind: str
    name: str
    begin: int
    end: int


class Span(NamedTuple):
    """A partition in one member's hands."""

    life: Life
    partition: int
    generation: int
    begin: int
    end: int
    how: str
    """revoked, lost, killed, or running: still owned at the end."""


@dataclass
class Verdict:
    """What came out."""

    violations: list = field(default_factory=list)
    counts: dict = field(default_factory=lambda: defaultdict(int))
    moves_ms: list = field(default_factory=list)
    gaps_ms: list = field(default_factory=list)

    def wrong(self, text):
        self.violations.append(text)

    def summary(self):
        """Lines for people."""
        lines = [", ".join(f"{count:,} {name}" for name, count in sorted(self.counts.items()))]
        for name, values in (
            ("clean stops: partitions moved within", self.moves_ms),
            ("members that keep partitions: longest pause between reads", self.gaps_ms),
        ):
            if values:
                lines.append(f"{name}: median {median(values):.0f} ms, max {max(values):.0f} ms, {len(values)} times")
        return lines


def spans_of(life, verdict):
    """The times in which a member owned partitions, in order of their begin."""
    spans = []
    owned = {}
    end = life.killed if life.killed is not None else FOREVER
    for event in life.events:
        kind = event["e"]
        if kind == "assigned":
            for partition in event["p"]:
                if partition in owned:
                    verdict.wrong(f"{life.name}: partition {partition} assigned twice, without being revoked between")
                owned[partition] = event
        elif kind in ("revoked", "lost"):
            for partition in event["p"]:
                begin = owned.pop(partition, None)
                if begin is None:
                    verdict.wrong(f"{life.name}: partition {partition} {kind}, which it did not own")
                else:
                    spans.append(Span(life, partition, begin["g"], begin["t"], event["t"], kind))
    how = "running" if life.killed is None else "killed"
    if life.events:
        end = max(end, life.events[-1]["t"])
    spans += [Span(life, partition, begin["g"], begin["t"], end, how) for partition, begin in owned.items()]
    if owned and any(event["e"] == "closed" for event in life.events):
        verdict.wrong(f"{life.name}: closed, and partitions {sorted(owned)} were never revoked")
    return spans


def hung_long(life, begin, until, session_ms):
    """Whether a member hung for long enough, before that moment, to be put out of the group."""
    return any(min(to, until) - max(at, begin) >= session_ms * HANG_SHARE * MS for at, to in life.hangs if at < until)


def check_owners(spans, session_ms, verdict):
    """No partition has two current owners, and who was put out cannot commit."""
    by_partition = defaultdict(list)
    for span in spans:
        by_partition[span.partition].append(span)
    for partition, owners in by_partition.items():
        owners.sort(key=lambda span: span.begin)
        active = []
        for late in owners:
            active = [early for early in active if early.end > late.begin]
            for early in active:
                if early.life is late.life:
                    continue
                check_pair(early, late, session_ms, verdict)
            active.append(late)
        verdict.counts["ownerships"] += len(owners)
        generations = defaultdict(set)
        for span in owners:
            generations[span.generation].add(span.life.name)
        for generation, names in generations.items():
            if len(names) > 1:
                verdict.wrong(f"partition {partition} was assigned to {sorted(names)} in generation {generation}")


def check_pair(early, late, session_ms, verdict):
    """Two members that both believe they own a partition: that of the older generation has to be a stale one.

    It may be the later one too: a member that hung while it joined hears of its share when that is long over.
    """
    stale, current = (early, late) if early.generation <= late.generation else (late, early)
    both = (
        f"partition {early.partition}: {current.life.name} owns it (generation {current.generation}) while"
        f" {stale.life.name} (generation {stale.generation})"
    )
    known_since = early.begin if stale is early else late.begin - JOINING_MS * MS
    verdict.counts["stale owners"] += 1
    if stale.how != "lost" and not hung_long(stale.life, known_since, late.begin, session_ms):
        both_ms = (min(early.end, late.end) - late.begin) / MS
        verdict.wrong(f"{both} has it too, for {both_ms:.0f} ms, until it was {stale.how}")
    for event in stale.life.events:
        if event["e"] == "commit" and late.begin < event["begun"] < stale.end:
            offset = event["o"].get(str(stale.partition))
            if offset is not None:
                verdict.wrong(f"{both} could commit {offset}")


def committed(lives, samples, verdict):
    """What was committed or read of each partition: (begun, done, offset, who and what)."""
    seen = defaultdict(list)
    for life in lives:
        for event in life.events:
            if event["e"] == "commit":
                verdict.counts["commits"] += 1
                for partition, offset in event["o"].items():
                    seen[int(partition)].append((event["begun"], event["t"], offset, f"{life.name} committed"))
            elif event["e"] == "refused":
                verdict.counts["commits refused"] += 1
    for begun, done, offsets in samples:
        for partition, offset in offsets.items():
            seen[partition].append((begun, done, offset, "the admin client read"))
    verdict.counts["samples of committed offsets"] += len(samples)
    return seen


def check_commits(seen, verdict):
    """Offsets only go forward: what is committed or read after something was committed or read is not below it."""
    for partition, values in seen.items():
        ends = sorted(values, key=lambda value: value[1])
        position, highest, by = 0, -1, ""
        for begun, _, offset, what in sorted(values):
            while position < len(ends) and ends[position][1] < begun:
                if ends[position][2] > highest:
                    highest, by = ends[position][2], ends[position][3]
                position += 1
            if offset < highest:
                verdict.wrong(f"partition {partition}: {what} {offset} after {by} {highest}: it went back")


def all_reads(lives, verdict):
    """Everything that polls returned, in the order of time."""
    reads = []
    for life in lives:
        for event in life.events:
            if event["e"] == "read":
                reads += [(event["t"], life, partition, first, last) for partition, first, last in event["r"]]
            elif event["e"] == "wrong":
                verdict.wrong(f"{life.name}: {event['why']}")
    reads.sort(key=lambda read: read[0])
    return reads


def check_reads(lives, spans, seen, verdict):
    """Who owns a partition reads from the committed offset on, and neither skips nor goes back; nobody else reads."""
    owned = defaultdict(list)
    for span in spans:
        owned[span.life, span.partition].append(span)
    position = {}
    highest = defaultdict(int)
    for at, life, partition, first, last in all_reads(lives, verdict):
        verdict.counts["records read"] += last - first + 1
        span = next((span for span in owned[life, partition] if span.begin <= at <= span.end), None)
        if span is None:
            verdict.wrong(f"{life.name}: read partition {partition} at {first}, which it does not own")
            continue
        expected = position.get(span)
        if expected is None:
            least = max((offset for _, done, offset, _ in seen[partition] if done < span.begin), default=0)
            if not least <= first <= highest[partition]:
                verdict.wrong(
                    f"{life.name}: begins partition {partition} at {first}, with {least} committed and"
                    f" {highest[partition]} read before"
                )
        elif first != expected:
            verdict.wrong(f"{life.name}: partition {partition} goes on at {first} instead of {expected}")
        position[span] = last + 1
        highest[partition] = max(highest[partition], last + 1)


def unread(lives, acked):
    """The acknowledged records that nobody read, as (partition, offset) of the first of each partition."""
    ranges = defaultdict(list)
    for life in lives:
        for event in life.events:
            if event["e"] == "read":
                for partition, first, last in event["r"]:
                    ranges[partition].append((first, last))
    missing = []
    for partition, end in acked.items():
        upto = 0
        for first, last in sorted(ranges[partition]):
            if first > upto:
                break
            upto = max(upto, last + 1)
        if upto < end:
            missing.append((partition, upto))
    return missing


def check_moves(lives, windows, limit_ms, verdict):
    """A clean stop moves all partitions of a member to others in time."""
    assigned = sorted(
        (event["t"], partition, life.name)
        for life in lives
        for event in life.events
        if event["e"] == "assigned"
        for partition in event["p"]
    )
    by_name = {life.name: life for life in lives}
    for window in windows:
        if window.kind != "leave":
            continue
        life = by_name[window.name]
        closing = next((event["t"] for event in life.events if event["e"] == "closing"), None)
        if closing is None:
            verdict.wrong(f"{life.name}: asked to stop and did not")
            continue
        owned = {
            p for event in life.events if event["e"] in ("revoked", "lost") and event["t"] > closing for p in event["p"]
        }
        if not owned:
            continue
        taken = {}
        for at, partition, name in assigned:
            if at > closing and name != life.name and partition in owned:
                taken.setdefault(partition, at)
        if len(taken) < len(owned):
            verdict.wrong(f"{life.name}: partitions {sorted(owned - set(taken))} had no owner after its clean stop")
            continue
        moved_ms = (max(taken.values()) - closing) / MS
        verdict.moves_ms.append(moved_ms)
        if moved_ms > limit_ms:
            verdict.wrong(
                f"{life.name}: its clean stop moved the partitions after {moved_ms:.0f} ms (of {limit_ms} ms)"
            )


def check_keepers(lives, spans, windows, pause_ms, verdict):
    """With a cooperative assignor: what a member has before and after a rebalance it has all the time, and reads it."""
    by_life = defaultdict(list)
    for span in spans:
        by_life[span.life.name].append(span)
    for window in windows:
        for life in lives:
            if life.name == window.name:
                continue
            before = {span.partition for span in by_life[life.name] if span.begin < window.begin < span.end}
            after = {span.partition for span in by_life[life.name] if span.begin < window.end < span.end}
            through = {
                span.partition for span in by_life[life.name] if span.begin < window.begin and span.end > window.end
            }
            if before & after - through:
                verdict.wrong(f"{life.name}: stopped {sorted(before & after - through)}, which it kept")
            if not through:
                continue
            verdict.counts["partitions kept"] += len(through)
            times = [
                event["t"]
                for event in life.events
                if event["e"] == "read" and any(partition in through for partition, _, _ in event["r"])
            ]
            inside = [window.begin, *(at for at in times if window.begin < at < window.end), window.end]
            gap_ms = max(to - at for at, to in pairwise(inside)) / MS
            verdict.gaps_ms.append(gap_ms)
            if gap_ms > pause_ms:
                verdict.wrong(f"{life.name}: read nothing of what it kept for {gap_ms:.0f} ms of a rebalance")


def judge(lives, *, samples, acked, windows, session_ms, cooperative, limit_ms, pause_ms):
    """Check everything. ``acked`` is how many records of each partition were acknowledged: its first offsets."""
    verdict = Verdict()
    for life in lives:
        life.events.sort(key=lambda event: event["t"])
    spans = [span for life in lives for span in spans_of(life, verdict)]
    check_owners(spans, session_ms, verdict)
    seen = committed(lives, samples, verdict)
    check_commits(seen, verdict)
    check_reads(lives, spans, seen, verdict)
    check_moves(lives, windows, limit_ms, verdict)
    if cooperative:
        check_keepers(lives, spans, windows, pause_ms, verdict)
    verdict.counts["records acknowledged"] = sum(acked.values())
    for partition, offset in unread(lives, acked):
        verdict.wrong(f"partition {partition}: nobody read offset {offset}, though {acked[partition]} are acknowledged")
    return verdict
