"""A consumer of a share group: it leases records, finishes, releases or rejects them, forgets them, leaves, or dies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..errors import GroupIdNotFoundError
from ..transport.group_messages import SHARE_COORDINATOR
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
    from collections.abc import Callable

    from ..transport.message_base import Request
    from .client import Outcome, SimClient
    from .history import Partition
    from .share_history import ShareHistory

_BACKOFF_MS = (20.0, 200.0)
_KINDS = (ACK_ACCEPT, ACK_ACCEPT, ACK_ACCEPT, ACK_ACCEPT, ACK_RELEASE, ACK_REJECT, ACK_RETURN)
_FINAL = (ACK_ACCEPT, ACK_REJECT)


class _Held(NamedTuple):
    """Records that the consumer was given and has said nothing of."""

    partition: Partition
    first: int
    last: int
    lease: int


class ShareConsumer:
    """One process after the other that consumes in the group."""

    def __init__(self, client: SimClient, group: ShareHistory, topic: str) -> None:
        self.name = client.name
        self._client = client
        self._group = group
        self._topic = topic
        self._random = random = client.world.stream(f"{client.name}/work")
        self._coordinator = Coordinated(client, group.group, SHARE_COORDINATOR)
        self._think_ms = random.choice((10.0, 40.0, 200.0))
        self._max_records = random.choice((1, 10, 100))
        self._processes = 0
        self._member_id = ""
        self._held: list[_Held] = []
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
        self._processes += 1
        self._member_id = f"{self.name}-{self._processes}"
        self._held.clear()
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
            self._describe(self._think)
        elif what < 0.15:  # noqa: PLR2004
            self._held.clear()  # it takes too long over them: the leases end
            self._think()
        elif self._held and what < 0.65:  # noqa: PLR2004
            self._acknowledge()
        else:
            self._fetch()

    def _left(self, _: Outcome) -> None:
        self._new_process()

    # ---- records

    def _fetch(self) -> None:
        member_id = self._member_id
        request = ShareFetchRequest(
            self._group.group, member_id, self._random.choice((0, 200)), self._max_records, 1 << 16, [self._topic]
        )
        self._ask(request, partial(self._fetched, member_id, (self._client.world.now_ms, self._group.coordinator())))

    def _fetched(self, member_id: str, asked: tuple[float, tuple[int, ...]], outcome: Outcome) -> None:
        if outcome.body is None:
            self._retry()
            return
        for shared in outcome.body.partitions:
            partition = (shared.topic, shared.partition)
            for acquired in shared.acquired:
                self._group.delivered(member_id, partition, acquired, outcome.body.lease_ms, asked)
                self._held.append(_Held(partition, acquired.first_offset, acquired.last_offset, outcome.body.lease))
        self._think()

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
            self._retry()
            return
        if kind in _FINAL and not outcome.body.acknowledged[0].error_code:
            self._group.finished(said.partition, said.first, said.last)
        self._think()

    # ---- where the group is

    def _describe(self, done: Callable[[], object]) -> None:
        asked_ms = self._client.world.now_ms

        def described(outcome: Outcome) -> None:
            (group,) = [None] if outcome.body is None else outcome.body.groups
            if group is None or group.error_code not in (0, GroupIdNotFoundError.code):
                self._coordinator.forget()
                again = partial(self._describe, done)
                self._client.world.later(self._random.uniform(*_BACKOFF_MS), f"{self.name} again", again)
                return
            for info in group.partitions:
                self._group.described(info, asked_ms)
            done()

        self._ask(DescribeShareGroupsRequest([self._group.group]), described)

    def check_all(self, done: Callable[[], object]) -> None:
        """At the end the group has not gone back."""
        self._describe(done)
