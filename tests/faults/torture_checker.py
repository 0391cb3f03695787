"""Judge of a torture: what producers and readers wrote down, and what stands in the log at last, against the promises.

Acknowledged records are there, once, where it was said, in their producer's order; what was refused for certain is not;
an offset has one value for ever; a reader neither skips nor goes back; replicas are the same.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from torture_log import ACKED, DELIVERED, FAILED, MEMBER_COMMIT, MEMBER_READ, UNKNOWN
from zmqbroker.log.inspect import dump, segment_files
from zmqbroker.log.real_disk import RealDisk

SHOWN = 5
MS = 1_000_000


class _Complaints(list):
    def none_of(self, found, what):
        """Nothing of a kind may be there; how many are."""
        found = list(found)
        if found:
            self.append(f"{len(found):,} {what}: {', '.join(map(str, found[:SHOWN]))}")
        return len(found)


def judge(outcomes, final, reads):
    """Check the history; (what was wrong, counts).

    outcomes: by producer, lists of Outcome. final: by partition, lists of Read in the order of offsets. reads: by
    reader, lists of Read in the order of reading.
    """
    wrong = _Complaints()
    places = defaultdict(list)
    for partition, records in final.items():
        for read in records:
            places[read.producer, partition, read.number].append(read.offset)
    noted = {(who, o.partition, o.number): o for who, found in outcomes.items() for o in found}
    acked = {name: o for name, o in noted.items() if o.kind == ACKED}
    lost = wrong.none_of((name for name in acked if name not in places), "acknowledged records are lost")
    doubled = wrong.none_of(
        ((name, at) for name, at in places.items() if len(at) > 1), "records stand at more than one offset"
    )
    wrong.none_of(
        (
            (name, o.offset, places[name])
            for name, o in acked.items()
            if o.offset >= 0 and name in places and o.offset not in places[name]
        ),
        "records do not stand where their acknowledgement says (name, said, found)",
    )
    wrong.none_of(
        (name for name, o in noted.items() if o.kind == FAILED and name in places), "records were refused and stored"
    )
    wrong.none_of((name for name in places if name not in noted), "records are stored that no producer has told of")
    highest = {}
    for who, partition, number in noted:
        highest[who, partition] = max(number, highest.get((who, partition), 0))
    wrong.none_of(
        (
            (who, partition, number)
            for (who, partition), last in highest.items()
            for number in range(last)
            if (who, partition, number) not in noted
        ),
        "records were sent and never answered for",
    )
    _judge_order(final, wrong)
    for reader, records in reads.items():
        _judge_reader(reader, records, final, wrong)
    counts = {
        "records acknowledged": len(acked),
        "records of unknown fate": sum(o.kind == UNKNOWN for o in noted.values()),
        "... of them stored": sum(o.kind == UNKNOWN and name in places for name, o in noted.items()),
        "records refused for certain": sum(o.kind == FAILED for o in noted.values()),
        "records read at the end": sum(map(len, final.values())),
        "records read meanwhile": sum(map(len, reads.values())),
        "LOST": lost,
        "DUPLICATED": doubled,
    }
    return wrong, counts


def _judge_order(final, wrong):
    for partition, records in final.items():
        wrong.none_of(
            ((read.offset, place) for place, read in enumerate(records) if read.offset != place),
            f"offsets of partition {partition} are not one after the other (offset, expected)",
        )
        last = {}
        swapped = []
        for read in records:
            before = last.get(read.producer)
            if before is not None and before.number > read.number:
                swapped.append((before, read))
            last[read.producer] = read
        wrong.none_of(swapped, f"records of partition {partition} are out of their producer's order")


def _judge_reader(reader, records, final, wrong):
    positions = {}
    jumps, others = [], []
    for read in records:
        expected = positions.get(read.partition, 0)
        if read.offset != expected:
            jumps.append((read, expected))
        positions[read.partition] = read.offset + 1
        stored = final.get(read.partition, [])
        if read.offset >= len(stored) or stored[read.offset] != read:
            others.append(read)
    wrong.none_of(jumps, f"times reader {reader} did not go on where it was (record, expected offset)")
    wrong.none_of(others, f"records that reader {reader} has had are not what stands there now")


def judge_group(events, committed, high_watermarks):
    """Check what the members of the group did; (what was wrong, counts).

    events: by member, lists of GroupEvent. committed: the group's offsets at last, by partition.
    """
    wrong = _Complaints()
    read, commits = defaultdict(set), defaultdict(int)
    reads = 0
    for event in (event for found in events.values() for event in found):
        if event.kind == MEMBER_READ:
            reads += event.last - event.first + 1
            read[event.partition].update(range(event.first, event.last + 1))
        else:
            commits[event.partition] = max(commits[event.partition], event.first)
    for partition, end in high_watermarks.items():
        if committed.get(partition, 0) < commits[partition]:
            found = committed.get(partition, 0)
            wrong.append(
                f"partition {partition}: the commit of {commits[partition]} was answered, and {found} is there"
            )
        if committed.get(partition, 0) != end:
            wrong.append(f"partition {partition}: the group stands at {committed.get(partition, 0)}, the end is {end}")
        wrong.none_of(
            (offset for offset in range(end) if offset not in read[partition]),
            f"records of partition {partition} were skipped by the group",
        )
    counts = {
        "commits answered": sum(event.kind == MEMBER_COMMIT for found in events.values() for event in found),
        "records that the group has read": reads,
        "... of them again": reads - sum(map(len, read.values())),
    }
    return wrong, counts


def judge_queue(events, high_watermarks):
    """Check what the workers of the queue had; (what was wrong, counts). events: by worker, lists of Shared."""
    wrong = _Complaints()
    confirmed, last, twice = {}, {}, []
    deliveries = 0
    for event in (event for found in events.values() for event in found):
        record = (event.partition, event.offset)
        if event.kind == DELIVERED:
            deliveries += 1
            last[record] = max(event.at, last.get(record, 0))
        else:
            if record in confirmed:
                twice.append(record)
            confirmed[record] = min(event.at, confirmed.get(record, event.at))
    wrong.none_of(twice, "records of the queue were acknowledged twice, and confirmed both times")
    wrong.none_of(
        (record for record, at in confirmed.items() if last.get(record, 0) > at),
        "records of the queue were leased after their acknowledgement was confirmed",
    )
    stored = [(partition, offset) for partition, end in high_watermarks.items() for offset in range(end)]
    wrong.none_of((record for record in stored if record not in last), "records of the queue were never delivered")
    counts = {
        "deliveries of the queue": deliveries,
        "... of them again": deliveries - len(last),
        "acknowledgements confirmed": len(confirmed),
    }
    return wrong, counts


def gaps(outcomes, faults, begun, ended):
    """The longest time (ms) without an acknowledgement in any one partition: overall, and by kind of fault."""
    times = defaultdict(list)
    for found in outcomes.values():
        for outcome in found:
            if outcome.kind == ACKED:
                times[outcome.partition].append(outcome.at)
    longest = 0.0
    kinds = dict.fromkeys((fault.kind for fault in faults), 0.0)
    for stamps in times.values():
        moments = [begun, *sorted(stamp for stamp in stamps if begun < stamp < ended), ended]
        for before, after in pairwise(moments):
            gap = (after - before) / MS
            if gap < 50:
                continue
            longest = max(longest, gap)
            owner = _fault_of(before, after, faults)
            if owner is not None:
                kinds[owner.kind] = max(kinds[owner.kind], gap)
    return longest, kinds


def _fault_of(before, after, faults):
    """The fault that a gap comes from: the first one during it, else the last one before it."""
    during = (fault for fault in faults if fault.begun < after and before < fault.ended)
    return next(during, next((fault for fault in reversed(faults) if fault.begun < after), None))


def compare_replicas(paths, high_watermarks):
    """Compare the logs of nodes that have stopped: the same bytes in each, up to the high watermark at least.

    paths: the partition's folders, by partition; high_watermarks: by partition.
    """
    wrong = []
    for partition, folders in paths.items():
        logs = [batches(folder) for folder in folders]
        for folder, log in zip(folders, logs, strict=False):
            end = log[-1][1] + 1 if log else 0
            if end < high_watermarks[partition]:
                wrong.append(f"{folder} ends at {end}, below the high watermark {high_watermarks[partition]}")
        for folder, log in zip(folders[1:], logs[1:], strict=False):
            for mine, theirs in zip(logs[0], log, strict=False):
                if mine != theirs:
                    wrong.append(f"{folders[0]} and {folder} differ: {mine[:3]} against {theirs[:3]}")
                    break
    return wrong


def batches(folder):
    """All batches of a partition's folder: (first offset, last offset, leader epoch, bytes)."""
    disk = RealDisk()
    data = {path: Path(path).read_bytes() for path in segment_files(disk, str(folder))}
    return [
        (
            info.base_offset,
            info.last_offset,
            info.leader_epoch,
            data[info.path][info.position : info.position + info.size],
        )
        for info in dump(disk, str(folder))
    ]
