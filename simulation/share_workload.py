"""A consumer of a share group: it leases records, finishes, releases or rejects them, forgets them, leaves, or dies.

Now and then it says something that has to be refused, of records that are another's, or its own no more.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..errors import GroupIdNotFoundError
from ..groups.dead_letter import PREFIX
from ..log.batch import read_header
from ..log.plain_records import decode_batch
from ..transport.group_messages import SHARE_COORDINATOR
from ..transport.messages import FetchRequest, PartitionFetch
from ..transport.share_messages import (
    ACK_ACCEPT,
    ACK_REJECT,
    ACK_RELEASE,
    ACK_RETURN,
    Acknowledgement,
    DescribeShareGroupsRequest,
    PartitionAcknowledgements,
    ShareAcknowledgeRequest,
    ShareFetchRequest,
)
from .coordinated import Coordinated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..transport.message_base import Request
    from ..transport.share_messages import SharePartitionInfo
    from .client import Outcome, SimClient
    from .history import Partition
    from .share_history import ShareHistory

_BACKOFF_MS = (20.0, 200.0)
_KINDS = (ACK_ACCEPT, ACK_ACCEPT, ACK_ACCEPT, ACK_ACCEPT, ACK_RELEASE, ACK_REJECT, ACK_RETURN)
_FINAL = (ACK_ACCEPT, ACK_REJECT)
_LATE = 1.001
"""Clocks of nodes run at rates that differ by less: how much longer a lease may take to end than it says."""
_OVER_MAX = 20
_LOOKS = 2
"""How often more it looks for the dead-letter topic, before it takes it that there is none."""
_DRAIN_RECORDS = 500
_FETCH_BYTES = 1 << 20


class _Held(NamedTuple):
    """Records that the consumer was given and has said nothing of."""

    partition: Partition
    first: int
    last: int
    lease: int
    over_ms: float
    """When the lease is over for certain."""


class ShareConsumer:
    """One process after the other that consumes in the group."""

    def __init__(self, client: SimClient, group: ShareHistory, topic: str) -> None:
        self.name = client.name
        self._client = client
        self._group = group
        self._topic = topic
        self._random = random = client.world.stream(f"{client.name}/work")
        self._coordinator = Coordinated(client, group.group, SHARE_COORDINATOR, group.is_coordinator)
        self._think_ms = random.choice((10.0, 40.0, 200.0))
        self._max_records = random.choice((1, 10, 100))
        self._processes = 0
        self._member_id = ""
        self._held: list[_Held] = []
        self._over: list[tuple[str, _Held]] = []
        """What it has no more, or will not soon, and as which member it had it."""
        self._quiet = False
        self._doing = ""

    def start(self) -> None:
        """Begin."""
        self._new_process()

    def quiesce(self) -> None:
        """Begin nothing new."""
        self._quiet = True

    @property
    def busy(self) -> str:
        """The request that is not answered."""
        return self._doing

    def _new_process(self) -> None:
        self._group.gone(self._member_id)
        self._forget()
        self._processes += 1
        self._member_id = f"{self.name}-{self._processes}"
        self._think()

    def _think(self, delay_ms: float | None = None) -> None:
        self._doing = ""
        if delay_ms is None:
            delay_ms = self._random.expovariate(1.0) * self._think_ms
        self._client.world.later(delay_ms, f"{self.name} think", self._act)

    def _retry(self) -> None:
        self._coordinator.forget()
        self._think(self._random.uniform(*_BACKOFF_MS))

    def _ask(self, request: Request, on_outcome: Callable[[Outcome], object]) -> None:
        self._doing = type(request).__name__
        self._coordinator.ask(request, on_outcome)

    def _act(self) -> None:
        if self._quiet:
            return
        what = self._random.random()
        if what < 0.02:  # noqa: PLR2004 - shares of what consumers do
            self._client.disconnect()
            self._new_process()
        elif what < 0.04:  # noqa: PLR2004
            self._group.gone(self._member_id)
            self._ask(ShareAcknowledgeRequest(self._group.group, self._member_id, [], leave=True), self._left)
        elif what < 0.1:  # noqa: PLR2004
            self._describe(lambda _: self._think())
        elif what < 0.15:  # noqa: PLR2004
            self._forget()  # it takes too long over them: the leases end
            self._think()
        elif what < 0.18:  # noqa: PLR2004
            self._acknowledge_wrongly()
        elif self._held and what < 0.65:  # noqa: PLR2004
            self._acknowledge()
        else:
            self._fetch()

    def _left(self, _: Outcome) -> None:
        self._new_process()

    def _forget(self) -> None:
        self._note_over(*self._held)
        self._held.clear()

    def _note_over(self, *helds: _Held) -> None:
        self._over += [(self._member_id, held) for held in helds]
        del self._over[:-_OVER_MAX]

    # ---- records

    def _fetch(self) -> None:
        member_id = self._member_id
        request = ShareFetchRequest(
            self._group.group, member_id, self._random.choice((0, 200)), self._max_records, 1 << 16, [self._topic]
        )
        self._ask(request, partial(self._fetched, member_id, (self._client.world.now_ms, self._group.coordinator())))

    def _fetched(self, member_id: str, asked: tuple[float, tuple[int, ...]], outcome: Outcome) -> None:
        if self._take(member_id, self._max_records, asked, outcome):
            self._think()
        else:
            self._retry()

    def _take(self, member_id: str, records_max: int, asked: tuple[float, tuple[int, ...]], outcome: Outcome) -> bool:
        """Take in what was fetched; False if nobody has answered."""
        body = outcome.body
        if body is None:
            if outcome.sent:
                self._group.unheard(records_max)
            return False
        over_ms = self._client.world.now_ms + body.lease_ms * _LATE
        for shared in body.partitions:
            partition = (shared.topic, shared.partition)
            for acquired in shared.acquired:
                self._group.delivered(member_id, partition, acquired, body.lease_ms, asked, lease_id=body.lease)
                self._held.append(_Held(partition, acquired.first_offset, acquired.last_offset, body.lease, over_ms))
        return True

    def _acknowledge(self) -> None:
        """Say something of one range, whole or its beginning."""
        held = self._held.pop(self._random.randrange(len(self._held)))
        kind, last = self._random.choice(_KINDS), self._random.randint(held.first, held.last)
        if last < held.last:
            self._held.append(held._replace(first=last + 1))
        said = held._replace(last=last)
        self._group.given_back(self._member_id, said.partition, said.first, said.last)
        entry = PartitionAcknowledgements(
            *said.partition, [Acknowledgement(said.first, said.last, kind, lease=said.lease)]
        )
        request = ShareAcknowledgeRequest(self._group.group, self._member_id, [entry])
        self._ask(request, partial(self._acknowledged, said, kind))

    def _acknowledged(self, said: _Held, kind: int, outcome: Outcome) -> None:
        if outcome.body is None:
            if kind in _FINAL and outcome.sent:
                self._group.doubted(said.partition, said.first, said.last)
            self._retry()
            return
        if not outcome.body.acknowledged[0].error_code:
            if kind in _FINAL:
                self._group.finished(said.partition, said.first, said.last)
            self._note_over(said._replace(over_ms=0.0))
        self._think()

    def _acknowledge_wrongly(self) -> None:
        """Say something that has to be refused: of another's lease, or of one that is over.

        With the lease's own number, nothing that is meant can be taken for anything else.
        """
        now_ms = self._client.world.now_ms
        over = [found for found in self._over if found[1].over_ms < now_ms]
        others = self._group.others_lease(self._member_id, self._random)
        if over and (others is None or self._random.choice((True, False))):
            found = self._random.choice(over)
            self._over.remove(found)
            (member_id, held), whose = found, "its own, which is over"
        elif others is not None:
            partition, offset, lease = others
            member_id, held = self._member_id, _Held(partition, offset, offset, lease.lease, 0.0)
            if self._random.choice((True, False)):  # one that has never had anything: any lease is another's
                member_id, held = f"{self.name}-stranger", held._replace(lease=0)
            whose = f"that of {lease.member_id}"
        else:
            self._think()
            return
        kind = self._random.choice(_KINDS)
        acknowledgement = Acknowledgement(held.first, held.last, kind, lease=held.lease)
        entry = PartitionAcknowledgements(*held.partition, [acknowledgement])
        request = ShareAcknowledgeRequest(self._group.group, member_id, [entry])

        def answered(outcome: Outcome) -> None:
            if outcome.body is None:
                self._retry()
                return
            if not outcome.body.acknowledged[0].error_code:
                text = f"{acknowledgement} of {held.partition} from {member_id}: the lease is {whose}"
                self._group.taken_wrongly(text)
            self._think()

        self._ask(request, answered)

    # ---- where the group is

    def _describe(self, done: Callable[[Sequence[SharePartitionInfo]], object]) -> None:
        asked_ms = self._client.world.now_ms

        def described(outcome: Outcome) -> None:
            (group,) = [None] if outcome.body is None else outcome.body.groups
            fine = (0, GroupIdNotFoundError.code)
            if group is None or group.error_code not in fine or not self._coordinator.is_current:
                self._coordinator.forget()
                self._again(partial(self._describe, done))
                return
            for info in group.partitions:
                self._group.described(info, asked_ms)
            done(group.partitions)

        self._ask(DescribeShareGroupsRequest([self._group.group]), described)

    def _again(self, callback: Callable[[], object]) -> None:
        self._client.world.later(self._random.uniform(*_BACKOFF_MS), f"{self.name} again", callback)

    # ---- the end

    def check_all(self, done: Callable[[], object]) -> None:
        """At the end the group has not gone back, and delivers all that is left until everything is finished."""
        self._forget()
        self._describe(partial(self._drain, done))

    def _drain(self, done: Callable[[], object], partitions: Sequence[SharePartitionInfo]) -> None:
        if not self._group.lag(self._topic, partitions):
            self._read_letters(done, 0)
            return
        request = ShareFetchRequest(
            self._group.group, self._member_id, 200, _DRAIN_RECORDS, _FETCH_BYTES, [self._topic]
        )
        asked = (self._client.world.now_ms, self._group.coordinator())
        self._ask(request, partial(self._drained, done, asked))

    def _drained(self, done: Callable[[], object], asked: tuple[float, tuple[int, ...]], outcome: Outcome) -> None:
        if not self._take(self._member_id, _DRAIN_RECORDS, asked, outcome):
            self._coordinator.forget()
        self._finish_held(done)

    def _finish_held(self, done: Callable[[], object]) -> None:
        """Accept all that it has, one range after the other."""
        if not self._held:
            self._again(partial(self._describe, partial(self._drain, done)))
            return
        held = self._held.pop()
        self._group.given_back(self._member_id, held.partition, held.first, held.last)

        def answered(outcome: Outcome) -> None:
            if outcome.body is None:
                self._coordinator.forget()
                self._group.doubted(held.partition, held.first, held.last)
            elif not outcome.body.acknowledged[0].error_code:
                self._group.finished(held.partition, held.first, held.last)
            self._finish_held(done)

        entry = PartitionAcknowledgements(
            *held.partition, [Acknowledgement(held.first, held.last, ACK_ACCEPT, lease=held.lease)]
        )
        self._ask(ShareAcknowledgeRequest(self._group.group, self._member_id, [entry]), answered)

    def _read_letters(self, done: Callable[[], object], offset: int, tries: int = _LOOKS) -> None:
        """Read the dead-letter topic, if there is one."""
        self._client.refresh(partial(self._fetch_letters, done, offset, tries))

    def _fetch_letters(self, done: Callable[[], object], offset: int, tries: int = _LOOKS) -> None:
        topic = f"dlq.{self._group.group}"
        leader = self._client.leader(topic, 0)
        if leader is None and tries:
            self._again(partial(self._read_letters, done, offset, tries - 1))
            return
        if leader is None:
            self._group.drained(self._topic)
            done()
            return
        request = FetchRequest(0, 1, _FETCH_BYTES, [PartitionFetch(topic, 0, offset, _FETCH_BYTES, leader[1])])
        self._client.ask(leader[0], request, partial(self._letters, done, offset))

    def _letters(self, done: Callable[[], object], offset: int, outcome: Outcome) -> None:
        state = None if outcome.body is None else outcome.body.partitions[0]
        if state is None or state.error_code:
            self._again(partial(self._read_letters, done, offset))
            return
        data, position = outcome.frames[0], 0
        while position < len(data):
            header = read_header(data, position)
            for record in decode_batch(data[position : position + header.size]):
                why = {name.removeprefix(PREFIX): value or b"" for name, value in record.headers}
                partition = (why["topic"].decode(), int(why["partition"]))
                self._group.dead_letters.add((partition, int(why["offset"])))
            position += header.size
            offset = header.next_offset
        if offset < state.high_watermark:
            self._fetch_letters(done, offset)
        else:
            self._group.drained(self._topic)
            done()
