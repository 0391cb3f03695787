"""FetchCall: the long poll of one client over several partitions.

Reads are asked of the leaders within the reply's byte budget. When all are answered and too little is there, the
leaders are asked to watch, each from the high watermark that its answer had; the first that has more says so and is
read again. The call ends when min_bytes are there, when a partition failed, at its deadline, or when the node stops.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..transport.messages import FetchReply, FetchRequest, PartitionFetched
from .calls import Call, not_here
from .commands import Answer, Read, Refusal, StopWatching, Watch
from .context import partition_address

if TYPE_CHECKING:
    from ..transport.message_base import Request
    from .calls import CallOwner
    from .quotas import Direction


class FetchCall(Call):
    """Read several partitions of this node for one client."""

    quota: Direction | None = "consume"
    may_be_emptied = True

    def __init__(self, session: CallOwner, request: FetchRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        count = len(request.partitions)
        self._entries = request.partitions
        self._min_bytes = request.min_bytes
        self._rack = request.rack
        self._isolation = request.isolation
        self._budget = min(request.max_bytes, session.context.config.fetch_max_bytes)
        self._results: list[PartitionFetched | None] = [None] * count
        self._data = [b""] * count
        self._total = 0
        self._to_read = deque(range(count))
        self._reserved: dict[int, int] = {}  # reads that are out: index -> bytes of the budget kept for it
        self._watched: set[int] = set()
        self._hurry = request.max_wait_ms == 0

    def timeout_ms(self, request: Request) -> float:
        """The shorter of the client's and the broker's longest wait."""
        assert isinstance(request, FetchRequest)
        return float(min(request.max_wait_ms, self.session.context.config.max_fetch_wait_ms))

    def start(self) -> None:
        """Ask the leaders for as much as the budget allows."""
        self._read_more()

    def _read_more(self) -> None:
        while self._to_read and (self._budget > 0 or not (self._total or self._reserved)):
            index = self._to_read.popleft()
            entry = self._entries[index]
            leader = self.session.reactor.lookup(partition_address(entry.topic, entry.partition))
            if leader is None:
                error = not_here(self.session.context, entry.topic, entry.partition)
                self._results[index] = PartitionFetched(entry.topic, entry.partition, error.code, error.message)
                self._hurry = True
                continue
            room = max(0, min(entry.max_bytes, self._budget))
            self._budget -= room
            self._reserved[index] = room
            where = (entry.fetch_offset, room, entry.leader_epoch, self._rack, self._isolation)
            leader.tell(Read(self.session.actor_ref, self, index, *where))
        if not self._reserved:
            self._all_answered()

    def on_answer(self, answer: Answer) -> None:
        """Take what one partition has; give back what it left of the budget."""
        index = answer.index
        self._budget += self._reserved.pop(index) - len(answer.data)
        self._total += len(answer.data)
        self._data[index] = answer.data
        assert isinstance(answer.body, PartitionFetched)
        self._results[index] = answer.body
        if answer.body.error_code or answer.body.preferred_read_replica != -1:
            self._hurry = True
        if self._to_read or not self._reserved:
            self._read_more()

    def on_refusal(self, refusal: Refusal) -> None:
        """Take the error as the state of its partition."""
        entry, error = self._entries[refusal.index], refusal.error
        body = PartitionFetched(entry.topic, entry.partition, error.code, error.message)
        self.on_answer(Answer(self, refusal.index, body))

    def _all_answered(self) -> None:
        if self._hurry or self._total >= self._min_bytes or self._to_read or not self._entries:
            self._finish()
            return
        for index, result in enumerate(self._results):
            if index in self._watched:
                continue
            entry = self._entries[index]
            leader = self.session.reactor.lookup(partition_address(entry.topic, entry.partition))
            if leader is None:
                self.on_readable(index)  # it stopped meanwhile: reading again says why
                return
            assert result is not None
            self._watched.add(index)
            leader.tell(Watch(self.session.actor_ref, self, index, result.high_watermark))

    def on_readable(self, index: int) -> None:
        """Read a partition again, from the same offset: its former data are dropped."""
        self._watched.discard(index)
        self._total -= len(self._data[index])
        self._budget += len(self._data[index])
        self._data[index] = b""
        self._to_read.append(index)
        self._read_more()

    def on_deadline(self) -> None:
        """Reply with what is there, once the reads that are out have come back."""
        self._hurry = True
        if not self._reserved:
            self._finish()

    def drain(self) -> None:
        """The node stops: no more waiting."""
        self.on_deadline()

    def abandon(self) -> None:
        """Nobody needs to watch any more."""
        for index in self._watched:
            entry = self._entries[index]
            leader = self.session.reactor.lookup(partition_address(entry.topic, entry.partition))
            if leader is not None:
                leader.tell(StopWatching(self, index))
        self._watched.clear()

    def _finish(self) -> None:
        self.abandon()
        results = [
            result if result is not None else PartitionFetched(entry.topic, entry.partition)
            for entry, result in zip(self._entries, self._results, strict=True)
        ]
        self.reply(FetchReply(results), self._data)
