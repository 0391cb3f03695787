"""What a share consumer holds, and what it has said about it: acknowledgements by partition, until they are durable.

A record is open from when it was decoded until something is said about it. What is said gathers as ranges of offsets
(nearly always one, as most records are accepted in order), is taken for a request, and is settled by its answer: it
holds, or it is sent again, or it is refused and reported. All methods are called under the client's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from ..errors import InvalidRecordStateError, UnknownTopicOrPartitionError, ZmqBrokerError, error_for
from ..transport.share_messages import (
    ACK_ACCEPT,
    ACK_GAP,
    ACK_RENEW,
    ACK_RETURN,
    DEFAULT_DELAY,
    Acknowledgement,
    AcquiredRecords,
    PartitionAcknowledged,
    PartitionAcknowledgements,
)
from .connection import FOREVER
from .types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .share_types import ShareRecord

_OWN_KINDS = (ACK_GAP, ACK_RETURN)
"""What the consumer says by itself."""

Refused = tuple[TopicPartition, ZmqBrokerError, list[tuple[int, int]]]
"""Acknowledgements that do not hold: their partition, why, and their ranges of offsets, both ends included."""


class HeldPartition:
    """What is held of one partition."""

    __slots__ = ("open", "partition", "renewals", "said", "tail")

    def __init__(self, partition: TopicPartition) -> None:
        self.partition = partition
        self.open: dict[int, ShareRecord] = {}
        """Leased records about which nothing was said, by offset."""
        self.said: list[Acknowledgement] = []
        """Not yet sent, in the order in which it was said."""
        self.tail: Acknowledgement | None = None
        """The last of these, which the next may make longer."""
        self.renewals: dict[int, ShareRecord] = {}
        """Whose leases shall begin anew."""


class Outgoing:
    """What is said about records of one partition in one entry of a request: it holds as a whole or not at all."""

    __slots__ = ("first_sent", "held", "ranges", "renewed", "tried", "unanswered")

    def __init__(self, held: HeldPartition, ranges: list[Acknowledgement], renewed: list[ShareRecord]) -> None:
        self.held = held
        self.ranges = ranges
        self.renewed = renewed
        self.first_sent = FOREVER
        self.tried = False
        """Whether it was sent once and did not hold: some of the leases may have ended."""
        self.unanswered = False
        """Whether it was sent once without an answer: it may hold by that."""

    @property
    def count(self) -> int:
        """How many offsets it is about."""
        return sum(map(_size, self.ranges))

    def entry(self) -> PartitionAcknowledgements:
        """As it goes into a request."""
        return PartitionAcknowledgements(*self.held.partition, self.ranges)

    def parts(self) -> list[Outgoing]:
        """The same in smaller pieces, to find out which of them is refused; one that cannot be divided: itself."""
        if len(self.ranges) > 1:
            pieces = [[item] for item in self.ranges]
        else:
            (item,) = self.ranges
            middle = (item.first_offset + item.last_offset) // 2
            if middle == item.last_offset:
                return [self]
            tail = (item.kind, item.delay_ms, item.reason, item.lease)
            pieces = [
                [Acknowledgement(item.first_offset, middle, *tail)],
                [Acknowledgement(middle + 1, item.last_offset, *tail)],
            ]
        return [self.part(ranges) for ranges in pieces]

    def part(self, ranges: list[Acknowledgement]) -> Outgoing:
        """The same about less."""
        low, high = ranges[0].first_offset, ranges[-1].last_offset
        part = Outgoing(self.held, ranges, [record for record in self.renewed if low <= record.offset <= high])
        part.first_sent, part.unanswered, part.tried = self.first_sent, self.unanswered, True
        return part


class Acknowledgements:
    """All that one consumer holds and has said."""

    def __init__(
        self, now: Callable[[], float], linger_s: float, retry_s: float, report: Callable[[Refused], None]
    ) -> None:
        self.partitions: dict[tuple[str, int], HeldPartition] = {}
        self.due_at = FOREVER
        """When what is not sent has waited long enough."""
        self.acknowledged: dict[TopicPartition, int] = {}
        """Durable since the last commit, by partition: how many records."""
        self.failure: ZmqBrokerError | None = None
        """The first refusal since the last commit."""
        self.counters = dict.fromkeys(("records_acknowledged", "acknowledgements_refused"), 0)
        self._now = now
        self._linger_s = linger_s
        self._retry_s = retry_s
        """How long an entry is sent again and again."""
        self._report = report
        self._dirty: list[HeldPartition] = []
        self._again: list[Outgoing] = []
        self._under_way = 0
        self._tried_under_way = 0

    # ---- what is held

    def held(self, topic: str, partition: int) -> HeldPartition:
        """What is held of a partition."""
        held = self.partitions.get((topic, partition))
        if held is None:
            held = self.partitions[topic, partition] = HeldPartition(TopicPartition(topic, partition))
        return held

    def lease(self, held: HeldPartition, records: Sequence[ShareRecord]) -> None:
        """These records are open from now on."""
        held.open.update({record.offset: record for record in records})

    @property
    def open_count(self) -> int:
        """How many records are open."""
        return sum(len(held.open) for held in self.partitions.values())

    def is_open(self, record: ShareRecord) -> bool:
        """Whether a record was delivered by this consumer and nothing is said about it."""
        held = self.partitions.get((record.topic, record.partition))
        return held is not None and held.open.get(record.offset) is record

    def forget_lost(self, before: float) -> None:
        """Forget records whose lease has ended before this moment: nothing that is said about them would hold."""
        for held in self.partitions.values():
            for record in [record for record in held.open.values() if record.lease_deadline < before]:
                del held.open[record.offset]

    # ---- what is said

    def accept(self, record: ShareRecord) -> bool | None:
        """Accept a record if it is open. Returns whether it is the first to wait for sending; None: not open."""
        held = self.partitions.get((record.topic, record.partition))
        offset = record.offset
        if held is None or held.open.get(offset) is not record:
            return None
        del held.open[offset]
        tail = held.tail
        lease = record.lease
        if tail is not None and tail.last_offset == offset - 1 and tail.kind == ACK_ACCEPT and tail.lease == lease:
            tail.last_offset = offset  # nearly always
            return False
        return self.add(held, offset, offset, ACK_ACCEPT, lease=lease)

    def say(self, record: ShareRecord, kind: int, delay_ms: int = DEFAULT_DELAY, reason: str = "") -> bool:
        """Say something about an open record. Returns whether it is the first that waits to be sent."""
        held = self.partitions[record.topic, record.partition]
        if kind == ACK_RENEW:
            if not (held.said or held.renewals):
                self._dirty.append(held)
            held.renewals[record.offset] = record
            return self._wait()
        del held.open[record.offset]
        return self.add(held, record.offset, record.offset, kind, delay_ms, reason, record.lease)

    def add(  # noqa: PLR0917 - the fields of an acknowledgement
        self,
        held: HeldPartition,
        first: int,
        last: int,
        kind: int,
        delay_ms: int = DEFAULT_DELAY,
        reason: str = "",
        lease: int = 0,
    ) -> bool:
        """Say something about a range of offsets. Returns whether it is the first that waits to be sent."""
        tail = held.tail
        said = (kind, delay_ms, reason, lease)
        if tail is not None and tail.last_offset == first - 1 and said == _what(tail):
            tail.last_offset = last
            return False
        if not (held.said or held.renewals):
            self._dirty.append(held)
        held.tail = tail = Acknowledgement(first, last, *said)
        held.said.append(tail)
        return self._wait()

    def _wait(self) -> bool:
        if self.due_at < FOREVER:
            return False
        self.due_at = self._now() + self._linger_s
        return True

    def hurry(self) -> None:
        """What waits is due now."""
        if self._dirty or self._again:
            self.due_at = 0.0

    # ---- sending

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._dirty or self._again)

    @property
    def is_settled(self) -> bool:
        """Whether everything that was said is durable or refused."""
        return not (self._dirty or self._again or self._under_way)

    @property
    def is_doubtful(self) -> bool:
        """Whether something is not settled though it was sent once: its records may be leased to us anew."""
        return bool(self._again) or self._tried_under_way > 0

    def take(self, now: float, *, fetching: bool = False) -> list[Outgoing]:
        """What is to be sent now; `settle` hears of its end.

        While a fetch is under way, what is doubtful waits: it would count for the leases that the fetch brings.
        """
        taken: list[Outgoing] = []
        if not fetching:
            taken, self._again = self._again, []
        for held in self._dirty:
            renewed = [record for offset, record in held.renewals.items() if held.open.get(offset) is record]
            if renewed:
                ranges = [_renewal(record) for record in renewed]
                taken.append(Outgoing(held, _merged(ranges), renewed))
            if held.said:
                taken.append(Outgoing(held, _merged(held.said), []))
            held.said, held.tail, held.renewals = [], None, {}
        self._dirty = []
        self.due_at = FOREVER
        for outgoing in taken:
            outgoing.first_sent = min(outgoing.first_sent, now)
        self._under_way += len(taken)
        self._tried_under_way += sum(outgoing.tried for outgoing in taken)
        return taken

    def settle(
        self,
        sent: list[Outgoing],
        outcome: Sequence[PartitionAcknowledged] | ZmqBrokerError,
        now: float,
        lease_s: float,
    ) -> bool:
        """The answer to what was taken, or that there is none. Returns whether some is to be sent again in a while."""
        self._tried_under_way -= sum(outgoing.tried for outgoing in sent)
        later = False
        refused: list[tuple[Outgoing, ZmqBrokerError]] = []
        self._under_way -= len(sent)
        for position, outgoing in enumerate(sent):
            if isinstance(outcome, ZmqBrokerError):
                error: ZmqBrokerError | None = outcome
            else:
                entry = outcome[position] if position < len(outcome) else None
                if entry is None or (entry.topic, entry.partition) != outgoing.held.partition:
                    error = UnknownTopicOrPartitionError("the broker's answer does not match the acknowledgements")
                else:
                    error = error_for(entry.error_code, entry.error_message) if entry.error_code else None
            if error is None:
                self._hold(outgoing, lease_s)
            else:
                whole = isinstance(outcome, ZmqBrokerError)
                if self._may_hold_later(outgoing, error, now, whole=whole):
                    later = True
                elif not self._divided(outgoing, error):
                    refused.append((outgoing, error))
        self._refuse(refused)
        if self._again and self.due_at == FOREVER:
            self.due_at = now
        return later

    def _hold(self, outgoing: Outgoing, lease_s: float) -> None:
        held = outgoing.held
        for record in outgoing.renewed:
            record.lease_deadline = outgoing.first_sent + lease_s
        if not outgoing.renewed:
            count = sum(_size(item) for item in outgoing.ranges if item.kind not in _OWN_KINDS)
            if count:
                self.counters["records_acknowledged"] += count
                self.acknowledged[held.partition] = self.acknowledged.get(held.partition, 0) + count

    def _may_hold_later(self, outgoing: Outgoing, error: ZmqBrokerError, now: float, *, whole: bool) -> bool:
        """Send it again in a while, if that may help."""
        gone = not whole and isinstance(error, UnknownTopicOrPartitionError)  # its topic was deleted
        if not error.retriable or gone or now - outgoing.first_sent >= self._retry_s:
            return False
        outgoing.tried = True
        outgoing.unanswered |= whole
        self._repeat(outgoing)
        return True

    def _divided(self, outgoing: Outgoing, error: ZmqBrokerError) -> bool:
        """One record that is not ours any more fails all that stood beside it: send smaller pieces to find it."""
        parts = outgoing.parts() if isinstance(error, InvalidRecordStateError) else []
        if len(parts) > 1:
            self._again += parts
        return len(parts) > 1

    def _repeat(self, outgoing: Outgoing) -> None:
        if outgoing.renewed:
            held = outgoing.held
            renewed = [record for record in outgoing.renewed if held.open.get(record.offset) is record]
            if not renewed:
                return  # something else was said about them meanwhile
            outgoing.renewed = renewed
            outgoing.ranges = _merged([_renewal(record) for record in renewed])
        self._again.append(outgoing)

    def leased_anew(self, topic: str, partition: int, acquired: Sequence[AcquiredRecords]) -> None:
        """Records came of which something doubtful was said: it was said of leases that have ended."""
        again, self._again = self._again, []
        refused: list[tuple[Outgoing, ZmqBrokerError]] = []
        for outgoing in again:
            if outgoing.held.partition != (topic, partition):
                self._again.append(outgoing)
                continue
            kept, lost = _cut(outgoing.ranges, acquired)
            if kept:
                self._again.append(outgoing.part(kept))
            if lost:
                message = "the lease had ended when the acknowledgement came, and the record is delivered again"
                refused.append((outgoing.part(lost), InvalidRecordStateError(message)))
        self._refuse(refused)

    def too_late(self, record: ShareRecord) -> None:
        """The lease of an open record ended before it was accepted."""
        held = self.partitions[record.topic, record.partition]
        message = "the lease ended before the record was done, and it is delivered again"
        late = Outgoing(held, [Acknowledgement(record.offset, record.offset, ACK_ACCEPT)], [])
        del held.open[record.offset]
        self._refuse([(late, InvalidRecordStateError(message))])

    def _refuse(self, refused: list[tuple[Outgoing, ZmqBrokerError]]) -> None:
        """These do not hold: reported together where they are of one partition, and refused for one reason."""
        reports: dict[tuple[TopicPartition, type, bool], Refused] = {}
        for outgoing, error in refused:
            held = outgoing.held
            for record in outgoing.renewed:
                if held.open.get(record.offset) is record:
                    del held.open[record.offset]
            if all(item.kind in _OWN_KINDS for item in outgoing.ranges):
                continue  # the user has said nothing: whoever has these records by now does
            self.counters["acknowledgements_refused"] += outgoing.count
            key = (held.partition, type(error), outgoing.unanswered)
            if key not in reports:
                if outgoing.unanswered and isinstance(error, InvalidRecordStateError):
                    doubt = "an earlier attempt went without an answer, so it may hold by that one"
                    error = type(error)(f"{error.message}; {doubt}")  # noqa: PLW2901 - the same with more words
                reports[key] = (held.partition, error, [])
                self.failure = self.failure or error
            ranges = reports[key][2]
            for item in outgoing.ranges:
                if ranges and ranges[-1][1] == item.first_offset - 1:
                    ranges[-1] = (ranges[-1][0], item.last_offset)
                else:
                    ranges.append((item.first_offset, item.last_offset))
        for report in reports.values():
            self._report(report)

    def give_up(self, error: ZmqBrokerError, now: float) -> None:
        """Fail what waits, and what is under way when its connection ends."""
        self._retry_s = -1.0
        self.fail_all(error, now)

    def fail_all(self, error: ZmqBrokerError, now: float) -> None:
        """Nothing of what waits can ever be sent."""
        sent = self.take(now)
        self._under_way -= len(sent)
        self._tried_under_way -= sum(outgoing.tried for outgoing in sent)
        self._refuse([(outgoing, error) for outgoing in sent])

    def harvest(self) -> dict[TopicPartition, int]:
        """What became durable since the last time. Raises the first refusal since then, once."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        acknowledged, self.acknowledged = self.acknowledged, {}
        return acknowledged


def _cut(
    ranges: Sequence[Acknowledgement], acquired: Sequence[AcquiredRecords]
) -> tuple[list[Acknowledgement], list[Acknowledgement]]:
    """What of some ranges lies outside of others, and inside."""
    outside, inside = [], []
    for item in ranges:
        at = item.first_offset
        for other in sorted(acquired, key=lambda one: one.first_offset):
            first, last = max(at, other.first_offset), min(item.last_offset, other.last_offset)
            if first <= last:
                if at < first:
                    outside.append(structs.replace(item, first_offset=at, last_offset=first - 1))
                inside.append(structs.replace(item, first_offset=first, last_offset=last))
                at = last + 1
        if at <= item.last_offset:
            outside.append(structs.replace(item, first_offset=at))
    return outside, inside


def _renewal(record: ShareRecord) -> Acknowledgement:
    return Acknowledgement(record.offset, record.offset, ACK_RENEW, lease=record.lease)


def _what(item: Acknowledgement) -> tuple[int, int, str, int]:
    """All but the offsets."""
    return item.kind, item.delay_ms, item.reason, item.lease


def _size(item: Acknowledgement) -> int:
    return item.last_offset - item.first_offset + 1


def _merged(ranges: list[Acknowledgement]) -> list[Acknowledgement]:
    """In order of offsets, with neighbours that say the same made one."""
    if len(ranges) == 1:
        return ranges
    ranges.sort(key=lambda item: item.first_offset)
    merged = [ranges[0]]
    for item in ranges[1:]:
        last = merged[-1]
        if item.first_offset == last.last_offset + 1 and _what(item) == _what(last):
            last.last_offset = item.last_offset
        else:
            merged.append(item)
    return merged
